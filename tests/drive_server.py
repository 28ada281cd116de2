"""The real ``godrive serve``: a process with a configuration, a folder and a port of its own."""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from tests.servers import Daemon, Server
from tests.zygote import zygote

REPOSITORY = Path(__file__).resolve().parent.parent

_PYTHON = [sys.executable, "-m", "godrive"]
PROGRAM = shlex.split(os.environ.get("GODRIVE_TEST_PROGRAM", "")) or _PYTHON
"""What starts GoDrive: this Python, or an executable that is to be tested."""

Tables = Mapping[str, Mapping[str, Any]]

_LISTENING = '"event":"listening"'

QUICK: Tables = {
    "server": {"shutdown": 10.0},
    "auth": {"bcrypt_cost": 4, "attempts_per_address": 10_000, "attempts_per_account": 10_000},
    "blobs": {"min_free_bytes": 0},
    "ingest": {"reconcile_every": 0.2, "reconcile_after": 0.2},
    "janitor": {"sweep_every": 0.2},
    "log": {"format": "json"},
}
"""Everything periodic happens several times a second, and passwords cost next to nothing."""


def merged(*configurations: Tables) -> dict[str, dict[str, Any]]:
    """Tables laid over one another, the last one on top."""
    result: dict[str, dict[str, Any]] = {}
    for tables in configurations:
        for name, table in tables.items():
            result.setdefault(name, {}).update(table)
    return result


def toml(tables: Tables) -> str:
    """The configuration file; what TOML and JSON write alike is all that a value may be."""
    lines: list[str] = []
    for name, table in tables.items():
        inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
        lines.append(f"[{name}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items() if key not in inner]
        lines += [toml({f"{name}.{key}": value}) for key, value in inner.items()]
    return "\n".join(lines) + "\n"


class DriveServer(Server):
    """GoDrive in a process.

    *tables* is laid over :data:`QUICK` if it is *quick*.  The data folder is
    ``folder/data`` unless the configuration says otherwise; standard output and
    error go to ``folder/godrive.log``.  *prefix* is a command to run the server
    under.  Without *http* it has no edge, and is ready when it says that it
    listens.  One that is *quick*, unless *anew*, is forked from a process that
    has imported GoDrive, if it is this Python that is tested and nothing is to
    run it.
    """

    programs = ()
    packages = ()

    def __init__(
        self,
        folder: Path | None = None,
        port: int | None = None,
        *,
        tables: Tables | None = None,
        arguments: tuple[str, ...] = (),
        prefix: tuple[str, ...] = (),
        quick: bool = True,
        http: bool = True,
        anew: bool = False,
    ) -> None:
        super().__init__(folder, port)
        own = {"server": {"host": "127.0.0.1", "port": self.port, "data_dir": str(self.folder / "data")}}
        self.tables = merged(QUICK if quick else {}, own, tables or {})
        self.arguments = arguments
        self.prefix = prefix
        self.http = http
        self.anew = anew or not quick

    @property
    def forked(self) -> bool:
        """Whether it is forked from a process that has imported GoDrive."""
        return not self.anew and not self.prefix and PROGRAM == _PYTHON

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        return Path(self.tables["server"]["data_dir"])

    @property
    def log(self) -> str:
        """What the server has said so far."""
        path = self.folder / "godrive.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def blobs(self, place: str = "") -> list[Path]:
        """Every file in the folders of blobs, or in one of them: ``objects``, ``staging`` or ``quarantine``."""
        folders = [place] if place else ["objects", "staging", "quarantine"]
        return [path for name in folders for path in (self.data / "blobs" / name).rglob("*") if path.is_file()]

    def stored(self) -> set[str]:
        """The key of every blob, in a file of its own or packed."""
        objects, index = self.data / "blobs" / "objects", self.data / "blobs" / "packs" / "index.db"
        keys = {str(path.relative_to(objects)) for path in self.blobs("objects")}
        if index.exists():
            with closing(sqlite3.connect(index)) as database:
                keys |= {row[0] for row in database.execute("SELECT key FROM blobs")}
        return keys

    def command(self) -> list[str | Path]:
        """What starts it; the configuration file is written anew."""
        path = self.folder / "config.toml"
        path.write_text(toml(self.tables))
        return [*self.prefix, *PROGRAM, "serve", "--config", path, *self.arguments]

    def _launch(self) -> Daemon:
        before = self.log.count(_LISTENING)
        command = self.command()[len(PROGRAM) if self.forked else 0 :]
        log = self.folder / "godrive.log"
        daemon = Daemon(command, log, env=environment(), under=self.guard, forked=self.forked)
        daemon.wait_until(lambda: ready(self.port) if self.http else self.log.count(_LISTENING) > before)
        return daemon

    def run(self, within: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run it to its end, for starts that are to fail."""
        command = self.command()
        if self.forked:
            return run(*command[len(PROGRAM) :], within=within)
        return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=within, check=False)

    def cpu_seconds(self) -> float:
        """Processor time that the process has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def is_asleep(self) -> bool:
        """Whether no thread of the process runs, waits for a processor or waits for the disk."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/stat")
        return all(thread.read_text().rpartition(") ")[2][0] == "S" for thread in threads)

    def resident_bytes(self) -> int:
        """Its memory: what no other process shares, and its part of what others do."""
        return memory_bytes(self.pid)


def run(
    *arguments: str | Path, within: float = 60.0, cwd: Path | None = None, stdin: str = "", **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a command of GoDrive to its end, with *stdin* to read.  *env* is added to the environment."""
    command, environ = [*map(str, arguments)], {**environment(), **env}
    if PROGRAM != _PYTHON:
        return subprocess.run(
            [*PROGRAM, *command],
            env=environ,
            cwd=cwd,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )
    with ExitStack() as files:
        given, out, err = (files.enter_context(tempfile.TemporaryFile("w+")) for _ in range(3))
        given.write(stdin)
        given.seek(0)
        child = zygote().fork(command, environ, (given.fileno(), out.fileno(), err.fileno()), cwd=cwd)
        try:
            code = child.wait(within)
        finally:
            child.kill()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


def environment() -> dict[str, str]:
    """Ours, in which the package is found, but with no setting of an operator's.

    AWS_CA_BUNDLE, where it is set, makes S3 clients fail even with a plain endpoint.
    """
    foreign = ("GODRIVE_", "AWS_")
    own = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**own, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}


def memory_bytes(pid: int) -> int:
    """Resident memory of a process as ``ps`` shows it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(pid)


def ready(port: int) -> bool:
    """Whether a GoDrive on that loopback port says that it is ready."""
    connection = HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()
