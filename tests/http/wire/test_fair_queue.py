"""Turns: a bound on all, a bound on each, and the rest in turn."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest

from godrive.errors import MailboxFull
from godrive.http.wire import fair_queue
from godrive.http.wire.fair_queue import FairQueue

pytestmark = pytest.mark.anyio


async def test_one_key_has_half_of_the_slots_at_most_and_a_newcomer_finds_one_free() -> None:
    queue = FairQueue(4)
    assert [queue.enter("ann") for _ in range(3)] == [True, True, False]
    assert queue.enter("bob")
    assert queue.enter("bob")
    assert not queue.enter("cid")
    queue.leave("bob")
    assert queue.enter("cid")


async def test_those_who_wait_take_turns_by_key() -> None:
    queue = FairQueue(2)
    order: list[str] = []
    assert queue.enter("x")
    assert queue.enter("y")

    async def turn(key: str) -> None:
        await queue.wait(key)
        order.append(key)
        await anyio.lowlevel.checkpoint()
        queue.leave(key)

    async with anyio.create_task_group() as tasks:
        for key in ("ann", "ann", "ann", "ann", "bob", "cid"):
            tasks.start_soon(turn, key)
        await anyio.wait_all_tasks_blocked()
        assert queue.waiting == 6
        queue.leave("x")
    assert order[:3] == ["ann", "bob", "cid"]
    assert order[3:] == ["ann"] * 3
    queue.leave("y")
    assert [queue.enter(key) for key in ("ann", "bob")] == [True, True]


@pytest.mark.parametrize("granted", [False, True])
async def test_a_wait_that_is_cancelled_loses_no_turn(granted: bool) -> None:
    queue = FairQueue(1)
    assert queue.enter("ann")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(queue.wait, "bob")
        await anyio.wait_all_tasks_blocked()
        if granted:
            queue.leave("ann")
        tasks.cancel_scope.cancel()
    if not granted:
        queue.leave("ann")
    assert queue.waiting == 0
    assert queue.enter("cid")


async def test_too_long_a_wait_and_too_many_who_wait_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fair_queue, "PATIENCE", 0.01)
    monkeypatch.setattr(fair_queue, "MOST_WAITING", 1)
    queue = FairQueue(1)
    assert queue.enter("ann")
    refused: list[str] = []

    async def wait(note: Callable[[str], None]) -> None:
        with pytest.raises(MailboxFull) as error:
            await queue.wait("ann")
        note(error.value.detail)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(wait, refused.append)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(wait, refused.append)
    assert len(set(refused)) == 2
    assert queue.waiting == 0
    queue.leave("ann")
    assert queue.enter("bob")
