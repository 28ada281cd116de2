"""Appends share the memory for parts: a client that sends nothing takes none from others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from godrive import resumable
from godrive.blobs import Staged
from godrive.blobs.s3 import slots
from godrive.blobs.s3.appends import SMALLEST_PART
from godrive.blobs.s3.slots import BodySlots
from godrive.blobs.s3.store import S3BlobStore
from godrive.errors import ChecksumMismatch, Gone, MailboxFull
from godrive.memory import MemoryBudget
from godrive.messages.files import ListFiles
from godrive.messages.janitor import Sweep
from godrive.messages.uploads import GetUpload
from godrive.model import ObjectKey, Root, UploadState, new_id
from godrive.principal import HostUser
from godrive.resumable import Checksum
from godrive.testing import open_drive, sign_up
from tests.ceph import ProbedOnce, own_bucket

pytestmark = [pytest.mark.anyio, pytest.mark.servers]


@pytest.fixture
async def store(ceph_gateway: Any) -> AsyncIterator[S3BlobStore]:
    """A store in whose memory one part is collected at a time."""
    store = ProbedOnce(own_bucket(ceph_gateway))
    await store.open()
    store.slots = BodySlots(1, part=1 << 40)
    yield store
    await store.close()


class Silent:
    """A body of *pieces*, after which nothing comes."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = iter(pieces)
        self.waits = anyio.Event()

    def __aiter__(self) -> Silent:
        return self

    async def __anext__(self) -> bytes:
        if (piece := next(self._pieces, None)) is not None:
            return piece
        self.waits.set()
        await anyio.sleep_forever()
        raise AssertionError


async def body(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def new_key() -> ObjectKey:
    blob_id = new_id()
    return ObjectKey(f"{blob_id[:8]}/{blob_id}")


async def append(store: S3BlobStore, staged: Staged, pieces: Any) -> Staged:
    async with aclosing(store.append(staged, pieces)) as steps:
        return [step async for step in steps][-1]


async def test_a_client_that_has_sent_nothing_holds_no_memory(store: S3BlobStore) -> None:
    silent = Silent()
    waiting = asyncio.create_task(append(store, Staged(key=new_key()), silent))
    await silent.waits.wait()
    with anyio.fail_after(30):
        assert (await append(store, Staged(key=new_key()), body([b"hello"]))).offset == 5
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_a_client_that_falls_silent_gives_way_and_what_it_sent_counts(
    store: S3BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "_STEP", 0.01)
    key, silent, seen = new_key(), Silent(b"first ", b"second "), list[Staged]()

    async def fall_silent() -> None:
        async with aclosing(store.append(Staged(key=key), silent)) as steps:
            async for step in steps:
                seen.append(step)

    falling = asyncio.create_task(fall_silent())
    await silent.waits.wait()
    other = asyncio.create_task(append(store, Staged(key=new_key()), body([b"hello"])))
    await anyio.wait_all_tasks_blocked()
    monkeypatch.setattr(slots, "SILENT", 0.0)
    with anyio.fail_after(30):
        assert (await other).offset == 5
        with pytest.raises(MailboxFull):
            await falling
    assert [step.offset for step in seen] == [13]
    last = await append(store, seen[-1], body([b"third"]))
    await store.finish(last)
    assert b"".join([piece async for piece in store.get(key)]) == b"first second third"


async def test_a_body_that_waits_for_its_turn_reads_no_tail_meanwhile(
    store: S3BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = [await append(store, Staged(key=new_key()), body([bytes(1 << 20)])) for _ in range(4)]
    reads = 0
    read = store.read

    def counted(*values: Any, **options: Any) -> Any:
        nonlocal reads
        reads += 1
        return read(*values, **options)

    monkeypatch.setattr(store, "read", counted)
    silent = Silent(b"has the only turn")
    holding = asyncio.create_task(append(store, Staged(key=new_key()), silent))
    await silent.waits.wait()
    appending = [asyncio.create_task(append(store, staged, body([b"more"]))) for staged in begun[1:]]
    finishing = asyncio.create_task(store.finish(begun[0]))
    await anyio.wait_all_tasks_blocked()
    assert reads == 0
    holding.cancel()
    with anyio.fail_after(30):
        assert [staged.offset for staged in await asyncio.gather(*appending)] == [(1 << 20) + 4] * 3
        assert (await finishing).size_bytes == 1 << 20
        await asyncio.wait([holding])


async def test_what_has_come_of_a_body_that_waits_for_its_turn_is_counted_and_may_be_given_up(
    store: S3BlobStore,
) -> None:
    store.memory = MemoryBudget(8 << 20)
    piece, room = bytes(256 << 10), 32
    silent = Silent(b"has the only turn")
    holding = asyncio.create_task(append(store, Staged(key=new_key()), silent))
    await silent.waits.wait()
    appending = [asyncio.create_task(append(store, Staged(key=new_key()), body([piece]))) for _ in range(2 * room)]
    with anyio.fail_after(30):
        while len(waiting := [each for each in appending if not each.done()]) > room:
            await asyncio.sleep(0)
    assert waiting
    assert len(waiting) * len(piece) <= store.memory.held <= store.memory.limit
    assert {type(each.exception()) for each in appending if each.done()} == {MailboxFull}
    holding.cancel()
    with anyio.fail_after(30):
        assert {staged.offset for staged in await asyncio.gather(*waiting)} == {len(piece)}
        await asyncio.wait([holding])
    assert store.memory.held == 0


async def test_a_length_below_what_a_refused_request_had_sent_ends_the_upload_with_the_reason(
    ceph_gateway: Any,
) -> None:
    """Ceph joins no parts without those that follow them, which no call removes."""
    store = ProbedOnce(own_bucket(ceph_gateway))
    store.part = SMALLEST_PART
    first, refused = bytes(SMALLEST_PART + 1), bytes(2 * SMALLEST_PART + 1)
    async with open_drive(blob_store=store) as drive:
        ann = HostUser(user_id=(await sign_up(drive)).id)
        upload = await resumable.begin(drive, ann, Root(), "a.bin", size=None)
        upload = await resumable.append(drive, ann, upload.id, 0, body([first]))
        wrong = Checksum("sha1", bytes(20))
        with pytest.raises(ChecksumMismatch):
            await resumable.append(drive, ann, upload.id, len(first), body([refused]), checksum=wrong)
        with pytest.raises(Gone, match="joins no parts"):
            await resumable.append(drive, ann, upload.id, len(first), body([b"end"]), length=len(first) + 3)
        ended = await drive.metadata.ask(GetUpload(ann, upload.id))
        assert (ended.state, ended.reason) == (
            UploadState.FAILED,
            "The store joins no parts without those of a refused request that follow them.",
        )
        await drive.janitor.ask(Sweep(trust_clock=True))
        assert [one async for one in store.multipart.unfinished(("",))] == []
        assert (await drive.metadata.ask(ListFiles(ann, Root()))).items == []
