"""Bucket events through a real JetStream server: doubled, late, lost, forged, and a server that forgets."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from msgspec.structs import replace
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamConfig

from godrive.bridge.bucket_events import BucketEventHandler
from godrive.bridge.connection import NatsLink
from godrive.bridge.deadletters import DeadLetters
from godrive.bridge.jetstream import AT_ONCE, BucketEvents
from godrive.bridge.streams import covers
from godrive.config import S3, Ingest, Nats
from godrive.errors import ConfigError, Conflict, DriveError, NotFound, StoreUnavailable
from godrive.messages.ingest import Reconcile
from godrive.runtime.supervision_events import ChildWaiting, DeadLetter
from godrive.testing import ManualClock
from tests.bridge.conftest import BUCKET, MALFORMED_RECORD, Scene, event, together
from tests.cases import each
from tests.conftest import require
from tests.servers import NatsServer

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(namespace: str) -> Ingest:
    return Ingest(events="jetstream", stream=f"{namespace}_UPLOADS", subject=f"{namespace}.uploaded", max_deliver=3)


@pytest.fixture
def dead(link: NatsLink, settings: Ingest, namespace: str) -> DeadLetters:
    return DeadLetters(link, stream=settings.stream, namespace=namespace)


class Consumer:
    """The child under test, running."""

    def __init__(self, scene: Scene, link: NatsLink, settings: Ingest, namespace: str, bucket: S3) -> None:
        self.bucket_events = BucketEventHandler(scene.ingest, bucket)
        self.events = BucketEvents(
            link,
            settings,
            namespace=namespace,
            handler=self.bucket_events,
            on_event=scene.on_event,
            heartbeat=0.5,
            ack_wait=1.0,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.events.prepare()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.events.run)
            yield
            tasks.cancel_scope.cancel()


Make = Callable[[NatsLink], Consumer]


@pytest.fixture
def make(scene: Scene, settings: Ingest, namespace: str, bucket: S3) -> Make:
    return lambda link: Consumer(scene, link, settings, namespace, bucket)


@pytest.fixture
def consumer(make: Make, link: NatsLink) -> Consumer:
    return make(link)


async def jetstream(link: NatsLink) -> JetStreamContext:
    return (await link.client()).jetstream()


async def acknowledged(link: NatsLink, settings: Ingest) -> None:
    """Until the server has nothing more to deliver."""
    js = await jetstream(link)
    with anyio.fail_after(30):
        while True:
            info = await js.consumer_info(settings.stream, settings.consumer)
            if not info.num_pending and not info.num_ack_pending:
                return
            await anyio.sleep(0.02)  # the server has no message for it


async def test_an_event_makes_the_file_appear(
    scene: Scene, consumer: Consumer, link: NatsLink, settings: Ingest
) -> None:
    _, message = await scene.arrive("a.txt")
    async with consumer.running():
        assert consumer.bucket_events.state == "absent"
        await (await link.client()).publish(settings.subject, message)  # as MinIO does, which knows no JetStream
        await scene.ingest.wait(1)
        await acknowledged(link, settings)
    assert [file.name for file in await scene.files()] == ["a.txt"]
    assert consumer.bucket_events.counts == {"published": 1}
    assert consumer.bucket_events.state == "active"


async def test_every_event_one_to_five_times_in_any_order_gives_one_file_each(
    scene: Scene, consumer: Consumer, link: NatsLink, settings: Ingest
) -> None:
    js, chance = await jetstream(link), random.Random(7)
    arrived = [await scene.arrive(f"{number}.bin", bytes([number])) for number in range(40)]
    messages = [message for _, message in arrived for _ in range(chance.randint(1, 5))]
    chance.shuffle(messages)
    async with consumer.running():
        for message in messages:
            await js.publish(settings.subject, message)
        await acknowledged(link, settings)
    files = await scene.files()
    assert sorted(file.name for file in files) == sorted(f"{number}.bin" for number in range(40))
    assert consumer.bucket_events.counts["published"] >= len(messages)


async def test_a_consumer_that_dies_between_commit_and_acknowledgement_does_no_harm(
    scene: Scene, consumer: Consumer, link: NatsLink, settings: Ingest, make: Make
) -> None:
    _, message = await scene.arrive("a.txt")
    js = await jetstream(link)
    scene.ingest.stuck = anyio.Event()
    async with consumer.running():
        await js.publish(settings.subject, message)
        await scene.ingest.stuck.wait()
    scene.ingest.stuck = None
    assert len(await scene.files()) == 1
    successor = make(link)
    async with successor.running():
        await acknowledged(link, settings)
    assert len(await scene.files()) == 1
    assert successor.bucket_events.counts == {"published": 1}


async def test_an_event_that_hangs_delays_no_other(
    scene: Scene, consumer: Consumer, link: NatsLink, settings: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, message = await scene.arrive("a.txt")
    take, ended = consumer.bucket_events.take, anyio.Event()

    async def slowly(body: bytes, *, certain: bool = False) -> None:
        if body == b"hangs":
            await ended.wait()
        await take(body, certain=certain)

    monkeypatch.setattr(consumer.bucket_events, "take", slowly)
    js = await jetstream(link)
    async with consumer.running():
        for body in (b"hangs", *[event("objects/readme")] * AT_ONCE, message):
            await js.publish(settings.subject, body)
        await scene.ingest.wait(1)
        ended.set()
        await acknowledged(link, settings)
    assert len(await scene.files()) == 1


async def test_events_sent_while_nobody_consumed_are_not_lost(
    scene: Scene, consumer: Consumer, link: NatsLink, settings: Ingest
) -> None:
    _, message = await scene.arrive("a.txt")
    await consumer.events.prepare()
    await (await jetstream(link)).publish(settings.subject, message)
    async with consumer.running():
        await acknowledged(link, settings)
    assert len(await scene.files()) == 1


async def test_a_failure_that_passes_is_tried_again_later(
    scene: Scene, consumer: Consumer, link: NatsLink, settings: Ingest, dead: DeadLetters
) -> None:
    _, message = await scene.arrive("a.txt")
    scene.ingest.failures = [StoreUnavailable()]
    async with consumer.running():
        await (await jetstream(link)).publish(settings.subject, message)
        await scene.ingest.wait(2)
        await acknowledged(link, settings)
        assert [letter async for letter in dead.list()] == []
    assert len(await scene.files()) == 1


async def test_each_failure_puts_an_event_off_for_twice_as_long_up_to_a_minute(
    scene: Scene, link: NatsLink, settings: Ingest, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: list[float | None] = []
    nak = Msg.nak

    async def soon(self: Msg, delay: float | None = None) -> None:
        delays.append(delay)
        await nak(self, delay=0.001)

    monkeypatch.setattr(Msg, "nak", soon)
    patient = replace(settings, max_deliver=9)
    consumer = Consumer(scene, link, patient, namespace, S3(bucket=BUCKET))
    scene.ingest.failures = [StoreUnavailable()] * 9
    async with consumer.running():
        await (await jetstream(link)).publish(settings.subject, (await scene.arrive("a.txt"))[1])
        await scene.until(DeadLetter)
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]


async def test_what_fails_too_often_is_a_dead_letter_that_can_be_replayed(
    scene: Scene, consumer: Consumer, link: NatsLink, settings: Ingest, dead: DeadLetters
) -> None:
    _, message = await scene.arrive("a.txt")
    scene.ingest.failures = [StoreUnavailable("The store is down.")] * settings.max_deliver
    async with consumer.running():
        await (await jetstream(link)).publish(settings.subject, message)
        assert (await scene.until(DeadLetter)).reason == "store_unavailable: The store is down."
        await acknowledged(link, settings)
        (letter,) = [letter async for letter in dead.list()]
        assert (letter.subject, letter.body, letter.deliveries) == (settings.subject, message, settings.max_deliver)
        assert letter.reason == "store_unavailable: The store is down."
        assert letter.died_at is not None
        await dead.replay(letter.number)
        await scene.ingest.wait(settings.max_deliver + 1)
        await acknowledged(link, settings)
        assert [letter async for letter in dead.list()] == []
    assert len(await scene.files()) == 1


async def test_a_malformed_event_is_a_dead_letter_and_the_next_event_works(
    scene: Scene, consumer: Consumer, link: NatsLink, settings: Ingest, dead: DeadLetters
) -> None:
    _, message = await scene.arrive("a.txt")
    js = await jetstream(link)
    async with consumer.running():
        for body in (b"not JSON", b"{}", b"[" * 10_000, message):
            await js.publish(settings.subject, body)
        await scene.ingest.wait(1)
        await acknowledged(link, settings)
        letters = [letter async for letter in dead.list()]
        assert [letter.body for letter in letters] == [b"not JSON", b"{}", b"[" * 10_000]
        assert all("cannot be read" in letter.reason or "no known store" in letter.reason for letter in letters)
        assert [letter.number async for letter in dead.list(after=letters[1].number)] == [letters[2].number]
        await dead.drop(letters[0].number)
        with pytest.raises(NotFound):
            await dead.drop(letters[0].number)
        with pytest.raises(NotFound):
            await dead.replay(letters[0].number)
    assert consumer.bucket_events.counts == {"malformed": 3, "published": 1}
    assert len(await scene.files()) == 1


async def test_of_a_message_only_the_malformed_record_is_a_dead_letter_and_the_others_become_files(
    scene: Scene, consumer: Consumer, link: NatsLink, settings: Ingest, dead: DeadLetters
) -> None:
    arrived = [await scene.arrive(f"{number}.txt") for number in range(2)]
    async with consumer.running():
        await (await jetstream(link)).publish(settings.subject, together(*[message for _, message in arrived]))
        await scene.ingest.wait(2)
        await acknowledged(link, settings)
        (letter,) = [letter async for letter in dead.list()]
        assert json.loads(letter.body) == {"Records": [MALFORMED_RECORD]}
        await dead.replay(letter.number)
        await acknowledged(link, settings)
        (again,) = [letter async for letter in dead.list()]
    assert again.body == letter.body
    assert len(await scene.files()) == 2
    assert consumer.bucket_events.counts == {"malformed": 2, "published": 2}


async def test_a_message_with_a_malformed_record_comes_again_until_the_others_are_files(
    scene: Scene, consumer: Consumer, link: NatsLink, settings: Ingest, dead: DeadLetters
) -> None:
    _, message = await scene.arrive("a.txt")
    scene.ingest.failures = [StoreUnavailable()]
    async with consumer.running():
        await (await jetstream(link)).publish(settings.subject, together(message))
        await scene.ingest.wait(2)
        await acknowledged(link, settings)
        assert len([letter async for letter in dead.list()]) == 1
    assert len(await scene.files()) == 1


@pytest.mark.parametrize("status", ["100", "404", "409", "503"])
async def test_a_message_that_looks_like_a_word_of_the_server_is_a_dead_letter_and_the_next_event_works(
    scene: Scene, consumer: Consumer, link: NatsLink, settings: Ingest, dead: DeadLetters, *, status: str
) -> None:
    _, message = await scene.arrive("a.txt")
    js = await jetstream(link)
    async with consumer.running():
        await js.publish(settings.subject, b"poison", headers={"Status": status})
        await js.publish(settings.subject, message)
        await scene.ingest.wait(1)
        await acknowledged(link, settings)
        assert [letter.body async for letter in dead.list()] == [b"poison"]
    assert not [told for told in scene.events if isinstance(told, ChildWaiting)]


async def test_a_letter_can_be_as_large_as_a_message_and_its_reason_anything(
    scene: Scene, consumer: Consumer, link: NatsLink, settings: Ingest, dead: DeadLetters
) -> None:
    client = await link.client()
    body = b" " * client.max_payload
    scene.ingest.failures = [StoreUnavailable("Ü\r\nX: \x00 \ud800")] * settings.max_deliver
    _, message = await scene.arrive("a.txt")
    async with consumer.running():
        await client.jetstream().publish(settings.subject, body)
        await client.jetstream().publish(settings.subject, message)
        await acknowledged(link, settings)
        large, odd = [letter async for letter in dead.list()]
    assert 0 < len(body) - len(large.body) < 10_000
    assert odd.reason == "store_unavailable: \\xdc X:  \\ud800"


async def test_a_letter_is_kept_also_where_somebody_listens_and_the_stream_of_letters_is_gone(
    scene: Scene, consumer: Consumer, link: NatsLink, settings: Ingest, dead: DeadLetters
) -> None:
    heard = anyio.Event()

    async def hear(_message: Msg) -> None:
        heard.set()

    async with consumer.running():
        await consumer.events.listening.wait()
        await (await jetstream(link)).delete_stream(f"{settings.stream}_DEAD")
        await (await link.client()).subscribe("*.dead.>", cb=hear)
        await (await jetstream(link)).publish(settings.subject, b"not JSON")
        await scene.until(DeadLetter, within=4)
        await heard.wait()
        assert [letter.body async for letter in dead.list()] == [b"not JSON"]


async def test_a_message_ends_when_its_letter_is_kept_and_the_letter_is_kept_once(
    scene: Scene, make: Make, link: NatsLink, settings: Ingest, dead: DeadLetters
) -> None:
    """A process may die between the two: then the message comes again, and is not forgotten."""
    consumer = make(link)

    async def die(message: Msg) -> None:
        patch.undo()
        assert len([letter async for letter in dead.list()]) == 1
        raise NatsError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Msg, "term", die)
        async with consumer.running():
            await (await jetstream(link)).publish(settings.subject, b"not JSON")
            await scene.until(DeadLetter)
            await acknowledged(link, settings)
            assert len([letter async for letter in dead.list()]) == 1
    assert consumer.bucket_events.counts["malformed"] == 2


async def test_a_letter_stays_when_nothing_would_keep_its_replay(
    scene: Scene, consumer: Consumer, link: NatsLink, settings: Ingest, dead: DeadLetters
) -> None:
    js = await jetstream(link)
    async with consumer.running():
        await js.publish(settings.subject, b"not JSON")
        await scene.until(DeadLetter)
        await acknowledged(link, settings)
    await js.delete_stream(settings.stream)
    (letter,) = [letter async for letter in dead.list()]
    with pytest.raises(Conflict):
        await dead.replay(letter.number)
    assert len([letter async for letter in dead.list()]) == 1


async def test_events_for_others_are_counted_and_nothing_else(
    scene: Scene, consumer: Consumer, link: NatsLink, settings: Ingest
) -> None:
    upload, _ = await scene.arrive("a.txt")
    js = await jetstream(link)
    async with consumer.running():
        await js.publish(settings.subject, event(f"objects/{upload.object_key}", bucket="other"))
        await js.publish(settings.subject, event("objects/readme"))
        await js.publish(settings.subject, event(f"objects/{upload.object_key}", name="s3:ObjectRemoved:Delete"))
        await js.publish(settings.subject, event("objects/01a20305/01a20305-0000-7000-8000-000000000000"))
        await scene.ingest.wait(1)
        await acknowledged(link, settings)
    assert consumer.bucket_events.counts == {"foreign": 2, "ignored": 1}
    assert await scene.files() == []


@pytest.mark.servers
async def test_a_server_that_forgot_everything_gets_stream_and_consumer_again(
    scene: Scene, settings: Ingest, make: Make
) -> None:
    require(NatsServer)
    with NatsServer() as server:
        link = NatsLink(Nats(url=server.url))
        consumer = make(link)
        _, first = await scene.arrive("first.txt")
        _, lost = await scene.arrive("lost.txt")
        _, last = await scene.arrive("last.txt")
        async with consumer.running():
            await (await jetstream(link)).publish(settings.subject, first)
            await scene.ingest.wait(1)
            server.wipe()
            await scene.until(ChildWaiting)
            generation = link.generation
            server.start()
            await link.newer_than(generation - 1)
            with anyio.fail_after(30):
                while not await has_consumer(link, settings):
                    await anyio.sleep(0.05)  # for the server
            await (await jetstream(link)).publish(settings.subject, last)
            await scene.ingest.wait(2)
            await acknowledged(link, settings)
        await link.close()
    assert sorted(file.name for file in await scene.files()) == ["first.txt", "last.txt"]
    assert lost
    assert isinstance(scene.drive.clock, ManualClock)
    scene.drive.clock.advance(60)
    assert (await scene.drive.ingest.ask(Reconcile())).published == 1
    assert len(await scene.files()) == 3


async def has_consumer(link: NatsLink, settings: Ingest) -> bool:
    try:
        await (await jetstream(link)).consumer_info(settings.stream, settings.consumer)
    except (DriveError, NatsError):
        return False
    return True


async def test_a_consumer_that_was_deleted_is_made_again(
    scene: Scene, consumer: Consumer, link: NatsLink, settings: Ingest
) -> None:
    _, message = await scene.arrive("a.txt")
    js = await jetstream(link)
    async with consumer.running():
        await js.publish(settings.subject, event("objects/readme"))
        await acknowledged(link, settings)
        await js.delete_consumer(settings.stream, settings.consumer)
        await scene.until(ChildWaiting)
        await js.publish(settings.subject, message)
        await scene.ingest.wait(1)
    assert len(await scene.files()) == 1


@pytest.mark.servers
async def test_a_subscription_that_went_silent_is_made_again(scene: Scene, settings: Ingest, make: Make) -> None:
    require(NatsServer)
    with NatsServer() as server:
        link = NatsLink(Nats(url=server.url))
        consumer = make(link)
        _, message = await scene.arrive("a.txt")
        async with consumer.running():
            await (await jetstream(link)).publish(settings.subject, event("objects/readme"))
            await acknowledged(link, settings)
            server.freeze()
            waiting = await scene.until(ChildWaiting)
            assert "is silent" in str(waiting.error) or "does not answer" in str(waiting.error)
            server.thaw()
            await (await jetstream(link)).publish(settings.subject, message)
            await scene.ingest.wait(1)
        await link.close()
    assert len(await scene.files()) == 1


async def test_two_processes_share_the_events(
    scene: Scene, consumer: Consumer, link: NatsLink, settings: Ingest, make: Make
) -> None:
    js = await jetstream(link)
    arrived = [await scene.arrive(f"{number}.bin") for number in range(20)]
    other = make(link)
    async with consumer.running(), other.running():
        for _, message in arrived:
            await js.publish(settings.subject, message)
        await acknowledged(link, settings)
    assert len(await scene.files()) == 20
    assert consumer.bucket_events.counts["published"] + other.bucket_events.counts["published"] == 20


async def test_a_stream_of_others_is_left_alone_and_named(
    scene: Scene, consumer: Consumer, link: NatsLink, settings: Ingest
) -> None:
    js = await jetstream(link)
    other = StreamConfig(name=f"{settings.stream}_OTHER", subjects=[settings.subject])
    await js.add_stream(other)
    with pytest.raises(ConfigError, match="Another JetStream stream"):
        await consumer.events.prepare()
    await js.delete_stream(f"{settings.stream}_OTHER")
    await js.add_stream(StreamConfig(name=settings.stream, subjects=["elsewhere." + settings.subject]))
    with pytest.raises(ConfigError, match="keeps elsewhere"):
        await consumer.events.prepare()


@pytest.mark.parametrize("otherwise", [{"filter_subject": "other"}, {"max_deliver": 1}, {"max_ack_pending": 1}])
async def test_a_consumer_that_was_made_otherwise_is_made_what_it_must_be(
    scene: Scene, consumer: Consumer, link: NatsLink, settings: Ingest, dead: DeadLetters, *, otherwise: dict[str, Any]
) -> None:
    """As by a release or a configuration before: it would go on without a word, and without the events."""
    js, elsewhere = await jetstream(link), f"{settings.subject}.other"
    await js.add_stream(StreamConfig(name=settings.stream, subjects=[settings.subject, elsewhere]))
    if "filter_subject" in otherwise:
        otherwise = {"filter_subject": elsewhere}
    made = ConsumerConfig(durable_name=settings.consumer, ack_policy=AckPolicy.EXPLICIT, **otherwise)
    await js.add_consumer(settings.stream, made)
    scene.ingest.failures = [StoreUnavailable()] * settings.max_deliver
    async with consumer.running():
        await js.publish(settings.subject, (await scene.arrive("a.txt"))[1])
        await scene.until(DeadLetter)
        await acknowledged(link, settings)
        assert len([letter async for letter in dead.list()]) == 1


@pytest.mark.parametrize(
    "otherwise", [{"ack_policy": AckPolicy.NONE}, {"deliver_subject": "push"}, {"deliver_policy": DeliverPolicy.NEW}]
)
async def test_a_consumer_that_cannot_be_made_what_it_must_be_is_named(
    consumer: Consumer, link: NatsLink, settings: Ingest, otherwise: dict[str, Any]
) -> None:
    js = await jetstream(link)
    await js.add_stream(StreamConfig(name=settings.stream, subjects=[settings.subject]))
    made = ConsumerConfig(durable_name=settings.consumer, **({"ack_policy": AckPolicy.EXPLICIT} | otherwise))
    await js.add_consumer(settings.stream, made)
    with pytest.raises(ConfigError, match=settings.consumer) as refusal:
        await consumer.events.prepare()
    assert refusal.value.hint
    await js.delete_consumer(settings.stream, settings.consumer)
    await consumer.events.prepare()


@pytest.mark.servers
async def test_while_there_is_no_server_the_child_waits_and_says_so_once(
    scene: Scene, settings: Ingest, make: Make
) -> None:
    require(NatsServer)
    server = NatsServer()
    link = NatsLink(Nats(url=server.url), patience=0.2)
    consumer = make(link)
    _, message = await scene.arrive("a.txt")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consumer.events.run)
        await scene.until(ChildWaiting)
        with server:
            with anyio.fail_after(30):
                while not await has_consumer(link, settings):
                    await anyio.sleep(0.05)
            await (await jetstream(link)).publish(settings.subject, message)
            await scene.ingest.wait(1)
            tasks.cancel_scope.cancel()
    await link.close()
    assert [type(told) for told in scene.events] == [ChildWaiting]
    assert len(await scene.files()) == 1


@each(
    ("pattern", "subject", "expected"),
    [
        ("a.b", "a.b", True),
        ("a.*", "a.b", True),
        ("a.>", "a.b", True),
        ("a.>", "a.b.>", True),
        (">", "a", True),
        ("a.>", "a", False),
        ("a.*", "a.>", False),
        ("a.b", "a.*", False),
        ("a.b", "a.b.c", False),
        ("a.b.c", "a.b", False),
        ("*.*", "a.*", True),
    ],
)
def test_a_pattern_covers_what_it_takes_all_of(pattern: str, subject: str, expected: bool) -> None:
    assert covers(pattern, subject) is expected
