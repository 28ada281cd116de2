"""What an operator sees of actors that are busy, slow or have crashed."""

from __future__ import annotations

import asyncio

import pytest

from godrive.errors import ActorCrashed
from godrive.runtime import Actor, ActorSpec, Ask, Contract, Supervisor, request_id
from godrive.runtime.supervision_events import Event, SlowMessage

pytestmark = pytest.mark.anyio


class Desk(Contract, name="desk"):
    pass


class Work(Ask[Desk, int]):
    seconds: float
    timeout = 0.5


class Fail(Ask[Desk, None]):
    pass


class Clerk(Actor[Desk]):
    @Work.handler
    async def work(self, ask: Work) -> int:
        await asyncio.sleep(ask.seconds)
        return 1

    @Fail.handler
    async def fail(self, ask: Fail) -> None:
        raise ZeroDivisionError("one over none")


async def test_messages_in_hand_and_the_age_of_the_queue_are_shown() -> None:
    async with Supervisor([ActorSpec(name="desk", start=Clerk)]) as tree:
        request_id.set("r-1")
        asks = [asyncio.ensure_future(tree.ref(Desk).ask(Work(0.05), timeout=10)) for _ in range(2)]
        await asyncio.sleep(0.02)
        (child,) = tree.details()
        (hand,) = child.in_hand
        assert (hand.message, hand.request_id) == ("Work", "r-1")
        assert (child.status.in_flight, child.status.queued) == (1, 1)
        assert hand.age > 0
        assert child.oldest >= hand.age
        assert await asyncio.gather(*asks) == [1, 1]
        (child,) = tree.details()
        assert (child.in_hand, child.oldest, child.last_crash) == ([], 0.0, None)


async def test_the_last_crash_is_kept() -> None:
    async with Supervisor([ActorSpec(name="desk", start=Clerk)]) as tree:
        with pytest.raises(ActorCrashed):
            await tree.ref(Desk).ask(Fail())
        assert await tree.ref(Desk).ask(Work(0.0)) == 1
        (child,) = tree.details()
        assert child.last_crash is not None
        assert (child.last_crash.doing, child.last_crash.error) == ("Fail", "ZeroDivisionError('one over none')")
        assert child.last_crash.age >= 0


async def test_a_slow_message_says_where_it_waited() -> None:
    events: list[Event] = []
    async with Supervisor([ActorSpec(name="desk", start=Clerk)], on_event=events.append) as tree:
        asks = [tree.ref(Desk).ask(Work(seconds), timeout=10) for seconds in (0.1, 0.0, 0.0)]
        await asyncio.gather(*asks)
        await tree.ref(Desk).ask(Work(0.0))
    slow = [event for event in events if isinstance(event, SlowMessage)]
    assert [(event.waited > 0.05, event.took > 0.05) for event in slow] == [(False, True), (True, False), (True, False)]
