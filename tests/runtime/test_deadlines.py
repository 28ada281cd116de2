"""Every ask has a deadline, and one timer keeps them all."""

from __future__ import annotations

import asyncio
import gc
import weakref

import anyio
import pytest

from godrive.errors import AskTimeout, DeliveryError
from godrive.runtime.deadlines import Deadlines
from godrive.runtime.mailbox import Envelope
from godrive.runtime.supervision_events import DeadLetter
from tests.runtime.stage import Hold, Note, Say, Script, Stage, leave

pytestmark = pytest.mark.anyio


async def test_an_ask_that_is_not_answered_in_time_raises_and_its_outcome_is_unknown() -> None:
    script = Script()
    async with script.supervisor() as tree:
        with pytest.raises(AskTimeout, match="did not answer in time") as caught:
            await tree.ref(Stage).ask(Hold("cue"), timeout=0.01)
        assert isinstance(caught.value, DeliveryError)
        script.cues["cue"].set()
    assert "held cue" in script.log


async def test_every_message_has_a_deadline_of_its_own_unless_the_asker_says_otherwise() -> None:
    script = Script()
    async with script.supervisor() as tree, anyio.create_task_group() as asks:
        stage = tree.ref(Stage)
        asks.start_soon(stage.ask, Hold("cue"))
        await script.reached["cue"].wait()
        (deadline,) = stage._mailboxes[0].deadlines._pending.values()
        assert 14.0 < deadline - asyncio.get_running_loop().time() <= 15.0
        script.cues["cue"].set()


async def test_a_message_that_expired_in_the_mailbox_is_a_dead_letter_and_never_handled() -> None:
    script = Script()
    async with script.supervisor() as tree, anyio.create_task_group() as asks:
        stage = tree.ref(Stage)
        asks.start_soon(stage.ask, Hold("cue"))
        await script.reached["cue"].wait()
        with pytest.raises(AskTimeout):
            await stage.ask(Say("too late"), timeout=0.01)
        script.cues["cue"].set()
    assert "too late" not in script.log
    assert script.of(DeadLetter) == [DeadLetter("stage", "Say", "expired")]


async def test_a_message_whose_asker_has_left_expires_too() -> None:
    script = Script()
    Note.timeout, kept = 0.0, Note.timeout
    try:
        async with script.supervisor() as tree:
            leave(tree.ref(Stage), Note("late"))
            await tree.ref(Stage).ask(Say("on"))
    finally:
        Note.timeout = kept
    assert script.of(DeadLetter) == [DeadLetter("stage", "Note", "expired")]


async def test_a_message_whose_asker_has_been_told_is_late_even_if_a_timer_was_a_hair_early() -> None:
    loop = asyncio.get_running_loop()
    reply, deadline = loop.create_future(), loop.time() + 1e6
    envelope = Envelope(Say("late"), reply, deadline, None, deadline)
    assert not envelope.expired(loop.time())
    deadlines = Deadlines()
    deadlines.add(reply, deadline)
    deadlines._expire()
    assert reply.done()
    assert isinstance(reply.exception(), TimeoutError)
    assert envelope.expired(loop.time())
    deadlines.close()


async def test_an_ask_with_no_time_left_is_told_at_once() -> None:
    script = Script()
    async with script.supervisor() as tree:
        with pytest.raises(AskTimeout):
            await tree.ref(Stage).ask(Say("no"), timeout=0.0)
        with pytest.raises(AskTimeout):
            await tree.ref(Stage).ask(Say("no"), timeout=-1.0)
    assert script.log == ["start", "stop"]


async def test_a_sooner_deadline_moves_the_timer_forward_and_a_later_one_does_not() -> None:
    deadlines, loop = Deadlines(), asyncio.get_running_loop()
    late, soon, later = loop.create_future(), loop.create_future(), loop.create_future()
    now = loop.time()
    deadlines.add(late, now + 1e6)
    superseded = deadlines._timer
    deadlines.add(soon, now + 0.01)
    assert superseded is not None
    assert superseded.cancelled()
    deadlines.add(later, now + 2e6)
    with pytest.raises(TimeoutError):
        await soon
    assert not late.done()
    assert not later.done()
    assert deadlines._wakes_at == now + 1e6
    deadlines.discard(soon)
    deadlines.add(soon := loop.create_future(), loop.time() + 0.01)
    with pytest.raises(TimeoutError):
        await soon
    deadlines.close()


async def test_deadlines_that_pass_in_any_order_all_pass() -> None:
    deadlines, loop = Deadlines(), asyncio.get_running_loop()
    now = loop.time()
    waits = [loop.create_future() for _ in range(50)]
    for index, wait in enumerate(waits):
        deadlines.add(wait, now + (index * 17 % 50) / 5000)
    done = await asyncio.gather(*waits, return_exceptions=True)
    assert {type(error) for error in done} == {TimeoutError}
    for wait in waits:
        deadlines.discard(wait)
    assert deadlines._timer is None


async def test_the_timer_goes_when_nobody_waits_any_more() -> None:
    deadlines, loop = Deadlines(), asyncio.get_running_loop()
    answered, wait = loop.create_future(), loop.create_future()
    deadlines.add(answered, loop.time() + 0.01)
    answered.set_result(None)
    deadlines.discard(answered)
    deadlines.add(wait, loop.time() + 0.02)
    with pytest.raises(TimeoutError):
        await wait
    deadlines.discard(wait)
    assert deadlines._timer is None
    assert len(deadlines) == 0


@pytest.mark.slow
async def test_a_stopped_tree_leaves_no_timer_that_keeps_it_alive() -> None:
    script = Script()
    tree = script.supervisor()
    async with tree:
        await tree.ref(Stage).ask(Say("on"), timeout=1e6)
        timer = tree.ref(Stage)._mailboxes[0].deadlines._timer
    assert timer is not None
    assert timer.cancelled()
    gone = weakref.ref(tree)
    script.events.clear()
    del tree, script
    gc.collect()
    assert gone() is None
