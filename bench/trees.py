"""What changes of a tree of 100 000 entries cost, and how long another writer waits meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from bench.beside import PAUSE, Beside, p95, write
from bench.report import Result
from godrive.messages.files import UpdateFile
from godrive.model import File
from godrive.tree import SETTLED_AT_ONCE
from tests.contracts.rig import Rig, host, inside
from tests.rules.test_tree import fill


class Trees(Beside):
    """A writer of another user begins an upload every 5 ms, while a tree is moved, trashed, restored and copied."""

    async def _measure(self, engine: str, rig: Rig) -> list[Result]:
        owner, other = await rig.user(), await rig.user()
        tree, target = await rig.folder(owner, "large"), await rig.folder(owner, "target")
        await fill(rig, tree, folders=self.folders, files=1000)
        waits: list[float] = []

        async def move(file: File) -> None:
            await rig.ask(UpdateFile(by=host(owner), file_id=file.id, where=inside(target)))

        async def copy(file: File) -> None:
            await rig.copy(file, name="copy")

        writer = asyncio.create_task(write(rig, other, waits))
        await asyncio.sleep(2)
        alone = p95(waits) * 1000
        results: list[Result] = []
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
                await asyncio.sleep(PAUSE)
            parts |= {
                "other's longest wait ms": max(waits) * 1000,
                "its median ms": sorted(waits)[len(waits) // 2] * 1000,
            }
            what = f"{name} {self.entries:,}, {engine}"
            if name == "copy":
                results.append(Result(what, self.entries / took, "a second", None, parts=parts | {"seconds": took}))
            else:
                results.append(Result(what, took * 1000, "ms", 50, lower=True, parts=parts))
            beside = p95(waits) * 1000
            results.append(Result(f"write p95 beside {what}", beside, "ms", 50, lower=True, parts={"alone ms": alone}))
        writer.cancel()
        await asyncio.wait([writer])
        return results
