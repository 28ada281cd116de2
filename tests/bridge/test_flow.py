"""The upload flow of the first GoDrive, with everything real: client, Ceph, NATS, drive.

Only the hand that carries the event from the store to NATS is ours: this
release of Ceph pushes over HTTP, MinIO and RustFS publish to NATS themselves.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from msgspec import convert
from yarl import URL

from godrive.blobs.parts import SMALLEST_PART
from godrive.bridge.connection import NatsLink
from godrive.config import S3
from godrive.drive import GoDrive
from godrive.messages.files import ListFiles
from godrive.messages.ingest import Reconcile
from godrive.messages.storage import BeginParts, JoinParts, SignParts, SignPut
from godrive.messages.uploads import BeginUpload, SendInParts
from godrive.model import Anywhere, File, Root, Upload, UserId
from godrive.runtime import Event
from godrive.runtime.supervision_events import ChildWaiting
from godrive.testing import ManualClock, open_drive, sign_up
from tests.ceph import ProbedOnce
from tests.principals import acting
from tests.servers import CephGateway, NatsServer
from tests.topics import Sns

pytestmark = pytest.mark.anyio


@pytest.fixture
def bucket(ceph_gateway: CephGateway) -> dict[str, str]:
    return {
        "endpoint": ceph_gateway.endpoint,
        "bucket": f"t{uuid.uuid4().hex}",
        "access_key": ceph_gateway.access_key,
        "secret_key": ceph_gateway.secret_key,
    }


@pytest.fixture
async def carrier(link: NatsLink, namespace: str) -> AsyncIterator[Callable[[], str]]:
    """Takes what the store pushes and publishes it on the subject, as it is; the URL to push to."""

    async def carry(request: web.Request) -> web.Response:
        client = await link.client()
        await client.publish(f"{namespace}.uploaded", await request.read())
        await client.flush()
        return web.Response()

    app = web.Application()
    app.router.add_post("/", carry)
    runner = web.AppRunner(app)
    await runner.setup()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    yield lambda: f"http://127.0.0.1:{listener.getsockname()[1]}/"
    await runner.cleanup()


class Client:
    """Somebody who uploads by signed URL."""

    def __init__(self, drive: GoDrive, owner: UserId, http: aiohttp.ClientSession) -> None:
        self._drive = drive
        self._owner = owner
        self._http = http

    async def send(self, name: str, content: bytes) -> Upload:
        upload = await self._drive.metadata.ask(
            BeginUpload(acting(self._owner), Root(), name, "text/plain", len(content))
        )
        request = await self._drive.storage.ask(SignPut(acting(self._owner), upload))
        async with self._http.put(request.url, data=content, headers=request.headers) as sent:
            assert sent.status == 200
        return upload

    async def send_in_parts(self, name: str, content: bytes) -> None:
        """Send it, and have the store join it; then nobody completes the upload, as after a kill."""
        by, drive = acting(self._owner), self._drive
        upload = await drive.metadata.ask(BeginUpload(by, Root(), name, "text/plain", len(content)))
        multipart = await drive.storage.ask(BeginParts(upload.object_key))
        upload = await drive.metadata.ask(SendInParts(by, upload.id, SMALLEST_PART, multipart))
        (request,) = await drive.storage.ask(SignParts(upload, [1]))
        async with self._http.put(URL(request.url, encoded=True), data=content, headers=request.headers) as sent:
            assert sent.status == 200
        await drive.storage.ask(JoinParts(upload))

    async def files(self) -> list[File]:
        return (await self._drive.metadata.ask(ListFiles(acting(self._owner), Anywhere(), limit=1000))).items

    async def until_listed(self, count: int) -> list[File]:
        with anyio.fail_after(30):
            while len(found := await self.files()) < count:
                await anyio.sleep(0.01)  # nobody tells a client
        return found


@pytest.mark.parametrize("events", ["jetstream", "nats"])
async def test_a_file_is_listed_soon_after_its_bytes_are_in_the_store(  # noqa: PLR0917
    ceph_gateway: CephGateway,
    nats_server: NatsServer,
    bucket: dict[str, str],
    carrier: Callable[[], str],
    namespace: str,
    events: str,
) -> None:
    store = ProbedOnce(convert(bucket, S3))
    await store.open()
    await Sns(ceph_gateway).push(bucket["bucket"], carrier())
    told: list[Event] = []
    ingest = {"events": events, "stream": f"{namespace}_UPLOADS", "subject": f"{namespace}.uploaded"}
    tables: dict[str, Any] = {
        "blobs": {"s3": bucket},
        "nats": {"url": nats_server.url, "namespace": namespace},
        "ingest": {**ingest, "reconcile_every": 3600.0},
    }
    async with (
        open_drive(blob_store=store, serving=True, on_event=told.append, **tables) as drive,
        aiohttp.ClientSession() as http,
    ):
        client = Client(drive, (await sign_up(drive)).id, http)
        with anyio.fail_after(30):
            while drive.bucket_events.state == "absent":
                await anyio.sleep(0.01)  # the probe at the start
        for number in range(10):
            await client.send(f"{number}.txt", bytes([number]) * 100)
        assert len(await client.until_listed(10)) == 10
        await client.send_in_parts("film.bin", b"in parts")
        assert "film.bin" in {file.name for file in await client.until_listed(11)}
        assert {child.name for child in drive.children()} >= {"events", "ingest"}
    assert not [event for event in told if isinstance(event, ChildWaiting)]


async def test_with_every_event_lost_every_upload_is_listed_all_the_same(
    nats_server: NatsServer, bucket: dict[str, str], namespace: str
) -> None:
    tables: dict[str, Any] = {
        "blobs": {"s3": bucket},
        "nats": {"url": nats_server.url, "namespace": namespace},
        "ingest": {"events": "jetstream", "stream": f"{namespace}_UPLOADS", "subject": f"{namespace}.uploaded"},
    }
    clock = ManualClock()
    async with (
        open_drive(blob_store=ProbedOnce(convert(bucket, S3)), clock=clock, **tables) as drive,
        aiohttp.ClientSession() as http,
    ):
        client = Client(drive, (await sign_up(drive)).id, http)
        for number in range(10):
            await client.send(f"{number}.txt", bytes([number]))
        assert await client.files() == []
        clock.advance(20)
        assert (await drive.ingest.ask(Reconcile())).published == 10
        assert len(await client.files()) == 10
