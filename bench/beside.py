"""A writer beside what changes a large tree, on either database: how long it waits."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from pathlib import Path

from bench import stage
from bench.report import Result
from godrive import config
from godrive.catalog import Catalog
from godrive.catalog.postgres import PostgresCatalog
from godrive.catalog.sqlite import SqliteCatalog
from godrive.model import UserId
from tests.contracts.rig import Rig
from tests.servers import PostgresServer

PAUSE = 0.005
"""Seconds that the writer rests between two writes."""


class Beside(ABC):
    """A measurement beside a writer, with a tree of so many *folders* of 1000 files each."""

    def __init__(self, *, quick: bool) -> None:
        self.folders = 10 if quick else 100

    @property
    def entries(self) -> int:
        """How many entries the tree has."""
        return self.folders * 1001

    def sqlite(self) -> list[Result]:
        """On SQLite."""
        with stage.folder() as place:
            return asyncio.run(self._run("SQLite", SqliteCatalog(Path(place) / "godrive.db")))

    def postgres(self) -> list[Result]:
        """On PostgreSQL.  Raises ``MissingProgram``."""
        with PostgresServer() as server:
            return asyncio.run(self._run("PostgreSQL", PostgresCatalog(config.Catalog(dsn=server.create_database()))))

    async def _run(self, engine: str, catalog: Catalog) -> list[Result]:
        await catalog.open()
        try:
            rig = Rig(catalog)
            rig.configure("auth", max_pending_uploads=10**6)
            return await self._measure(engine, rig)
        finally:
            await catalog.close()

    @abstractmethod
    async def _measure(self, engine: str, rig: Rig) -> list[Result]: ...


async def write(rig: Rig, other: UserId, waits: list[float]) -> None:
    """Begin uploads of *other*, one after another, until cancelled.  Adds to *waits* the seconds that each took."""
    for number in range(10**6):
        began = time.perf_counter()
        await rig.begin(other, f"{number}")
        waits.append(time.perf_counter() - began)
        await asyncio.sleep(PAUSE)


def p95(values: list[float]) -> float:
    """Return the 95th percentile."""
    return sorted(values)[len(values) * 95 // 100]
