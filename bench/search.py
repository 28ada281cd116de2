"""Search in a million names of a thousand users, half of which belong to one of them."""

from __future__ import annotations

import asyncio
import itertools
import random
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import asyncpg

from bench import stage
from bench.clients import latencies
from bench.report import Result, median_of
from tests.drive_server import DriveServer, environment, merged
from tests.servers import PostgresServer

MIB = 1024 * 1024
USERS = 1000
COMMON = [
    "report",
    "invoice",
    "photo",
    "draft",
    "final",
    "notes",
    "summary",
    "budget",
    "plan",
    "holiday",
    "family",
    "contract",
    "scan",
    "letter",
    "music",
    "track",
    "video",
    "clip",
    "backup",
    "archive",
    "data",
    "table",
    "chart",
    "slide",
    "deck",
    "team",
    "project",
    "alpha",
    "north",
    "south",
]
COLUMNS = (
    "id, owner_id, list_state, parent_id, kind, name, name_key, search_key, mime, size_bytes, created_at, updated_at, "
    "modified_at, revision, state"
)
TYPES = ("image/png", "text/plain", "application/pdf")


class Search:
    """Searches over HTTP, one after another, beside the lists of another user."""

    def __init__(self, *, quick: bool) -> None:
        self.names = 50_000 if quick else 1_000_000
        self.probes = 40 if quick else 200
        chance = random.Random(1)
        self.rare = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=8)) for _ in range(20_000)]

    def sqlite(self) -> list[Result]:
        """The default catalog."""
        with stage.folder() as place:
            with stage.drive(place) as server:
                ada, eve = stage.person(server), stage.person(server, "eve")
            self._fill(server.data / "godrive.db", ada, eve)
            with server:
                indexed = self._index(server, server.data / "godrive.db")
                return [indexed, *self._measure("SQLite", server, ada, eve)]

    def postgres(self) -> list[Result]:
        """The same rows in PostgreSQL."""
        with stage.folder() as place, PostgresServer(durable=True) as database:
            with stage.drive(place) as source:
                ada, eve = stage.person(source), stage.person(source, "eve")
            self._fill(source.data / "godrive.db", ada, eve)
            dsn = database.create_database()
            tables = {
                "catalog": {"driver": "postgres", "dsn": dsn},
                "auth": {"secret_file": str(source.data / "secret.key")},
                "server": {"data_dir": str(source.data)},
            }
            server = DriveServer(tables=merged(stage.OPEN_GATE, tables), quick=False)
            server.command()
            copy = [sys.executable, "-m", "godrive", "catalog", "copy", "--config", str(server.folder / "config.toml")]
            subprocess.run(copy, check=True, capture_output=True, env=environment())
            server.tables["server"]["data_dir"] = str(server.folder / "data")
            with server:
                asyncio.run(self._wait_until_indexed(dsn))
                return self._measure("PostgreSQL", server, ada, eve)

    def _names(self, ada: stage.Person, eve: stage.Person) -> Iterator[tuple[object, ...]]:
        """The rows, owner by owner: half are Ada's, a thousandth Eve's."""
        chance = random.Random(2)
        others = [eve.id, *(f"{number:032x}" for number in range(USERS - 2))]
        now, half = time.time_ns() // 1000 - self.names, self.names // 2
        for index in range(self.names):
            words = chance.choices(COMMON, k=1 + int(chance.random() * 3))
            if chance.random() < 0.3:
                words.append(chance.choice(self.rare))
            name = f"{'_'.join(words)} {index}.txt"
            owner = ada.id if index < half else others[(index - half) * len(others) // (self.names - half)]
            id_, at, mime = f"{index:08x}{'0' * 24}", now + index, TYPES[index % 3]
            yield (id_, owner, "file", "", "file", name, name, name, mime, index, at, at, at, at, "live")

    def _fill(self, path: Path, ada: stage.Person, eve: stage.Person) -> None:
        database = sqlite3.connect(path)
        database.execute("PRAGMA synchronous = OFF")
        database.execute("PRAGMA cache_size = -200000")
        with database:
            database.executemany(
                "INSERT INTO users (id, email, email_key, password_hash, state, created_at) "
                "VALUES (?1, ?1, ?1, '', 'active', 0)",
                ((f"{number:032x}",) for number in range(USERS - 2)),
            )
            places = ", ".join("?" * 15)
            database.executemany(f"INSERT INTO entries ({COLUMNS}) VALUES ({places})", self._names(ada, eve))
            database.execute("UPDATE users SET entry_count = (SELECT COUNT(*) FROM entries WHERE owner_id = users.id)")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.close()

    def _index(self, server: DriveServer, path: Path) -> Result:
        """Microseconds of CPU time for each name that the server indexes, and the memory that this takes."""
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        before, began = server.cpu_seconds(), time.perf_counter()
        with stage.PeakMemory(server.pid) as memory:
            while database.execute("SELECT 1 FROM unindexed LIMIT 1").fetchone():
                time.sleep(1)
        seconds = time.perf_counter() - began
        size = database.execute("SELECT SUM(length(block)) FROM names_fts_data").fetchone()[0]
        database.close()
        parts = {
            "names/s": self.names / seconds,
            "memory MiB": memory.growth / MIB,
            "index bytes/name": size / self.names,
        }
        return Result(
            "index of names, CPU for each", (server.cpu_seconds() - before) / self.names * 1e6, "us", None, True, parts
        )

    def _measure(self, engine: str, server: DriveServer, ada: stage.Person, eve: stage.Person) -> list[Result]:
        ada, eve = stage.log_in(server, ada), stage.log_in(server, eve)
        queries = {
            "rare": [f"q={word}" for word in self.rare],
            "common": [f"q={word}" for word in COMMON],
            "two letters": [f"q={word[:2]}" for word in COMMON],
            "one letter": [f"q={word[0]}" for word in COMMON],
            "two words": [f"q={quote(f'{one} {other}')}" for one, other in itertools.pairwise(COMMON)],
            "common, no such type": [f"q={word}&type=video" for word in COMMON],
            "no text": ["type=image", "min_size=1000"],
        }
        found = []
        for owner, who in ((f"{self.names // 2:,} names", ada), (f"{self.names // 2 // (USERS - 1):,} names", eve)):
            parts, worst = {}, 0.0
            with stage.PeakMemory(server.pid) as memory:
                for kind, texts in queries.items():
                    cpu = server.cpu_seconds()
                    taken = self._latencies(server, who, texts)
                    parts[f"{kind} p50 ms"], p99 = median_of(taken) * 1000, taken[len(taken) * 99 // 100] * 1000
                    parts[f"{kind} p99 ms"] = p99
                    parts[f"{kind} CPU ms"] = (server.cpu_seconds() - cpu) / len(taken) * 1000
                    worst = max(worst, p99)
            parts["memory MiB"] = memory.growth / MIB
            found.append(Result(f"search p99, {owner}, {engine}", worst, "ms", 50, lower=True, parts=parts))
        found.append(self._beside(engine, server, ada, eve, queries["common"]))
        return found

    def _beside(
        self, engine: str, server: DriveServer, ada: stage.Person, eve: stage.Person, texts: list[str]
    ) -> Result:
        """The lists of Eve beside Ada's searches against the lists alone."""
        url = f"{server.url}/v1/files?limit=20"
        alone = latencies(url, token=eve.token, count=self.probes, every=0.005)
        stop = threading.Event()

        def search() -> None:
            while not stop.is_set():
                self._latencies(server, ada, texts[:5], count=5)

        threads = [threading.Thread(target=search) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            beside = latencies(url, token=eve.token, count=self.probes, every=0.005)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        at = len(alone) * 99 // 100
        parts = {"alone ms": alone[at] * 1000, "beside ms": beside[at] * 1000}
        return Result(f"list p99 beside searches, {engine}", beside[at] / alone[at], "x", 5, lower=True, parts=parts)

    def _latencies(
        self, server: DriveServer, who: stage.Person, texts: list[str], count: int | None = None
    ) -> list[float]:
        found = []
        for number in range(count or self.probes):
            query = texts[number % len(texts)]
            found += latencies(f"{server.url}/v1/search?{query}", token=who.token, count=1)
        return sorted(found)

    @staticmethod
    async def _wait_until_indexed(dsn: str) -> None:
        connection = await asyncpg.connect(dsn)
        try:
            while await connection.fetchval("SELECT EXISTS (SELECT 1 FROM unindexed)"):
                await asyncio.sleep(1)
            await connection.execute("ANALYZE")
        finally:
            await connection.close()
