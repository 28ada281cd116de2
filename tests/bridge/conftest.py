"""A drive whose blobs are in memory, a real NATS server, and what happens in between."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from godrive.blobs.layout import Layout
from godrive.bridge.connection import NatsLink
from godrive.config import S3, Nats
from godrive.drive import GoDrive
from godrive.messages.files import ListFiles
from godrive.messages.ingest import Ingest
from godrive.messages.uploads import BeginUpload
from godrive.model import Anywhere, File, Root, Upload, UserId
from godrive.runtime import Ask, Event, Ref
from godrive.testing import chunks, open_drive, sign_up
from tests.principals import acting
from tests.servers import NatsServer

BUCKET = "drive"

MALFORMED_RECORD = {"eventName": "s3:ObjectCreated:Put"}


@pytest.fixture
async def link(nats_server: NatsServer) -> AsyncIterator[NatsLink]:
    link = NatsLink(Nats(url=nats_server.url))
    yield link
    await link.close()


@pytest.fixture
def namespace() -> str:
    return f"t{uuid.uuid4().hex[:12]}"


class Watched:
    """The real ingest actor, seen at work: how often it was asked, and what is to happen instead of an answer."""

    def __init__(self, ref: Ref[Ingest]) -> None:
        self._ref = ref
        self._changed = anyio.Condition()
        self.answered = 0
        self.failures: list[Exception] = []
        self.stuck: anyio.Event | None = None

    async def ask(self, message: Ask[Ingest, Any], *, timeout: float | None = None) -> Any:
        try:
            if self.failures:
                raise self.failures.pop(0)
            reply = await self._ref.ask(message, timeout=timeout)
            if self.stuck is not None:  # committed, and not acknowledged
                self.stuck.set()
                await anyio.sleep_forever()
            return reply
        finally:
            with anyio.CancelScope(shield=True):
                async with self._changed:
                    self.answered += 1
                    self._changed.notify_all()

    async def wait(self, count: int, *, within: float = 20) -> None:
        """Until it was asked that often."""
        with anyio.fail_after(within):
            async with self._changed:
                while self.answered < count:
                    await self._changed.wait()


class Scene:
    """A drive with an owner, whose uploads arrive in a bucket."""

    def __init__(self, drive: GoDrive, owner: UserId) -> None:
        self.drive = drive
        self.owner = owner
        self.ingest = Watched(drive.ingest)
        self.events: list[Event] = []
        self._heard = anyio.Event()

    def on_event(self, event: Event) -> None:
        self.events.append(event)
        self._heard.set()
        self._heard = anyio.Event()

    async def until(self, kind: type[Event], *, within: float = 20) -> Any:
        """The first event of that kind."""
        with anyio.fail_after(within):
            while not (found := [event for event in self.events if isinstance(event, kind)]):
                await self._heard.wait()
        return found[0]

    async def arrive(self, name: str, content: bytes = b"hello") -> tuple[Upload, bytes]:
        """Have an upload's bytes arrive; the upload, and the event that a store sends."""
        upload = await self.drive.metadata.ask(
            BeginUpload(acting(self.owner), Root(), name, "text/plain", len(content))
        )
        await self.drive.blobs.put(upload.object_key, chunks(content))
        return upload, event(Layout().object(upload.object_key), len(content))

    async def files(self) -> list[File]:
        return (await self.drive.metadata.ask(ListFiles(acting(self.owner), Anywhere(), limit=1000))).items


def event(key: str, size: int = 5, bucket: str = BUCKET, name: str = "s3:ObjectCreated:Put") -> bytes:
    """A bucket event as MinIO sends it."""
    record = {
        "eventSource": "minio:s3",
        "eventName": name,
        "s3": {"bucket": {"name": bucket}, "object": {"key": key.replace("/", "%2F"), "size": size, "eTag": "x"}},
    }
    return json.dumps({"EventName": name, "Key": f"{bucket}/{key}", "Records": [record]}).encode()


def together(*messages: bytes) -> bytes:
    """One message with the records of all of these, and a malformed one first."""
    records = [record for message in messages for record in json.loads(message)["Records"]]
    return json.dumps({"Records": [MALFORMED_RECORD, *records]}).encode()


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    async with open_drive() as drive:
        yield Scene(drive, (await sign_up(drive)).id)


@pytest.fixture
def bucket() -> S3:
    return S3(bucket=BUCKET)
