"""Which events publish an upload without a HEAD, and that nothing else does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import anyio
import pytest
from nats.aio.msg import Msg

from godrive.blobs.s3 import S3BlobStore
from godrive.blobs.s3.probe import Capabilities
from godrive.bridge.bucket_events import LATE, BucketEventHandler
from godrive.bridge.connection import NatsLink
from godrive.bridge.deadletters import DeadLetters
from godrive.bridge.jetstream import BucketEvents
from godrive.bridge.subjects import PlainEvents
from godrive.config import S3, Ingest, Nats
from godrive.drive import GoDrive
from godrive.messages.files import ListFiles
from godrive.messages.ingest import EventOutcome, IngestBlob
from godrive.messages.ingest import Ingest as IngestContract
from godrive.messages.storage import SignPut
from godrive.messages.uploads import BeginUpload
from godrive.model import Anywhere, ETag, File, ObjectKey, OnConflict, Root, Upload, UserId
from godrive.runtime import Ask
from godrive.testing import ManualClock, chunks, open_drive, sign_up, upload
from tests.blobs.s3.fake_store import FakeStore
from tests.cases import each
from tests.conftest import require
from tests.principals import acting
from tests.servers import NatsServer

pytestmark = pytest.mark.anyio

BODY = b"hello"
SHA256 = hashlib.sha256(BODY).hexdigest()
MD5 = hashlib.md5(BODY, usedforsecurity=False).hexdigest()
HONEST = Capabilities(conditional_put=True, signed_digest=True)
UNSIGNED = {"godrive-sha256": "unverified"}


class Stage:
    """A drive over a store that notes what it is asked."""

    def __init__(self, drive: GoDrive, owner: UserId, fake: FakeStore, store: S3BlobStore) -> None:
        self.drive = drive
        self.owner = owner
        self.fake = fake
        self.store = store

    async def begin(self, name: str = "a.txt", **options: Any) -> Upload:
        given = {"mime": "text/plain", "size_bytes": len(BODY), **options}
        return await self.drive.metadata.ask(BeginUpload(acting(self.owner), Root(), name, **given))

    async def send(self, upload: Upload, body: bytes = BODY) -> dict[str, str]:
        """Send the bytes as a client does.  Returns the user metadata that the store then has of them."""
        signed = await self.drive.storage.ask(SignPut(acting(self.owner), upload))
        async with (
            aiohttp.ClientSession() as client,
            client.put(signed.url, data=body, headers=signed.headers) as answer,
        ):
            assert answer.status == 200
        prefix = "x-amz-meta-"
        return {name.removeprefix(prefix): text for name, text in signed.headers.items() if name.startswith(prefix)}

    async def files(self) -> list[File]:
        return (await self.drive.metadata.ask(ListFiles(acting(self.owner), Anywhere()))).items

    def event(self, upload: Upload, metadata: dict[str, str], /, **changes: Any) -> IngestBlob:
        certain: dict[str, Any] = {"size_bytes": len(BODY), "etag": ETag(MD5), "at": datetime.now(UTC), "certain": True}
        return IngestBlob(upload.object_key, **(certain | {"metadata": metadata} | changes))

    async def handle(self, event: IngestBlob) -> tuple[EventOutcome, int]:
        """The outcome, and how many requests were sent to the store."""
        before = len(self.fake.asked)
        return await self.drive.ingest.ask(event), len(self.fake.asked) - before


@asynccontextmanager
async def staged(capabilities: Capabilities = HONEST) -> AsyncIterator[Stage]:
    fake = FakeStore()
    async with fake:
        store = S3BlobStore(fake.settings, capabilities=capabilities)
        async with open_drive(blob_store=store) as drive:
            yield Stage(drive, (await sign_up(drive)).id, fake, store)


@pytest.mark.parametrize("sha256", [None, SHA256])
async def test_a_certain_event_publishes_without_a_request_to_the_store(sha256: str | None) -> None:
    async with staged() as stage:
        pending = await stage.begin(sha256=sha256)
        event = stage.event(pending, await stage.send(pending))
        assert await stage.handle(event) == (EventOutcome.PUBLISHED, 0)
        assert [(file.name, file.size_bytes, file.sha256) for file in await stage.files()] == [("a.txt", 5, sha256)]
        assert await stage.handle(event) == (EventOutcome.PUBLISHED, 0)  # the event came twice
        assert len(await stage.files()) == 1


DOUBTS: list[dict[str, Any]] = [
    {"certain": False},
    {"size_bytes": None},
    {"size_bytes": 999},
    {"etag": None},
    {"etag": ETag("made up")},
    {"etag": ETag(f"{MD5}-2")},
    {"at": None},
    {"metadata": {}},
    {"metadata": {"who": "me"}},
    {"metadata": {**UNSIGNED, "godrive-writer": "w"}},
]


@each("doubt", DOUBTS)
async def test_whatever_is_doubtful_is_asked(doubt: dict[str, Any]) -> None:
    async with staged() as stage:
        pending = await stage.begin()
        # Without the bytes: what a forger says of a key does not make a file.
        assert await stage.handle(stage.event(pending, UNSIGNED, **doubt)) == (
            EventOutcome.IGNORED,
            2,
        )  # HEAD and bucket
        assert await stage.files() == []
        metadata = await stage.send(pending)
        assert await stage.handle(stage.event(pending, metadata, **doubt)) == (EventOutcome.PUBLISHED, 1)
        assert [file.size_bytes for file in await stage.files()] == [5]


async def test_a_digest_that_the_url_did_not_fix_is_computed() -> None:
    async with staged(Capabilities(conditional_put=True)) as stage:
        pending = await stage.begin(sha256=SHA256)
        metadata = await stage.send(pending)
        assert metadata == UNSIGNED
        outcome, requests = await stage.handle(stage.event(pending, metadata))
        assert (outcome, requests) == (EventOutcome.PUBLISHED, 2)  # HEAD and GET
        assert [file.sha256 for file in await stage.files()] == [SHA256]
        other = await stage.begin("b.txt", sha256=hashlib.sha256(b"other").hexdigest())
        assert (await stage.handle(stage.event(other, await stage.send(other))))[0] is EventOutcome.REJECTED


async def test_a_type_that_was_not_declared_is_found_in_the_bytes() -> None:
    async with staged() as stage:
        pending = await stage.begin("a.bin", mime="")
        outcome, requests = await stage.handle(stage.event(pending, await stage.send(pending)))
        assert (outcome, requests) == (EventOutcome.PUBLISHED, 2)


async def test_where_a_key_may_be_written_again_every_event_is_asked_about() -> None:
    async with staged(Capabilities()) as stage:
        pending = await stage.begin()
        metadata = await stage.send(pending)
        stage.fake.objects[stage.store.layout.object(pending.object_key)] = stage.fake.make_object(BODY)
        outcome, requests = await stage.handle(stage.event(pending, metadata))
        assert outcome is EventOutcome.PUBLISHED
        assert requests > 0


async def test_what_a_put_of_this_server_stored_is_published_with_its_digest() -> None:
    """Its event may come before the server has published it."""
    async with staged() as stage:
        pending = await stage.begin()
        await stage.store.put(pending.object_key, chunks(BODY))
        stored = stage.fake.objects[stage.store.layout.object(pending.object_key)].headers
        metadata = {name.lower().removeprefix("x-amz-meta-"): value for name, value in stored.items()}
        assert (await stage.handle(stage.event(pending, metadata)))[0] is EventOutcome.PUBLISHED
        assert [file.sha256 for file in await stage.files()] == [SHA256]


async def test_an_upload_that_ended_stays_ended_whatever_events_come() -> None:
    from godrive.messages.uploads import AbortUpload

    async with staged() as stage:
        pending = await stage.begin()
        event = stage.event(pending, await stage.send(pending))
        await stage.drive.metadata.ask(AbortUpload(acting(stage.owner), pending.id))
        assert await stage.handle(event) == (EventOutcome.IGNORED, 0)
        assert await stage.files() == []


async def test_a_certain_event_of_a_name_that_was_taken_changes_nothing() -> None:
    async with staged() as stage:
        pending = await stage.begin(on_conflict=OnConflict.FAIL)
        event = stage.event(pending, await stage.send(pending))
        await upload(stage.drive, stage.owner, "a.txt", b"other")
        assert (await stage.handle(event))[0] is EventOutcome.IGNORED
        assert [file.size_bytes for file in await stage.files()] == [len(b"other")]


# Which events are certain


class Recorder:
    """An ingest actor that notes what it is asked, and fails as often as it is told to."""

    def __init__(self) -> None:
        self.asked: list[IngestBlob] = []
        self.failures: list[Exception] = []
        self._came = anyio.Event()

    async def ask(self, message: Ask[IngestContract, Any], *, timeout: float | None = None) -> Any:
        assert isinstance(message, IngestBlob)
        self.asked.append(message)
        self._came.set()
        self._came = anyio.Event()
        if self.failures:
            raise self.failures.pop(0)
        return EventOutcome.PUBLISHED

    async def until(self, count: int) -> list[bool]:
        with anyio.fail_after(30):
            while len(self.asked) < count:
                await self._came.wait()
        return [message.certain for message in self.asked]


KEY = ObjectKey("018f2c3a/018f2c3a-0000-7000-8000-000000000000")


def message(at: datetime, key: str = f"objects/{KEY}") -> bytes:
    described = {"key": key, "size": 5, "eTag": MD5, "metadata": [{"key": "x-amz-meta-a", "val": "1"}]}
    subject = {"bucket": {"name": "drive"}, "object": described}
    record = {"eventSource": "ceph:s3", "eventName": "ObjectCreated:Put", "eventTime": at.isoformat(), "s3": subject}
    return json.dumps({"Records": [record]}).encode()


async def test_an_event_that_is_late_early_or_of_another_place_is_not_certain() -> None:
    clock, recorder = ManualClock(), Recorder()
    handler = BucketEventHandler(recorder, S3(bucket="drive"), clock)
    now, moment = clock.now(), timedelta(seconds=1)
    for at in (now, now - LATE, now - LATE - moment, now + LATE + moment):
        await handler.take(message(at), certain=True)
    await handler.take(message(now, f"incoming/{KEY}"), certain=True)
    await handler.take(message(now))
    assert [asked.certain for asked in recorder.asked] == [True, True, False, False, False, False]
    assert recorder.asked[0].metadata == {"a": "1"}


@asynccontextmanager
async def consuming(link: NatsLink, recorder: Recorder, settings: Ingest, namespace: str) -> AsyncIterator[None]:
    handler = BucketEventHandler(recorder, S3(bucket="drive"))
    source: BucketEvents | PlainEvents
    if settings.events == "jetstream":
        source = BucketEvents(link, settings, namespace=namespace, handler=handler, on_event=lambda _: None)
    else:
        source = PlainEvents(link, settings, handler=handler, on_event=lambda _: None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(source.run)
        with anyio.fail_after(30):
            await source.listening.wait()
        yield
        tasks.cancel_scope.cancel()


@pytest.mark.servers
@pytest.mark.parametrize("events", ["jetstream", "nats"])
@pytest.mark.parametrize("password", ["", "secret"])
async def test_events_of_a_server_that_lets_everybody_in_are_not_certain(
    namespace: str, events: Any, password: str
) -> None:
    require(NatsServer)
    recorder = Recorder()
    settings = Ingest(events=events, stream=f"{namespace}_UPLOADS", subject=f"{namespace}.uploaded")
    with NatsServer(arguments=("--user", "store", "--pass", password) if password else ()) as server:
        link = NatsLink(Nats(url=server.url, user="store" if password else "", password=password))
        async with consuming(link, recorder, settings, namespace):
            await (await link.client()).publish(settings.subject, message(datetime.now(UTC)))
            assert await recorder.until(1) == [bool(password)]
        await link.close()


@pytest.mark.servers
async def test_an_event_that_comes_again_or_is_replayed_is_not_certain(
    namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from godrive.errors import StoreUnavailable

    require(NatsServer)
    nak = Msg.nak

    async def soon(self: Msg, delay: float | None = None) -> None:
        await nak(self, delay=0.001)

    monkeypatch.setattr(Msg, "nak", soon)
    recorder = Recorder()
    recorder.failures = [StoreUnavailable(), StoreUnavailable()]
    settings = Ingest(events="jetstream", stream=f"{namespace}_UPLOADS", subject=f"{namespace}.uploaded", max_deliver=2)
    with NatsServer(arguments=("--user", "store", "--pass", "secret")) as server:
        link = NatsLink(Nats(url=server.url, user="store", password="secret"))
        async with consuming(link, recorder, settings, namespace):
            await (await link.client()).publish(settings.subject, message(datetime.now(UTC)))
            assert await recorder.until(2) == [True, False]
            dead = DeadLetters(link, stream=settings.stream, namespace=namespace)
            with anyio.fail_after(30):
                while not (letters := [letter async for letter in dead.list()]):
                    await anyio.sleep(0.02)  # the server has no message for it
            await dead.replay(letters[0].number)
            assert await recorder.until(3) == [True, False, False]
        await link.close()
