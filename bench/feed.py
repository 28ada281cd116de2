"""The feed of changes: a page of a long log, the way from a commit to an answer that waits, and idle streams."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp

from bench import stage
from bench.report import Result, median_of
from tests.drive_server import DriveServer

MIB = 1024 * 1024
_ENTRIES = 1000


class Feed:
    """Numbers of one server with SQLite."""

    def __init__(self, *, quick: bool) -> None:
        self.rows = 100_000 if quick else 1_000_000
        self.rounds = 100 if quick else 500
        self.readers = 200 if quick else 1000

    def run(self) -> list[Result]:
        """Milliseconds of a page of 1000 changes, of a change until it is told, and MiB of idle streams."""
        with stage.folder() as place:
            with stage.drive(place) as server:
                ada = stage.person(server)
                file = stage.upload_one(server, ada, "first.txt", b"first")
                cursor = stage.request(server, "GET", "/v1/changes", token=ada.token)["cursor"]
            self._fill(server.data / "godrive.db", ada.id, file["id"])
            with stage.drive(place, {"server": {"max_waiting_per_user": self.readers + 10}}) as server:
                ada = stage.log_in(server, ada)
                return asyncio.run(self._measure(server, ada.token, cursor))

    def _fill(self, database: Path, owner_id: str, like: str) -> None:
        """Write the log that so many changes of a thousand files would leave."""
        stage.preload(database, files=_ENTRIES, users=1, like=like)
        connection = sqlite3.connect(database)
        ids = [row[0] for row in connection.execute("SELECT id FROM entries WHERE kind = 'file'")]
        (number,) = connection.execute("SELECT changes FROM users WHERE id = ?", (owner_id,)).fetchone()

        def rows() -> Iterator[tuple[Any, ...]]:
            for index in range(1, self.rows + 1):
                yield owner_id, number + index, number, "updated", ids[index % len(ids)], "file", "", "", 1, 1

        with connection:
            connection.executemany(
                "INSERT INTO changes (owner_id, change, at, what, entry_id, kind, parent_id, from_id, published, "
                "delivered) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows(),
            )
            connection.execute(
                "UPDATE users SET changes = ?, log_rows = log_rows + ? WHERE id = ?",
                (number + self.rows, self.rows, owner_id),
            )
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()

    async def _measure(self, server: DriveServer, token: str, cursor: str) -> list[Result]:
        headers = {"Authorization": f"Bearer {token}"}
        base, connector = f"http://127.0.0.1:{server.port}", aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(base, headers=headers, connector=connector) as http:
            return [await self._pages(http, server, cursor), await self._told(http), await self._idle(http, server)]

    async def _pages(self, http: aiohttp.ClientSession, server: DriveServer, cursor: str) -> Result:
        """Read pages of a thousand changes, and for comparison pages of one."""
        seconds: dict[int, list[float]] = {1: [], 1000: []}
        work: dict[int, float] = {}
        for limit, times in seconds.items():
            position, before = cursor, server.cpu_seconds()
            for _ in range(50):
                began = time.perf_counter()
                text = await _send(http, "GET", f"/v1/changes?limit={limit}&cursor={position}")
                times.append(time.perf_counter() - began)
                page = json.loads(text)  # takes the client some milliseconds
                if len(page["changes"]) != limit or "entry" not in page["changes"][-1]:
                    raise RuntimeError(f"an unexpected page of {len(page['changes'])} changes")
                position = page["cursor"]
            work[limit] = (server.cpu_seconds() - before) / len(times)
        parts = {"CPU ms": work[1000] * 1000, "of 1 ms": median_of(seconds[1]) * 1000, "its CPU ms": work[1] * 1000}
        return Result("feed: page of 1000 changes", median_of(seconds[1000]) * 1000, "ms", 10, lower=True, parts=parts)

    async def _told(self, http: aiohttp.ClientSession) -> Result:
        """How long after the answer to a change the answer of a request that waits for it arrives."""
        cursor = (await _json(http, "GET", "/v1/changes"))["cursor"]
        seconds: list[float] = []
        made: list[float] = []
        for number in range(self.rounds):
            poll = asyncio.create_task(_json(http, "GET", f"/v1/changes?wait=30&cursor={cursor}"))
            await asyncio.sleep(0.01)
            began = time.perf_counter()
            await _json(http, "POST", "/v1/folders", {"name": f"folder {number}"})
            answered = time.perf_counter()
            made.append(answered - began)
            cursor = (await poll)["cursor"]
            seconds.append(time.perf_counter() - answered)
        seconds.sort()
        parts = {"median ms": median_of(seconds) * 1000, "the change itself ms": median_of(made) * 1000}
        slowest = seconds[int(len(seconds) * 0.99)] * 1000
        return Result("feed: change to waiting answer, p99", slowest, "ms", 50, lower=True, parts=parts)

    async def _idle(self, http: aiohttp.ClientSession, server: DriveServer) -> Result:
        """Memory of streams on which nothing happens."""
        before = server.resident_bytes()
        streams = [await http.get("/v1/events") for _ in range(self.readers)]
        for stream in streams:
            await stream.content.readuntil(b"\n\n")
        await asyncio.sleep(1)
        grown = (server.resident_bytes() - before) / MIB
        for stream in streams:
            stream.close()
        value = grown * 1000 / self.readers
        return Result("feed: memory of 1000 idle streams", value, "MiB", 60, lower=True)


async def _json(http: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> Any:
    return json.loads(await _send(http, method, path, body))


async def _send(http: aiohttp.ClientSession, method: str, path: str, body: Any = None) -> bytes:
    async with http.request(method, path, json=body) as answer:
        text = await answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {answer.status} {text.decode()}")
        return text
