"""Bucket events through a plain NATS subject: what is heard is acted on, what is not heard is found anyway."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest

from godrive.bridge.bucket_events import BucketEventHandler
from godrive.bridge.connection import NatsLink
from godrive.bridge.subjects import PlainEvents
from godrive.config import S3, Ingest, Nats
from godrive.errors import StoreUnavailable
from godrive.messages.ingest import Reconcile
from godrive.runtime.supervision_events import ChildWaiting, DeadLetter
from godrive.testing import ManualClock
from tests.bridge.conftest import Scene, event, together
from tests.conftest import require
from tests.servers import NatsServer

pytestmark = pytest.mark.anyio


@pytest.fixture
def settings(namespace: str) -> Ingest:
    return Ingest(events="nats", subject=f"{namespace}.uploaded")


class Listener:
    """The child under test, running."""

    def __init__(self, scene: Scene, link: NatsLink, settings: Ingest, bucket: S3) -> None:
        self._link = link
        self._subject = settings.subject
        self.bucket_events = BucketEventHandler(scene.ingest, bucket)
        self.events = PlainEvents(link, settings, handler=self.bucket_events, on_event=scene.on_event)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.events.run)
            await self.heard()
            yield
            tasks.cancel_scope.cancel()

    async def heard(self) -> None:
        """Until a message that is for nobody has come through."""
        before = self.bucket_events.counts["foreign"]
        client = await self._link.client()
        with anyio.fail_after(30):
            while self.bucket_events.counts["foreign"] == before:
                await client.publish(self._subject, event("objects/readme"))
                await anyio.sleep(0.02)  # a subject does not say who listens


async def test_an_event_makes_the_file_appear(scene: Scene, link: NatsLink, settings: Ingest, bucket: S3) -> None:
    _, message = await scene.arrive("a.txt")
    async with Listener(scene, link, settings, bucket).running():
        await (await link.client()).publish(settings.subject, message)
        await scene.ingest.wait(1)
    assert [file.name for file in await scene.files()] == ["a.txt"]


async def test_repeated_events_give_one_file_each(scene: Scene, link: NatsLink, settings: Ingest, bucket: S3) -> None:
    arrived = [await scene.arrive(f"{number}.bin", bytes([number])) for number in range(30)]
    messages = [message for _, message in arrived] * 3
    random.Random(5).shuffle(messages)
    async with Listener(scene, link, settings, bucket).running():
        for message in messages:
            await (await link.client()).publish(settings.subject, message)
        await scene.ingest.wait(len(messages))
    assert len(await scene.files()) == 30


async def test_two_processes_share_the_events(scene: Scene, link: NatsLink, settings: Ingest, bucket: S3) -> None:
    arrived = [await scene.arrive(f"{number}.bin") for number in range(20)]
    one, other = Listener(scene, link, settings, bucket), Listener(scene, link, settings, bucket)
    async with one.running(), other.running():
        for _, message in arrived:
            await (await link.client()).publish(settings.subject, message)
        await scene.ingest.wait(20)
    assert one.bucket_events.counts["published"] + other.bucket_events.counts["published"] == 20


async def test_what_cannot_be_dealt_with_is_told_and_found_by_the_reconciler(
    scene: Scene, link: NatsLink, settings: Ingest, bucket: S3
) -> None:
    _, message = await scene.arrive("a.txt")
    scene.ingest.failures = [StoreUnavailable()]
    async with Listener(scene, link, settings, bucket).running():
        await (await link.client()).publish(settings.subject, b"not JSON")
        assert "cannot be read" in (await scene.until(DeadLetter)).reason
        scene.events.clear()
        await (await link.client()).publish(settings.subject, message)
        assert (await scene.until(DeadLetter)).reason == "store_unavailable"
    assert isinstance(scene.drive.clock, ManualClock)
    scene.drive.clock.advance(60)
    await scene.drive.ingest.ask(Reconcile())
    assert len(await scene.files()) == 1


async def test_beside_a_malformed_record_the_others_become_files(
    scene: Scene, link: NatsLink, settings: Ingest, bucket: S3
) -> None:
    _, message = await scene.arrive("a.txt")
    async with Listener(scene, link, settings, bucket).running():
        await (await link.client()).publish(settings.subject, together(message))
        assert "cannot be read" in (await scene.until(DeadLetter)).reason
    assert len(await scene.files()) == 1


@pytest.mark.servers
async def test_it_listens_again_after_the_server_was_away(scene: Scene, settings: Ingest, bucket: S3) -> None:
    require(NatsServer)
    with NatsServer(jetstream=False) as server:
        link = NatsLink(Nats(url=server.url))
        listener = Listener(scene, link, settings, bucket)
        _, message = await scene.arrive("a.txt")
        async with listener.running():
            generation = link.generation
            server.kill9()
            server.start()
            await link.newer_than(generation)
            await listener.heard()
            await (await link.client()).publish(settings.subject, message)
            await scene.ingest.wait(1)
        await link.close()
    assert len(await scene.files()) == 1


@pytest.mark.servers
async def test_while_there_is_no_server_the_child_waits_and_says_so(scene: Scene, settings: Ingest, bucket: S3) -> None:
    require(NatsServer)
    server = NatsServer(jetstream=False)
    link = NatsLink(Nats(url=server.url), patience=0.2)
    listener = Listener(scene, link, settings, bucket)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.events.run)
        await scene.until(ChildWaiting)
        tasks.cancel_scope.cancel()
    await link.close()
    assert len(scene.events) == 1
