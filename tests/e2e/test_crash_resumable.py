"""The server is killed while many uploads are appended to, and started again: every one becomes its file."""

from __future__ import annotations

import asyncio
import os
import random
from contextlib import AsyncExitStack

import anyio
import pytest

from tests.ceph import own_bucket
from tests.clients.line import Line
from tests.drive_server import DriveServer
from tests.e2e.client import Client
from tests.e2e.conftest import Eventually
from tests.e2e.resuming import Resumed
from tests.servers import CephGateway, free_port

# A longer soak: GODRIVE_TEST_RESUMED=200 GODRIVE_TEST_RESUMED_KILLS=20 scripts/test tests/e2e/test_crash_resumable.py
UPLOADS = int(os.environ.get("GODRIVE_TEST_RESUMED", "6"))
KILLS = int(os.environ.get("GODRIVE_TEST_RESUMED_KILLS", "2"))
DOWN_FOR = float(os.environ.get("GODRIVE_TEST_STORE_DOWN", "0"))
MIB = 1024 * 1024

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300 if UPLOADS < 100 else 3600)]


def _use_bucket(server: DriveServer, gateway: CephGateway, endpoint: str) -> None:
    """Let the server keep its blobs in a new bucket."""
    settings = own_bucket(gateway)
    server.tables["blobs"] |= {
        "driver": "s3",
        "s3": {
            "endpoint": endpoint,
            "bucket": settings.bucket,
            "access_key": settings.access_key,
            "secret_key": settings.secret_key,
        },
    }


@pytest.mark.parametrize("store", ["disk", pytest.param("s3", marks=pytest.mark.servers)])
async def test_every_upload_is_finished_whenever_the_server_is_killed(
    drive_server: DriveServer, store: str, request: pytest.FixtureRequest, eventually: Eventually
) -> None:
    largest, chunks = 4 * MIB, (50_000, MIB)
    if store == "s3":
        gateway: CephGateway = request.getfixturevalue("ceph_gateway")
        _use_bucket(drive_server, gateway, gateway.endpoint)
        largest, chunks = 12 * MIB, (MIB, 7 * MIB)
    drive_server.start()
    async with Client.connect(drive_server.url, connections=0, timeout=600) as client:
        await client.enter()
        base = os.urandom(largest)
        sending = [
            Resumed(
                client, f"{number}.bin", base[random.randrange(largest) :] + os.urandom(8), chunk=random.choice(chunks)
            )
            for number in range(UPLOADS)
        ]
        async with asyncio.TaskGroup() as tasks:
            running = [tasks.create_task(upload.run()) for upload in sending]
            for _ in range(KILLS):
                await _some_more(sending, running)
                await anyio.to_thread.run_sync(drive_server.kill9)
                await anyio.to_thread.run_sync(drive_server.start)

        async def all_listed() -> bool:
            return len(await client.files()) == len(sending)

        assert await eventually(all_listed)
        files = {file["name"]: file for file in await client.files()}
        assert {name: file["sha256"] for name, file in files.items()} == {one.name: one.digest for one in sending}
        for upload in random.sample(sending, min(len(sending), 10)):
            assert await client.digest(files[upload.name]["id"]) == upload.digest
        assert any(upload.interruptions for upload in sending)

        async def nothing_is_staged() -> bool:
            return not drive_server.blobs("uploads")

        assert await eventually(nothing_is_staged)


async def _some_more(sending: list[Resumed], running: list[asyncio.Task[None]]) -> None:
    """Wait until a random number of bytes was sent, or all."""
    total = sum(len(upload.content) for upload in sending)
    enough = sum(upload.sent for upload in sending) + random.randrange(1, 2 * total // (KILLS + 1))
    while sum(upload.sent for upload in sending) < enough and not all(task.done() for task in running):
        await anyio.sleep(0.001)


@pytest.mark.servers
async def test_an_append_while_the_store_is_down_is_answered_503_and_goes_on_after(
    drive_server: DriveServer, ceph_gateway: CephGateway
) -> None:
    port = free_port()
    _use_bucket(drive_server, ceph_gateway, f"http://127.0.0.1:{port}")
    async with AsyncExitStack() as stack:
        async with Line.open(port, ceph_gateway.port):
            await anyio.to_thread.run_sync(drive_server.start)
            client = await stack.enter_async_context(Client.connect(drive_server.url))
            await client.enter()
            upload = Resumed(client, "a.bin", os.urandom(20 * MIB), chunk=MIB)
            running = asyncio.create_task(upload.run())
            while upload.sent < 10 * MIB:
                await anyio.sleep(0.01)
        with anyio.fail_after(60):
            while 503 not in upload.statuses:
                await anyio.sleep(0.01)
        await anyio.sleep(DOWN_FOR)
        assert not running.done()
        async with Line.open(port, ceph_gateway.port):
            with anyio.fail_after(120):
                await running
            (file,) = await client.files()
            assert file["sha256"] == upload.digest
