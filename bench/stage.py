"""The servers of the benchmarks, with users and files, and the servers to compare with."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from bench.clients import program
from godrive.model import new_id
from tests.drive_server import DriveServer, Tables, environment, memory_bytes
from tests.servers import Daemon, answers, free_port

PASSWORD = "correct horse battery"

OPEN_GATE: Tables = {
    "auth": {"attempts_per_address": 1_000_000, "attempts_per_account": 1_000_000, "max_pending_uploads": 1_000_000}
}
"""The defaults, except for limits that would restrict the load from a single client, however fast the machine is."""


@dataclass(frozen=True)
class Person:
    """A user, logged in."""

    id: str
    email: str
    token: str


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder on the disk that the benchmark is about."""
    path = Path(tempfile.mkdtemp(prefix="godrive-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def drive(place: Path, tables: Tables | None = None) -> Iterator[DriveServer]:
    """GoDrive with its default configuration."""
    with DriveServer(place, tables=tables or OPEN_GATE, quick=False) as server:
        yield server


@contextmanager
def bare() -> Iterator[str]:
    """The URL of the bare handler."""
    port = free_port()
    with folder() as place:
        daemon = Daemon([sys.executable, "-m", "bench.bare", str(port)], place / "log", env=environment())
        try:
            daemon.wait_until(lambda: answers(port))
            yield f"http://127.0.0.1:{port}/"
        finally:
            daemon.stop()


@contextmanager
def nginx(place: Path) -> Iterator[str]:
    """The URL of an nginx that takes WebDAV PUTs into ``place/files`` and sends from there with sendfile."""
    port = free_port()
    for name in ("files", "temp", "logs"):
        (place / name).mkdir(parents=True)
    user = "user root;" if os.geteuid() == 0 else ""
    (place / "nginx.conf").write_text(f"""
{user} worker_processes 1; daemon off; pid {place}/pid; error_log {place}/logs/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off; sendfile on; client_max_body_size 0;
    client_body_temp_path {place}/temp; proxy_temp_path {place}/temp; fastcgi_temp_path {place}/temp;
    uwsgi_temp_path {place}/temp; scgi_temp_path {place}/temp;
    server {{ listen 127.0.0.1:{port}; root {place}/files; location / {{ dav_methods PUT; }} }}
}}
""")
    daemon = Daemon([program("nginx", "nginx"), "-p", place, "-c", place / "nginx.conf"], place / "log")
    try:
        daemon.wait_until(lambda: answers(port))
        yield f"http://127.0.0.1:{port}"
    finally:
        daemon.stop()


def request(server: DriveServer, method: str, path: str, body: dict[str, Any] | None = None, token: str = "") -> Any:
    """The JSON that the server answers.  Anything but 2xx raises."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    content = None
    if body is not None:
        content = json.dumps(body)
        headers["Content-Type"] = "application/json"
    connection.request(method, path, content, headers)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    if answer.status >= 300:
        raise RuntimeError(f"{method} {path}: {answer.status} {text.decode()}")
    return json.loads(text) if text else None


def person(server: DriveServer, name: str = "ada") -> Person:
    """A new user, logged in."""
    login = {"email": f"{name}@example.com", "password": PASSWORD}
    user = request(server, "POST", "/v1/signup", login)
    return Person(user["id"], login["email"], request(server, "POST", "/v1/login", login)["token"])


def log_in(server: DriveServer, who: Person) -> Person:
    """The same user with a token that is fresh."""
    answer = request(server, "POST", "/v1/login", {"email": who.email, "password": PASSWORD})
    return Person(who.id, who.email, answer["token"])


def upload_one(server: DriveServer, who: Person, name: str, content: bytes) -> dict[str, Any]:
    """Upload a file through the API."""
    body = {"filename": name, "mime": "text/plain", "size_bytes": len(content)}
    intent = request(server, "POST", "/v1/files/upload-intent", body, who.token)
    connection = HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("PUT", intent["upload_url"].split("/", 3)[3].join(("/", "")), content, intent["headers"])
    answer: dict[str, Any] = json.loads(connection.getresponse().read())["file"]
    connection.close()
    return answer


def preload(database: Path, *, files: int, users: int, like: str) -> list[str]:
    """Copy the file *like* until there are *files*, owned by *users* in turn; the ids of users that were added.

    Straight into the tables: the rows are those that an upload makes, with
    other ids, names and instants.
    """
    rows = sqlite3.connect(database)
    rows.row_factory = sqlite3.Row
    entry = dict(rows.execute("SELECT * FROM entries WHERE id = ?", (like,)).fetchone())
    version = dict(rows.execute("SELECT * FROM versions WHERE file_id = ?", (like,)).fetchone())
    owner = dict(rows.execute("SELECT * FROM users WHERE id = ?", (entry["owner_id"],)).fetchone())
    owners = [owner["id"], *(new_id() for _ in range(users - 1))]
    for index, owner_id in enumerate(owners[1:], 1):
        email = f"user-{index}@example.com"
        _insert(rows, "users", [owner | {"id": owner_id, "email": email, "email_key": email}])
    now = time.time_ns() // 1000

    def entries() -> Iterator[dict[str, Any]]:
        for index in range(files):
            ids = {"id": f"{index:08x}{entry['id'][8:]}", "version_id": f"{index:08x}{version['id'][8:]}"}
            name = f"document {index:08d}.txt"
            moment = dict.fromkeys(("created_at", "updated_at", "modified_at"), now - files + index)
            names = {"name": name, "name_key": name, "search_key": name}
            yield entry | ids | names | moment | {"owner_id": owners[index % users]}

    def versions() -> Iterator[dict[str, Any]]:
        for row in entries():
            ids = {"id": row["version_id"], "file_id": row["id"], "created_at": row["created_at"]}
            yield version | ids | {"object_key": f"{row['id'][:8]}/{row['id']}"}

    with rows:
        _insert(rows, "entries", entries())
        _insert(rows, "versions", versions())
        rows.execute(
            "UPDATE users SET (live_bytes, entry_count) = "
            "(SELECT coalesce(sum(size_bytes), 0), count(*) FROM entries WHERE owner_id = users.id)"
        )
    rows.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    rows.close()
    return owners


def _insert(database: sqlite3.Connection, table: str, rows: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> None:
    rows = iter(rows)
    first = next(rows)
    columns = ", ".join(first)
    places = ", ".join(f":{name}" for name in first)
    statement = f"INSERT INTO {table} ({columns}) VALUES ({places})"
    database.execute(statement, first)
    database.executemany(statement, rows)


class PeakMemory:
    """The most memory that a process has had while this is open, above what it had before."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.before = self.peak = 0

    @property
    def growth(self) -> int:
        """Bytes."""
        return self.peak - self.before

    def __enter__(self) -> PeakMemory:
        self.before = self.peak = memory_bytes(self._pid)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.peak = max(self.peak, memory_bytes(self._pid))
