"""Uploads whose bytes come in several requests, whatever the protocol."""

from __future__ import annotations

import asyncio
import hashlib
import os
import zlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta

import pytest

from godrive import resumable
from godrive.blobs import Appendable, BlobStore, Staged, disk_appends, staged_of
from godrive.blobs.running_digests import RunningDigests
from godrive.drive import GoDrive
from godrive.errors import (
    ChecksumMismatch,
    Conflict,
    DigestMismatch,
    Gone,
    Invalid,
    LengthMismatch,
    NameTaken,
    NotFound,
    OffsetMismatch,
    QuotaExceeded,
    StorageFull,
    StoreUnavailable,
    TooLarge,
    UploadFinished,
    UploadTakenOver,
)
from godrive.messages.files import GetFile, ListFiles
from godrive.messages.ingest import Reconcile
from godrive.messages.janitor import Sweep
from godrive.messages.resumable import AdvanceUpload, ClaimUpload
from godrive.messages.storage import FinishStaged, ListAbandoned
from godrive.messages.system import RecountUsage
from godrive.messages.uploads import AbortUpload, BeginUpload, GetUpload, TouchUpload
from godrive.model import (
    FileId,
    ObjectKey,
    OnConflict,
    Root,
    Upload,
    UploadId,
    UploadKind,
    UploadState,
    new_id,
)
from godrive.principal import HostUser
from godrive.resumable import Checksum
from godrive.testing import FaultPoints, ManualClock, chunks, open_drive, sign_up
from godrive.transfer import read

pytestmark = pytest.mark.anyio

ABANDONED = int(os.environ.get("GODRIVE_TEST_ABANDONED", "7"))
ROOT = Root()
DATA = os.urandom(300_000)


@pytest.fixture(params=["memory", "disk", pytest.param("s3", marks=pytest.mark.servers)])
async def drive(request: pytest.FixtureRequest) -> AsyncIterator[GoDrive]:
    store: BlobStore | None = None
    if request.param == "s3":
        from tests.ceph import ProbedOnce, own_bucket

        store = ProbedOnce(own_bucket(request.getfixturevalue("ceph_gateway")))
    async with open_drive(blob_store=store, blobs={"driver": "memory" if store else request.param}) as opened:
        yield opened


@pytest.fixture
async def ann(drive: GoDrive) -> HostUser:
    return HostUser(user_id=(await sign_up(drive)).id)


class Line:
    """A body that comes when the test sends it."""

    def __init__(self) -> None:
        self._pieces: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self.is_read = asyncio.Event()

    def __aiter__(self) -> Line:
        return self

    async def __anext__(self) -> bytes:
        if self._pieces.empty():
            self.is_read.set()
        piece = await self._pieces.get()
        if isinstance(piece, Exception):
            raise piece
        if piece is None:
            raise StopAsyncIteration
        return piece

    def put(self, piece: bytes | Exception | None) -> None:
        """Send it."""
        self._pieces.put_nowait(piece)

    async def send(self, piece: bytes | Exception | None) -> None:
        """Send it, and wait until it was taken and the next one is wanted."""
        self.is_read.clear()
        self.put(piece)
        if isinstance(piece, bytes):
            await self.is_read.wait()


async def check_file(drive: GoDrive, by: HostUser, upload: Upload, data: bytes, name: str = "a.bin") -> None:
    assert upload.state is UploadState.COMMITTED
    assert upload.received_bytes == upload.length == len(data)
    file = await drive.metadata.ask(GetFile(by, FileId(upload.file_id or "")))
    assert (file.name, file.size_bytes) == (name, len(data))
    assert file.sha256 == hashlib.sha256(data).hexdigest()
    assert b"".join([piece async for piece in read(drive, by, file.id)]) == data


async def test_bytes_in_several_requests_are_a_file(drive: GoDrive, ann: HostUser) -> None:
    upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=len(DATA))
    for at in range(0, len(DATA), 70_000):
        assert (await resumable.offset(drive, ann, upload.id)).received_bytes == at
        upload = await resumable.append(drive, ann, upload.id, at, chunks(DATA[at : at + 70_000]))
    await check_file(drive, ann, upload, DATA)
    assert await resumable.append(drive, ann, upload.id, len(DATA), chunks(b"")) == upload
    assert await resumable.offset(drive, ann, upload.id) == upload


async def test_an_empty_file_is_there_at_once(drive: GoDrive, ann: HostUser) -> None:
    await check_file(drive, ann, await resumable.begin(drive, ann, ROOT, "a.bin", size=0), b"")


async def test_nothing_is_listed_before_the_last_byte(drive: GoDrive, ann: HostUser) -> None:
    upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=10)
    await resumable.append(drive, ann, upload.id, 0, chunks(b"123456789"))
    assert (await drive.metadata.ask(ListFiles(ann, ROOT))).items == []


@pytest.mark.parametrize("offset", [0, 4, 6, 10, 11])
async def test_an_offset_from_the_past_or_the_future_is_refused_with_the_right_one(
    drive: GoDrive, ann: HostUser, offset: int
) -> None:
    upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=10)
    await resumable.append(drive, ann, upload.id, 0, chunks(b"12345"))
    line = Line()
    with pytest.raises(OffsetMismatch) as caught:
        await resumable.append(drive, ann, upload.id, offset, line)
    assert caught.value.offset == 5
    assert not line.is_read.is_set()
    await check_file(drive, ann, await resumable.append(drive, ann, upload.id, 5, chunks(b"67890")), b"1234567890")
    with pytest.raises(OffsetMismatch):
        await resumable.append(drive, ann, upload.id, 5, chunks(b"67890"))


@pytest.mark.parametrize("driver", ["memory", "disk"])
async def test_an_append_that_follows_at_once_reads_no_row_and_compares_it_when_the_offset_moves(driver: str) -> None:
    faults, clock = FaultPoints(), ManualClock()
    async with open_drive(faults=faults, clock=clock, blobs={"driver": driver}) as drive:
        ann, bob = HostUser(user_id=(await sign_up(drive)).id), HostUser(user_id=(await sign_up(drive, "bob@x.org")).id)
        upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=9)
        await resumable.append(drive, ann, upload.id, 0, chunks(b"one"))
        faults.refuse(GetUpload, StoreUnavailable("It was asked."), times=1000)
        faults.refuse(ClaimUpload, StoreUnavailable("It was asked."), times=1000)
        await resumable.append(drive, ann, upload.id, 3, chunks(b"two"))
        for by, offset, later in ((bob, 6, 0), (ann, 3, 0), (ann, 6, 2)):
            clock.advance(later)
            with pytest.raises(StoreUnavailable, match="It was asked"):
                await resumable.append(drive, by, upload.id, offset, chunks(b"six"))
        faults.refuse(GetUpload, StoreUnavailable(), times=0)
        faults.refuse(ClaimUpload, StoreUnavailable(), times=0)
        await resumable.append(drive, ann, upload.id, 6, chunks(b"si"))
        await drive.metadata.ask(AbortUpload(ann, upload.id))  # as another process does
        with pytest.raises(Gone):
            await resumable.append(drive, ann, upload.id, 8, chunks(b"x"))
        assert (await drive.metadata.ask(GetUpload(ann, upload.id))).received_bytes == 8


async def test_what_came_before_a_cut_counts(drive: GoDrive, ann: HostUser) -> None:
    upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=10)
    line = Line()
    async with asyncio.TaskGroup() as tasks:
        appending = tasks.create_task(_cut(drive, ann, upload, line))
        await line.send(b"1234")
        await line.send(ConnectionError())
        await appending
    assert (await drive.metadata.ask(GetUpload(ann, upload.id))).received_bytes == 4
    await check_file(drive, ann, await resumable.append(drive, ann, upload.id, 4, chunks(b"567890")), b"1234567890")


async def _cut(drive: GoDrive, ann: HostUser, upload: Upload, line: Line) -> None:
    with pytest.raises(ConnectionError):
        await resumable.append(drive, ann, upload.id, 0, line)


@pytest.mark.parametrize("way", ["append", "head"])
async def test_a_new_request_takes_over_from_one_that_is_half_dead(drive: GoDrive, ann: HostUser, way: str) -> None:
    upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=10)
    line = Line()

    async def half_dead() -> None:
        with pytest.raises(UploadTakenOver):
            await resumable.append(drive, ann, upload.id, 0, line)

    async with asyncio.timeout(2), asyncio.TaskGroup() as tasks:
        tasks.create_task(half_dead())
        await line.send(b"1234")
        if way == "append":
            with pytest.raises(OffsetMismatch) as caught:
                await resumable.append(drive, ann, upload.id, 0, chunks(b"1234567890"))
            assert caught.value.offset == 4
        else:
            assert (await resumable.offset(drive, ann, upload.id)).received_bytes == 4
    await check_file(drive, ann, await resumable.append(drive, ann, upload.id, 4, chunks(b"567890")), b"1234567890")


async def test_bytes_that_have_arrived_when_a_new_request_takes_over_count(drive: GoDrive, ann: HostUser) -> None:
    """The server had no time yet to read them, and the client, whose line was cut, would have to send them again."""
    upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=10)
    line = Line()

    async def half_dead() -> None:
        with pytest.raises(UploadTakenOver):
            await resumable.append(drive, ann, upload.id, 0, line)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(half_dead())
        await line.send(b"1")
        asking = tasks.create_task(resumable.offset(drive, ann, upload.id))
        for piece in (b"2", b"345", b"6789"):
            line.put(piece)
        assert (await asking).received_bytes == 9


async def test_nobody_else_can_end_a_running_append(drive: GoDrive, ann: HostUser) -> None:
    bob = HostUser(user_id=(await sign_up(drive, "bob@example.org")).id)
    upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=10)
    line = Line()
    async with asyncio.TaskGroup() as tasks:
        appending = tasks.create_task(resumable.append(drive, ann, upload.id, 0, line))
        await line.send(b"1234")
        for attempt in (
            resumable.append(drive, bob, upload.id, 4, chunks(b"567890")),
            resumable.offset(drive, bob, upload.id),
            resumable.abort(drive, bob, upload.id),
            resumable.declare(drive, bob, upload.id, 10),
        ):
            with pytest.raises(NotFound):
                await attempt
        await line.send(b"567890")
        await line.send(None)
        await check_file(drive, ann, await appending, b"1234567890")


async def test_a_request_that_is_cancelled_leaves_what_came(drive: GoDrive, ann: HostUser) -> None:
    upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=10)
    line = Line()
    appending = asyncio.create_task(resumable.append(drive, ann, upload.id, 0, line))
    await line.send(b"1234")
    appending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await appending
    assert (await drive.metadata.ask(GetUpload(ann, upload.id))).received_bytes == 4


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "md5", "crc32"])
async def test_bytes_with_another_checksum_count_for_nothing(drive: GoDrive, ann: HostUser, algorithm: str) -> None:
    def checksum(data: bytes) -> Checksum:
        if algorithm == "crc32":
            return Checksum("crc32", zlib.crc32(data).to_bytes(4, "big"))
        return Checksum(algorithm, hashlib.new(algorithm, data).digest())

    upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=10)
    first = await resumable.append(drive, ann, upload.id, 0, chunks(b"12345"), checksum=checksum(b"12345"))
    assert first.received_bytes == 5
    with pytest.raises(ChecksumMismatch):
        await resumable.append(drive, ann, upload.id, 5, chunks(b"67890"), checksum=checksum(b"67891"))
    assert (await resumable.offset(drive, ann, upload.id)).received_bytes == 5
    done = await resumable.append(drive, ann, upload.id, 5, chunks(b"67890"), checksum=checksum(b"67890"))
    await check_file(drive, ann, done, b"1234567890")


@pytest.mark.parametrize("way", ["before", "with the last bytes", "after"])
async def test_a_length_may_be_declared_later(drive: GoDrive, ann: HostUser, way: str) -> None:
    upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=None)
    assert upload.length is None
    upload = await resumable.append(drive, ann, upload.id, 0, chunks(DATA[:-5]))
    if way == "before":
        upload = await resumable.declare(drive, ann, upload.id, len(DATA))
        assert upload.state is UploadState.PENDING
    length = len(DATA) if way.startswith("with") else None
    upload = await resumable.append(drive, ann, upload.id, len(DATA) - 5, chunks(DATA[-5:]), length=length)
    if way == "after":
        assert upload.length is None
        upload = await resumable.declare(drive, ann, upload.id, len(DATA))
    await check_file(drive, ann, upload, DATA)


async def test_no_byte_that_the_quota_does_not_cover_is_stored() -> None:
    async with open_drive(auth={"default_quota_bytes": 100_000}) as drive:
        ann = HostUser(user_id=(await sign_up(drive)).id)
        with pytest.raises(QuotaExceeded):
            await resumable.begin(drive, ann, ROOT, "a.bin", size=100_001)
        upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=None)
        with pytest.raises(QuotaExceeded):
            await resumable.append(drive, ann, upload.id, 0, chunks(bytes(200_000)))
        upload = await resumable.offset(drive, ann, upload.id)
        assert 0 < upload.received_bytes <= 100_000
        await resumable.declare(drive, ann, upload.id, upload.received_bytes)


async def test_an_append_that_another_process_has_taken_over_changes_no_declared_length(
    drive: GoDrive, ann: HostUser
) -> None:
    upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=None)

    async def body() -> AsyncIterator[bytes]:
        await drive.metadata.ask(ClaimUpload(ann, upload.id, "another process", 0, 5))
        yield b"12345"

    with pytest.raises(UploadTakenOver):
        await resumable.append(drive, ann, upload.id, 0, body())
    assert (await drive.metadata.ask(GetUpload(ann, upload.id))).length == 5
    upload = await resumable.append(drive, ann, upload.id, 0, chunks(b"12345"), length=5)
    await check_file(drive, ann, upload, b"12345")


async def test_a_byte_too_many_is_refused(drive: GoDrive, ann: HostUser) -> None:
    upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=10)
    with pytest.raises(LengthMismatch):
        await resumable.append(drive, ann, upload.id, 0, chunks(b"12345678901"))
    assert (await resumable.offset(drive, ann, upload.id)).received_bytes == 0


@pytest.mark.parametrize("size", [1, None])
@pytest.mark.parametrize("part", [False, True])
async def test_a_byte_for_an_upload_that_has_all_is_refused(
    drive: GoDrive, ann: HostUser, part: bool, size: int | None
) -> None:
    upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=3, part=part)
    done = await resumable.append(drive, ann, upload.id, 0, chunks(b"abc"))
    with pytest.raises(LengthMismatch):
        await resumable.append(drive, ann, upload.id, 3, chunks(b"d"), size=size)
    again = await resumable.append(drive, ann, upload.id, 3, chunks(b""), size=size and 0)
    assert (again.received_bytes, again.state, again.file_id) == (3, done.state, done.file_id)


async def test_a_file_over_the_limit_is_refused_before_its_bytes() -> None:
    async with open_drive(blobs={"max_upload_bytes": 10}) as drive:
        ann = HostUser(user_id=(await sign_up(drive)).id)
        with pytest.raises(TooLarge):
            await resumable.begin(drive, ann, ROOT, "a.bin", size=11)
        upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=None)
        with pytest.raises(TooLarge):
            await resumable.declare(drive, ann, upload.id, 11)
        with pytest.raises(TooLarge):
            await resumable.append(drive, ann, upload.id, 0, chunks(bytes(11)))


async def test_a_wrong_digest_ends_the_upload(drive: GoDrive, ann: HostUser) -> None:
    upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=3, sha256="0" * 64)
    with pytest.raises(DigestMismatch):
        await resumable.append(drive, ann, upload.id, 0, chunks(b"abc"))
    assert (await resumable.offset(drive, ann, upload.id)).state is UploadState.FAILED
    with pytest.raises(Gone):
        await resumable.append(drive, ann, upload.id, 3, chunks(b""))


async def test_a_name_that_was_taken_meanwhile_can_be_freed_and_the_upload_finished(
    drive: GoDrive, ann: HostUser
) -> None:
    one, other = [await resumable.begin(drive, ann, ROOT, "a.bin", size=3) for _ in range(2)]
    await resumable.append(drive, ann, one.id, 0, chunks(b"one"))
    for _ in range(2):
        with pytest.raises(NameTaken):
            await resumable.append(drive, ann, other.id, 0 if _ == 0 else 3, chunks(b"two" if _ == 0 else b""))
    assert (await drive.metadata.ask(GetUpload(ann, other.id))).state is UploadState.PENDING


async def test_an_aborted_upload_leaves_nothing(drive: GoDrive, ann: HostUser) -> None:
    upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=10)
    line = Line()

    async def running() -> None:
        with pytest.raises((Gone, UploadTakenOver)):
            await resumable.append(drive, ann, upload.id, 0, line)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(running())
        await line.send(b"1234")
        assert (await resumable.abort(drive, ann, upload.id)).state is UploadState.ABORTED
    assert (await resumable.abort(drive, ann, upload.id)).state is UploadState.ABORTED
    assert await staged(drive) == []
    with pytest.raises(Gone):
        await resumable.append(drive, ann, upload.id, 0, chunks(b"1234567890"))


async def staged(drive: GoDrive) -> list[str]:
    """The keys of everything that is staged."""
    soon = drive.clock.now() + timedelta(days=10_000)
    return [key async for key in drive.blobs.abandoned(soon)]  # type: ignore[attr-defined]


async def test_a_finished_upload_can_be_neither_aborted_nor_begun_again(drive: GoDrive, ann: HostUser) -> None:
    upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=0)
    with pytest.raises(UploadFinished):
        await resumable.abort(drive, ann, upload.id)
    with pytest.raises(NotFound):
        await resumable.offset(drive, ann, UploadId("nothing"))


async def test_a_part_with_all_of_its_bytes_is_no_file(drive: GoDrive, ann: HostUser) -> None:
    parts = [await resumable.begin(drive, ann, ROOT, "part", size=3, part=True) for _ in range(2)]
    for part in parts:
        done = await resumable.append(drive, ann, part.id, 0, chunks(b"abc"))
        assert (done.state, done.received_bytes) == (UploadState.PENDING, 3)
        assert (await resumable.offset(drive, ann, part.id)).received_bytes == 3
    assert (await drive.metadata.ask(ListFiles(ann, ROOT))).items == []


async def test_bytes_that_come_slowly_keep_the_upload_alive() -> None:
    clock = ManualClock()
    async with open_drive(clock=clock, blobs={"resume_ttl": 100.0}) as drive:
        ann = HostUser(user_id=(await sign_up(drive)).id)
        upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=20)
        line = Line()
        appending = asyncio.create_task(resumable.append(drive, ann, upload.id, 0, line))
        for _ in range(20):
            await line.send(b"x")
            clock.advance(30)
        upload = await drive.metadata.ask(GetUpload(ann, upload.id))
        assert upload.expires_at > clock.now() + timedelta(seconds=30)
        await line.send(None)
        await check_file(drive, ann, await appending, b"x" * 20)


async def parts_of(drive: GoDrive, by: HostUser, *datas: bytes) -> list[UploadId]:
    parts = []
    for data in datas:
        part = await resumable.begin(drive, by, ROOT, "part", size=len(data), part=True)
        if data:
            await resumable.append(drive, by, part.id, 0, chunks(data))
        parts.append(part.id)
    return parts


async def test_parts_are_joined_to_one_file(drive: GoDrive, ann: HostUser) -> None:
    datas = DATA[:100_000], b"", DATA[100_000:]
    parts = await parts_of(drive, ann, *datas)
    upload = await resumable.concatenate(drive, ann, parts, ROOT, "a.bin")
    await check_file(drive, ann, upload, DATA)
    assert await resumable.concatenate(drive, ann, parts, ROOT, "a.bin") == upload
    assert await staged(drive) == []
    part = await resumable.offset(drive, ann, parts[0])
    assert (part.state, part.received_bytes, part.file_id) == (UploadState.COMMITTED, 100_000, None)


async def test_parts_need_no_quota_a_second_time() -> None:
    async with open_drive(auth={"default_quota_bytes": 300_000}) as drive:
        ann = HostUser(user_id=(await sign_up(drive)).id)
        parts = await parts_of(drive, ann, DATA[:200_000], DATA[200_000:])
        await check_file(drive, ann, await resumable.concatenate(drive, ann, parts, ROOT, "a.bin"), DATA)


async def test_parts_are_not_copied_onto_a_disk_that_has_no_room_for_them(
    drive: GoDrive, ann: HostUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = await parts_of(drive, ann, DATA[:200_000], DATA[200_000:])

    async def free_bytes() -> int:
        return drive.config.blobs.min_free_bytes + len(DATA) - 1

    with monkeypatch.context() as full, pytest.raises(StorageFull):
        full.setattr(drive.blobs, "free_bytes", free_bytes)
        await resumable.concatenate(drive, ann, parts, ROOT, "a.bin")
    await check_file(drive, ann, await resumable.concatenate(drive, ann, parts, ROOT, "a.bin"), DATA)


async def test_a_part_that_comes_twice_needs_its_bytes_twice() -> None:
    async with open_drive(auth={"default_quota_bytes": 400_000}) as drive:
        ann = HostUser(user_id=(await sign_up(drive)).id)
        (part,) = await parts_of(drive, ann, DATA[:150_000])
        with pytest.raises(QuotaExceeded):
            await resumable.concatenate(drive, ann, [part] * 3, ROOT, "a.bin")
        upload = await resumable.concatenate(drive, ann, [part] * 2, ROOT, "a.bin")
        await check_file(drive, ann, upload, DATA[:150_000] * 2)
        assert await drive.metadata.ask(RecountUsage()) == 0


async def test_a_part_without_all_of_its_bytes_is_not_joined(drive: GoDrive, ann: HostUser) -> None:
    whole = await parts_of(drive, ann, b"abc")
    missing = await resumable.begin(drive, ann, ROOT, "part", size=4, part=True)
    await resumable.append(drive, ann, missing.id, 0, chunks(b"def"))
    deferred = await resumable.begin(drive, ann, ROOT, "part", size=None, part=True)
    other = await resumable.begin(drive, ann, ROOT, "other", size=3)
    for part in (missing, deferred, other):
        with pytest.raises(Conflict):
            await resumable.concatenate(drive, ann, [*whole, part.id], ROOT, "a.bin")
    with pytest.raises(Invalid):
        await resumable.concatenate(drive, ann, [], ROOT, "a.bin")
    await resumable.append(drive, ann, missing.id, 3, chunks(b"g"))
    upload = await resumable.concatenate(drive, ann, [*whole, missing.id], ROOT, "a.bin")
    await check_file(drive, ann, upload, b"abcdefg")
    more = await parts_of(drive, ann, b"x")
    with pytest.raises(Conflict):
        await resumable.concatenate(drive, ann, [*whole, *more], ROOT, "b.bin")


async def test_parts_of_others_are_not_found(drive: GoDrive, ann: HostUser) -> None:
    bob = HostUser(user_id=(await sign_up(drive, "bob@example.org")).id)
    parts = await parts_of(drive, ann, b"abc")
    with pytest.raises(NotFound):
        await resumable.concatenate(drive, bob, parts, ROOT, "a.bin")
    await check_file(drive, ann, await resumable.concatenate(drive, ann, parts, ROOT, "a.bin"), b"abc")


@pytest.mark.parametrize("part", [False, True])
async def test_an_upload_that_nobody_continues_leaves_nothing(part: bool) -> None:
    clock = ManualClock()
    async with open_drive(clock=clock, blobs={"driver": "disk", "resume_ttl": 100.0}) as drive:
        ann = HostUser(user_id=(await sign_up(drive)).id)
        upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=10, part=part)
        live = await resumable.begin(drive, ann, ROOT, "b.bin", size=10)
        for one in (upload, live):
            await resumable.append(drive, ann, one.id, 0, chunks(b"1234"))
        clock.advance(60)
        await resumable.append(drive, ann, live.id, 4, chunks(b"5"))
        clock.advance(60)
        await drive.ingest.ask(Reconcile())
        await drive.janitor.ask(Sweep(trust_clock=True))
        assert await staged(drive) == [live.object_key]
        assert (await drive.metadata.ask(GetUpload(ann, upload.id))).state is UploadState.EXPIRED
        with pytest.raises(Gone):
            await resumable.append(drive, ann, upload.id, 4, chunks(b"567890"))
        await resumable.append(drive, ann, live.id, 5, chunks(b"67890"))


async def test_what_a_lost_catalog_left_is_swept_and_a_live_upload_is_not() -> None:
    clock, faults = ManualClock(datetime.now(UTC)), FaultPoints()
    async with open_drive(
        clock=clock, faults=faults, blobs={"driver": "disk", "resume_ttl": 100_000.0, "upload_ttl": 100_000.0}
    ) as drive:
        ann = HostUser(user_id=(await sign_up(drive)).id)
        live = [await resumable.begin(drive, ann, ROOT, f"{n}.bin", size=10) for n in range(3)]
        for upload in live:
            await resumable.append(drive, ann, upload.id, 0, chunks(b"12345"))
        assert isinstance(drive.blobs, Appendable)
        for _ in range(ABANDONED):
            key = ObjectKey(f"00000000/{new_id()}")
            async with aclosing(drive.blobs.append(Staged(key=key), chunks(b"abc"))) as steps:
                assert [step.offset async for step in steps] == [3]
        clock.advance(90_000)
        for upload in live:
            await drive.metadata.ask(TouchUpload(ann, upload.id, 0))
        clock.advance(90_000)
        faults.lose_answer(ListAbandoned)
        swept = await drive.janitor.ask(Sweep(trust_clock=True))
        assert (swept.staging, swept.failed) == (0, 1)
        swept = await drive.janitor.ask(Sweep(trust_clock=True))
        assert (swept.staging, swept.failed) == (ABANDONED, 0)
        for upload in live:
            await check_file(
                drive,
                ann,
                await resumable.append(drive, ann, upload.id, 5, chunks(b"67890")),
                b"1234567890",
                upload.name,
            )


@pytest.mark.parametrize("left", ["staged", "blob", "blob of which nobody heard"])
async def test_an_upload_whose_client_does_not_come_back_for_the_answer_becomes_a_file(left: str) -> None:
    """As after a kill before the blob was made, or after that and before the staged bytes were removed."""
    clock, faults = ManualClock(), FaultPoints()
    async with open_drive(clock=clock, blobs={"driver": "disk"}, faults=faults) as drive:
        ann = HostUser(user_id=(await sign_up(drive)).id)
        upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=4)
        assert isinstance(drive.blobs, Appendable)
        claimed = await drive.metadata.ask(ClaimUpload(ann, upload.id, "one", 0))
        async with aclosing(drive.blobs.append(staged_of(claimed), chunks(b"1234"), size=4)) as steps:
            (last,) = [step async for step in steps]
        await drive.metadata.ask(AdvanceUpload(ann, upload.id, "one", 0, 4, last.state))
        if left == "blob":
            await drive.blobs.put(upload.object_key, chunks(b"1234"))
        clock.advance(30)
        if left == "blob of which nobody heard":
            faults.lose_answer(FinishStaged)
            assert (await drive.ingest.ask(Reconcile())).postponed == 1
            assert (await drive.blobs.head(upload.object_key)).size_bytes == 4
            clock.advance(30)
        assert (await drive.ingest.ask(Reconcile())).published == 1
        assert await staged(drive) == []
        await check_file(drive, ann, await resumable.offset(drive, ann, upload.id), b"1234")


@pytest.mark.parametrize("has_blob", [False, True])
async def test_an_empty_upload_that_was_not_acknowledged_replaces_nothing_later(has_blob: bool) -> None:
    """Its client has no URL of it, and has begun anew.  As after a kill, or an error, before it was a file."""
    clock = ManualClock()
    async with open_drive(clock=clock, blobs={"driver": "disk"}) as drive:
        ann = HostUser(user_id=(await sign_up(drive)).id)
        lost = await drive.metadata.ask(
            BeginUpload(ann, ROOT, "a.bin", "", 0, on_conflict=OnConflict.REPLACE, kind=UploadKind.RESUMABLE)
        )
        if has_blob:
            await drive.blobs.put(lost.object_key, chunks(b""))
        upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=4, on_conflict=OnConflict.REPLACE)
        upload = await resumable.append(drive, ann, upload.id, 0, chunks(b"1234"))
        clock.advance(drive.config.blobs.resume_ttl + 1)
        assert (await drive.ingest.ask(Reconcile())).expired == 1
        await check_file(drive, ann, upload, b"1234")
        clock.advance(drive.config.blobs.resume_ttl)
        await drive.janitor.ask(Sweep())
        with pytest.raises(NotFound):
            await drive.blobs.head(lost.object_key)


async def test_a_join_gives_other_work_of_the_disk_its_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    done: dict[str, list[int]] = {"_copy": [], "_read": []}
    for name, sizes in done.items():
        call = getattr(disk_appends, name)
        monkeypatch.setattr(
            disk_appends, name, lambda *args, call=call, sizes=sizes: sizes.append(call(*args)) or sizes[-1]
        )
    monkeypatch.setattr(disk_appends, "_AT_ONCE", 70_000)
    async with open_drive(blobs={"driver": "disk"}) as drive:
        ann = HostUser(user_id=(await sign_up(drive)).id)
        parts = await parts_of(drive, ann, DATA[:200_000], b"", DATA[200_000:])
        await check_file(drive, ann, await resumable.concatenate(drive, ann, parts, ROOT, "a.bin"), DATA)
    assert done == {"_copy": [70_000, 70_000, 60_000, 70_000, 30_000], "_read": [70_000] * 4 + [20_000]}


async def test_the_digest_is_computed_if_the_process_that_had_the_bytes_is_gone(drive: GoDrive, ann: HostUser) -> None:
    data = DATA * 30  # more than one part in S3
    upload = await resumable.begin(drive, ann, ROOT, "a.bin", size=len(data))
    blobs = drive.blobs
    assert isinstance(blobs, Appendable)
    claimed = await drive.metadata.ask(ClaimUpload(ann, upload.id, "one", 0))
    async with aclosing(blobs.append(staged_of(claimed), chunks(data), size=len(data))) as steps:
        last = [step async for step in steps][-1]
    await drive.metadata.ask(AdvanceUpload(ann, upload.id, "one", 0, last.offset, last.state))
    await blobs.close()
    if hasattr(blobs, "_running"):
        blobs._running = RunningDigests()  # as after a restart
    await blobs.open()
    assert isinstance(drive.clock, ManualClock)
    drive.clock.advance(30)
    assert (await drive.ingest.ask(Reconcile())).published == 1
    await check_file(drive, ann, await resumable.offset(drive, ann, upload.id), data)
