"""Large files in parts straight to an S3 store, while the server is killed and the store goes away."""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import random
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import pytest
from yarl import URL

from godrive.blobs.parts import SMALLEST_PART
from tests.ceph import own_bucket
from tests.clients.line import Line
from tests.drive_server import DriveServer
from tests.e2e.client import Client, Json, Refused
from tests.servers import CephGateway, free_port

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(300)]

UPLOADS, KILLS = 5, 2


@pytest.fixture
def line_port() -> int:
    """Where the server and its clients expect the store."""
    return free_port()


@pytest.fixture
def server(tmp_path: Path, ceph_gateway: CephGateway, line_port: int) -> Iterator[DriveServer]:
    """A server over an S3 store, not started yet."""
    settings = own_bucket(ceph_gateway)
    table = {name: getattr(settings, name) for name in ("bucket", "access_key", "secret_key")}
    table["endpoint"] = f"http://127.0.0.1:{line_port}"
    server = DriveServer(tmp_path / "drive", tables={"blobs": {"driver": "s3", "s3": table}})
    try:
        yield server
    finally:
        server.close()
        sys.stderr.write("\n".join(line for line in server.log.splitlines() if '"event":"request"' not in line))


@pytest.fixture
async def line(ceph_gateway: CephGateway, line_port: int) -> AsyncIterator[Line]:
    """The way to the store."""
    async with Line.open(line_port, ceph_gateway.port) as line:
        yield line


class Sender:
    """A client that repeats each call until it is answered, and then calls *tick*."""

    def __init__(self, client: Client, tick: Any = lambda: None) -> None:
        self.client = client
        self._tick = tick

    async def call(self, method: str, path: str, body: Json | None = None) -> Json:
        while True:
            try:
                answer = await self.client.request(method, path, body)
                self._tick()
                return answer
            except Refused as refused:
                if refused.status not in {500, 503, 504}:
                    raise
            except (aiohttp.ClientError, OSError):
                pass
            await asyncio.sleep(0.05)

    async def begin(self, name: str, content: bytes) -> Json:
        body = {"filename": name, "size_bytes": len(content), "part_size": SMALLEST_PART, "on_conflict": "replace"}
        return await self.call("POST", "/v1/files/upload-intent", body)

    async def send(self, part: Json, content: bytes) -> None:
        first = (part["number"] - 1) * SMALLEST_PART
        data = io.BytesIO(content[first : first + part["size_bytes"]])
        async with self.client.http.put(URL(part["url"], encoded=True), data=data, headers=part["headers"]) as answer:
            assert answer.status == 200, await answer.text()

    async def upload(self, name: str, content: bytes) -> None:
        intent = await self.begin(name, content)
        path = f"/v1/uploads/{intent['upload_id']}"
        for part in intent["parts"]:
            await self.send(part, content)
            listed = await self.call("GET", f"{path}/parts")
            assert [one["number"] for one in listed["parts"]] == list(range(1, part["number"] + 1))
        await self.call("POST", f"{path}/complete")


@pytest.mark.usefixtures("line")
async def test_a_server_that_is_killed_at_any_time_costs_no_upload_in_parts(server: DriveServer) -> None:
    dice, calls, wanted = random.Random(), 0, asyncio.Semaphore(0)
    kills = sorted(dice.sample(range(2, UPLOADS * 4), KILLS))
    print(f"killed after the answers {kills}")

    def tick() -> None:
        nonlocal calls
        calls += 1
        if kills and calls >= kills[0]:
            kills.pop(0)
            wanted.release()

    async def kill() -> None:
        for _ in range(KILLS):
            await wanted.acquire()
            await asyncio.to_thread(server.kill9)
            await asyncio.to_thread(server.start)

    await asyncio.to_thread(server.start)
    async with Client.connect(server.url) as client:
        sender = Sender(await client.enter(), tick)
        contents = {f"{number}.bin": os.urandom(SMALLEST_PART + 1 + number) for number in range(UPLOADS)}
        with anyio.fail_after(200):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(kill)
                for name, content in contents.items():
                    tasks.start_soon(sender.upload, name, content)
        found = {file["name"]: await client.digest(file["id"]) for file in await client.files()}
        assert found == {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        usage = (await client.request("GET", "/v1/me"))["usage"]
        assert usage["live_bytes"] == sum(map(len, contents.values()))


async def test_a_store_that_goes_away_in_the_middle_costs_nothing_but_the_part_on_its_way(
    server: DriveServer, ceph_gateway: CephGateway, line_port: int
) -> None:
    content = os.urandom(2 * SMALLEST_PART + 3)
    async with Line.open(line_port, ceph_gateway.port):
        await asyncio.to_thread(server.start)
        async with Client.connect(server.url) as client:
            sender = Sender(await client.enter())
            intent = await sender.begin("film.bin", content)
            await sender.send(intent["parts"][0], content)
    path = f"/v1/uploads/{intent['upload_id']}"
    async with Client.connect(server.url) as client:
        sender = Sender(await client.enter())
        with pytest.raises(aiohttp.ClientError):
            await sender.send(intent["parts"][1], content)
        for method, call in (("POST", f"{path}/complete"), ("GET", f"{path}/parts")):
            with pytest.raises(Refused) as refused:
                await client.request(method, call)
            assert (refused.value.status, refused.value.code) == (503, "store_unavailable")
        assert (await client.request("GET", path))["state"] == "pending"
        more = await client.request("POST", f"{path}/parts", {"numbers": [2, 3]})  # signing needs no store
        async with Line.open(line_port, ceph_gateway.port):
            for part in more["parts"]:
                await sender.send(part, content)
            await sender.call("POST", f"{path}/complete")
            (file,) = await client.files()
            assert await client.digest(file["id"]) == hashlib.sha256(content).hexdigest()
