"""The bound, the order, and that no envelope is ever lost on its way."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import anyio
import pytest

from godrive.errors import AskTimeout, MailboxFull
from godrive.runtime import Actor, ActorSpec, Ask, Contract, request_id
from godrive.runtime.mailbox import Envelope, Mailbox
from godrive.runtime.ref import LocalRef
from tests.runtime.stage import Hold, Note, Refuse, Say, Script, Stage, WhoAsks, leave

pytestmark = pytest.mark.anyio


def letter(word: str, within: float = 1e6) -> Envelope:
    loop = asyncio.get_running_loop()
    return Envelope(Note(word), loop.create_future(), loop.time() + within, None, loop.time())


def words(envelopes: list[Envelope]) -> list[str]:
    return [envelope.message.word for envelope in envelopes]  # type: ignore[attr-defined]


async def test_a_mailbox_without_room_for_one_message_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity 0"):
        Mailbox(0)


async def test_a_full_mailbox_makes_an_ask_wait_until_there_is_room() -> None:
    script = Script()
    async with script.supervisor(script.actor(capacity=1)) as tree, anyio.create_task_group() as asks:
        stage, answers = tree.ref(Stage), []

        async def say(word: str) -> None:
            answers.append(await stage.ask(Say(word)))

        asks.start_soon(stage.ask, Hold("cue"))
        await script.reached["cue"].wait()
        for word in ("a", "b", "c"):
            asks.start_soon(say, word)
        await anyio.wait_all_tasks_blocked()
        assert (tree.children()[0].queued, answers) == (1, [])
        script.cues["cue"].set()
    assert sorted(answers) == ["a 1", "b 1", "c 1"]


async def test_an_ask_that_found_no_room_before_its_deadline_was_never_delivered() -> None:
    script = Script()
    async with script.supervisor(script.actor(capacity=1)) as tree, anyio.create_task_group() as asks:
        stage = tree.ref(Stage)
        asks.start_soon(stage.ask, Hold("cue"))
        await script.reached["cue"].wait()
        leave(stage, Note("fills it"))
        with pytest.raises(MailboxFull, match="overloaded") as caught:
            await stage.ask(Say("no room"), timeout=0.01)
        assert caught.value.retry_after
        script.cues["cue"].set()
    assert "no room" not in script.log


async def test_a_full_mailbox_takes_nothing_more() -> None:
    script = Script()
    async with script.supervisor(script.actor(capacity=2)) as tree, anyio.create_task_group() as asks:
        stage = tree.ref(Stage)
        asks.start_soon(stage.ask, Hold("cue"))
        await script.reached["cue"].wait()
        leave(stage, Note("one"))
        leave(stage, Note("two"))
        with pytest.raises(MailboxFull):
            leave(stage, Note("three"))
        script.cues["cue"].set()
    assert script.log[2:-1] == ["held cue", "one", "two"]


async def test_messages_of_one_sender_are_handled_in_the_order_they_were_sent() -> None:
    script = Script()
    async with script.supervisor(script.actor(capacity=3)) as tree, anyio.create_task_group() as asks:
        stage = tree.ref(Stage)
        asks.start_soon(stage.ask, Hold("cue"))
        await script.reached["cue"].wait()
        for number in range(20):  # most of them have to wait for room
            asks.start_soon(stage.ask, Say(str(number)))
        await anyio.wait_all_tasks_blocked()
        script.cues["cue"].set()
    assert script.log[3:-1] == [str(number) for number in range(20)]


async def test_nobody_slips_in_before_those_who_wait_for_room() -> None:
    mailbox = Mailbox(1)
    assert mailbox.offer(letter("first"))
    async with anyio.create_task_group() as senders:
        senders.start_soon(mailbox.put, letter("waiting"))
        await anyio.wait_all_tasks_blocked()
        assert await mailbox.take()
        # Room was made, but not for this one, and never for one more than the bound.
        assert not mailbox.offer(letter("impatient"))
        assert len(mailbox) == 1
        await anyio.wait_all_tasks_blocked()
    assert words(mailbox.drain()) == ["waiting"]


async def test_one_message_at_a_time_unless_the_spec_says_more() -> None:
    script = Script()
    for concurrency in (1, 3):
        spec = script.actor(concurrency=concurrency)
        async with script.supervisor(spec) as tree, anyio.create_task_group() as asks:
            for number in range(5):
                asks.start_soon(tree.ref(Stage).ask, Hold(f"{concurrency} {number}"))
            await anyio.wait_all_tasks_blocked()
            status = tree.children()[0]
            assert (status.in_flight, status.queued) == (concurrency, 5 - concurrency)
            for number in range(5):
                script.cues[f"{concurrency} {number}"].set()


async def test_an_asker_that_leaves_stops_waiting_and_the_work_goes_on() -> None:
    script = Script()
    async with script.supervisor() as tree:
        async with anyio.create_task_group() as asks:
            asks.start_soon(tree.ref(Stage).ask, Hold("cue"))
            await script.reached["cue"].wait()
            asks.start_soon(tree.ref(Stage).ask, Say("queued"))
            await anyio.wait_all_tasks_blocked()
            asks.cancel_scope.cancel()
        script.cues["cue"].set()
        await tree.ref(Stage).ask(Say("after"))
    assert script.log == ["start", "hold cue", "held cue", "queued", "after", "stop"]


async def test_an_asker_that_leaves_before_there_was_room_has_sent_nothing() -> None:
    mailbox = Mailbox(1)
    mailbox.offer(letter("first"))
    async with anyio.create_task_group() as senders:
        senders.start_soon(mailbox.put, letter("gone"))
        await anyio.wait_all_tasks_blocked()
        senders.cancel_scope.cancel()
    assert words([envelope for envelope in [await mailbox.take()] if envelope]) == ["first"]
    assert mailbox.drain() == []
    assert len(mailbox.deadlines) == 0


async def test_an_asker_that_leaves_just_as_there_is_room_leaves_no_reply_that_nobody_hears() -> None:
    mailbox = Mailbox(1)
    stage = LocalRef(Stage, [mailbox])
    first = asyncio.create_task(stage.ask(Say("first")))
    second = asyncio.create_task(stage.ask(Refuse()))
    await anyio.wait_all_tasks_blocked()
    assert await mailbox.take() is not None
    second.cancel()
    await asyncio.wait([second])
    envelope = await mailbox.take()
    assert envelope is not None
    assert envelope.reply is not None
    assert envelope.reply.cancelled()
    assert not envelope.expired(asyncio.get_running_loop().time())
    first.cancel()


async def test_room_left_by_one_who_gave_up_waiting_goes_to_the_next() -> None:
    mailbox = Mailbox(1)
    mailbox.offer(letter("first"))
    leaving = anyio.CancelScope()
    async with anyio.create_task_group() as senders:

        async def leave() -> None:
            with leaving:
                await mailbox.put(letter("gone"))

        senders.start_soon(leave)
        await anyio.wait_all_tasks_blocked()
        senders.start_soon(mailbox.put, letter("stays"))
        await anyio.wait_all_tasks_blocked()
        leaving.cancel()
        await mailbox.take()
        await anyio.wait_all_tasks_blocked()
    assert words(mailbox.drain()) == ["stays"]


async def test_closing_tells_those_who_wait_for_room() -> None:
    mailbox, told = Mailbox(1), []
    mailbox.offer(letter("first"))
    async with anyio.create_task_group() as senders:

        async def put() -> None:
            told.append(await mailbox.put(letter("late")))

        senders.start_soon(put)
        senders.start_soon(put)
        await anyio.wait_all_tasks_blocked()
        mailbox.close()
    assert told == [False, False]
    assert not mailbox.offer(letter("later"))
    assert not await mailbox.put(letter("later"))
    assert words(mailbox.drain()) == ["first"]


async def test_a_closed_mailbox_that_is_not_paused_still_hands_out_what_it_has() -> None:
    mailbox = Mailbox(2)
    mailbox.offer(letter("first"))
    mailbox.close()
    envelope = await mailbox.take()
    assert envelope is not None
    assert words([envelope]) == ["first"]


async def test_while_paused_messages_pile_up_to_the_bound_and_takers_go() -> None:
    mailbox, taken = Mailbox(2), []
    async with anyio.create_task_group() as takers:

        async def take() -> None:
            taken.append(await mailbox.take())

        takers.start_soon(take)
        takers.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        assert mailbox.takers
        mailbox.pause()
    assert taken == [None, None]
    assert [mailbox.offer(letter(word)) for word in "abc"] == [True, True, False]
    assert await mailbox.take() is None
    mailbox.resume()
    assert await mailbox.take() is not None


async def test_a_pause_between_the_wake_and_the_take_leaves_the_message() -> None:
    mailbox, taken = Mailbox(2), []
    async with anyio.create_task_group() as takers:

        async def take() -> None:
            taken.append(await mailbox.take())

        takers.start_soon(take)
        await anyio.wait_all_tasks_blocked()
        mailbox.offer(letter("kept"))
        mailbox.pause()
    assert taken == [None]
    assert words(mailbox.drain()) == ["kept"]


async def test_a_taker_cancelled_as_it_is_woken_passes_its_turn_on() -> None:
    mailbox, loop = Mailbox(2), asyncio.get_running_loop()
    first = loop.create_task(mailbox.take())
    await anyio.wait_all_tasks_blocked()
    second = loop.create_task(mailbox.take())
    await anyio.wait_all_tasks_blocked()
    mailbox.offer(letter("only"))
    first.cancel()
    envelope = await second
    assert envelope is not None
    assert words([envelope]) == ["only"]
    assert first.cancelled()


async def test_a_taker_cancelled_before_it_is_woken_is_passed_over() -> None:
    mailbox, loop = Mailbox(2), asyncio.get_running_loop()
    first, second = loop.create_task(mailbox.take()), loop.create_task(mailbox.take())
    await anyio.wait_all_tasks_blocked()
    first.cancel()
    mailbox.offer(letter("only"))
    with anyio.fail_after(30):
        envelope = await second
    assert envelope is not None
    assert words([envelope]) == ["only"]
    assert first.cancelled()


async def test_a_taker_cancelled_while_it_waits_is_forgotten() -> None:
    mailbox = Mailbox(2)
    async with anyio.create_task_group() as takers:
        takers.start_soon(mailbox.take)
        await anyio.wait_all_tasks_blocked()
        takers.cancel_scope.cancel()
    assert not mailbox.takers
    mailbox.offer(letter("kept"))
    assert words(mailbox.drain()) == ["kept"]


async def test_an_actor_that_never_waits_leaves_others_their_turn() -> None:
    class Talk(Contract, name="talk"):
        pass

    class More(Ask[Talk, None]):
        pass

    handled = 0

    class TalkActor(Actor[Talk]):
        @More.handler
        async def more(self, ask: More) -> None:
            nonlocal handled
            handled += 1
            leave(tree.ref(Talk), More())

    script = Script()
    tree = script.supervisor(ActorSpec(name="talk", start=TalkActor))
    async with tree:
        leave(tree.ref(Talk), More())
        turns = []
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
            turns.append(handled)
        assert [later - earlier for earlier, later in pairwise(turns)] == [64] * 4


async def test_the_request_id_of_the_asker_is_the_one_the_handler_sees() -> None:
    script = Script()
    async with script.supervisor(script.actor(concurrency=4)) as tree, anyio.create_task_group() as asks:
        stage, seen = tree.ref(Stage), {}

        async def who(name: str | None) -> None:
            request_id.set(name)
            seen[name] = await stage.ask(WhoAsks())

        for name in ("a", "b", None, "c", None):
            asks.start_soon(who, name)
    assert seen == {"a": "a", "b": "b", "c": "c", None: None}


async def test_asks_leave_nothing_behind() -> None:
    """Neither those answered, nor those that timed out, nor those that gave up: so a million is as one."""
    script = Script()
    async with script.supervisor(script.actor(concurrency=4, capacity=8)) as tree:
        stage = tree.ref(Stage)
        mailbox = stage._mailboxes[0]

        async def many() -> None:
            for _ in range(50):
                await stage.ask(WhoAsks())
                with pytest.raises(AskTimeout):
                    await stage.ask(WhoAsks(), timeout=0.0)

        async with anyio.create_task_group() as asks:
            for _ in range(20):
                asks.start_soon(many)
        assert len(mailbox) == len(mailbox.deadlines) == len(mailbox._putters) == 0
        assert len(mailbox.takers) <= 4
        async with anyio.create_task_group() as asks:
            for cue in "abcdefghijklmnopqrst":
                asks.start_soon(stage.ask, Hold(cue))
            await anyio.wait_all_tasks_blocked()
            asks.cancel_scope.cancel()
        assert len(mailbox.deadlines) == len(mailbox._putters) == 0
        for cue in "abcdefghijklmnopqrst":
            script.cues[cue].set()
    assert mailbox.deadlines._timer is None
