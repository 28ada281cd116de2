"""How long other writers wait while a tree of 100 000 entries settles, in the trash and out of it again."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from bench import stage
from bench.report import Result, median_of
from godrive import config
from godrive.catalog import Catalog
from godrive.catalog.postgres import PostgresCatalog
from godrive.catalog.sqlite import SqliteCatalog
from godrive.messages.system import IndexNames, SettleTrash
from godrive.model import UserId
from godrive.tree import INDEXED_AT_ONCE, SETTLED_AT_ONCE
from tests.contracts.rig import Rig
from tests.rules.test_tree import fill
from tests.servers import PostgresServer

_PAUSE = 0.005
"""Seconds that the writer rests between two writes."""

_BEATS = 0.05
"""Seconds of the index of names between two looks: ten times as often as in a server."""


class Settle:
    """A user begins an upload every 5 ms, while the tree of another settles and the index of names follows."""

    def __init__(self, *, quick: bool) -> None:
        self.folders = 10 if quick else 100

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
            return await self._measure(engine, Rig(catalog))
        finally:
            await catalog.close()

    async def _measure(self, engine: str, rig: Rig) -> list[Result]:
        rig.configure("auth", max_pending_uploads=10**6)
        owner, other = await rig.user(), await rig.user()
        tree = await rig.folder(owner, "large")
        await fill(rig, tree, folders=self.folders, files=1000)
        while await rig.ask(IndexNames(1000)):
            pass
        waits: list[float] = []
        tasks = [asyncio.create_task(_write(rig, other, waits)), asyncio.create_task(_index(rig))]
        await asyncio.sleep(2)
        alone = _percentile(waits, 95) * 1000
        results: list[Result] = []
        for name, change in (("trash", rig.trash), ("restore", rig.restore)):
            await change(tree)
            waits.clear()
            steps: list[float] = []
            began = time.perf_counter()
            while await _step(rig, steps):
                pass
            took = time.perf_counter() - began
            what = f"settled {name} of {self.folders * 1001:,}, {engine}"
            parts = {"alone ms": alone, "longest step ms": max(steps) * 1000, "median step ms": median_of(steps) * 1000}
            parts |= {"settled s": took}
            p95, longest = _percentile(waits, 95) * 1000, max(waits) * 1000
            results.append(Result(f"write p95, {what}", p95, "ms", 50, lower=True, parts=parts))
            results.append(Result(f"write max, {what}", longest, "ms", 50, lower=True))
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return results


async def _step(rig: Rig, steps: list[float]) -> bool:
    began = time.perf_counter()
    more = await rig.ask(SettleTrash(SETTLED_AT_ONCE))
    steps.append(time.perf_counter() - began)
    return more


async def _write(rig: Rig, other: UserId, waits: list[float]) -> None:
    for number in range(10**6):
        began = time.perf_counter()
        await rig.begin(other, f"{number}")
        waits.append(time.perf_counter() - began)
        await asyncio.sleep(_PAUSE)


async def _index(rig: Rig) -> None:
    while True:
        while await rig.ask(IndexNames(INDEXED_AT_ONCE)):
            pass
        await asyncio.sleep(_BEATS)


def _percentile(values: list[float], percent: int) -> float:
    return sorted(values)[len(values) * percent // 100]
