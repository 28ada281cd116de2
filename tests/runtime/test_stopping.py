"""Starting in order, stopping in reverse, and every way a host can end it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import anyio
import pytest

from godrive.backoff import Backoff
from godrive.errors import AskTimeout, DeliveryError
from godrive.runtime import ActorSpec, ChildSpec, ChildState, Contract, GaveUp, Supervisor
from godrive.runtime.supervision_events import ChildCrashed, ChildStarted, ChildStopped, DeadLetter, StopTimedOut
from tests.runtime.stage import Hold, Note, Say, Script, Stage, StageActor, Stray, Stumble, leave

pytestmark = pytest.mark.anyio


class Named:
    """Actors that write down when they start and stop."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def spec(self, name: str, error: Exception | None = None) -> ActorSpec:
        log = self.log

        class One(StageActor):
            async def on_start(self) -> None:
                if error is not None:
                    raise error
                log.append(f"+{name}")

            async def on_stop(self) -> None:
                log.append(f"-{name}")

        return ActorSpec(name=name, start=lambda: One(Script()))


async def test_children_start_in_order_and_stop_in_reverse() -> None:
    named = Named()
    async with Supervisor([named.spec("stores"), named.spec("actors"), named.spec("edges")]):
        assert named.log == ["+stores", "+actors", "+edges"]
    assert named.log[3:] == ["-edges", "-actors", "-stores"]


async def test_a_child_that_cannot_start_fails_the_start_as_itself_and_earlier_ones_stop_in_order() -> None:
    named = Named()
    events: list[object] = []
    error = OSError("the port is taken")
    specs = [named.spec("one"), named.spec("two"), named.spec("bad", error), named.spec("never")]
    tree = Supervisor(specs, on_event=events.append)
    with pytest.raises(OSError, match="the port is taken") as caught:
        async with tree:
            raise AssertionError("the body must not run")
    assert caught.value is error
    assert named.log == ["+one", "+two", "-two", "-one"]
    assert [event for event in events if getattr(event, "child", "") in {"bad", "never"}] == []
    assert [child.state for child in tree.children()] == [ChildState.STOPPED] * 4


async def test_asks_to_a_child_that_was_never_started_are_told_so() -> None:
    script = Script(start_errors=[OSError("no")])
    tree = script.supervisor(ActorSpec(name="first", start=lambda: StageActor(script)), script.actor())
    stage = tree.ref(Stage)
    async with anyio.create_task_group() as asks:

        async def say() -> None:
            with pytest.raises(DeliveryError, match="has stopped"):
                await stage.ask(Say("early"))

        asks.start_soon(say)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(OSError, match="no"):
            async with tree:
                raise AssertionError
    assert script.events == [DeadLetter("stage", "Say", "stopped")]


async def test_an_exception_of_the_body_comes_out_as_itself() -> None:
    script, error = Script(), KeyError("mine")
    with pytest.raises(KeyError) as caught:
        async with script.supervisor():
            raise error
    assert caught.value is error
    assert script.log == ["start", "stop"]


async def test_the_message_in_hand_finishes_and_what_is_queued_becomes_dead_letters() -> None:
    script = Script()
    async with anyio.create_task_group() as asks, script.supervisor() as tree:
        stage = tree.ref(Stage)

        async def hold() -> None:
            assert await stage.ask(Hold("cue")) == "held 1"

        async def say() -> None:
            with pytest.raises(DeliveryError, match="has stopped"):
                await stage.ask(Say("queued"))

        async def cue() -> None:
            await anyio.wait_all_tasks_blocked()
            script.cues["cue"].set()

        asks.start_soon(hold)
        await script.reached["cue"].wait()
        asks.start_soon(say)
        leave(stage, Note("queued too"))
        await anyio.wait_all_tasks_blocked()
        asks.start_soon(cue)
    assert script.log == ["start", "hold cue", "held cue", "stop"]
    letters = script.of(DeadLetter)
    assert letters == [DeadLetter("stage", "Note", "stopped"), DeadLetter("stage", "Say", "stopped")]
    assert ChildStopped("stage") in script.events


async def test_an_actor_that_is_stopping_takes_nothing_more() -> None:
    script = Script()
    async with anyio.create_task_group() as asks, script.supervisor() as tree:
        stage = tree.ref(Stage)

        async def late() -> None:
            await anyio.wait_all_tasks_blocked()  # the tree waits for the message in hand
            with pytest.raises(DeliveryError, match="has stopped"):
                leave(stage, Note("late"))
            with pytest.raises(DeliveryError, match="has stopped"):
                await stage.ask(Say("late"))
            script.cues["cue"].set()

        asks.start_soon(stage.ask, Hold("cue"))
        await script.reached["cue"].wait()
        asks.start_soon(late)
    assert script.log == ["start", "hold cue", "held cue", "stop"]
    assert script.of(DeadLetter) == []


async def test_an_actor_stopped_as_it_starts_handles_nothing_even_if_its_start_cannot_be_cut_short() -> None:
    script = Script()

    class Slow(StageActor):
        async def on_start(self) -> None:
            with anyio.CancelScope(shield=True):
                await self.script.wait("start")

    async with anyio.create_task_group() as tasks:

        async def fail_next_to_it() -> None:
            await script.reached["start"].wait()
            tasks.cancel_scope.cancel()
            script.cues["start"].set()

        tasks.start_soon(fail_next_to_it)
        tree = script.supervisor(ActorSpec(name="stage", start=lambda: Slow(script)))
        leave(tree.ref(Stage), Note("queued"))
        async with tree:
            raise AssertionError("the body must not run")
    assert script.log == ["stop"]
    assert script.of(DeadLetter) == [DeadLetter("stage", "Note", "stopped")]


async def test_an_actor_that_has_stopped_says_so_at_once() -> None:
    script = Script()
    async with script.supervisor() as tree:
        stage = tree.ref(Stage)
    with pytest.raises(DeliveryError, match="has stopped") as caught:
        await stage.ask(Say("late"))
    assert caught.value.code == "unavailable"
    with pytest.raises(DeliveryError, match="has stopped"):
        leave(stage, Note("late"))


async def test_what_would_not_stop_is_cancelled_and_reported_by_name() -> None:
    script = Script()
    async with anyio.create_task_group() as asks, script.supervisor(script.actor(shutdown=0.01)) as tree:

        async def hold() -> None:
            with pytest.raises(AskTimeout, match="was stopped"):
                await tree.ref(Stage).ask(Hold("never"))

        asks.start_soon(hold)
        await script.reached["never"].wait()
    assert script.log == ["start", "hold never", "stop"]
    assert script.events == [ChildStarted("stage"), StopTimedOut("stage")]


async def test_even_a_cancelled_actor_may_wait_for_what_it_closes() -> None:
    script = Script(hold_stop="closed")
    async with anyio.create_task_group() as asks:

        async def close() -> None:
            await script.reached["closed"].wait()
            await anyio.wait_all_tasks_blocked()
            script.cues["closed"].set()

        async with script.supervisor(script.actor(shutdown=0.05)) as tree:

            async def hold() -> None:
                with pytest.raises(DeliveryError):
                    await tree.ref(Stage).ask(Hold("never"))

            asks.start_soon(close)
            asks.start_soon(hold)
            await script.reached["never"].wait()
    assert script.log[-1] == "stop"


async def test_an_end_that_takes_too_long_is_a_crash() -> None:
    script = Script(hold_stop="never")
    async with script.supervisor(script.actor(shutdown=0.01)):
        pass
    assert script.crashes() == ["on_stop"]
    assert ChildStopped("stage") not in script.events


async def test_a_child_that_is_a_coroutine_stops_by_being_cancelled() -> None:
    events: list[object] = []
    async with Supervisor([ChildSpec(name="task", run=anyio.sleep_forever)], on_event=events.append):
        pass
    assert events == [ChildStarted("task"), ChildStopped("task")]


async def test_a_child_that_knows_how_to_stop_is_asked_and_not_cancelled() -> None:
    events: list[object] = []
    stop, log = anyio.Event(), list[str]()

    async def run() -> None:
        await stop.wait()
        await anyio.lowlevel.checkpoint()
        log.append("drained")

    async with Supervisor([ChildSpec(name="task", run=run, stop=stop.set)], on_event=events.append):
        await anyio.wait_all_tasks_blocked()
    assert log == ["drained"]
    assert events == [ChildStarted("task"), ChildStopped("task")]


async def test_a_child_is_cancelled_when_asking_did_not_help() -> None:
    events: list[object] = []
    spec = ChildSpec(name="task", run=anyio.sleep_forever, stop=lambda: None, shutdown=0.01)
    async with Supervisor([spec], on_event=events.append):
        pass
    assert events == [ChildStarted("task"), StopTimedOut("task")]


async def test_a_child_that_others_need_is_restarted_while_they_stop() -> None:
    script, log = Script(), list[str]()

    async def edge() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                with pytest.raises(DeliveryError):
                    await tree.ref(Stage).ask(Stumble())
                log.append(await tree.ref(Stage).ask(Say("still here")))

    tree = script.supervisor(script.actor(), ChildSpec(name="edge", run=edge))
    async with tree:
        await anyio.wait_all_tasks_blocked()
    assert log == ["still here 2"]


async def test_stopping_while_a_child_waits_to_be_restarted_does_not_wait_for_that() -> None:
    script = Script()
    stalled = Supervisor([script.actor()], backoff=Backoff(1e6, 1e6), on_event=script.events.append)
    async with anyio.create_task_group() as asks, stalled as tree:
        with pytest.raises(DeliveryError):
            await tree.ref(Stage).ask(Stumble())

        async def say() -> None:
            with pytest.raises(DeliveryError, match="has stopped"):
                await tree.ref(Stage).ask(Say("waiting"), timeout=1e6)

        asks.start_soon(say)
        await anyio.wait_all_tasks_blocked()
    assert script.names() == ["ChildStarted", "ChildCrashed", "DeadLetter"]


async def test_stopping_while_a_child_starts_again_cuts_that_short() -> None:
    script = Script()
    async with script.supervisor() as tree:
        script.hold_start = "born"
        with pytest.raises(DeliveryError):
            await tree.ref(Stage).ask(Stumble())
        await script.reached["born"].wait()
    assert script.log == ["start", "stop"]
    assert script.names() == ["ChildStarted", "ChildCrashed"]


async def test_a_host_cancelled_during_the_start_stops_what_has_started() -> None:
    script = Script()
    named = Named()
    script.hold_start = "born"
    reached_body = False
    async with anyio.create_task_group() as host:

        async def drive() -> None:
            nonlocal reached_body
            async with script.supervisor(named.spec("first"), script.actor()):
                reached_body = True

        host.start_soon(drive)
        await script.reached["born"].wait()
        host.cancel_scope.cancel()
    assert not reached_body
    assert named.log == ["+first", "-first"]
    assert script.names() == ["ChildStarted", "ChildStopped"]


def cancelling() -> int:
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


@pytest.mark.parametrize("way", ["scope", "task", "timeout", "group"])
async def test_cancelling_the_host_stops_the_children_in_good_order(way: str) -> None:
    """Whether it is cancelled by an anyio scope, natively, by a timeout, or by a sibling's failure."""
    script, named, running = Script(), Named(), anyio.Event()
    finished: list[str] = []

    async def drive() -> None:
        async with script.supervisor(named.spec("first"), script.actor(), named.spec("last")) as tree:

            async def hold() -> None:
                finished.append(await tree.ref(Stage).ask(Hold("cue")))

            async with anyio.create_task_group() as asks:
                asks.start_soon(hold)
                await script.reached["cue"].wait()
                running.set()
                script.hold_stop = "stopping"
                await anyio.sleep_forever()

    async def cue() -> None:
        # Only once the last child has stopped is it the turn of the one that holds a message.
        while "-last" not in named.log:
            await anyio.lowlevel.checkpoint()
        script.hold_stop = ""
        script.cues["cue"].set()

    async def fail() -> None:
        await running.wait()
        raise LookupError("a sibling's")

    loop = asyncio.get_running_loop()
    before = cancelling()
    cueing = loop.create_task(cue())
    if way == "scope":
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as host:
                host.start_soon(drive)
                await running.wait()
                scope.cancel()
    elif way == "task":
        task = loop.create_task(drive())
        await running.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    elif way == "timeout":
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(None) as timeout:
                loop.create_task(running.wait()).add_done_callback(lambda _: timeout.reschedule(0.0))
                await drive()
    else:
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as native:
                native.create_task(drive())
                native.create_task(fail())
        assert caught.group_contains(LookupError)
    await cueing
    assert finished == []  # the asker was cancelled, the work was not
    assert script.log == ["start", "hold cue", "held cue", "stop"]
    assert named.log == ["+first", "+last", "-last", "-first"]
    assert script.of(StopTimedOut) == script.of(ChildCrashed) == []
    if way != "group":  # asyncio's own TaskGroup (3.11) leaves its host one cancellation ahead
        assert cancelling() == before


async def test_a_host_that_insists_cuts_the_stopping_short() -> None:
    script = Script()
    async with anyio.create_task_group() as asks:

        async def drive() -> None:
            async with script.supervisor(script.actor(shutdown=1e6)) as tree:

                async def hold() -> None:
                    with pytest.raises(AskTimeout, match="was stopped"):
                        await tree.ref(Stage).ask(Hold("never"))

                asks.start_soon(hold)
                await anyio.sleep_forever()

        host = asyncio.get_running_loop().create_task(drive())
        await script.reached["never"].wait()
        host.cancel()
        await anyio.wait_all_tasks_blocked()
        assert not host.done()
        host.cancel()
        with pytest.raises(asyncio.CancelledError):
            await host
    assert script.log == ["start", "hold never", "stop"]
    assert script.events == [ChildStarted("stage"), StopTimedOut("stage")]


async def test_two_supervisors_in_one_loop_know_nothing_of_each_other() -> None:
    one, two = Script(), Script()
    async with one.supervisor() as first, two.supervisor(intensity=0) as second:
        assert await first.ref(Stage).ask(Say("a")) == "a 1"
        assert await second.ref(Stage).ask(Say("b")) == "b 1"
        with pytest.raises(DeliveryError):
            await first.ref(Stage).ask(Stumble())
        assert await second.ref(Stage).ask(Say("c")) == "c 1"
        assert await first.ref(Stage).ask(Say("d")) == "d 2"
    assert (one.lives, two.lives) == (2, 1)


async def test_giving_up_one_of_two_supervisors_leaves_the_other() -> None:
    one, two = Script(), Script()
    async with two.supervisor() as second:
        with pytest.raises(GaveUp):
            async with one.supervisor(intensity=0) as first:
                with pytest.raises(DeliveryError):
                    await first.ref(Stage).ask(Stumble())
                await anyio.sleep_forever()
        assert await second.ref(Stage).ask(Say("on")) == "on 1"


async def test_two_children_of_one_name_are_refused() -> None:
    script = Script()
    with pytest.raises(ValueError, match="two children of one name"):
        script.supervisor(script.actor(), script.actor())


async def test_a_ref_to_what_is_not_an_actor_of_the_tree_is_refused() -> None:
    class Absent(Contract, name="absent"):
        pass

    class Task(Contract, name="task"):
        pass

    tree = Supervisor([ChildSpec(name="task", run=anyio.sleep_forever)])
    with pytest.raises(KeyError):
        tree.ref(Absent)
    with pytest.raises(KeyError):
        tree.ref(Task)


async def test_what_ends_the_process_is_not_taken_for_a_crash() -> None:
    script = Script()
    with pytest.raises(BaseExceptionGroup) as caught:
        async with script.supervisor() as tree:
            with pytest.raises(DeliveryError):
                await tree.ref(Stage).ask(Stumble("stray"))
            await anyio.sleep_forever()
    assert caught.group_contains(Stray)
    assert script.crashes() == []


# Tasks of the host


async def in_a_task(*steps: Callable[[], Awaitable[object]]) -> None:
    """Each step in a task of its own, as the fixtures of pytest-asyncio run."""

    async def run(step: Callable[[], Awaitable[object]]) -> None:
        await step()

    for step in steps:
        await asyncio.get_running_loop().create_task(run(step))


async def test_one_task_may_start_it_and_another_stop_it() -> None:
    script = Script()
    tree = script.supervisor()

    async def use() -> None:
        assert await tree.ref(Stage).ask(Say("on")) == "on 1"

    await in_a_task(tree.start, use, tree.stop, tree.stop)
    assert script.log == ["start", "on", "stop"]
    assert script.names() == ["ChildStarted", "ChildStopped"]


async def test_one_task_may_enter_it_and_another_leave_it() -> None:
    script = Script()
    tree = script.supervisor()
    await in_a_task(tree.__aenter__, lambda: tree.ref(Stage).ask(Say("on")), lambda: tree.__aexit__(None, None, None))
    assert script.log == ["start", "on", "stop"]


async def test_a_start_that_fails_raises_its_error_and_stops_what_had_started() -> None:
    named, error = Named(), OSError("the port is taken")
    tree = Supervisor([named.spec("one"), named.spec("bad", error)])
    with pytest.raises(OSError, match="the port is taken"):
        await tree.start()
    assert named.log == ["+one", "-one"]
    await tree.stop()


async def test_a_start_that_is_cancelled_stops_what_had_started() -> None:
    named, script = Named(), Script(hold_start="born")
    tree = script.supervisor(named.spec("one"), script.actor())
    starting = asyncio.get_running_loop().create_task(tree.start())
    await script.reached["born"].wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert named.log == ["+one", "-one"]


async def test_a_start_that_is_stopped_meanwhile_ends() -> None:
    script = Script(hold_start="born")
    tree = script.supervisor()
    starting = asyncio.get_running_loop().create_task(tree.start())
    await script.reached["born"].wait()
    await tree.stop()
    await starting
    assert tree.children()[0].state is ChildState.STOPPED


@pytest.mark.parametrize("way", ["start", "enter"])
async def test_without_a_body_to_cancel_a_tree_that_gives_up_stops_by_itself_and_says_so_at_the_end(way: str) -> None:
    script, named = Script(), Named()
    tree = script.supervisor(named.spec("other"), script.actor(), intensity=0)

    async def stumble() -> None:
        with pytest.raises(DeliveryError):
            await tree.ref(Stage).ask(Stumble())
        with pytest.raises(GaveUp):
            await tree.wait()

    async def leave() -> None:
        with pytest.raises(GaveUp):
            await (tree.stop() if way == "start" else tree.__aexit__(None, None, None))

    await in_a_task(tree.start if way == "start" else tree.__aenter__, stumble, leave)
    assert named.log == ["+other", "-other"]


async def test_a_stop_that_runs_out_of_time_cuts_the_stopping_short() -> None:
    script = Script()
    tree = script.supervisor(script.actor(shutdown=1e6))
    await tree.start()
    async with anyio.create_task_group() as asks:

        async def hold() -> None:
            with pytest.raises(AskTimeout, match="was stopped"):
                await tree.ref(Stage).ask(Hold("never"))

        asks.start_soon(hold)
        await script.reached["never"].wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tree.stop(), 0.01)
    assert script.events == [ChildStarted("stage"), StopTimedOut("stage")]


def test_an_event_loop_that_ends_with_a_running_tree_does_not_hang() -> None:
    script = Script()

    async def main() -> None:
        await script.supervisor().start()
        await asyncio.sleep(0)

    asyncio.run(main())
    assert script.log == ["start", "stop"]


async def test_a_supervisor_runs_once() -> None:
    tree = Script().supervisor()
    with pytest.raises(RuntimeError, match="has not been started"):
        await tree.wait()
    await tree.start()
    await tree.stop()
    with pytest.raises(RuntimeError, match="runs once"):
        await tree.start()
    never = Script().supervisor()
    await never.stop()
    assert never.children()[0].state is ChildState.STOPPED
