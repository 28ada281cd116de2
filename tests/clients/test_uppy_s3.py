"""Uppy's plugin for S3, as docs/uploads.md shows it, in a page in Chromium, against a real S3 store."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from godrive.blobs.parts import SMALLEST_PART
from godrive.blobs.s3 import S3BlobStore
from godrive.config import S3
from tests.ceph import ProbedOnce, own_bucket
from tests.clients.jobs import Jobs
from tests.clients.line import Line
from tests.drive_server import DriveServer
from tests.e2e.client import Client, Json
from tests.servers import CephGateway, free_port

pytestmark = [pytest.mark.anyio, pytest.mark.slow, pytest.mark.servers, pytest.mark.timeout(300)]

CONTENT = os.urandom(2 * SMALLEST_PART + 7)


@dataclass
class Shop:
    """A server over an S3 store that clients reach over a line."""

    server: DriveServer
    settings: S3
    gateway: CephGateway
    line_port: int
    jobs: Jobs

    @asynccontextmanager
    async def line(self) -> AsyncIterator[Line]:
        async with Line.open(self.line_port, self.gateway.port) as line:
            yield line

    @asynccontextmanager
    async def person(self) -> AsyncIterator[Client]:
        async with Client.connect(self.server.url) as client:
            yield await client.enter(f"{os.urandom(8).hex()}@example.org")

    async def uppy(self, version: int, person: Client, content: bytes = CONTENT, **job: Any) -> Any:
        name = "film.bin"
        given = {
            "multipart": True,
            **job,
            "version": version,
            "api": f"{self.server.url}/v1",
            "token": person.token,
            "name": name,
        }
        with anyio.fail_after(90):
            return await self.jobs.run("page", "uppy-s3", content, **given)

    @asynccontextmanager
    async def store(self) -> AsyncIterator[S3BlobStore]:
        store = ProbedOnce(self.settings)
        await store.open()
        yield store
        await store.close()

    async def unfinished(self) -> int:
        async with self.store() as store:
            return len([upload async for upload in store.multipart.unfinished(("",))])


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, ceph_gateway: CephGateway, jobs: Jobs) -> Iterator[Shop]:
    settings, port = own_bucket(ceph_gateway), free_port()
    names = ("endpoint", "bucket", "access_key", "secret_key")
    table = {name: getattr(settings, name) for name in names} | {"public_endpoint": f"http://127.0.0.1:{port}"}
    tables: dict[str, dict[str, Any]] = {"server": {"cors_origins": [jobs.url]}, "blobs": {"driver": "s3", "s3": table}}
    with DriveServer(tmp_path_factory.mktemp("shop") / "drive", tables=tables) as server:
        shop = Shop(server, settings, ceph_gateway, port, jobs)

        async def let_the_page_in() -> None:
            async with shop.store() as store:
                assert await store.put_cors([jobs.url]) is None

        asyncio.run(let_the_page_in())
        yield shop
        sys.stderr.write("\n".join(line for line in server.log.splitlines() if '"event":"request"' not in line))


@pytest.fixture(params=[6, 5], ids=["uppy-6", "uppy-5"])
def version(request: pytest.FixtureRequest) -> int:
    """Of Uppy and its plugin."""
    chosen: int = request.param
    return chosen


async def files(person: Client) -> list[tuple[str, int]]:
    return [(file["name"], file["size_bytes"]) for file in await person.files()]


async def content_of(person: Client) -> bytes:
    (file,) = await person.files()
    return await person.download(file["id"])


async def test_three_parts_that_are_paused_and_resumed_become_a_file(shop: Shop, version: int) -> None:
    async with shop.person() as person, shop.line():
        done = await shop.uppy(version, person, pause_after=1)
        assert {*done["parts"]} <= {1, 2, 3}  # Uppy 5 does not name a part whose answer the pause cut off
        (file,) = await person.files()
        assert done["urls"] == [f"{shop.server.url}/v1/files/{file['id']}"]
        assert await content_of(person) == CONTENT
        assert await shop.unfinished() == 0


async def test_a_line_that_is_cut_in_the_middle_of_a_part_costs_that_part(shop: Shop, version: int) -> None:
    async with shop.person() as person, shop.line() as line:
        line.up.cut(SMALLEST_PART // 2, times=2)
        done = await shop.uppy(version, person)
        assert line.up.was_cut == 2
        assert sorted(done["parts"]) == [1, 2, 3]
        assert await content_of(person) == CONTENT


async def test_an_upload_goes_on_in_another_page_after_the_server_was_killed(shop: Shop, version: int) -> None:
    async with shop.person() as person, shop.line():
        left = await shop.uppy(version, person, leave_after=1)
        await asyncio.to_thread(shop.server.kill9)
        await asyncio.to_thread(shop.server.start)
        done = await shop.uppy(version, person, state=left["state"])
        assert left["parts"]
        assert not {*left["parts"]} & {*done["parts"]}  # what the store has is not sent again
        assert await content_of(person) == CONTENT
        assert await shop.unfinished() == 0


async def test_a_cancelled_upload_leaves_nothing_at_the_store(shop: Shop, version: int) -> None:
    async with shop.person() as person, shop.line():
        await shop.uppy(version, person, cancel_after=2)

        async def state() -> Json:
            (upload,) = await person.files("/v1/uploads", "uploads")
            return upload

        with anyio.fail_after(60):
            while (await state())["state"] == "pending":
                await asyncio.sleep(0.05)
            assert (await state())["state"] == "aborted"
            assert await files(person) == []
            while await shop.unfinished():
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("content", [b"small", b""])
async def test_a_small_file_goes_up_in_one_put(shop: Shop, version: int, content: bytes) -> None:
    async with shop.person() as person, shop.line():
        await shop.uppy(version, person, content, multipart=False)
        with anyio.fail_after(60):
            while await files(person) != [("film.bin", len(content))]:
                await asyncio.sleep(0.05)
        assert await content_of(person) == content


async def test_a_refusal_reaches_the_user_as_its_reason(shop: Shop, version: int) -> None:
    async with shop.person() as person, shop.line():
        await shop.uppy(version, person, b"first", multipart=False)
        with anyio.fail_after(60):
            while not await files(person):
                await asyncio.sleep(0.05)
        with pytest.raises(Exception, match="already"):
            await shop.uppy(version, person)
