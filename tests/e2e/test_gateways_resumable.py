"""Two gateways that share a catalog and a bucket: an upload goes on through either, and only one at a time moves it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest

from godrive import resumable
from godrive.clock import SystemClock
from godrive.drive import GoDrive
from godrive.errors import OffsetMismatch, UploadTakenOver
from godrive.messages.files import GetFile
from godrive.messages.uploads import GetUpload
from godrive.model import FileId, Root, Upload, UploadState
from godrive.principal import HostUser
from godrive.testing import chunks, open_drive, sign_up
from godrive.transfer import read
from tests.ceph import ProbedOnce, own_bucket
from tests.servers import CephGateway, PostgresServer

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

MIB = 1024 * 1024
DATA = os.urandom(17 * MIB)


@pytest.fixture
async def gateways(
    postgres_server: PostgresServer, ceph_gateway: CephGateway, request: pytest.FixtureRequest
) -> AsyncIterator[list[GoDrive]]:
    """Two of them, by default with the smallest parts."""
    part = getattr(request, "param", 5 * MIB)
    dsn, bucket = postgres_server.create_database(), own_bucket(ceph_gateway)
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(
                open_drive(
                    blob_store=ProbedOnce(bucket, part=part),
                    clock=SystemClock(),
                    catalog={"driver": "postgres", "dsn": dsn},
                )
            )
            for _ in range(2)
        ]


@pytest.fixture
async def ann(gateways: list[GoDrive]) -> HostUser:
    return HostUser(user_id=(await sign_up(gateways[0])).id)


async def check_file(drive: GoDrive, by: HostUser, upload: Upload, data: bytes = DATA) -> None:
    assert upload.state is UploadState.COMMITTED
    file = await drive.metadata.ask(GetFile(by, FileId(upload.file_id or "")))
    assert file.sha256 == hashlib.sha256(data).hexdigest()
    assert b"".join([piece async for piece in read(drive, by, file.id)]) == data


async def test_an_upload_goes_on_through_any_gateway(gateways: list[GoDrive], ann: HostUser) -> None:
    upload = await resumable.begin(gateways[0], ann, Root(), "a.bin", size=len(DATA))
    at = 0
    while at < len(DATA):
        end = min(at + random.randint(1, 6 * MIB), len(DATA))
        upload = await resumable.append(random.choice(gateways), ann, upload.id, at, chunks(DATA[at:end]))
        at = end
    await check_file(gateways[1], ann, upload)


async def test_a_gateway_takes_over_an_upload_of_another(gateways: list[GoDrive], ann: HostUser) -> None:
    """The bytes that the first one still has count for nothing, in whatever order the store gets them."""
    one, other = gateways
    upload = await resumable.begin(one, ann, Root(), "a.bin", size=len(DATA))
    released = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield DATA[: 6 * MIB]
        await released.wait()
        yield DATA[6 * MIB : 12 * MIB]

    appending = asyncio.create_task(resumable.append(one, ann, upload.id, 0, slow()))
    while not (durable := (await other.metadata.ask(GetUpload(ann, upload.id))).received_bytes):
        await asyncio.sleep(0.01)
    offset = (await resumable.offset(other, ann, upload.id)).received_bytes
    assert durable == offset == 5 * MIB
    released.set()
    with pytest.raises(UploadTakenOver):
        await appending
    assert (await resumable.offset(one, ann, upload.id)).received_bytes == offset
    done = await resumable.append(other, ann, upload.id, offset, chunks(DATA[offset:]))
    await check_file(one, ann, done)


@pytest.mark.parametrize("taken", [2000, 3000], ids=["goes-on", "ends"])
async def test_an_append_whose_bytes_another_gateway_has_replaced_ends_no_upload(
    gateways: list[GoDrive], ann: HostUser, taken: int
) -> None:
    """A client that got no answer from one gateway sends its next bytes through the other one."""
    one, other = gateways
    data = DATA[:3000]
    upload = await resumable.begin(one, ann, Root(), "a.bin", size=len(data))
    await resumable.append(one, ann, upload.id, 0, chunks(data[:1000]))
    asked, released = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        asked.set()
        await released.wait()
        yield data[1000:]

    appending = asyncio.create_task(resumable.append(one, ann, upload.id, 1000, slow()))
    await asked.wait()
    await resumable.append(other, ann, upload.id, 1000, chunks(data[1000:taken]))
    released.set()
    with pytest.raises(UploadTakenOver):
        await appending
    done = await resumable.append(other, ann, upload.id, taken, chunks(data[taken:]))
    await check_file(one, ann, done, data)


@pytest.mark.parametrize("gateways", [6 * MIB], indirect=True)
async def test_a_body_that_breaks_off_late_replaces_no_part(gateways: list[GoDrive], ann: HostUser) -> None:
    """The network of a client is gone.  It goes on through another gateway before the first one knows."""
    one, other = gateways
    upload = await resumable.begin(one, ann, Root(), "a.bin", size=len(DATA))
    await resumable.append(one, ann, upload.id, 0, chunks(DATA[: 7 * MIB]))
    read, broken = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield DATA[7 * MIB : 12 * MIB - 1]
        read.set()
        await broken.wait()
        raise ConnectionResetError

    appending = asyncio.create_task(resumable.append(one, ann, upload.id, 7 * MIB, slow()))
    await read.wait()
    await resumable.append(other, ann, upload.id, 7 * MIB, chunks(DATA[7 * MIB : 13 * MIB]))
    broken.set()
    with pytest.raises(UploadTakenOver):
        await appending
    done = await resumable.append(other, ann, upload.id, 13 * MIB, chunks(DATA[13 * MIB :]))
    await check_file(one, ann, done)


async def test_bytes_that_did_not_count_are_in_no_digest(gateways: list[GoDrive], ann: HostUser) -> None:
    one, other = gateways
    rest = DATA[1000 : 6 * MIB]
    upload = await resumable.begin(one, ann, Root(), "a.bin", size=6 * MIB)
    asked, released = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        asked.set()
        await released.wait()
        yield b"x" * 1000

    appending = asyncio.create_task(resumable.append(one, ann, upload.id, 0, slow()))
    await asked.wait()
    await resumable.append(other, ann, upload.id, 0, chunks(b"y" * 1000))
    released.set()
    with pytest.raises(UploadTakenOver):
        await appending
    done = await resumable.append(one, ann, upload.id, 1000, chunks(rest))
    await check_file(other, ann, done, b"y" * 1000 + rest)


async def test_clients_that_send_the_same_upload_through_both_make_one_file(
    gateways: list[GoDrive], ann: HostUser
) -> None:
    upload = await resumable.begin(gateways[0], ann, Root(), "a.bin", size=len(DATA))

    async def send(drive: GoDrive) -> Upload:
        while True:
            state = await resumable.offset(drive, ann, upload.id)
            if state.state is UploadState.COMMITTED:
                return state
            at = state.received_bytes
            end = at + random.randint(1, 4 * MIB)
            try:
                await resumable.append(drive, ann, upload.id, at, chunks(DATA[at:end]))
            except (OffsetMismatch, UploadTakenOver):
                await asyncio.sleep(random.uniform(0, 0.3))

    for done in await asyncio.gather(*map(send, gateways)):
        await check_file(gateways[0], ann, done)
