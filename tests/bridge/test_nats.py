"""Actors in other processes: what is refused, who gets what, and everything that can go away."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import anyio
import pytest
from anyio.abc import TaskStatus
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import NoRespondersError

from godrive.backoff import Backoff
from godrive.bridge import connection, in_hand
from godrive.bridge.connection import NatsLink
from godrive.bridge.exposer import Exposer
from godrive.bridge.nats import ASK, ERROR, HEADROOM, LARGEST, REQUEST_ID, TIMEOUT, NatsRef, Reconnector
from godrive.config import Nats
from godrive.errors import (
    ActorCrashed,
    AskTimeout,
    DeliveryError,
    DriveError,
    Invalid,
    MailboxFull,
    NotUnderstood,
    TooLarge,
)
from godrive.runtime import Ask, ChildSpec, Event, Lane, Ref, codec, request_id
from godrive.runtime.supervision_events import ChildCrashed, ChildWaiting, DeadLetter
from tests.conftest import require
from tests.nats_drive import until_answered
from tests.runtime.stage import Hold, Say, Script, Stage, Write
from tests.servers import NatsServer

R = TypeVar("R")

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]


async def until(holds: Callable[[], object], *, within: float = 20.0) -> None:
    """Wait for what another task or server does in its own time."""
    with anyio.fail_after(within):
        while not holds():
            await anyio.sleep(0.005)


class Process:
    """What runs the stage actor, as a process of its own would: a connection, a tree, an exposer."""

    def __init__(self, script: Script, link: NatsLink, exposer: Exposer[Stage]) -> None:
        self.script = script
        self.link = link
        self.exposer = exposer


@asynccontextmanager
async def process(
    url: str, namespace: str, *, limits: Mapping[Lane, int] | None = None, concurrency: int = 8, wait: bool = True
) -> AsyncIterator[Process]:
    script = Script()
    link = NatsLink(Nats(url=url), patience=1.0)
    exposer = Exposer(Stage, link, namespace=namespace, limits=limits, on_event=script.events.append)
    keeper = Reconnector(link, on_event=script.events.append, every=0.05)
    tree = script.supervisor(
        ChildSpec(name="nats", run=keeper.run),
        script.actor(concurrency=concurrency),
        ChildSpec(name=exposer.name, run=lambda: exposer.run(tree.ref(Stage)), stop=exposer.stop),
    )
    try:
        async with tree:
            if wait:
                await until_answered(NatsRef(Stage, link, namespace=namespace))
            yield Process(script, link, exposer)
    finally:
        await link.close()


@asynccontextmanager
async def asker(url: str, namespace: str, events: list[Event] | None = None) -> AsyncIterator[NatsRef[Stage]]:
    told = events if events is not None else []
    link = NatsLink(Nats(url=url), patience=1.0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(Reconnector(link, on_event=told.append, every=0.05).run)
        try:
            with anyio.move_on_after(2):
                await link.newer_than(0)
            yield NatsRef(Stage, link, namespace=namespace)
        finally:
            tasks.cancel_scope.cancel()
            await link.close()


@pytest.fixture
async def raw(nats_server: NatsServer) -> AsyncIterator[Client]:
    """A stranger on the same server."""
    client = Client()
    await client.connect(nats_server.url)
    yield client
    await client.close()


@pytest.fixture(scope="module")
def roomy_server(own_servers: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One that lets messages through that are larger than we take."""
    require(NatsServer)
    config = tmp_path_factory.mktemp("nats") / "nats.conf"
    config.write_text("max_payload: 2MB")
    with NatsServer(jetstream=False, arguments=("-c", str(config))) as server:
        yield server


@pytest.fixture
def roomy(roomy_server: NatsServer, namespace: str) -> tuple[NatsServer, str]:
    return roomy_server, namespace


async def listening(client: Client) -> None:
    """Return once the server has all that the client sent: its answer that nobody is there comes after."""
    with pytest.raises(NoRespondersError):
        await client.request(client.new_inbox(), timeout=5)


@pytest.fixture
def outage(own_servers: None) -> Iterator[NatsServer]:
    """A server of one's own, to be killed."""
    require(NatsServer)
    with NatsServer(jetstream=False) as server:
        yield server


async def test_when_nobody_runs_the_actor_the_asker_hears_at_once(nats_server: NatsServer, namespace: str) -> None:
    async with asker(nats_server.url, namespace) as stage:
        with anyio.fail_after(30), pytest.raises(DeliveryError, match="No process runs the stage actor") as caught:
            await stage.ask(Say("anybody?"), timeout=60)
        assert (caught.value.code, caught.value.retry_after) == ("unavailable", 1.0)
        with pytest.raises(DeliveryError):
            await stage.ping(timeout=1)


async def test_of_several_processes_exactly_one_handles_a_message(nats_server: NatsServer, namespace: str) -> None:
    url = nats_server.url
    async with process(url, namespace) as one, process(url, namespace) as two, asker(url, namespace) as stage:
        async with anyio.create_task_group() as asks:
            for number in range(100):
                asks.start_soon(stage.ask, Say(str(number)))
        handled = [word for script in (one.script, two.script) for word in script.log if word != "start"]
        assert sorted(handled) == sorted(str(number) for number in range(100))
        assert min(len(one.script.log), len(two.script.log)) > 10


async def test_drives_in_two_namespaces_know_nothing_of_one_another(nats_server: NatsServer, namespace: str) -> None:
    async with process(nats_server.url, namespace), asker(nats_server.url, namespace + "x") as stage:
        with pytest.raises(DeliveryError, match="No process runs"):
            await stage.ask(Say("hello"))


async def test_what_goes_with_a_message_is_the_time_left_and_not_an_instant(
    nats_server: NatsServer, namespace: str, raw: Client
) -> None:
    async def answer(message: Msg) -> None:
        seen.append(message)
        await raw.publish(message.reply, codec.encode_reply("yes"))

    seen: list[Msg] = []
    await raw.subscribe(f"{namespace}.stage.Say", cb=answer)
    await listening(raw)
    async with asker(nats_server.url, namespace) as stage:
        request_id.set("0192-abc")
        assert await stage.ask(Say("a"), timeout=2.5) == "yes"
    headers = dict(seen[-1].headers or {})
    assert headers.pop(ASK)
    assert headers == {TIMEOUT: "2.500000", REQUEST_ID: "0192-abc"}
    assert codec.decode(Stage, "Say", seen[-1].data) == Say("a")


async def test_a_reply_that_makes_no_sense_leaves_the_outcome_unknown(
    nats_server: NatsServer, namespace: str, raw: Client
) -> None:
    async def answer(message: Msg) -> None:
        body, headers = bodies.pop(0)
        await raw.publish(message.reply, body, headers=headers)

    bodies: list[tuple[bytes, dict[str, str] | None]] = [
        (b"\xff", None),
        (b"", None),
        (codec.encode_reply(7), None),
        (b"\xff", {ERROR: "not_found"}),
    ]
    await raw.subscribe(f"{namespace}.stage.Say", cb=answer)
    await listening(raw)
    async with asker(nats_server.url, namespace) as stage:
        while bodies:
            with pytest.raises(AskTimeout, match="unknown"):
                await stage.ask(Say("a"))


MALFORMED = [
    pytest.param("Say", b"\xc1", {}, ("not_understood", "Say"), id="not MessagePack"),
    pytest.param("Say", codec.encode(Say("a"))[:-1], {}, ("not_understood", "Say"), id="cut short"),
    pytest.param("Say", b"\x80", {}, ("not_understood", "Say"), id="a field missing"),
    pytest.param("Say", b"\x81\xa4word\x07", {}, ("not_understood", "Say"), id="a field of a wrong type"),
    pytest.param("Burn", b"\x80", {}, ("not_understood", "unknown"), id="a message nobody knows"),
    pytest.param("__class__", b"\x80", {}, ("not_understood", "unknown"), id="a name of Python's"),
    pytest.param(
        "Say", codec.encode(Say("a")), {TIMEOUT: "soon"}, ("invalid", "Say"), id="a timeout that is no number"
    ),
    pytest.param("Say", codec.encode(Say("a")), {TIMEOUT: "nan"}, ("invalid", "Say"), id="a timeout that is none"),
    pytest.param("Say", codec.encode(Say("a")), {TIMEOUT: "inf"}, ("invalid", "Say"), id="a timeout without end"),
    pytest.param("Say", codec.encode(Say("a")), {REQUEST_ID: "x" * 200}, ("invalid", "Say"), id="a long request id"),
    pytest.param("Say", codec.encode(Say("a")), {ASK: "x" * 200}, ("invalid", "Say"), id="a long name of an ask"),
    pytest.param("Say", codec.encode(Say("a")), {REQUEST_ID: "a\x1bb"}, ("invalid", "Say"), id="an unprintable one"),
    pytest.param("Say", b"\x00" * (LARGEST + 1), {}, ("too_large", "Say"), id="oversize"),
]


@pytest.mark.parametrize(("name", "body", "headers", "refusal"), MALFORMED)
async def test_a_message_that_is_not_one_is_refused_and_counted_and_never_handled(
    roomy: tuple[NatsServer, str], name: str, body: bytes, headers: dict[str, str], refusal: tuple[str, str]
) -> None:
    server, namespace = roomy
    code, counted = refusal
    stranger = Client()
    await stranger.connect(server.url)
    async with process(server.url, namespace) as there:
        reply = await stranger.request(f"{namespace}.stage.{name}", body, timeout=5, headers=headers or None)
        assert (reply.headers or {})[ERROR] == code
        assert isinstance(codec.decode_error(reply.data), Invalid | NotUnderstood | TooLarge)
        assert there.script.of(DeadLetter) == [DeadLetter("stage", counted, code)]
        assert there.script.log == ["start"]
        async with asker(server.url, namespace) as stage:
            assert await stage.ask(Say("on")) == "on 1"
    await stranger.close()


async def test_no_one_can_make_us_publish_where_they_may_not(
    nats_server: NatsServer, namespace: str, raw: Client
) -> None:
    """The reply subject is the sender's choice: an exposer that answered anywhere would write there on its behalf."""
    elsewhere = f"{namespace}.metadata.TrashFile"
    caught: list[Msg] = []

    async def catch(message: Msg) -> None:
        caught.append(message)

    await raw.subscribe(elsewhere, cb=catch)
    await listening(raw)
    async with process(nats_server.url, namespace) as there:
        for reply in (elsewhere, ""):
            await raw.publish(f"{namespace}.stage.Say", codec.encode(Say("a")), reply=reply)
            await raw.publish(f"{namespace}.stage.ping", b"", reply=reply)
        await until(lambda: len(there.script.of(DeadLetter)) == 2)
        async with asker(nats_server.url, namespace) as stage:
            await stage.ask(Say("after"))
    assert there.script.log[1] == "after"
    assert caught == []


async def test_a_message_that_is_too_large_is_refused_before_it_is_sent(
    nats_server: NatsServer, namespace: str
) -> None:
    async with process(nats_server.url, namespace) as there, asker(nats_server.url, namespace) as stage:
        with pytest.raises(TooLarge, match="over the limit of 1047552"):
            await stage.ask(Say("x" * LARGEST))
        largest = "x" * (LARGEST - HEADROOM - 20)
        request_id.set("i" * 100)
        assert (await stage.ask(Say(largest)))[:3] == "xxx"
        assert there.link.generation == 1, "the server has cut us off"


class StandIn:
    """Whatever is behind an exposer, instead of an actor."""

    def __init__(self, *outcomes: object) -> None:
        self._outcomes = list(outcomes)

    async def ask(self, message: Ask[Stage, R], *, timeout: float | None = None) -> R:
        outcome = self._outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return cast("R", outcome)


@asynccontextmanager
async def exposed(ref: Ref[Stage], url: str, namespace: str, events: list[Event]) -> AsyncIterator[NatsLink]:
    link = NatsLink(Nats(url=url))
    exposer = Exposer(Stage, link, namespace=namespace, on_event=events.append)
    await link.client()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(exposer.run, ref))
        await until_answered(NatsRef(Stage, link, namespace=namespace))
        yield link
        exposer.stop()
    await link.close()


async def test_a_reply_that_is_too_large_is_an_error_and_not_the_end_of_the_connection(
    nats_server: NatsServer, namespace: str
) -> None:
    url = nats_server.url
    there = exposed(StandIn("x" * LARGEST, "small"), url, namespace, [])
    async with there as link, asker(url, namespace) as stage:
        with pytest.raises(TooLarge, match="The reply is"):
            await stage.ask(Say("a"))
        assert await stage.ask(Say("a")) == "small"
        assert link.generation == 1


async def test_a_command_whose_reply_is_too_large_has_an_unknown_outcome(
    nats_server: NatsServer, namespace: str
) -> None:
    """It was carried out, so ``TooLarge`` would free its Idempotency-Key."""
    url = nats_server.url
    async with exposed(StandIn("x" * LARGEST), url, namespace, []), asker(url, namespace) as stage:
        with pytest.raises(AskTimeout, match=r"The reply is .* The outcome is unknown"):
            await stage.ask(Write("a"))


async def test_more_messages_than_the_limit_are_turned_away_and_told_so(
    nats_server: NatsServer, namespace: str
) -> None:
    url = nats_server.url
    async with process(url, namespace, limits=dict.fromkeys(Lane, 2)) as there, asker(url, namespace) as stage:
        async with anyio.create_task_group() as asks:
            for cue in ("a", "b"):
                asks.start_soon(stage.ask, Hold(cue))
                await there.script.reached[cue].wait()
            with pytest.raises(MailboxFull):
                await stage.ask(Say("c"), timeout=5)
            for cue in ("a", "b"):
                there.script.cues[cue].set()
        assert await stage.ask(Say("e")) == "e 1"
        assert there.exposer.in_hand == 0


async def test_a_bug_beside_the_actor_is_told_and_reported_and_the_next_message_served(
    nats_server: NatsServer, namespace: str
) -> None:
    events: list[Event] = []
    no_value = object()  # nothing that goes over a wire
    there = exposed(StandIn(ZeroDivisionError(), no_value, "fine"), nats_server.url, namespace, events)
    async with there, asker(nats_server.url, namespace) as stage:
        for _ in range(2):
            with pytest.raises(ActorCrashed):
                await stage.ask(Say("a"))
        assert await stage.ask(Say("a")) == "fine"
    crashes = [event for event in events if isinstance(event, ChildCrashed)]
    assert [(crash.child, crash.doing) for crash in crashes] == [("stage-exposer", "Say")] * 2


async def test_an_ask_whose_process_dies_ends_soon_and_the_next_process_answers(
    nats_server: NatsServer, namespace: str
) -> None:
    url = nats_server.url
    async with asker(url, namespace) as stage:
        script = Script()
        link = NatsLink(Nats(url=url))
        client = await link.client()
        exposer = Exposer(Stage, link, namespace=namespace)
        async with script.supervisor(script.actor()) as tree, anyio.create_task_group() as dying:
            dying.start_soon(partial(exposer.run, tree.ref(Stage)))
            await until_answered(stage)
            with anyio.fail_after(30):
                async with anyio.create_task_group() as asks:

                    async def hold() -> None:
                        with pytest.raises(AskTimeout, match="in hand"):
                            await stage.ask(Hold("never"), timeout=600)

                    asks.start_soon(hold)
                    await script.reached["never"].wait()
                    await client.close()  # the server sees the connection go, as it does when a process is killed
            with pytest.raises(DeliveryError, match="No process runs"):
                await stage.ask(Say("meanwhile"))
            dying.cancel_scope.cancel()
            script.cues["never"].set()
        await link.close()
        async with process(url, namespace):
            assert await stage.ask(Say("back")) == "back 1"
        assert "meanwhile" not in script.log


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Askers that look for their messages at once and often."""
    monkeypatch.setattr(in_hand, "EVERY", Backoff(0.01, 0.02))
    monkeypatch.setattr(in_hand, "ANSWERED", 0.5)


async def looks(client: Client, namespace: str) -> list[bytes]:
    """What askers look for, from now on."""

    async def see(message: Msg) -> None:
        seen.append(message.data)

    seen: list[bytes] = []
    await client.subscribe(f"{namespace}.stage.{in_hand.LOOK}", cb=see)
    await listening(client)
    return seen


@pytest.mark.usefixtures("impatient")
async def test_an_ask_whose_message_or_reply_is_lost_ends_soon_though_the_actor_runs(
    nats_server: NatsServer, namespace: str, raw: Client
) -> None:
    async def lose(message: Msg) -> None:
        lost.append(message.data)

    lost: list[bytes] = []
    seen = await looks(raw, namespace)
    await raw.subscribe(f"{namespace}.stage.Say", cb=lose)
    await listening(raw)
    async with asker(nats_server.url, namespace) as stage:
        with anyio.fail_after(30), pytest.raises(AskTimeout, match="in hand"):
            await stage.ask(Say("a"), timeout=600)
    assert len(lost) == 1, "it was sent again"
    assert len(seen) == in_hand.TRIES


@pytest.mark.usefixtures("impatient")
async def test_a_message_that_is_in_hand_is_waited_for_also_while_its_process_stops(
    nats_server: NatsServer, namespace: str, raw: Client
) -> None:
    url = nats_server.url
    answers: list[str] = []
    seen = await looks(raw, namespace)
    async with asker(url, namespace) as stage, anyio.create_task_group() as asks, process(url, namespace) as there:

        async def hold() -> None:
            answers.append(await stage.ask(Hold("cue"), timeout=600))

        async def release() -> None:
            with pytest.raises(DeliveryError, match="No process runs"):
                while True:
                    await stage.ping(timeout=5)
                    await anyio.sleep(0.005)
            before = len(seen)
            await until(lambda: len(seen) > before + 10 * in_hand.TRIES)
            assert answers == []
            there.script.cues["cue"].set()

        asks.start_soon(hold)
        await until(lambda: len(seen) > 10 * in_hand.TRIES)
        asks.start_soon(release)
    assert answers == ["held 1"]
    assert len(set(seen)) == 1


async def test_nobody_looks_for_what_is_answered_soon(nats_server: NatsServer, namespace: str, raw: Client) -> None:
    url = nats_server.url
    seen = await looks(raw, namespace)
    async with process(url, namespace) as there, asker(url, namespace) as stage:
        for number in range(100):
            await stage.ask(Say(str(number)))
        assert there.exposer.in_hand == 0
    assert seen == []


async def test_stopping_finishes_what_is_in_hand_and_takes_no_more(nats_server: NatsServer, namespace: str) -> None:
    url = nats_server.url
    answers: list[str] = []
    async with asker(url, namespace) as stage, anyio.create_task_group() as asks, process(url, namespace) as there:

        async def hold() -> None:
            answers.append(await stage.ask(Hold("cue")))

        async def watch() -> None:
            with pytest.raises(DeliveryError, match="No process runs"):
                while True:
                    await stage.ping(timeout=5)
                    await anyio.sleep(0.005)
            assert answers == []
            there.script.cues["cue"].set()

        asks.start_soon(hold)
        await there.script.reached["cue"].wait()
        asks.start_soon(watch)
    assert answers == ["held 1"]
    assert there.script.of(DeadLetter) == []


async def test_processes_replaced_one_by_one_under_load_lose_no_message(
    nats_server: NatsServer, namespace: str
) -> None:
    url = nats_server.url
    asked: list[str] = []
    scripts: list[Script] = []

    async def run(stop: anyio.Event, *, task_status: TaskStatus[None]) -> None:
        async with process(url, namespace) as there:
            scripts.append(there.script)
            task_status.started()
            await stop.wait()

    async def keep_asking(name: int) -> None:
        for number in range(100_000):
            word = f"{name}.{number}"
            assert (await stage.ask(Say(word))).startswith(word)
            asked.append(word)

    async with asker(url, namespace) as stage, anyio.create_task_group() as processes:
        await processes.start(run, stop := anyio.Event())
        async with anyio.create_task_group() as load:
            for name in range(4):
                load.start_soon(keep_asking, name)
            for _ in range(4):
                enough = len(asked) + 50
                await until(lambda: len(asked) > enough)  # noqa: B023
                await processes.start(run, following := anyio.Event())
                stop.set()
                stop = following
            load.cancel_scope.cancel()
        stop.set()
    handled = [word for script in scripts for word in script.log if word not in {"start", "stop"}]
    assert len(handled) == len(set(handled)), "something was done twice"
    assert set(asked) <= set(handled)
    assert [script.of(DeadLetter) for script in scripts] == [[]] * 5


async def test_without_a_server_asks_fail_at_once_and_the_same_ref_works_when_it_is_back(
    outage: NatsServer, namespace: str
) -> None:
    events: list[Event] = []
    async with process(outage.url, namespace) as there, asker(outage.url, namespace, events) as stage:
        assert await stage.ask(Say("before")) == "before 1"
        for stretch in (1, 2):
            outage.kill9()
            await until(lambda: sum(isinstance(event, ChildWaiting) for event in events) == stretch)  # noqa: B023
            with anyio.fail_after(30), pytest.raises(DeliveryError, match="NATS does not answer") as caught:
                await stage.ask(Say("during"), timeout=60)
            assert (caught.value.code, caught.value.retry_after) == ("unavailable", 1.0)
            outage.start()
            await until_answered(stage)
        assert await stage.ask(Say("after")) == "after 1"
        assert "during" not in there.script.log
    assert [event.child for event in events if isinstance(event, ChildWaiting)] == ["nats", "nats"]


async def test_an_ask_on_its_way_when_the_server_dies_ends_by_its_deadline_and_is_not_sent_again(
    outage: NatsServer, namespace: str
) -> None:
    async with process(outage.url, namespace) as there, asker(outage.url, namespace) as stage:
        async with anyio.create_task_group() as asks:

            async def hold() -> None:
                with pytest.raises(DeliveryError):
                    await stage.ask(Hold("cue"), timeout=1.0)

            asks.start_soon(hold)
            await there.script.reached["cue"].wait()
            outage.kill9()
            outage.start()
        there.script.cues["cue"].set()
        await until_answered(stage)
        await stage.ask(Say("after"))
        assert there.script.log.count("hold cue") == 1


async def test_a_process_that_ends_while_there_is_no_server_ends_cleanly(outage: NatsServer, namespace: str) -> None:
    async with process(outage.url, namespace) as there, asker(outage.url, namespace) as stage:
        async with anyio.create_task_group() as asks:

            async def hold() -> None:
                with pytest.raises(AskTimeout, match="connection was lost"):
                    await stage.ask(Hold("cue"), timeout=30)

            asks.start_soon(hold)
            await there.script.reached["cue"].wait()
            outage.kill9()
            await until(lambda: there.script.of(ChildWaiting))
        there.script.cues["cue"].set()  # and now there is an answer that cannot be sent
        await until(lambda: there.exposer.in_hand == 0)
    assert there.script.of(ChildCrashed) == []


def states(server: NatsServer) -> list[str]:
    """Of each thread: a signal that stops a process does not stop all of it at once."""
    assert server.process is not None
    threads = Path(f"/proc/{server.process.pid}/task").glob("*/stat")
    return [thread.read_text().rpartition(")")[2].split()[0] for thread in threads]


async def test_a_network_that_is_cut_costs_each_ask_its_deadline_and_no_more(
    outage: NatsServer, namespace: str
) -> None:
    async with process(outage.url, namespace), asker(outage.url, namespace) as stage:
        assert await stage.ask(Say("before")) == "before 1"
        outage.freeze()
        await until(lambda: set(states(outage)) == {"T"})
        try:
            with anyio.fail_after(30), pytest.raises(DeliveryError):
                await stage.ask(Say("during"), timeout=0.2)
        finally:
            outage.thaw()
        await until_answered(stage)


async def test_a_server_that_takes_nothing_more_costs_each_ask_its_deadline_at_most(
    outage: NatsServer, namespace: str
) -> None:
    async with process(outage.url, namespace), asker(outage.url, namespace) as stage:
        assert await stage.ask(Say("before")) == "before 1"
        outage.freeze()
        await until(lambda: set(states(outage)) == {"T"})
        outcomes: list[type[DriveError]] = []

        async def give_up() -> None:
            with pytest.raises(DeliveryError) as caught:
                await stage.ask(Say("x" * 500_000), timeout=0.2)
            outcomes.append(type(caught.value))

        try:
            with anyio.fail_after(30):
                async with anyio.create_task_group() as asks:
                    for _ in range(100):  # more than the kernel takes for the server, and more than we keep for it
                        asks.start_soon(give_up)
        finally:
            outage.thaw()
        assert set(outcomes) == {AskTimeout, DeliveryError}
        await until_answered(stage)


async def test_what_a_server_was_cut_off_from_is_given_up_and_another_one_answers(
    outage: NatsServer, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PING_INTERVAL", 0.2)
    with NatsServer(jetstream=False) as other:
        other.stop()
        async with process(outage.url, namespace) as there, asker(f"{outage.url},{other.url}", namespace) as stage:
            assert await stage.ask(Say("before")) == "before 1"
            other.start()
            outage.freeze()
            await until(lambda: set(states(outage)) == {"T"})

            async def give_up() -> None:
                with pytest.raises(DeliveryError):
                    await stage.ask(Say("late" + "x" * 200_000), timeout=0.1)

            async with anyio.create_task_group() as asks:
                for _ in range(60):  # more than what the kernel takes for a peer that does not read
                    asks.start_soon(give_up)
            async with process(other.url, namespace) as elsewhere:
                await until_answered(stage)
                await stage.ask(Say("after"))
            assert not any(line.startswith("late") for line in elsewhere.script.log)
            outage.kill9()
            outage.start()
            other.kill9()
            await until_answered(stage)
    assert not any(line.startswith("late") for line in there.script.log)


@pytest.mark.servers
async def test_a_server_that_comes_up_last_is_waited_for(namespace: str) -> None:
    require(NatsServer)
    with NatsServer(jetstream=False) as server:
        server.stop()
        async with process(server.url, namespace, wait=False) as there, asker(server.url, namespace) as stage:
            await until(lambda: there.script.of(ChildWaiting))
            with pytest.raises(DeliveryError):
                await stage.ask(Say("early"))
            server.start()
            await until_answered(stage)
            assert await stage.ask(Say("on")) == "on 1"
    assert "early" not in there.script.log


async def test_a_request_that_could_not_be_sent_leaves_no_error_that_nobody_hears(
    link: NatsLink, namespace: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def publish(*_: object, **__: object) -> None:
        raise ConnectionResetError

    client = await link.client()
    monkeypatch.setattr(client, "publish", publish)
    with pytest.raises(DeliveryError):
        await NatsRef(Stage, link, namespace=namespace).ask(Say("hello"))
    client._hang_up()
    await link.newer_than(1)
    gc.collect()
    assert not caplog.records


async def test_a_write_to_a_connection_that_was_lost_fails_as_one(link: NatsLink) -> None:
    transport = (await link.client())._transport
    assert transport is not None
    await link.close()
    await transport.wait_closed()  # type: ignore[no-untyped-call]
    for send in (partial(transport.write, b"PING\r\n"), partial(transport.writelines, [b"PING\r\n"])):
        with pytest.raises(ConnectionError):
            send()


@pytest.mark.servers
async def test_a_server_that_does_not_let_us_listen_is_reported(namespace: str, tmp_path: Path) -> None:
    require(NatsServer)
    config = tmp_path / "nats.conf"
    config.write_text(
        'authorization { users = [{ user: u, password: p, permissions: { subscribe: ["_INBOX.>"], publish: [">"] } }] }'
    )
    with NatsServer(jetstream=False, arguments=("-c", str(config))) as server:
        events: list[Event] = []
        link = NatsLink(Nats(url=server.url, user="u", password="p"))
        exposer = Exposer(Stage, link, namespace=namespace, on_event=events.append)
        await link.client()
        script = Script()
        async with script.supervisor(script.actor()) as tree, anyio.create_task_group() as tasks:
            tasks.start_soon(partial(exposer.run, tree.ref(Stage)))
            await until(lambda: any(isinstance(event, ChildWaiting) for event in events))
            exposer.stop()
        await link.close()
