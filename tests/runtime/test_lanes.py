"""Lanes: what waits in one never waits for another, near or far (see also ``contracts/test_ref.py``)."""

from __future__ import annotations

import anyio
import pytest

from godrive.errors import ActorCrashed, DeliveryError
from godrive.runtime import Lane, Slots
from godrive.runtime.supervision_events import DeadLetter
from tests.runtime.stage import Hold, Say, Script, Stage, Stumble, Tidy, Write

pytestmark = pytest.mark.anyio

ONE_EACH = dict.fromkeys(Lane, Slots())


async def test_without_lanes_an_actor_handles_one_message_at_a_time_whatever_its_lane() -> None:
    script = Script()
    async with script.supervisor() as tree, anyio.create_task_group() as asks:
        for message in (Hold("cue"), Write("cue"), Tidy("cue")):
            asks.start_soon(tree.ref(Stage).ask, message)
        await anyio.wait_all_tasks_blocked()
        status = tree.children()[0]
        assert (status.in_flight, status.queued) == (1, 2)
        script.cues["cue"].set()


async def test_lanes_that_the_spec_does_not_name_share_one_mailbox() -> None:
    script = Script()
    spec = script.actor(lanes={Lane.CHORE: Slots()})
    async with script.supervisor(spec) as tree, anyio.create_task_group() as asks:
        for message in (Hold("cue"), Write("cue"), Tidy("cue")):
            asks.start_soon(tree.ref(Stage).ask, message)
        await anyio.wait_all_tasks_blocked()
        status = tree.children()[0]
        assert (status.in_flight, status.queued) == (2, 1)
        script.cues["cue"].set()


async def test_each_lane_handles_as_many_at_once_as_it_has_slots() -> None:
    script = Script()
    lanes = {Lane.READ: Slots(3, 10), Lane.WRITE: Slots(2, 10), Lane.CHORE: Slots(1, 10)}
    async with script.supervisor(script.actor(lanes=lanes)) as tree, anyio.create_task_group() as asks:
        for message in (Hold, Write, Tidy):
            for n in range(4):
                asks.start_soon(tree.ref(Stage).ask, message(f"{message.__name__} {n}"))
        await anyio.wait_all_tasks_blocked()
        reached = [cue.split()[0] for cue, event in script.reached.items() if event.is_set()]
        assert {name: reached.count(name) for name in reached} == {"Hold": 3, "Write": 2, "Tidy": 1}
        status = tree.children()[0]
        assert (status.in_flight, status.queued) == (6, 6)
        for message in (Hold, Write, Tidy):
            for n in range(4):
                script.cues[f"{message.__name__} {n}"].set()


async def test_a_crash_in_one_lane_lets_the_others_finish_and_all_lanes_survive() -> None:
    script = Script()
    async with script.supervisor(script.actor(lanes=ONE_EACH)) as tree, anyio.create_task_group() as asks:
        stage, answers = tree.ref(Stage), []

        async def write(cue: str) -> None:
            answers.append(await stage.ask(Write(cue)))

        asks.start_soon(write, "in hand")
        await script.reached["in hand"].wait()
        asks.start_soon(write, "queued")
        with pytest.raises(ActorCrashed):
            await stage.ask(Stumble())
        await anyio.wait_all_tasks_blocked()
        assert not script.reached["queued"].is_set()  # no lane takes more until the next life
        for cue in ("in hand", "queued"):
            script.cues[cue].set()
        assert await stage.ask(Say("on")) == "on 2"
    assert answers == ["wrote 1", "wrote 2"]


async def test_what_is_queued_in_any_lane_becomes_a_dead_letter_when_the_actor_stops() -> None:
    script = Script()
    messages = (Hold, Write, Tidy)
    refused: list[str] = []
    async with anyio.create_task_group() as asks, script.supervisor(script.actor(lanes=ONE_EACH)) as tree:
        stage = tree.ref(Stage)

        async def ask(message: Hold | Write | Tidy) -> None:
            with pytest.raises(DeliveryError, match="has stopped"):
                await stage.ask(message)
            refused.append(type(message).__name__)

        async def finish() -> None:
            await anyio.wait_all_tasks_blocked()  # the tree waits for the messages in hand
            for message in messages:
                script.cues[message.__name__].set()

        for message in messages:
            asks.start_soon(stage.ask, message(message.__name__))
            await script.reached[message.__name__].wait()
            asks.start_soon(ask, message("queued"))
        await anyio.wait_all_tasks_blocked()
        asks.start_soon(finish)
    assert sorted(refused) == ["Hold", "Tidy", "Write"]
    dead = [event.message for event in script.events if isinstance(event, DeadLetter)]
    assert sorted(dead) == ["Hold", "Tidy", "Write"]
