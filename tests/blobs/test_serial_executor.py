"""Calls one after another in threads: an error is never taken for the end of a call, and no wait is forgotten."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import anyio
import pytest

from godrive.blobs.staged_write import Batch, SerialExecutor
from godrive.errors import StorageFull

pytestmark = pytest.mark.anyio


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


class Gated:
    """A call that waits until it may go on, and keeps its batches."""

    def __init__(self) -> None:
        self.begun = Event()
        self.may_go_on = Event()
        self.batches: list[Batch] = []

    def __call__(self, batch: Batch) -> None:
        self.begun.set()
        assert self.may_go_on.wait(30)
        self.batches.append(batch)


def fail(_batch: Batch) -> None:
    raise OSError(errno.ENOSPC, "no space")


async def test_a_call_that_has_failed_is_not_settled_before_its_error_is_known(pool: ThreadPoolExecutor) -> None:
    calls = SerialExecutor(pool, fail)
    calls.push([b"lost"])
    with anyio.fail_after(30):
        for left in (0, 1, 0):
            with pytest.raises(StorageFull):
                await calls.settle(left)


async def test_nothing_is_called_after_a_failure(pool: ThreadPoolExecutor) -> None:
    made: list[Batch] = []
    calls = SerialExecutor(pool, fail)
    calls.push([b"lost"])
    calls.push([b"behind"], made.append)
    with anyio.fail_after(30):
        with pytest.raises(StorageFull):
            await calls.settle(0)
        calls.push([b"later"], made.append)
        with pytest.raises(StorageFull):
            await calls.settle(0)
        await calls.stop()
    assert made == []


async def test_a_call_that_has_ended_is_settled_at_once(pool: ThreadPoolExecutor) -> None:
    written: list[Batch] = []
    calls = SerialExecutor(pool, written.append)
    calls.push([b"one"])
    with anyio.fail_after(30):
        await calls.settle(0)
    assert written == [[b"one"]]
    assert not calls.is_busy
    assert calls.held == 0


async def test_batches_that_wait_become_one_up_to_one_with_another_call(pool: ThreadPoolExecutor) -> None:
    call, last = Gated(), Gated()
    calls = SerialExecutor(pool, call)
    calls.push([b"1"])
    assert await asyncio.to_thread(call.begun.wait, 30)
    calls.push([b"2"])
    calls.push([b"3"], last)
    calls.push([b"4"])
    assert calls.held == 4
    call.may_go_on.set()
    with anyio.fail_after(30):
        await calls.settle(3)
        last.may_go_on.set()
        await calls.settle(0)
    assert (call.batches, last.batches) == ([[b"1"], [b"4"]], [[b"2", b"3"]])


async def test_a_wait_that_is_cancelled_leaves_the_call_alone(pool: ThreadPoolExecutor) -> None:
    call = Gated()
    calls = SerialExecutor(pool, call)
    calls.push([b"one"])
    with anyio.move_on_after(0.01):
        await calls.settle(0)
    assert calls.is_busy
    call.may_go_on.set()
    with anyio.fail_after(30):
        await calls.settle(0)
    assert call.batches == [[b"one"]]


async def test_to_stop_waits_for_the_call_that_runs_and_drops_the_others(pool: ThreadPoolExecutor) -> None:
    call = Gated()
    calls = SerialExecutor(pool, call)
    calls.push([b"one"])
    assert await asyncio.to_thread(call.begun.wait, 30)
    calls.push([b"two"])
    asyncio.get_running_loop().call_later(0.01, call.may_go_on.set)
    with anyio.fail_after(30):
        await calls.stop()
    assert call.batches == [[b"one"]]
    assert not calls.is_busy
    assert calls.held == 0


async def test_many_calls_leave_the_thread_to_others(pool: ThreadPoolExecutor) -> None:
    """The other one is in the queue of the only thread, and gets its turn before all calls were made."""
    order: list[str] = []
    gate = Gated()

    def call(batch: Batch) -> None:
        order.append("ours")
        if len(order) < 10:  # another one waits for each that is made
            calls.push([b"more"])

    calls = SerialExecutor(pool, call)
    pool.submit(gate, [])
    calls.push([b"first"])
    pool.submit(order.append, "other")
    gate.may_go_on.set()
    with anyio.fail_after(30):
        while len(order) < 10:
            await asyncio.sleep(0.001)
        await calls.settle(0)
    assert order.index("other") < 9
