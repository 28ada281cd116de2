from __future__ import annotations

import hashlib
import os
import random
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest
from msgspec.structs import replace

from godrive.actors.ingest import AT_ONCE, IngestActor
from godrive.blobs.attributes import SHA256
from godrive.blobs.memory import MemoryBlobStore
from godrive.clock import SETTLE, ClockGuard
from godrive.config import Ingest as Settings
from godrive.drive import GoDrive
from godrive.errors import (
    Conflict,
    DigestMismatch,
    Gone,
    LengthMismatch,
    NameTaken,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    StoreUnavailable,
)
from godrive.messages.auth import GetUser
from godrive.messages.files import ListFiles, PurgeFile, TrashFile, UpdateFile
from godrive.messages.ingest import CommitUpload, EventOutcome, IngestBlob, Reconcile, Reconciled
from godrive.messages.janitor import Sweep
from godrive.messages.storage import DigestBlob, HeadBlob, Storage
from godrive.messages.uploads import AbortUpload, BeginUpload, GetUpload
from godrive.messages.versions import DeleteVersion, ListVersions
from godrive.model import Anywhere, BlobInfo, ETag, File, ObjectKey, OnConflict, Root, Upload, UploadState, User
from godrive.rules import rows
from godrive.runtime import Ask
from godrive.testing import FaultPoints, ManualClock, chunks, open_drive, quick_folder, sign_up, upload
from godrive.transfer import receive, reserve
from tests.cases import each
from tests.principals import SYSTEM, acting

pytestmark = pytest.mark.anyio

R = TypeVar("R")


async def begin(
    drive: GoDrive,
    owner: User,
    name: str = "a.txt",
    size: int = 5,
    *,
    sha256: str | None = None,
    on_conflict: OnConflict = OnConflict.FAIL,
    if_match: ETag | None = None,
) -> Upload:
    by, given = acting(owner.id), (sha256, on_conflict)
    return await drive.metadata.ask(BeginUpload(by, Root(), name, "text/plain", size, *given, if_match=if_match))


async def put(drive: GoDrive, pending: Upload, content: bytes = b"hello") -> BlobInfo:
    return await drive.blobs.put(pending.object_key, chunks(content))


async def listed(drive: GoDrive, owner: User) -> list[File]:
    return (await drive.metadata.ask(ListFiles(acting(owner.id), Anywhere()))).items


async def state(drive: GoDrive, pending: Upload) -> UploadState:
    return (await drive.metadata.ask(GetUpload(SYSTEM, pending.id))).state


async def has_bytes(drive: GoDrive, pending: Upload) -> bool:
    return pending.object_key in [blob.key async for blob in drive.blobs.list()]


async def together(*asks: Awaitable[Any]) -> list[Any]:
    """Await all at once; what each gave or raised."""
    results: list[Any] = []

    async def run(ask: Awaitable[Any]) -> None:
        try:
            results.append(await ask)
        except Exception as error:
            results.append(error)

    async with anyio.create_task_group() as tasks:
        for ask in asks:
            tasks.start_soon(run, ask)
    return results


# Commit


async def test_a_commit_makes_the_file_that_was_declared(drive: GoDrive, owner: User) -> None:
    pending = await begin(drive, owner)
    await put(drive, pending)
    assert await listed(drive, owner) == []
    file = await drive.ingest.ask(CommitUpload(acting(owner.id), pending.id))
    assert (file.name, file.mime, file.size_bytes, file.owner_id) == ("a.txt", "text/plain", 5, owner.id)
    assert file.sha256 == hashlib.sha256(b"hello").hexdigest()
    assert await listed(drive, owner) == [file]


async def test_committing_twice_gives_the_same_file(drive: GoDrive, owner: User) -> None:
    pending = await begin(drive, owner)
    blob = await put(drive, pending)
    first = await drive.ingest.ask(CommitUpload(SYSTEM, pending.id, blob=blob))
    assert await drive.ingest.ask(CommitUpload(SYSTEM, pending.id, blob=blob)) == first
    assert await drive.ingest.ask(CommitUpload(acting(owner.id), pending.id)) == first
    assert await listed(drive, owner) == [first]


async def test_everybody_who_commits_at_once_makes_one_file(drive: GoDrive, owner: User, clock: ManualClock) -> None:
    pending = await begin(drive, owner)
    blob = await put(drive, pending)
    clock.advance(60)
    results = await together(
        *(drive.ingest.ask(CommitUpload(acting(owner.id), pending.id)) for _ in range(8)),
        *(drive.ingest.ask(CommitUpload(SYSTEM, pending.id, blob=blob)) for _ in range(8)),
        *(drive.ingest.ask(IngestBlob(pending.object_key)) for _ in range(8)),
        drive.ingest.ask(Reconcile()),
    )
    (file,) = await listed(drive, owner)
    assert [result for result in results if isinstance(result, File)] == [file] * 16
    assert results.count(EventOutcome.PUBLISHED) == 8


async def test_what_a_request_left_behind_is_never_published(drive: GoDrive, owner: User, clock: ManualClock) -> None:
    """Its process was killed between the bytes and the file: the client sends them again, and may send others after."""
    by = acting(owner.id)
    pending = await reserve(drive, by, Root(), "a.txt", size=5, on_conflict=OnConflict.REPLACE)
    await put(drive, pending)
    file = await receive(drive, by, Root(), "a.txt", chunks(b"hello"), size=5)
    file = await receive(drive, by, Root(), "a.txt", chunks(b"newer"), size=5, on_conflict=OnConflict.REPLACE)
    clock.advance(60)
    assert await drive.ingest.ask(IngestBlob(pending.object_key)) is EventOutcome.IGNORED
    assert (await drive.ingest.ask(Reconcile())).published == 0
    assert await listed(drive, owner) == [file]
    clock.advance(drive.config.blobs.upload_ttl)
    assert (await drive.ingest.ask(Reconcile())).expired == 1
    assert (await drive.auth.ask(GetUser(by))).usage.reserved_bytes == 0
    await drive.janitor.ask(Sweep())
    assert not await has_bytes(drive, pending)


async def test_without_bytes_there_is_nothing_to_commit_yet(drive: GoDrive, owner: User) -> None:
    pending = await begin(drive, owner)
    with pytest.raises(Conflict) as caught:
        await drive.ingest.ask(CommitUpload(acting(owner.id), pending.id))
    assert type(caught.value) is Conflict
    assert await state(drive, pending) is UploadState.PENDING


async def test_an_upload_of_somebody_else_is_not_found(drive: GoDrive, owner: User) -> None:
    stranger = await sign_up(drive, "bob@example.org")
    pending = await begin(drive, owner)
    blob = await put(drive, pending)
    for ask in (CommitUpload(acting(stranger.id), pending.id), CommitUpload(acting(stranger.id), pending.id, blob)):
        with pytest.raises(NotFound):
            await drive.ingest.ask(ask)
    assert await listed(drive, owner) == []


@pytest.mark.parametrize("known", [False, True], ids=["head", "blob given"])
@pytest.mark.parametrize("content", [b"", b"hell", b"hello!"], ids=["none", "short", "long"])
async def test_another_length_ends_the_upload_and_removes_its_bytes(
    drive: GoDrive, owner: User, content: bytes, known: bool
) -> None:
    pending = await begin(drive, owner)
    blob = await put(drive, pending, content)
    with pytest.raises(LengthMismatch):
        await drive.ingest.ask(CommitUpload(SYSTEM, pending.id, blob=blob if known else None))
    ended = await drive.metadata.ask(GetUpload(SYSTEM, pending.id))
    assert ended.state is UploadState.FAILED
    assert ended.reason is not None
    assert f"{len(content)} arrived" in ended.reason
    assert not await has_bytes(drive, pending)
    assert (await drive.auth.ask(GetUser(acting(owner.id)))).usage.reserved_bytes == 0
    with pytest.raises(Gone):
        await drive.ingest.ask(CommitUpload(acting(owner.id), pending.id))


async def test_other_bytes_than_declared_end_the_upload(drive: GoDrive, owner: User) -> None:
    pending = await begin(drive, owner, sha256=hashlib.sha256(b"olleh").hexdigest())
    await put(drive, pending)
    with pytest.raises(DigestMismatch):
        await drive.ingest.ask(CommitUpload(acting(owner.id), pending.id))
    assert await state(drive, pending) is UploadState.FAILED
    assert not await has_bytes(drive, pending)


class Scripted:
    """A ref that gives the answers it was told to, and writes down what it was asked."""

    def __init__(self, asked: list[str], **answers: object) -> None:
        self._asked = asked
        self._answers = answers

    async def ask(self, message: Ask[Any, Any], *, timeout: float | None = None) -> Any:
        name = type(message).__name__
        self._asked.append(name)
        if isinstance(answer := self._answers[name], Exception):
            raise answer
        return answer


@pytest.mark.parametrize(("ended", "then"), [(UploadState.FAILED, ["DeleteBlob"]), (UploadState.COMMITTED, [])])
async def test_a_row_ends_before_its_bytes_go_and_those_that_another_has_published_stay(
    ended: UploadState, then: list[str]
) -> None:
    async with open_drive() as drive:
        pending = await begin(drive, await sign_up(drive))
        blob = await put(drive, pending)
    asked: list[str] = []
    metadata = Scripted(asked, PublishUpload=LengthMismatch(), FailUpload=replace(pending, state=ended))
    clock = ManualClock()
    ingest = IngestActor(metadata, Scripted(asked, DeleteBlob=None), Settings(), clock, ClockGuard(clock))
    with pytest.raises(LengthMismatch):
        await ingest.commit_upload(CommitUpload(SYSTEM, pending.id, blob=blob))
    assert asked == ["PublishUpload", "FailUpload", *then]


async def test_bytes_of_another_length_are_not_read_for_their_digest() -> None:
    async with open_drive(blob_store=ForgetfulStore()) as drive:
        pending = await begin(drive, await sign_up(drive), sha256=hashlib.sha256(b"hello").hexdigest())
        short = await put(drive, pending, b"hell")
    asked: list[str] = []
    metadata = Scripted(asked, GetUpload=pending, PublishUpload=LengthMismatch(), FailUpload=pending)
    storage = Scripted(asked, HeadBlob=replace(short, sha256=None), DeleteBlob=None)
    clock = ManualClock()
    ingest = IngestActor(metadata, storage, Settings(), clock, ClockGuard(clock))
    with pytest.raises(LengthMismatch):
        await ingest.commit_upload(CommitUpload(SYSTEM, pending.id))
    assert "DigestBlob" not in asked


async def test_an_empty_file_is_a_file(drive: GoDrive, owner: User) -> None:
    file = await upload(drive, owner.id, "empty", b"")
    assert (file.size_bytes, file.sha256) == (0, hashlib.sha256().hexdigest())
    assert await listed(drive, owner) == [file]


async def test_a_committed_file_that_was_purged_is_gone(drive: GoDrive, owner: User) -> None:
    pending = await begin(drive, owner)
    file = await drive.ingest.ask(CommitUpload(SYSTEM, pending.id, blob=await put(drive, pending)))
    await drive.metadata.ask(TrashFile(acting(owner.id), file.id))
    assert (await drive.ingest.ask(CommitUpload(acting(owner.id), pending.id))).trashed_at is not None
    await drive.metadata.ask(PurgeFile(acting(owner.id), file.id))
    with pytest.raises(Gone):
        await drive.ingest.ask(CommitUpload(acting(owner.id), pending.id))
    await drive.janitor.ask(Sweep())
    with pytest.raises(Gone):
        await drive.ingest.ask(CommitUpload(acting(owner.id), pending.id))


async def test_a_commit_is_answered_again_after_its_version_was_deleted(drive: GoDrive, owner: User) -> None:
    first, second = await begin(drive, owner), await begin(drive, owner, on_conflict=OnConflict.REPLACE)
    old = await drive.ingest.ask(CommitUpload(SYSTEM, first.id, blob=await put(drive, first)))
    new = await drive.ingest.ask(CommitUpload(SYSTEM, second.id, blob=await put(drive, second, b"olleh")))
    assert old.version_id is not None
    await drive.metadata.ask(DeleteVersion(acting(owner.id), old.id, old.version_id))
    await drive.janitor.ask(Sweep())
    assert not await has_bytes(drive, first)
    assert await drive.ingest.ask(CommitUpload(acting(owner.id), first.id)) == new


@pytest.mark.parametrize("way", ["commit", "event", "reconciler"])
async def test_an_upload_for_a_version_that_was_replaced_meanwhile_fails_at_once(
    drive: GoDrive, owner: User, clock: ManualClock, way: str
) -> None:
    """No later attempt could succeed, because a tag never comes back."""
    first = await begin(drive, owner)
    file = await drive.ingest.ask(CommitUpload(SYSTEM, first.id, blob=await put(drive, first)))
    late = await begin(drive, owner, on_conflict=OnConflict.REPLACE, if_match=file.etag)
    second = await begin(drive, owner, on_conflict=OnConflict.REPLACE)
    await drive.ingest.ask(CommitUpload(SYSTEM, second.id, blob=await put(drive, second, b"olleh")))
    await put(drive, late, b"later")
    match way:
        case "commit":
            with pytest.raises(PreconditionFailed):
                await drive.ingest.ask(CommitUpload(acting(owner.id), late.id))
        case "event":
            assert await drive.ingest.ask(IngestBlob(late.object_key)) is EventOutcome.REJECTED
        case _:
            clock.advance(drive.config.ingest.reconcile_after)
            assert (await drive.ingest.ask(Reconcile())).failed == 1
    assert await state(drive, late) is UploadState.FAILED
    assert not await has_bytes(drive, late)
    usage = (await drive.auth.ask(GetUser(acting(owner.id)))).usage
    assert (usage.version_bytes, usage.reserved_bytes) == (5, 0)


async def test_a_name_taken_meanwhile_can_be_freed_and_the_commit_tried_again(drive: GoDrive, owner: User) -> None:
    first, second = await begin(drive, owner), await begin(drive, owner)
    for pending in (first, second):
        await put(drive, pending)
    file = await drive.ingest.ask(CommitUpload(SYSTEM, first.id))
    with pytest.raises(NameTaken):
        await drive.ingest.ask(CommitUpload(SYSTEM, second.id))
    assert await state(drive, second) is UploadState.PENDING
    await drive.metadata.ask(UpdateFile(acting(owner.id), file.id, "b.txt"))
    assert (await drive.ingest.ask(CommitUpload(SYSTEM, second.id))).name == "a.txt"


async def test_a_rename_that_was_asked_for_happens_at_the_commit(drive: GoDrive, owner: User) -> None:
    pending = await begin(drive, owner, on_conflict=OnConflict.RENAME)
    await upload(drive, owner.id, "a.txt")
    await put(drive, pending)
    assert (await drive.ingest.ask(CommitUpload(SYSTEM, pending.id))).name == "a (1).txt"


async def test_a_sparse_file_of_60_gb_is_committed_without_being_read(drive_class: type[GoDrive]) -> None:
    size, digest = 60 * 10**9, hashlib.sha256(b"whatever").hexdigest()
    with quick_folder() as folder:
        async with open_drive(drive_class=drive_class, data_dir=folder, blobs={"driver": "disk"}) as drive:
            owner = await sign_up(drive)
            pending = await begin(drive, owner, size=size, sha256=digest)
            blob = Path(folder, "blobs", "objects", pending.object_key)
            blob.parent.mkdir()
            blob.touch()
            os.truncate(blob, size)
            try:
                os.setxattr(blob, SHA256, digest.encode())
            except OSError as error:
                pytest.skip(f"the temporary folder has no extended attributes: {error}")
            before = _bytes_read()
            first = await drive.ingest.ask(CommitUpload(acting(owner.id), pending.id))
            second = await drive.ingest.ask(CommitUpload(acting(owner.id), pending.id))
            assert _bytes_read() - before < 1_000_000
            assert first == second
            assert first.size_bytes == size
            assert await listed(drive, owner) == [first]


def _bytes_read() -> int:
    """What this process has read so far, of whatever."""
    counters = Path("/proc/self/io").read_text().splitlines()
    return int(next(line for line in counters if line.startswith("rchar")).split()[1])


# Events


async def test_every_event_one_to_five_times_in_any_order_gives_each_file_once(drive: GoDrive, owner: User) -> None:
    chance = random.Random(7)
    uploads = [await begin(drive, owner, f"{n}.txt") for n in range(20)]
    for pending in uploads:
        await put(drive, pending)
    events = [IngestBlob(pending.object_key, 5) for pending in uploads for _ in range(chance.randint(1, 5))]
    chance.shuffle(events)
    outcomes = await together(*map(drive.ingest.ask, events))
    assert outcomes == [EventOutcome.PUBLISHED] * len(events)
    assert sorted(file.name for file in await listed(drive, owner)) == sorted(p.name for p in uploads)


async def test_an_event_of_a_key_that_nobody_waits_for_is_ignored(drive: GoDrive, owner: User) -> None:
    unknown = ObjectKey("00000000/unknown")
    await drive.blobs.put(unknown, chunks(b"x"))
    assert await drive.ingest.ask(IngestBlob(unknown)) is EventOutcome.IGNORED
    aborted = await begin(drive, owner)
    await drive.metadata.ask(AbortUpload(acting(owner.id), aborted.id))
    await put(drive, aborted)
    assert await drive.ingest.ask(IngestBlob(aborted.object_key)) is EventOutcome.IGNORED
    assert await listed(drive, owner) == []


async def test_what_an_event_says_is_not_believed(drive: GoDrive, owner: User) -> None:
    pending = await begin(drive, owner)
    event = IngestBlob(pending.object_key, 5, ETag("made up"))
    assert await drive.ingest.ask(event) is EventOutcome.IGNORED
    await put(drive, pending)
    assert await drive.ingest.ask(IngestBlob(pending.object_key, 999)) is EventOutcome.PUBLISHED


async def test_an_event_of_bytes_that_were_not_declared_ends_the_upload(drive: GoDrive, owner: User) -> None:
    pending = await begin(drive, owner)
    await put(drive, pending, b"hello!")
    assert await drive.ingest.ask(IngestBlob(pending.object_key)) is EventOutcome.REJECTED
    assert await state(drive, pending) is UploadState.FAILED
    assert not await has_bytes(drive, pending)


async def test_an_event_of_a_file_whose_name_was_taken_leaves_it_to_the_reconciler(drive: GoDrive, owner: User) -> None:
    pending = await begin(drive, owner)
    await put(drive, pending)
    await upload(drive, owner.id, "a.txt")
    assert await drive.ingest.ask(IngestBlob(pending.object_key)) is EventOutcome.IGNORED
    assert await state(drive, pending) is UploadState.PENDING


# Reconciliation


async def test_with_every_event_lost_the_reconciler_finishes_every_upload(
    drive_class: type[GoDrive], clock: ManualClock
) -> None:
    async with open_drive(drive_class=drive_class, clock=clock, ingest={"batch": 7}) as drive:
        owner = await sign_up(drive)
        for n in range(40):
            await put(drive, await begin(drive, owner, f"{n}.txt"))
        clock.advance(drive.config.ingest.reconcile_after)
        assert await drive.ingest.ask(Reconcile()) == Reconciled(checked=40, published=40)
        assert len(await listed(drive, owner)) == 40
        assert await drive.ingest.ask(Reconcile()) == Reconciled()


async def test_an_upload_is_left_to_its_client_for_some_seconds(
    drive: GoDrive, owner: User, clock: ManualClock
) -> None:
    await put(drive, await begin(drive, owner))
    clock.advance(drive.config.ingest.reconcile_after - 1)
    assert await drive.ingest.ask(Reconcile()) == Reconciled()
    clock.advance(1)
    assert await drive.ingest.ask(Reconcile()) == Reconciled(checked=1, published=1)


async def test_no_bytes_by_the_deadline_and_the_upload_expires(drive_class: type[GoDrive], clock: ManualClock) -> None:
    async with open_drive(drive_class=drive_class, clock=clock, auth={"default_quota_bytes": 5}) as drive:
        owner = await sign_up(drive)
        pending = await begin(drive, owner)
        with pytest.raises(QuotaExceeded):
            await begin(drive, owner, "b.txt")
        clock.advance(drive.config.blobs.upload_ttl - 1)
        assert await drive.ingest.ask(Reconcile()) == Reconciled(checked=1)
        clock.advance(1)
        assert await drive.ingest.ask(Reconcile()) == Reconciled(checked=1, expired=1)
        ended = await drive.metadata.ask(GetUpload(SYSTEM, pending.id))
        assert (ended.state, ended.reason) == (UploadState.EXPIRED, "No bytes arrived in time.")
        await begin(drive, owner, "b.txt")


@pytest.mark.parametrize("days", [40, -40])
async def test_no_upload_expires_because_the_clock_jumped(
    drive: GoDrive, owner: User, clock: ManualClock, days: int
) -> None:
    pending = await begin(drive, owner)
    clock.jump(days * 86_400)
    for _ in range(3):
        assert (await drive.ingest.ask(Reconcile())).expired == 0
        clock.advance(600)
    clock.jump(-days * 86_400)
    assert (await drive.ingest.ask(Reconcile())).expired == 0
    assert await state(drive, pending) is UploadState.PENDING
    await put(drive, pending)
    clock.advance(600)
    assert (await drive.ingest.ask(Reconcile())).published == 1


@pytest.mark.parametrize("days", [40, -40])
async def test_an_upload_whose_time_has_passed_expires_although_the_clock_jumped(
    drive: GoDrive, owner: User, clock: ManualClock, days: int
) -> None:
    pending = await begin(drive, owner)
    clock.jump(days * 86_400)
    await drive.ingest.ask(Reconcile())
    clock.advance(drive.config.blobs.upload_ttl)
    assert (await drive.ingest.ask(Reconcile())).expired == 1
    assert await state(drive, pending) is UploadState.EXPIRED


async def test_an_upload_expires_when_the_clock_has_run_steadily_since_its_jump(
    drive: GoDrive, owner: User, clock: ManualClock
) -> None:
    pending = await begin(drive, owner)
    clock.jump(40 * 86_400)
    await drive.ingest.ask(Reconcile())
    clock.advance(SETTLE)
    assert (await drive.ingest.ask(Reconcile())).expired == 1
    assert await state(drive, pending) is UploadState.EXPIRED


async def test_bytes_that_arrived_before_the_deadline_are_published_after_it(
    drive: GoDrive, owner: User, clock: ManualClock
) -> None:
    await put(drive, await begin(drive, owner))
    clock.advance(drive.config.blobs.upload_ttl * 10)
    assert await drive.ingest.ask(Reconcile()) == Reconciled(checked=1, published=1)


async def test_an_upload_does_not_expire_while_its_bytes_arrive(
    drive: GoDrive, owner: User, clock: ManualClock
) -> None:
    pending = await begin(drive, owner)
    rest = anyio.Event()

    async def slowly() -> AsyncIterator[bytes]:
        yield b"he"
        await rest.wait()
        yield b"llo"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(drive.blobs.put, pending.object_key, slowly())
        await anyio.wait_all_tasks_blocked()
        clock.advance(drive.config.blobs.upload_ttl)
        assert await drive.ingest.ask(Reconcile()) == Reconciled(checked=1)
        touched = await drive.metadata.ask(GetUpload(SYSTEM, pending.id))
        assert (touched.state, touched.received_bytes) == (UploadState.PENDING, 2)
        assert touched.expires_at > clock.now()
        rest.set()
    assert (await drive.ingest.ask(CommitUpload(SYSTEM, pending.id))).size_bytes == 5


async def test_wrong_bytes_are_found_without_any_event(drive: GoDrive, owner: User, clock: ManualClock) -> None:
    pending = await begin(drive, owner)
    await put(drive, pending, b"hello!")
    clock.advance(60)
    reply = await drive.ingest.ask(Reconcile())
    assert (reply.checked, reply.failed) == (1, 1)
    assert "5 bytes were declared, and 6 arrived" in reply.problem
    assert not await has_bytes(drive, pending)


async def test_a_name_that_stays_taken_ends_the_upload_at_its_deadline(
    drive: GoDrive, owner: User, clock: ManualClock
) -> None:
    pending = await begin(drive, owner)
    await put(drive, pending)
    file = await upload(drive, owner.id, "a.txt")
    clock.advance(60)
    assert await drive.ingest.ask(Reconcile()) == Reconciled(checked=1)
    clock.advance(drive.config.blobs.upload_ttl)
    reply = await drive.ingest.ask(Reconcile())
    assert (reply.checked, reply.failed) == (1, 1)
    assert "name_taken" in reply.problem
    ended = await drive.metadata.ask(GetUpload(SYSTEM, pending.id))
    assert ended.state is UploadState.FAILED
    assert ended.reason is not None
    assert "a.txt" in ended.reason
    assert not await has_bytes(drive, pending)
    assert await listed(drive, owner) == [file]


class Outage(MemoryBlobStore):
    """A store that can be down, can refuse single objects, and counts concurrent HEADs."""

    down = False
    asking = 0
    most = 0

    def __init__(self) -> None:
        super().__init__()
        self.refused: set[ObjectKey] = set()

    async def head(self, key: ObjectKey) -> BlobInfo:
        self.asking += 1
        self.most = max(self.most, self.asking)
        try:
            await anyio.lowlevel.checkpoint()
            if self.down or key in self.refused:
                raise StoreUnavailable("The store answers 400.")
            return await super().head(key)
        finally:
            self.asking -= 1


async def test_a_store_that_is_down_ends_no_upload_however_long_it_takes(
    drive_class: type[GoDrive], clock: ManualClock
) -> None:
    store = Outage()
    async with open_drive(drive_class=drive_class, clock=clock, blob_store=store) as drive:
        owner = await sign_up(drive)
        arrived, missing = await begin(drive, owner), await begin(drive, owner, "b.txt")
        await put(drive, arrived)
        store.down = True
        clock.advance(drive.config.blobs.upload_ttl * 2)
        during = await drive.ingest.ask(Reconcile())
        assert (during.checked, during.postponed) == (2, 2)
        assert "store_unavailable: The store answers 400." in during.problem
        store.down = False
        clock.advance(60)
        assert await drive.ingest.ask(Reconcile()) == Reconciled(checked=2, published=1, expired=1)
        assert await state(drive, arrived) is UploadState.COMMITTED
        assert await state(drive, missing) is UploadState.EXPIRED


async def test_an_outage_is_no_attempt_and_delays_no_upload(drive_class: type[GoDrive], clock: ManualClock) -> None:
    store = Outage()
    async with open_drive(drive_class=drive_class, clock=clock, blob_store=store) as drive:
        owner = await sign_up(drive)
        pending = await begin(drive, owner)
        store.down = True
        for _ in range(200):
            clock.advance(5)
            await drive.ingest.ask(Reconcile())
        assert (await drive.metadata.ask(GetUpload(SYSTEM, pending.id))).attempts == 0
        await put(drive, pending)
        store.down = False
        clock.advance(drive.config.ingest.reconcile_after)
        assert await drive.ingest.ask(Reconcile()) == Reconciled(checked=1, published=1)


async def test_a_long_queue_of_uploads_is_not_tried_against_a_store_that_is_down(clock: ManualClock) -> None:
    store = Outage()
    async with open_drive(clock=clock, blob_store=store, ingest={"batch": 5}) as drive:
        owner = await sign_up(drive)
        for n in range(20):
            await begin(drive, owner, f"{n}.txt")
        store.down = True
        clock.advance(60)
        assert (await drive.ingest.ask(Reconcile())).checked == 5


async def test_a_round_goes_on_after_a_reply_that_had_no_room_for_all(
    drive: GoDrive, owner: User, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(3):
        await put(drive, await begin(drive, owner, f"{n}.txt"))
    clock.advance(60)
    monkeypatch.setattr(rows, "MOST_TEXT", 0)
    assert (await drive.ingest.ask(Reconcile())).published == 3


async def test_an_upload_whose_object_the_store_refuses_ends_at_its_deadline(
    drive_class: type[GoDrive], clock: ManualClock
) -> None:
    store = Outage()
    async with open_drive(drive_class=drive_class, clock=clock, blob_store=store) as drive:
        owner = await sign_up(drive)
        refused, healthy = await begin(drive, owner), await begin(drive, owner, "b.txt")
        for pending in (refused, healthy):
            await put(drive, pending)
        store.refused.add(refused.object_key)
        clock.advance(60)
        before = await drive.ingest.ask(Reconcile())
        assert (before.checked, before.published, before.failed, before.postponed) == (2, 1, 0, 0)
        assert (await drive.metadata.ask(GetUpload(SYSTEM, refused.id))).attempts == 1
        clock.advance(drive.config.blobs.upload_ttl)
        after = await drive.ingest.ask(Reconcile())
        assert (after.checked, after.failed) == (1, 1)
        assert refused.id in after.problem
        ended = await drive.metadata.ask(GetUpload(SYSTEM, refused.id))
        assert (ended.state, ended.reason) == (UploadState.FAILED, "The store answers 400.")
        assert (await drive.auth.ask(GetUser(acting(owner.id)))).usage.reserved_bytes == 0


async def test_an_outage_that_ends_between_two_questions_ends_no_upload(clock: ManualClock) -> None:
    class BackAtOnce(Outage):
        async def head(self, key: ObjectKey) -> BlobInfo:
            was_down, self.down = self.down, False
            if was_down:
                raise StoreUnavailable
            return await super().head(key)

    store = BackAtOnce()
    async with open_drive(clock=clock, blob_store=store) as drive:
        pending = await begin(drive, await sign_up(drive))
        await put(drive, pending)
        clock.advance(drive.config.blobs.upload_ttl * 2)
        store.down = True
        assert (await drive.ingest.ask(Reconcile())).published == 1


@each("question", [HeadBlob, DigestBlob])
async def test_a_lost_answer_of_the_store_delays_no_upload(question: type[Ask[Storage, Any]]) -> None:
    clock, faults = ManualClock(), FaultPoints()
    async with open_drive(blob_store=ForgetfulStore(), clock=clock, faults=faults) as drive:
        owner = await sign_up(drive)
        pending = await begin(drive, owner, sha256=hashlib.sha256(b"hello").hexdigest())
        await put(drive, pending)
        clock.advance(60)
        faults.lose_answer(question)
        assert await drive.ingest.ask(Reconcile()) == Reconciled(checked=1, published=1)


async def test_many_uploads_are_settled_at_once_but_not_all(drive_class: type[GoDrive], clock: ManualClock) -> None:
    store = Outage()
    async with open_drive(drive_class=drive_class, clock=clock, blob_store=store) as drive:
        owner = await sign_up(drive)
        for n in range(100):
            await begin(drive, owner, f"{n}.txt")
        clock.advance(60)
        assert await drive.ingest.ask(Reconcile()) == Reconciled(checked=100)
    assert 1 < store.most <= AT_ONCE


class SlowStore(MemoryBlobStore):
    """A store that keeps no digest, and from which reading takes until *go_on* is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = anyio.Event()
        self.reads = 0

    async def head(self, key: ObjectKey) -> BlobInfo:
        return replace(await super().head(key), sha256=None)

    async def get(self, key: ObjectKey, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        self.reads += 1
        await self.go_on.wait()
        async for piece in super().get(key, start=start, end=end):
            yield piece


async def test_a_blob_that_is_read_for_long_delays_no_other_upload(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    monkeypatch.setattr("godrive.actors.ingest.PATIENCE", 0.05)
    store = SlowStore()
    with anyio.fail_after(30):
        async with open_drive(clock=clock, blob_store=store) as drive:
            owner = await sign_up(drive)
            large = await begin(drive, owner, sha256=hashlib.sha256(b"hello").hexdigest())
            await put(drive, large)
            clock.advance(60)
            assert await drive.ingest.ask(Reconcile()) == Reconciled(checked=1)
            await put(drive, await begin(drive, owner, "b.txt"))
            clock.advance(60)  # the large one is due again, and is not read twice
            assert await drive.ingest.ask(Reconcile()) == Reconciled(checked=2, published=1)
            store.go_on.set()
            while await state(drive, large) is UploadState.PENDING:
                await anyio.sleep(0.01)
            assert await drive.ingest.ask(Reconcile()) == Reconciled(checked=1, published=1)
            assert {file.name for file in await listed(drive, owner)} == {"a.txt", "b.txt"}
    assert store.reads == 1


async def test_a_server_that_stops_does_not_wait_for_a_blob_that_is_read_for_long(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    monkeypatch.setattr("godrive.actors.ingest.PATIENCE", 0.05)
    with anyio.fail_after(30):
        async with open_drive(clock=clock, blob_store=SlowStore()) as drive:
            large = await begin(drive, await sign_up(drive), sha256=hashlib.sha256(b"hello").hexdigest())
            await put(drive, large)
            clock.advance(60)
            assert await drive.ingest.ask(Reconcile()) == Reconciled(checked=1)


async def test_checks_of_an_upload_that_does_not_come_become_rarer(
    drive: GoDrive, owner: User, clock: ManualClock
) -> None:
    pending = await begin(drive, owner)
    for _ in range(600):
        clock.advance(5)
        await drive.ingest.ask(Reconcile())
    row = await drive.metadata.ask(GetUpload(SYSTEM, pending.id))
    assert row.state is UploadState.PENDING
    assert 40 < row.attempts < 70


class ForgetfulStore(MemoryBlobStore):
    """A store that keeps no digest, as many S3 stores do."""

    async def head(self, key: ObjectKey) -> BlobInfo:
        return replace(await super().head(key), sha256=None)


async def test_the_same_bytes_are_another_version_if_nobody_knows_that_they_are_the_same() -> None:
    async with open_drive(blob_store=ForgetfulStore()) as drive:
        owner = await sign_up(drive)
        for count in (1, 2):
            pending = await begin(drive, owner, on_conflict=OnConflict.REPLACE)
            await put(drive, pending)
            file = await drive.ingest.ask(CommitUpload(SYSTEM, pending.id))
            found = await drive.metadata.ask(ListVersions(acting(owner.id), file.id))
            assert [version.sha256 for version in found.items] == [None] * count


async def test_a_digest_that_the_store_did_not_check_is_found_out_by_reading() -> None:
    async with open_drive(blob_store=ForgetfulStore()) as drive:
        owner = await sign_up(drive)
        digest = hashlib.sha256(b"hello").hexdigest()
        pending = await begin(drive, owner, sha256=digest)
        await put(drive, pending)
        assert (await drive.ingest.ask(CommitUpload(SYSTEM, pending.id))).sha256 == digest
        lie = await begin(drive, owner, "b.txt", sha256=hashlib.sha256(b"other").hexdigest())
        await put(drive, lie)
        with pytest.raises(DigestMismatch):
            await drive.ingest.ask(CommitUpload(SYSTEM, lie.id))
        assert (await drive.metadata.ask(GetUpload(SYSTEM, lie.id))).state is UploadState.FAILED


@pytest.mark.parametrize(
    ("name", "content", "mime"), [("a", b"%PDF-1.7 and so on", "application/pdf"), ("a.txt", b"hello", "text/plain")]
)
async def test_a_type_that_nobody_declared_is_found_in_the_bytes(
    drive_class: type[GoDrive], name: str, content: bytes, mime: str
) -> None:
    """A client that puts its bytes straight into the store passes no route that looks at them."""
    async with open_drive(drive_class=drive_class) as drive:
        owner = await sign_up(drive)
        ask = BeginUpload(acting(owner.id), Root(), name, "", len(content))
        pending = await drive.metadata.ask(ask)
        await drive.blobs.put(pending.object_key, chunks(content))
        assert (await drive.ingest.ask(CommitUpload(SYSTEM, pending.id))).mime == mime


async def test_a_digest_that_nobody_has_seen_is_not_claimed() -> None:
    async with open_drive(blob_store=ForgetfulStore()) as drive:
        owner = await sign_up(drive)
        pending = await begin(drive, owner)
        await put(drive, pending)
        assert (await drive.ingest.ask(CommitUpload(SYSTEM, pending.id))).sha256 is None
