"""Clients that are slow, stop half-way, or lie."""

from __future__ import annotations

import os

import anyio
import pytest

from tests.drive_server import DriveServer
from tests.e2e.client import Client, Json
from tests.e2e.conftest import Eventually
from tests.e2e.wire import Wire

pytestmark = pytest.mark.anyio


async def test_a_body_that_ends_half_way_makes_no_file_and_the_url_still_works(client: Client) -> None:
    content = os.urandom(200_000)
    intent = await client.intent("half.bin", content)
    async with Wire.open(client.url) as wire:
        await wire.put(intent["upload_url"], intent["headers"], len(content))
        await wire.send(content[:100_000])
        wire.writer.write_eof()
        status = await wire.status()
        assert status is None or 400 <= status < 500
    assert await client.files() == []
    file = await client.put(intent, content)
    assert await client.download(file["id"]) == content


async def test_a_client_that_is_slow_but_steady_is_served(drive_server: DriveServer) -> None:
    drive_server.tables["server"]["body_timeout"] = 1.0
    drive_server.start()
    async with Client.connect(drive_server.url) as client:
        await client.enter()
        intent = await client.intent("slow.bin", 30)
        async with Wire.open(client.url) as wire:
            await wire.put(intent["upload_url"], intent["headers"], 30)
            for _ in range(30):
                await wire.send(b"x")
                await anyio.sleep(0.05)
            assert await wire.status() == 201


async def test_a_client_that_stalls_is_let_go_and_the_others_never_wait(
    drive_server: DriveServer, eventually: Eventually
) -> None:
    drive_server.tables["server"]["body_timeout"] = 0.5
    drive_server.start()
    async with Client.connect(drive_server.url) as client:
        await client.enter()
        intents = [await client.intent(f"stalled-{n}.bin", 300_000) for n in range(40)]

        async def stall(intent: Json) -> None:
            async with Wire.open(client.url) as wire:
                await wire.put(intent["upload_url"], intent["headers"], 300_000)
                await wire.send(b"x" * 1000)
                assert await wire.status() in {None, 408}

        async with anyio.create_task_group() as stalled:
            for intent in intents:
                stalled.start_soon(stall, intent)
            with anyio.fail_after(30):
                await client.upload("quick.bin", b"quick")
        assert [file["name"] for file in await client.files()] == ["quick.bin"]

        async def staging_is_empty() -> bool:
            return not drive_server.blobs("staging")

        assert await eventually(staging_is_empty)


async def test_one_byte_more_than_declared_is_refused(client: Client) -> None:
    intent = await client.intent("long.bin", 1000)
    async with Wire.open(client.url) as wire:
        await wire.put(intent["upload_url"], intent["headers"], 1001)
        status = await wire.status()
        assert status is not None
        assert 400 <= status < 500
    assert await client.files() == []


async def test_of_many_puts_to_one_url_exactly_one_wins(client: Client) -> None:
    contents = [os.urandom(50_000) for _ in range(8)]
    intent = await client.intent("contested.bin", 50_000)
    outcomes: list[bytes] = []

    async def put(content: bytes) -> None:
        async with Wire.open(client.url) as wire:
            await wire.put(intent["upload_url"], intent["headers"], len(content))
            await wire.send(content)
            status = await wire.status()
            if status == 201:
                outcomes.append(content)
            else:
                assert status == 409

    async with anyio.create_task_group() as puts:
        for content in contents:
            puts.start_soon(put, content)
    (file,) = await client.files()
    assert outcomes == [await client.download(file["id"])]
