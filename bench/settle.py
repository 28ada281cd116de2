"""How long other writers wait while a large tree goes into the trash and comes out."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from bench import stage
from bench.report import Result
from godrive.catalog.sqlite import SqliteCatalog
from godrive.tree import SETTLED_AT_ONCE
from tests.contracts.rig import Rig
from tests.rules.test_tree import fill


class Settle:
    """Waits of a writer that begins an upload every 5 ms, on SQLite."""

    def __init__(self, *, quick: bool) -> None:
        self.folders = 10 if quick else 100

    def run(self) -> list[Result]:
        """The 95th percentile of the waits, and the time of each change."""
        with stage.folder() as place:
            return asyncio.run(self._run(place))

    async def _run(self, place: Path) -> list[Result]:
        catalog = SqliteCatalog(place / "godrive.db")
        await catalog.open()
        try:
            return await self._measure(Rig(catalog))
        finally:
            await catalog.close()

    async def _measure(self, rig: Rig) -> list[Result]:
        owner, other = await rig.user(), await rig.user()
        folder = await rig.folder(owner, "large")
        await fill(rig, folder, folders=self.folders, files=1000)
        waits: list[float] = []
        parts: dict[str, float] = {}

        async def keep_writing() -> None:
            while True:
                began = time.perf_counter()
                await rig.begin(other, f"{len(waits)}")
                waits.append(time.perf_counter() - began)
                await asyncio.sleep(0.005)

        writer = asyncio.create_task(keep_writing())
        for change in (rig.trash, rig.restore):
            began = time.perf_counter()
            await change(folder)
            parts[f"{change.__name__} ms"] = (time.perf_counter() - began) * 1000
            await rig.settle(SETTLED_AT_ONCE)
            parts[f"{change.__name__} settled s"] = time.perf_counter() - began
        writer.cancel()
        await asyncio.wait([writer])
        waits.sort()
        parts["longest wait ms"] = waits[-1] * 1000
        name = f"write p95 beside {self.folders * 1000:,} settling"
        return [Result(name, waits[len(waits) * 95 // 100] * 1000, "ms", 50, lower=True, parts=parts)]
