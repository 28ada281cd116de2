"""How long other writers wait while a tree of 100 000 entries settles, in the trash and out of it again."""

from __future__ import annotations

import asyncio
import time

from bench.beside import Beside, p95, write
from bench.report import Result, median_of
from godrive.messages.system import IndexNames, SettleTrash
from godrive.tree import INDEXED_AT_ONCE, SETTLED_AT_ONCE
from tests.contracts.rig import Rig
from tests.rules.test_tree import fill

_BEATS = 0.05
"""Seconds of the index of names between two looks: ten times as often as in a server."""


class Settle(Beside):
    """A user begins an upload every 5 ms, while the tree of another settles and the index of names follows."""

    async def _measure(self, engine: str, rig: Rig) -> list[Result]:
        owner, other = await rig.user(), await rig.user()
        tree = await rig.folder(owner, "large")
        await fill(rig, tree, folders=self.folders, files=1000)
        while await rig.ask(IndexNames(1000)):
            pass
        waits: list[float] = []
        tasks = [asyncio.create_task(write(rig, other, waits)), asyncio.create_task(_index(rig))]
        await asyncio.sleep(2)
        alone = p95(waits) * 1000
        results: list[Result] = []
        for name, change in (("trash", rig.trash), ("restore", rig.restore)):
            await change(tree)
            waits.clear()
            steps: list[float] = []
            began = time.perf_counter()
            while await _step(rig, steps):
                pass
            took = time.perf_counter() - began
            what = f"settled {name} of {self.entries:,}, {engine}"
            parts = {"alone ms": alone, "longest step ms": max(steps) * 1000, "median step ms": median_of(steps) * 1000}
            parts |= {"settled s": took}
            results.append(Result(f"write p95, {what}", p95(waits) * 1000, "ms", 50, lower=True, parts=parts))
            results.append(Result(f"write max, {what}", max(waits) * 1000, "ms", 50, lower=True))
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return results


async def _step(rig: Rig, steps: list[float]) -> bool:
    began = time.perf_counter()
    more = await rig.ask(SettleTrash(SETTLED_AT_ONCE))
    steps.append(time.perf_counter() - began)
    return more


async def _index(rig: Rig) -> None:
    while True:
        while await rig.ask(IndexNames(INDEXED_AT_ONCE)):
            pass
        await asyncio.sleep(_BEATS)
