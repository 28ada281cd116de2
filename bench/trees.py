"""What changes of a tree of 100 000 entries cost, and how long another writer waits meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from bench import stage
from bench.report import Result
from godrive import config
from godrive.catalog import Catalog
from godrive.catalog.postgres import PostgresCatalog
from godrive.catalog.sqlite import SqliteCatalog
from godrive.messages.files import UpdateFile
from godrive.model import File
from godrive.tree import SETTLED_AT_ONCE
from tests.contracts.rig import Rig, host, inside
from tests.rules.test_tree import fill
from tests.servers import PostgresServer


class Trees:
    """A writer of another user begins an upload every 5 ms, while a tree is moved, trashed, restored and copied."""

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
        tree, target = await rig.folder(owner, "large"), await rig.folder(owner, "target")
        await fill(rig, tree, folders=self.folders, files=1000)
        waits: list[float] = []

        async def keep_writing() -> None:
            for number in range(10**6):
                began = time.perf_counter()
                await rig.begin(other, f"{number}")
                waits.append(time.perf_counter() - began)
                await asyncio.sleep(0.005)

        async def move(file: File) -> None:
            await rig.ask(UpdateFile(by=host(owner), file_id=file.id, where=inside(target)))

        async def copy(file: File) -> None:
            await rig.copy(file, name="copy")

        writer = asyncio.create_task(keep_writing())
        await asyncio.sleep(2)
        alone = _p95(waits) * 1000
        results: list[Result] = []
        entries = self.folders * 1001
        changes: list[tuple[Callable[[File], Awaitable[object]], bool]]
        changes = [(move, False), (rig.trash, True), (rig.restore, True), (copy, True)]
        for change, settles in changes:
            waits.clear()
            began = time.perf_counter()
            await change(tree)
            took = time.perf_counter() - began
            name, parts = change.__name__, dict[str, float]()
            if settles:
                await rig.settle(SETTLED_AT_ONCE)
                parts["settled s"] = time.perf_counter() - began
            while len(waits) < 3:
                await asyncio.sleep(0.005)
            parts |= {
                "other's longest wait ms": max(waits) * 1000,
                "its median ms": sorted(waits)[len(waits) // 2] * 1000,
            }
            what = f"{name} {entries:,}, {engine}"
            if name == "copy":
                results.append(Result(what, entries / took, "a second", None, parts=parts | {"seconds": took}))
            else:
                results.append(Result(what, took * 1000, "ms", 50, lower=True, parts=parts))
            beside = _p95(waits) * 1000
            results.append(Result(f"write p95 beside {what}", beside, "ms", 50, lower=True, parts={"alone ms": alone}))
        writer.cancel()
        await asyncio.wait([writer])
        return results


def _p95(values: list[float]) -> float:
    return sorted(values)[len(values) * 95 // 100]
