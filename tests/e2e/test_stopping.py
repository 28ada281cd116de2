"""SIGTERM: what is under way is finished, then the process ends with 0."""

from __future__ import annotations

import os
import signal

import anyio
import pytest

from tests.drive_server import DriveServer
from tests.e2e.client import Client
from tests.e2e.wire import Wire
from tests.servers import answers

pytestmark = pytest.mark.anyio


async def stops(server: DriveServer) -> int:
    assert server.process is not None
    return await anyio.to_thread.run_sync(server.process.wait)


async def test_an_upload_under_way_is_finished_before_the_server_ends(server: DriveServer) -> None:
    assert server.process is not None
    content = os.urandom(300_000)
    async with Client.connect(server.url) as client:
        await client.enter()
        intent = await client.intent("last.bin", content)
        async with Wire.open(server.url) as wire:
            await wire.put(intent["upload_url"], intent["headers"], len(content))
            await wire.send(content[:100_000])
            server.process.send(signal.SIGTERM)
            with anyio.fail_after(30):
                while answers(server.port):
                    await anyio.sleep(0.02)
            await wire.send(content[100_000:])
            assert await wire.status() == 201
        assert await stops(server) == 0
        server.start()
        (file,) = await client.files()
        assert await client.download(file["id"]) == content


async def test_a_client_that_never_finishes_does_not_keep_the_server_from_ending(drive_server: DriveServer) -> None:
    drive_server.tables["server"]["shutdown"] = 1.0
    drive_server.start()
    assert drive_server.process is not None
    async with Client.connect(drive_server.url) as client:
        await client.enter()
        intent = await client.intent("never.bin", 300_000)
        async with Wire.open(drive_server.url) as wire:
            await wire.put(intent["upload_url"], intent["headers"], 300_000)
            await wire.send(b"x" * 100_000)
            drive_server.process.send(signal.SIGTERM)
            with anyio.fail_after(30):
                assert await stops(drive_server) == 0
        drive_server.start()
        assert await client.files() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_server_ends_at_once_and_quietly(server: DriveServer, number: signal.Signals) -> None:
    assert server.process is not None
    async with Client.connect(server.url) as client:
        await client.enter()  # a connection is kept open
        server.process.send(number)
        with anyio.fail_after(30):
            assert await stops(server) == 0
    assert "Traceback" not in server.log
