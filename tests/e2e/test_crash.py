"""The server is killed in the middle of everything, and started again."""

from __future__ import annotations

import itertools
import os
import random
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from tests.drive_server import DriveServer
from tests.e2e.client import Client, Json
from tests.e2e.conftest import Eventually
from tests.e2e.ledger import GONE, Ledger
from tests.e2e.wire import Wire

pytestmark = pytest.mark.anyio

ROUNDS = int(os.environ.get("GODRIVE_TEST_KILLS", "6"))
WRITERS = 12


async def keep_uploading(ledger: Ledger, client: Client) -> None:
    """Upload until the server is gone."""
    with suppress(*GONE):
        for turn in itertools.count():
            if turn % 4 < 2:
                await ledger.upload(client, declare=turn % 4 == 0)
            else:
                await ledger.store(client, chunked=turn % 4 == 2)


async def test_whenever_it_is_killed_what_was_acknowledged_is_listed_once_and_whole(
    drive_server: DriveServer, eventually: Eventually
) -> None:
    drive_server.tables["blobs"]["upload_ttl"] = 3.0
    ledger = Ledger()
    for _ in range(ROUNDS):
        drive_server.start()
        async with Client.connect(drive_server.url) as client:
            await client.enter()
            await ledger.check(client)
            async with anyio.create_task_group() as writers:
                for _ in range(WRITERS):
                    writers.start_soon(keep_uploading, ledger, client)
                enough = len(ledger.promised) + random.randrange(1, 2 * WRITERS)
                while len(ledger.promised) < enough:
                    await anyio.sleep(0.001)
                await anyio.to_thread.run_sync(drive_server.kill9)

    # A small body whose rows were not written when the process was killed is an orphan; now nothing is on its way.
    drive_server.tables["janitor"]["orphan_age"] = 0.0
    drive_server.start()
    async with Client.connect(drive_server.url) as client:
        await client.enter()

        async def no_pending() -> bool:
            return not await client.files("/v1/uploads?state=pending", "uploads")

        assert await eventually(no_pending, within=30)
        files = await ledger.check(client)
        await ledger.check_bytes(client, files)

        async def only_files_left() -> bool:
            return not drive_server.blobs("staging") and len(drive_server.stored()) == len(files)

        assert await eventually(only_files_left, within=60)


async def test_bytes_that_arrived_before_the_kill_become_a_file_without_the_client(
    drive_server: DriveServer, eventually: Eventually
) -> None:
    """The answer to the PUT is lost; the reconciler finishes what the client cannot."""
    drive_server.start()
    async with Client.connect(drive_server.url) as client:
        await client.enter()
        lost = 0
        while not lost:
            names = [f"{os.urandom(8).hex()}.bin" for _ in range(16)]
            intents = [await client.intent(name, 4096) for name in names]
            answered: set[str] = set()

            async def put(intent: Json, name: str, answered: set[str] = answered) -> None:
                with suppress(*GONE):
                    async with Wire.open(intent["upload_url"]) as wire:
                        await wire.exchange(intent["upload_url"], intent["headers"], b"x" * 4096)
                    answered.add(name)

            async with anyio.create_task_group() as puts:
                for intent, name in zip(intents, names, strict=True):
                    puts.start_soon(put, intent, name)
                while not drive_server.stored():
                    await anyio.lowlevel.checkpoint()
                await anyio.to_thread.run_sync(drive_server.kill9)
            drive_server.start()
            stored = len(drive_server.stored())

            async def all_listed(stored: int = stored) -> bool:
                return len(await client.files()) == stored

            assert await eventually(all_listed)
            lost = stored - len(answered)
            for file in await client.files():
                await client.request("DELETE", f"/v1/files/{file['id']}")
                await client.request("DELETE", f"/v1/trash/{file['id']}")

            async def emptied() -> bool:
                return not drive_server.stored()

            assert await eventually(emptied)


async def test_an_interrupted_upload_can_be_sent_again_to_the_same_url(
    drive_server: DriveServer, eventually: Eventually
) -> None:
    drive_server.start()
    async with Client.connect(drive_server.url) as client:
        await client.enter()
        content = os.urandom(1_000_000)
        intent = await client.intent("again.bin", content)
        async with Wire.open(drive_server.url) as wire:
            await wire.put(intent["upload_url"], intent["headers"], len(content))
            await wire.send(content[:500_000])

            async def arriving() -> bool:
                return bool((await client.request("GET", f"/v1/uploads/{intent['upload_id']}"))["received_bytes"])

            assert await eventually(arriving)
            await anyio.to_thread.run_sync(drive_server.kill9)
            assert await wire.status() is None
        drive_server.start()
        assert await client.files() == []
        file = await client.put(intent, content)
        assert await client.download(file["id"]) == content
