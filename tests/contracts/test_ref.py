"""What every ref promises, whether the actor is in this process, behind the codec, or behind a real NATS server."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import anyio
import pytest

from godrive.bridge.connection import NatsLink
from godrive.bridge.exposer import Exposer
from godrive.bridge.nats import NatsRef
from godrive.config import Nats
from godrive.errors import ActorCrashed, AskTimeout, DeliveryError, DriveError, MailboxFull, NotFound
from godrive.runtime import Ask, ChildSpec, Contract, Lane, Ref, Slots, Supervisor, request_id
from godrive.runtime.supervision_events import DeadLetter
from godrive.testing import LoopbackRef
from tests.nats_drive import until_answered
from tests.runtime.stage import Hold, Note, Refuse, Say, Script, Stage, Stumble, Tidy, WhoAsks, Write
from tests.servers import NatsServer

pytestmark = pytest.mark.anyio


@dataclass
class Rig:
    """A stage and a ref to it."""

    script: Script
    tree: Supervisor
    ref: Ref[Stage]
    stop: Callable[[], Awaitable[None]]
    """Stop the actor; the ref stays."""
    exposer: Exposer[Stage] | None = None

    async def in_hand(self, count: int) -> None:
        """Wait until so many messages are at the actor, counting where it is: there a deadline is a little later."""
        while self.exposer is not None and self.exposer.in_hand != count:
            await anyio.sleep(0)


class Rigs:
    """Makes rigs of one kind."""

    def __init__(self, kind: str, server: NatsServer | None) -> None:
        self.kind = kind
        self._server = server

    @property
    def far(self) -> bool:
        return self.kind == "nats"

    @asynccontextmanager
    async def make(
        self, *, concurrency: int = 1, capacity: int = 1024, lanes: Mapping[Lane, Slots] | None = None
    ) -> AsyncIterator[Rig]:
        script = Script()
        actor = script.actor(concurrency=concurrency, capacity=capacity, lanes=lanes)
        async with AsyncExitStack() as stack, AsyncExitStack() as running:
            if self._server is None:
                tree = await running.enter_async_context(script.supervisor(actor))
                near = tree.ref(Stage)
                yield Rig(script, tree, LoopbackRef(Stage, near) if self.kind == "loopback" else near, running.aclose)
                return
            namespace = f"t{uuid.uuid4().hex[:12]}"
            links = [NatsLink(Nats(url=self._server.url)) for _ in range(2)]
            for link in links:
                stack.push_async_callback(link.close)
                await link.client()
            limits = {lane: slots.concurrency + slots.capacity for lane, slots in (lanes or {}).items()}
            exposer = Exposer(
                Stage, links[0], namespace=namespace, limits=limits or None, on_event=script.events.append
            )
            spec = ChildSpec(name=exposer.name, run=lambda: exposer.run(tree.ref(Stage)), stop=exposer.stop)
            tree = script.supervisor(actor, spec)
            await running.enter_async_context(tree)
            ref = NatsRef(Stage, links[1], namespace=namespace)
            await until_answered(ref)
            yield Rig(script, tree, ref, running.aclose, exposer)


@pytest.fixture(params=["local", "loopback", pytest.param("nats", marks=pytest.mark.servers)])
def rigs(request: pytest.FixtureRequest) -> Rigs:
    server = request.getfixturevalue("nats_server") if request.param == "nats" else None
    return Rigs(request.param, server)


async def test_an_ask_is_answered(rigs: Rigs) -> None:
    async with rigs.make() as rig:
        assert await rig.ref.ask(Say("hello")) == "hello 1"
        assert await rig.ref.ask(WhoAsks()) is None


async def test_an_error_of_the_actor_comes_back_as_itself(rigs: Rigs) -> None:
    async with rigs.make() as rig:
        with pytest.raises(NotFound) as caught:
            await rig.ref.ask(Refuse())
    error = caught.value
    assert (type(error), error.detail) == (NotFound, "not on this stage")
    assert (error.field, error.hint, error.retry_after) == ("word", "look elsewhere", 3.0)


async def test_a_crash_is_told_and_the_next_ask_is_answered_by_a_new_actor(rigs: Rigs) -> None:
    async with rigs.make() as rig:
        with pytest.raises(ActorCrashed, match="The stage actor failed"):
            await rig.ref.ask(Stumble())
        assert await rig.ref.ask(Say("on")) == "on 2"


async def test_an_ask_waits_no_longer_than_its_deadline_and_the_work_goes_on(rigs: Rigs) -> None:
    async with rigs.make() as rig:
        with pytest.raises(AskTimeout):
            await rig.ref.ask(Hold("cue"), timeout=0.05)
        await rig.script.reached["cue"].wait()
        rig.script.cues["cue"].set()
        assert await rig.ref.ask(Say("on")) == "on 1"
        assert "held cue" in rig.script.log


async def test_a_message_whose_deadline_passed_in_the_mailbox_is_never_handled(rigs: Rigs) -> None:
    async with rigs.make() as rig, anyio.create_task_group() as asks:
        asks.start_soon(rig.ref.ask, Hold("cue"))
        await rig.script.reached["cue"].wait()
        with pytest.raises(AskTimeout):
            await rig.ref.ask(Say("late"), timeout=0.05)
        await rig.in_hand(1)
        rig.script.cues["cue"].set()
        await rig.ref.ask(Say("on"))
        assert "late" not in rig.script.log


@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_an_ask_with_no_time_left_is_told_so(rigs: Rigs, seconds: float) -> None:
    async with rigs.make() as rig:
        with pytest.raises(AskTimeout):
            await rig.ref.ask(Say("no"), timeout=seconds)
        await rig.ref.ask(Say("on"))
        assert "no" not in rig.script.log


async def test_the_request_id_goes_with_the_message(rigs: Rigs) -> None:
    async with rigs.make(concurrency=4) as rig, anyio.create_task_group() as asks:
        seen: dict[str | None, str | None] = {}

        async def who(name: str | None) -> None:
            request_id.set(name)
            seen[name] = await rig.ref.ask(WhoAsks())

        for name in ("a", None, "0192-b.c_d"):
            asks.start_soon(who, name)
    assert all(name == found for name, found in seen.items())
    assert len(seen) == 3


async def test_asks_at_the_same_time_each_get_their_own_answer(rigs: Rigs) -> None:
    async with rigs.make(concurrency=8) as rig, anyio.create_task_group() as asks:

        async def say(word: str) -> None:
            assert await rig.ref.ask(Say(word)) == f"{word} 1"

        for number in range(200):
            asks.start_soon(say, str(number))


async def test_messages_of_one_sender_are_handled_in_order(rigs: Rigs) -> None:
    async with rigs.make() as rig:
        for number in range(50):
            await rig.ref.ask(Note(str(number)))
        await rig.ref.ask(Say("last"))
        assert rig.script.log[1:] == [*(str(number) for number in range(50)), "last"]


async def test_an_ask_that_is_cancelled_stops_waiting_and_the_work_goes_on(rigs: Rigs) -> None:
    async with rigs.make() as rig:
        async with anyio.create_task_group() as asks:
            asks.start_soon(rig.ref.ask, Hold("cue"))
            await rig.script.reached["cue"].wait()
            asks.cancel_scope.cancel()
        rig.script.cues["cue"].set()
        await rig.ref.ask(Say("on"))
        assert "held cue" in rig.script.log


async def test_a_full_mailbox_makes_an_ask_wait_within_its_deadline(rigs: Rigs) -> None:
    async with rigs.make(capacity=1) as rig, anyio.create_task_group() as asks:
        asks.start_soon(rig.ref.ask, Hold("cue"))
        await rig.script.reached["cue"].wait()
        asks.start_soon(rig.ref.ask, Say("fills it"))
        while rig.tree.children()[0].queued == 0:
            await anyio.sleep(0)
        with pytest.raises((MailboxFull, AskTimeout)) as caught:
            await rig.ref.ask(Say("no room"), timeout=0.05)
        if not rigs.far:  # far, the two deadlines race: the asker's own, and the one that went with the message
            assert type(caught.value) is MailboxFull
        await rig.in_hand(2)
        rig.script.cues["cue"].set()
    assert "no room" not in rig.script.log


async def test_an_actor_that_has_stopped_is_unavailable(rigs: Rigs) -> None:
    async with rigs.make() as rig:
        await rig.stop()
        with pytest.raises(DeliveryError) as caught:
            await rig.ref.ask(Say("late"))
        assert caught.value.code == "unavailable"
        assert caught.value.retry_after


class Elsewhere(Contract, name="elsewhere"):
    """Another actor."""


class Ask1(Ask[Elsewhere, None]):
    """Not for the stage."""


async def test_a_message_for_another_actor_does_not_leave(rigs: Rigs) -> None:
    async with rigs.make() as rig:
        with pytest.raises((TypeError, DriveError)):
            await rig.ref.ask(Ask1())  # type: ignore[arg-type]
        await rig.ref.ask(Say("on"))
    assert rig.script.of(DeadLetter) == []


LANES = dict.fromkeys(Lane, Slots(concurrency=2, capacity=1))


@pytest.mark.parametrize("others", [(Write, Tidy), (Hold, Tidy), (Hold, Write)], ids=["read", "write", "chore"])
async def test_a_lane_is_served_while_the_others_are_full(
    rigs: Rigs, others: tuple[Callable[[str], Ask[Stage, str]], ...]
) -> None:
    async with rigs.make(lanes=LANES) as rig, anyio.create_task_group() as asks:
        for number, message in enumerate(others):
            for n in range(3):  # both slots, and all the room
                asks.start_soon(rig.ref.ask, message(f"{number} {n}"))
            for n in range(2):
                await rig.script.reached[f"{number} {n}"].wait()
        await rig.in_hand(6)
        while rig.tree.children()[0].queued < 2:
            await anyio.sleep(0)
        (free,) = {Hold, Write, Tidy}.difference(others)
        rig.script.cues["free"].set()
        assert (await rig.ref.ask(free("free"), timeout=2)).endswith(" 1")
        for number in range(2):
            for n in range(3):
                rig.script.cues[f"{number} {n}"].set()


async def test_a_lane_that_is_full_refuses_only_its_own_messages(rigs: Rigs) -> None:
    async with rigs.make(lanes=LANES) as rig, anyio.create_task_group() as asks:
        for n in range(3):
            asks.start_soon(rig.ref.ask, Write(str(n)))
        await rig.in_hand(3)
        while rig.tree.children()[0].queued == 0:
            await anyio.sleep(0)
        with pytest.raises(MailboxFull, match="overloaded"):
            await rig.ref.ask(Write("one more"), timeout=0.05)
        assert await rig.ref.ask(Say("a read")) == "a read 1"
        for n in range(3):
            rig.script.cues[str(n)].set()
