"""What is opened in a thread while its caller is cancelled does not stay open."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest

from godrive.blobs import disk_opening
from godrive.blobs.disk import DiskBlobStore
from godrive.blobs.memory import MemoryBlobStore
from godrive.catalog import sqlite_file
from godrive.catalog.sqlite import SqliteCatalog
from godrive.config import Config
from godrive.drive import GoDrive
from godrive.undone import to_the_end, undone_if_cancelled
from tests.cases import each

pytestmark = pytest.mark.anyio


class Opens(Protocol):
    async def open(self) -> None: ...

    async def close(self) -> None: ...


class Slow:
    """A function that waits in its thread before it does what *real* does."""

    def __init__(self, real: Callable[..., Any]) -> None:
        self._real = real
        self.begun, self.may_end, self.ended = threading.Event(), threading.Event(), threading.Event()

    def __call__(self, *values: Any, **options: Any) -> Any:
        self.begun.set()
        assert self.may_end.wait(30)
        made = self._real(*values, **options)
        self.ended.set()
        return made


def open_below(folder: Path) -> list[str]:
    """The files below *folder* that this process has open."""
    handles = [handle.resolve() for handle in Path("/proc/self/fd").iterdir()]
    return sorted(str(handle) for handle in handles if handle.is_relative_to(folder))


STORES: list[tuple[Callable[[Path], Opens], object, str]] = [
    (lambda folder: SqliteCatalog(folder / "godrive.db"), sqlite_file, "prepare"),
    (lambda folder: SqliteCatalog(folder / "godrive.db", guest=True), sqlite_file, "prepare"),
    (DiskBlobStore, disk_opening, "Packs"),
    (partial(DiskBlobStore, pack_below=0), disk_opening, "Objects"),
]


@each("how", ["task", "scope", "task twice"])
@each("store", STORES)
async def test_a_store_whose_opening_is_cancelled_leaves_nothing_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: tuple[Callable[[Path], Opens], object, str], how: str
) -> None:
    make, module, function = store
    slow = Slow(getattr(module, function))
    with monkeypatch.context() as patch:
        patch.setattr(module, function, slow)
        scope = anyio.CancelScope()

        async def open_it() -> None:
            with scope:
                await make(tmp_path).open()

        opening = asyncio.create_task(open_it())
        await asyncio.to_thread(slow.begun.wait, 30)
        scope.cancel() if how == "scope" else opening.cancel()
        await asyncio.sleep(0)
        if how == "task twice":  # nobody waits any longer
            opening.cancel()
            await asyncio.wait([opening])
        slow.may_end.set()
        await asyncio.wait([opening])
        assert opening.cancelled() == (how != "scope")
        await asyncio.to_thread(slow.ended.wait, 30)
    with anyio.fail_after(30):
        while how == "task twice" and open_below(tmp_path):
            await asyncio.sleep(0.01)
    assert open_below(tmp_path) == []
    again = make(tmp_path)
    await again.open()
    assert open_below(tmp_path) != []
    await again.close()
    assert open_below(tmp_path) == []


async def test_a_second_cancellation_ends_the_wait_and_the_result_is_undone_all_the_same() -> None:
    slow, undone = Slow(lambda: "made"), asyncio.Event()
    loop = asyncio.get_running_loop()

    def undo(made: str) -> None:
        assert made == "made"
        loop.call_soon_threadsafe(undone.set)

    calling = asyncio.create_task(undone_if_cancelled(None, slow, undo))
    await asyncio.to_thread(slow.begun.wait, 30)
    for _ in range(2):
        calling.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([calling])
    assert calling.cancelled()
    assert not undone.is_set()
    slow.may_end.set()
    with anyio.fail_after(30):
        await undone.wait()


async def test_what_fails_is_not_undone() -> None:
    undone: list[object] = []

    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await undone_if_cancelled(None, fail, undone.append)
    slow = Slow(fail)
    calling = asyncio.create_task(undone_if_cancelled(None, slow, undone.append))
    await asyncio.to_thread(slow.begun.wait, 30)
    calling.cancel()
    slow.may_end.set()
    await asyncio.wait([calling])
    assert calling.cancelled()
    assert undone == []


async def test_what_closes_is_not_left_half_closed_however_often_the_caller_is_cancelled() -> None:
    begun, may_end, closed = asyncio.Event(), asyncio.Event(), False

    async def close() -> None:
        nonlocal closed
        begun.set()
        await may_end.wait()
        closed = True

    closing = asyncio.create_task(to_the_end(close()))
    await begun.wait()
    for _ in range(3):
        closing.cancel()
        await asyncio.sleep(0)
    assert not closing.done()
    may_end.set()
    await asyncio.wait([closing])
    assert closing.cancelled()
    assert closed


async def test_what_fails_to_close_says_so() -> None:
    async def close() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await to_the_end(close())


async def test_a_drive_whose_host_is_cancelled_twice_leaves_nothing_open(tmp_path: Path) -> None:
    may_end = asyncio.Event()

    class Slow(MemoryBlobStore):
        async def close(self) -> None:
            closing.set()
            await may_end.wait()
            closed.set()

    opened, closing, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def host() -> None:
        async with GoDrive(Config.embedded(tmp_path), blobs=Slow()):
            opened.set()
            await asyncio.Event().wait()

    hosting = asyncio.create_task(host())
    await opened.wait()
    hosting.cancel()
    await closing.wait()
    hosting.cancel()
    await asyncio.sleep(0)
    may_end.set()
    await asyncio.wait([hosting])
    assert hosting.cancelled()
    assert closed.is_set()
    assert open_below(tmp_path) == []
