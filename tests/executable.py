"""Start an executable in a chroot, and put a file into it: ``python -m tests.executable CHROOT PROGRAM``."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.drive_server import memory_bytes, ready
from tests.servers import Daemon, free_port

JSON = {"Content-Type": "application/json"}


def main(chroot: str, program: str) -> None:
    """Print how long it took until it was ready, and what memory it has."""
    with TemporaryDirectory(dir=f"{chroot}/tmp") as folder:
        port, data = free_port(), "/" + str(Path(folder).relative_to(chroot))
        command: list[str | Path] = ["chroot", chroot, program, "serve", "--data-dir", data, "--port", str(port)]
        begun = time.monotonic()
        daemon = Daemon(command, Path(folder) / "log")
        try:
            daemon.wait_until(lambda: ready(port))
            took = time.monotonic() - begun
            put_and_get(f"http://127.0.0.1:{port}")
            children = [int(pid) for pid in Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()]
            memory = sum(memory_bytes(pid) for pid in (daemon.pid, *children))
        finally:
            daemon.stop()
    print(f"{program}: ready in {took:.2f} s, {memory / 2**20:.0f} MiB")


def put_and_get(url: str) -> None:
    """Sign up, log in, put a file and get it."""
    content = bytes(range(256)) * 4096

    def ask(path: str, body: bytes | None = None, method: str = "POST", **headers: str) -> bytes:
        request = urllib.request.Request(url + path, body, {**JSON, **headers}, method=method)
        with urllib.request.urlopen(request) as answer:
            return bytes(answer.read())

    who = json.dumps({"email": "ann@example.org", "password": "correct horse"}).encode()
    ask("/v1/signup", who)
    token = json.loads(ask("/v1/login", who))["token"]
    bearer = {"Authorization": f"Bearer {token}"}
    ask("/v1/files/by-path/a.bin", content, "PUT", **bearer)
    found = ask("/v1/files/by-path/a.bin?content", None, "GET", **bearer)
    if found != content:
        raise SystemExit("The file that came back is another.")


if __name__ == "__main__":
    main(*sys.argv[1:])
