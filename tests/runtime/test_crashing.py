"""What crashes an actor, what survives, and when its supervisor gives up."""

from __future__ import annotations

import asyncio

import anyio
import pytest
from anyio.lowlevel import checkpoint

from godrive.backoff import Backoff
from godrive.errors import ActorCrashed, AskTimeout, NotFound, StoreUnavailable
from godrive.runtime import Actor, ActorSpec, Ask, ChildSpec, ChildState, Contract, GaveUp, Supervisor
from godrive.runtime.supervision_events import ChildCrashed, ChildStarted, ChildStopped, DeadLetter, RestartsExhausted
from tests.runtime.stage import Hold, Note, Refuse, Say, Script, Stage, Stumble, leave

pytestmark = pytest.mark.anyio


async def test_a_drive_error_is_an_answer_and_the_actor_lives_on() -> None:
    script = Script()
    async with script.supervisor() as tree:
        stage = tree.ref(Stage)
        with pytest.raises(NotFound) as caught:
            await stage.ask(Refuse())
        assert (caught.value.field, caught.value.hint, caught.value.retry_after) == ("word", "look elsewhere", 3.0)
        assert await stage.ask(Say("still")) == "still 1"
    assert script.names() == ["ChildStarted", "ChildStopped"]


@pytest.mark.parametrize("how", ["value", "group", "cancelled", "awaits cancelled"])
async def test_anything_else_is_a_crash_and_a_new_actor_takes_its_place(how: str) -> None:
    script = Script()
    async with script.supervisor() as tree:
        stage = tree.ref(Stage)
        with pytest.raises(ActorCrashed):
            await stage.ask(Stumble(how))
        assert await stage.ask(Say("again")) == "again 2"
        assert tree.children()[0].restarts == 1
    assert script.log == ["start", "stop", "start", "again", "stop"]
    assert script.names() == ["ChildStarted", "ChildCrashed", "ChildStarted", "ChildStopped"]
    assert script.crashes() == ["Stumble"]


async def test_what_the_asker_is_told_of_a_crash_names_no_internals() -> None:
    script = Script()
    async with script.supervisor() as tree:
        with pytest.raises(ActorCrashed) as caught:
            await tree.ref(Stage).ask(Stumble())
    assert caught.value.detail == "The stage actor failed."
    (crashed,) = script.of(ChildCrashed)
    assert isinstance(crashed, ChildCrashed)
    assert repr(crashed.error) == "ValueError('a bug')"


async def test_a_crash_while_handling_a_tell_is_reported() -> None:
    class Deaf(Contract, name="deaf"):
        pass

    class Ping(Ask[Deaf, None]):
        pass

    class DeafActor(Actor[Deaf]):
        @Ping.handler
        async def ping(self, ask: Ping) -> None:
            raise ZeroDivisionError

    script = Script()
    async with script.supervisor(ActorSpec(name="deaf", start=DeafActor)) as tree:
        with pytest.raises(ActorCrashed):
            await tree.ref(Deaf).ask(Ping())
    assert script.crashes() == ["Ping"]


class Shop(Contract, name="shop"):
    """An actor whose store is down."""


class Buy(Ask[Shop, None]):
    """Buy."""


class ShopActor(Actor[Shop]):
    @Buy.handler
    async def buy(self, ask: Buy) -> None:
        raise StoreUnavailable("the store is closed")


async def test_a_store_that_is_down_is_an_answer_and_not_a_crash() -> None:
    script = Script()
    async with script.supervisor(ActorSpec(name="shop", start=ShopActor), intensity=0) as tree:
        for _ in range(20):
            with pytest.raises(StoreUnavailable) as caught:
                await tree.ref(Shop).ask(Buy())
            assert caught.value.retry_after
    assert script.names() == ["ChildStarted", "ChildStopped"]


async def test_the_mailbox_and_every_ref_survive_a_restart() -> None:
    script = Script()
    async with script.supervisor() as tree, anyio.create_task_group() as asks:
        before = tree.ref(Stage)
        answers: list[str] = []

        async def say(word: str) -> None:
            answers.append(await before.ask(Say(word)))

        async def stumble() -> None:
            with pytest.raises(ActorCrashed):
                await before.ask(Stumble(cue="trip"))

        asks.start_soon(stumble)
        await script.reached["trip"].wait()
        for word in ("one", "two", "three"):
            asks.start_soon(say, word)
        leave(before, Note("noted"))
        await anyio.wait_all_tasks_blocked()
        assert tree.children()[0].queued == 4
        script.cues["trip"].set()
    assert sorted(answers) == ["one 2", "three 2", "two 2"]
    assert "noted" in script.log
    assert script.of(DeadLetter) == []


async def test_asks_made_while_the_actor_is_restarting_are_answered_by_the_next_life() -> None:
    script = Script()
    async with script.supervisor() as tree, anyio.create_task_group() as asks:
        stage = tree.ref(Stage)
        script.hold_start = "born"
        with pytest.raises(ActorCrashed):
            await stage.ask(Stumble())
        await script.reached["born"].wait()
        assert tree.children()[0].state is ChildState.RESTARTING

        async def say() -> None:
            assert await stage.ask(Say("early")) == "early 2"

        asks.start_soon(say)
        await anyio.wait_all_tasks_blocked()
        script.cues["born"].set()


async def test_an_ask_waits_for_a_restart_no_longer_than_its_deadline() -> None:
    script = Script()
    async with script.supervisor() as tree:
        stage = tree.ref(Stage)
        script.hold_start = "born"
        with pytest.raises(ActorCrashed):
            await stage.ask(Stumble())
        with pytest.raises(AskTimeout):
            await stage.ask(Say("late"), timeout=0.01)
        script.cues["born"].set()
        assert await stage.ask(Say("on")) == "on 2"
    assert "late" not in script.log
    assert DeadLetter("stage", "Say", "expired") in script.events


async def test_when_one_of_several_crashes_its_siblings_finish_and_no_more_are_taken() -> None:
    script = Script()
    async with script.supervisor(script.actor(concurrency=3)) as tree, anyio.create_task_group() as asks:
        stage = tree.ref(Stage)
        answers: list[str] = []

        async def hold(cue: str) -> None:
            answers.append(await stage.ask(Hold(cue)))

        for cue in ("left", "right"):
            asks.start_soon(hold, cue)
            await script.reached[cue].wait()
        with pytest.raises(ActorCrashed):
            await stage.ask(Stumble())

        async def say() -> None:
            assert await stage.ask(Say("next")) == "next 2"

        asks.start_soon(say)
        await anyio.wait_all_tasks_blocked()
        status = tree.children()[0]
        assert (status.in_flight, status.queued, script.lives) == (2, 1, 1)
        script.cues["left"].set()
        await anyio.wait_all_tasks_blocked()
        assert script.lives == 1
        script.cues["right"].set()
    assert answers == ["held 1", "held 1"]


async def test_a_message_given_to_an_idle_slot_as_another_crashes_is_left_for_the_next_life() -> None:
    script = Script()
    async with script.supervisor(script.actor(concurrency=2)) as tree, anyio.create_task_group() as asks:
        stage = tree.ref(Stage)

        async def stumble() -> None:
            with pytest.raises(ActorCrashed):
                await stage.ask(Stumble(cue="trip"))

        async def say() -> None:
            assert await stage.ask(Say("after")) == "after 2"

        asks.start_soon(stumble)
        await script.reached["trip"].wait()
        await anyio.wait_all_tasks_blocked()
        script.cues["trip"].set()
        # The event wakes the crash before this ask wakes the idle slot.
        asks.start_soon(say)


async def test_two_crashes_in_one_life_are_both_reported_at_once_and_cost_one_restart() -> None:
    script = Script()
    async with script.supervisor(script.actor(concurrency=3)) as tree, anyio.create_task_group() as asks:
        stage = tree.ref(Stage)

        async def stumble(cue: str) -> None:
            with pytest.raises(ActorCrashed):
                await stage.ask(Stumble(cue=cue))

        async def hold() -> None:
            await stage.ask(Hold("go"))

        asks.start_soon(stumble, "one")
        asks.start_soon(stumble, "two")
        asks.start_soon(hold)
        for cue in ("one", "two", "go"):
            await script.reached[cue].wait()
        script.cues["one"].set()
        script.cues["two"].set()
        await anyio.wait_all_tasks_blocked()
        assert script.names() == ["ChildStarted", "ChildCrashed", "ChildCrashed"]
        script.cues["go"].set()
        assert await stage.ask(Say("on")) == "on 2"
        assert tree.children()[0].restarts == 1


async def test_more_crashes_than_the_intensity_and_the_supervisor_gives_up() -> None:
    script = Script()
    with pytest.raises(GaveUp) as caught:
        async with script.supervisor(intensity=2) as tree:
            for _ in range(3):
                with pytest.raises(ActorCrashed):
                    await tree.ref(Stage).ask(Stumble())
            await anyio.sleep_forever()
    assert isinstance(caught.value.__cause__, ValueError)
    assert script.lives == 3
    assert script.names()[-2:] == ["ChildCrashed", "RestartsExhausted"]
    assert script.events[-1] == RestartsExhausted("stage", 2, 30.0)


async def test_crashes_further_apart_than_the_period_are_forgiven() -> None:
    script = Script()
    tree = Supervisor(
        [script.actor()], intensity=1, period=0.0, backoff=Backoff(0.0, 0.0), on_event=script.events.append
    )
    async with tree:
        for _ in range(10):
            with pytest.raises(ActorCrashed):
                await tree.ref(Stage).ask(Stumble())
            await tree.ref(Stage).ask(Say("up"))


async def test_giving_up_stops_the_other_children_in_order() -> None:
    script = Script()
    ended: list[str] = []

    async def edge() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("edge")
            ended.extend(script.log)

    with pytest.raises(GaveUp):
        async with script.supervisor(
            script.actor("stage"),
            ActorSpec(name="brittle", start=Brittle),
            ChildSpec(name="edge", run=edge),
            intensity=0,
        ) as tree:
            with pytest.raises(ActorCrashed):
                await tree.ref(BrittleContract).ask(Shatter())
            await anyio.sleep_forever()
    assert ended == ["edge", "start"]
    assert script.log == ["start", "stop"]


class BrittleContract(Contract, name="brittle"):
    """An actor that breaks."""


class Shatter(Ask[BrittleContract, None]):
    """Shatter."""


class Brittle(Actor[BrittleContract]):
    @Shatter.handler
    async def shatter(self, ask: Shatter) -> None:
        raise ValueError


async def test_restarts_back_off_by_doubling_with_jitter_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    delays: list[float] = []
    settled = anyio.Event()

    async def sleep(seconds: float) -> None:
        delays.append(seconds)
        await checkpoint()

    async def run() -> None:
        if len(delays) == 12:
            settled.set()
            await settled_for_good.wait()
        raise ValueError("a bug")

    settled_for_good = anyio.Event()
    monkeypatch.setattr(anyio, "sleep", sleep)
    async with Supervisor([ChildSpec(name="task", run=run)], intensity=12, backoff=Backoff(0.05, 5.0)):
        await settled.wait()
    longest = [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0, 5.0, 5.0]
    assert len(delays) == len(longest)
    assert all(most / 2 <= delay <= most for delay, most in zip(delays, longest, strict=True))
    assert len(set(delays[-5:])) > 1


async def test_a_child_that_crashes_while_starting_again_is_tried_again() -> None:
    script = Script()
    async with script.supervisor() as tree:
        script.start_errors = [OSError("not yet"), OSError("not yet")]
        with pytest.raises(ActorCrashed):
            await tree.ref(Stage).ask(Stumble())
        assert await tree.ref(Stage).ask(Say("up")) == "up 4"
    assert script.crashes() == ["Stumble", "on_start", "on_start"]


async def test_a_child_whose_end_fails_has_crashed_and_not_stopped() -> None:
    script = Script(stop_errors=[OSError("cannot close")])
    async with script.supervisor():
        pass
    assert script.names() == ["ChildStarted", "ChildCrashed"]
    assert script.crashes() == ["on_stop"]


async def test_a_failing_end_after_a_crash_is_reported_beside_it() -> None:
    script = Script(stop_errors=[OSError("cannot close")])
    async with script.supervisor() as tree:
        with pytest.raises(ActorCrashed):
            await tree.ref(Stage).ask(Stumble())
        await tree.ref(Stage).ask(Say("up"))
    assert script.crashes() == ["Stumble", "on_stop"]
    assert tree.children()[0].restarts == 1


@pytest.mark.parametrize("crash", [True, False])
async def test_a_child_that_ended_is_started_again_crashed_or_not(crash: bool) -> None:
    script, seen = Script(), []

    async def run() -> None:
        seen.append("life")
        if len(seen) > 1:
            await anyio.sleep_forever()
        if crash:
            raise ValueError("a bug")

    async with script.supervisor(ChildSpec(name="task", run=run)):
        await anyio.wait_all_tasks_blocked()
    assert len(seen) == 2
    first = ChildCrashed if crash else ChildStopped
    assert [type(event) for event in script.events] == [ChildStarted, first, ChildStarted, ChildStopped]


async def test_a_stray_cancelled_error_of_a_child_crashes_that_child_alone() -> None:
    script, lives = Script(), []

    async def run() -> None:
        lives.append("life")
        if len(lives) == 1:
            raise asyncio.CancelledError
        await anyio.sleep_forever()

    async with script.supervisor(script.actor(), ChildSpec(name="task", run=run)) as tree:
        await anyio.wait_all_tasks_blocked()
        assert await tree.ref(Stage).ask(Say("unharmed")) == "unharmed 1"
    assert lives == ["life", "life"]


async def test_a_listener_that_fails_takes_nothing_down_and_is_not_silent() -> None:
    script, told = Script(), []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context["exception"]))

    def listen(event: object) -> None:
        raise RuntimeError("the listener's own bug")

    async with Supervisor([script.actor()], backoff=Backoff(0.0, 0.0), on_event=listen) as tree:
        with pytest.raises(ActorCrashed):
            await tree.ref(Stage).ask(Stumble())
        assert await tree.ref(Stage).ask(Say("on")) == "on 2"
    assert [str(error) for error in told] == ["the listener's own bug"] * 4


async def test_a_child_that_keeps_ending_exhausts_the_restarts_too() -> None:
    script = Script()
    with pytest.raises(GaveUp):
        async with script.supervisor(ChildSpec(name="task", run=checkpoint), intensity=3):
            await anyio.sleep_forever()
    assert script.names() == ["ChildStarted", "ChildStopped"] * 4 + ["RestartsExhausted"]
