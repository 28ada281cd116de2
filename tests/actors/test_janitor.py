from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from godrive.actors.janitor import AT_ONCE, LEASE, LEASE_TTL, JanitorActor
from godrive.blobs.memory import MemoryBlobStore
from godrive.clock import SETTLE, ClockGuard
from godrive.drive import GoDrive
from godrive.errors import DriveError, NotFound, StoreUnavailable
from godrive.messages.auth import Authenticate, DeleteUser, GetUser, LogIn, Refresh
from godrive.messages.clock import AcceptClock, ReadClock
from godrive.messages.files import (
    EmptyTrash,
    GetFile,
    ListFiles,
    ListTrash,
    OpenContent,
    PurgeFile,
    RestoreFile,
    TrashFile,
)
from godrive.messages.ingest import CommitUpload, Reconcile
from godrive.messages.janitor import Sweep, Swept
from godrive.messages.metadata import Metadata
from godrive.messages.system import AcquireLease, Drift, UsageDrift
from godrive.messages.uploads import AbortUpload, BeginUpload, GetUpload
from godrive.messages.versions import DeleteVersion, ListVersions
from godrive.model import Anywhere, BlobInfo, File, ObjectKey, OnConflict, Root, UploadState, User
from godrive.runtime import Ask
from godrive.testing import ManualClock, chunks, open_drive, quick_folder, sign_up, upload
from tests.faults import Fault, Faults, FaultyBlobs
from tests.principals import SYSTEM, acting

pytestmark = pytest.mark.anyio

DOWN = "store_unavailable: Store is unavailable"
DAY = 86_400.0


class FragileStore(MemoryBlobStore):
    """A store in which some blobs cannot be deleted, and which shows how many deletions run at once."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck: set[ObjectKey] = set()
        self.deleting = 0
        self.most = 0

    async def delete(self, key: ObjectKey) -> None:
        self.deleting += 1
        self.most = max(self.most, self.deleting)
        try:
            await anyio.lowlevel.checkpoint()
            if key in self.stuck:
                raise StoreUnavailable
            await super().delete(key)
        finally:
            self.deleting -= 1


async def keys(drive: GoDrive) -> list[ObjectKey]:
    return [blob.key async for blob in drive.blobs.list()]


async def key_of(drive: GoDrive, file: File) -> ObjectKey:
    return (await drive.metadata.ask(OpenContent(acting(file.owner_id), file.id))).object_key


async def trashed(drive: GoDrive, owner: User, name: str = "a.txt") -> File:
    file = await upload(drive, owner.id, name, b"hello")
    await drive.metadata.ask(TrashFile(acting(owner.id), file.id))
    return file


# Purging


async def test_a_file_is_purged_when_its_grace_is_over_and_not_before(
    drive: GoDrive, owner: User, clock: ManualClock
) -> None:
    file = await trashed(drive, owner)
    clock.advance(drive.config.janitor.trash_grace - 1)
    assert (await drive.janitor.ask(Sweep())).purged == 0
    assert len(await keys(drive)) == 1
    clock.advance(1)
    assert (await drive.janitor.ask(Sweep())).purged == 1
    assert await keys(drive) == []
    assert (await drive.metadata.ask(ListTrash(acting(owner.id)))).items == []
    with pytest.raises(NotFound):
        await drive.metadata.ask(RestoreFile(acting(owner.id), file.id))


# Versions


async def replaced(drive: GoDrive, owner: User, *contents: bytes) -> File:
    """A file that had these contents, one after the other."""
    files = [await upload(drive, owner.id, "a.txt", text, on_conflict=OnConflict.REPLACE) for text in contents]
    return files[-1]


async def test_a_version_whose_blob_cannot_be_deleted_is_charged_and_tried_again(
    drive_class: type[GoDrive], clock: ManualClock
) -> None:
    store = FragileStore()
    async with open_drive(drive_class=drive_class, clock=clock, blob_store=store) as drive:
        owner = await sign_up(drive)
        file = await replaced(drive, owner, b"one", b"three", b"four")
        _, three, one = (await drive.metadata.ask(ListVersions(acting(owner.id), file.id))).items
        content = await drive.metadata.ask(OpenContent(acting(owner.id), file.id, three.id))
        store.stuck = {content.object_key}
        for version in (one, three):
            await drive.metadata.ask(DeleteVersion(acting(owner.id), file.id, version.id))
        swept = await drive.janitor.ask(Sweep())
        assert (swept.versions, swept.failed, swept.problem) == (1, 1, DOWN)
        assert (await drive.auth.ask(GetUser(acting(owner.id)))).usage.version_bytes == 5
        store.stuck = set()
        assert (await drive.janitor.ask(Sweep())).versions == 0
        clock.advance(3600)
        assert (await drive.janitor.ask(Sweep())).versions == 1
        assert (await drive.auth.ask(GetUser(acting(owner.id)))).usage.version_bytes == 0
        assert await keys(drive) == [await key_of(drive, file)]
        assert await drive.metadata.ask(UsageDrift()) == Drift(bytes=0, rows=0)


@pytest.mark.parametrize("days", [40, -40])
async def test_a_jump_of_the_clock_and_back_removes_no_version(
    drive_class: type[GoDrive], clock: ManualClock, days: int
) -> None:
    janitor = {"versions_kept": 0, "batch": 2}
    async with open_drive(drive_class=drive_class, clock=clock, janitor=janitor) as drive:
        owner = await sign_up(drive)
        file = await replaced(drive, owner, b"1", b"2", b"3", b"4")
        await drive.janitor.ask(Sweep())
        clock.jump(days * DAY)
        file = await replaced(drive, owner, b"5")
        for _ in range(10):
            assert (await drive.janitor.ask(Sweep())).versions == 0
            clock.advance(60)
        clock.jump(-days * DAY)
        for _ in range(3):
            assert (await drive.janitor.ask(Sweep())).versions == 0
            clock.advance(60)
        assert len((await drive.metadata.ask(ListVersions(acting(owner.id), file.id))).items) == 5
        removed = 0
        for _ in range(2):  # the one that was replaced ahead has its time from when the clock was right again
            clock.advance(drive.config.janitor.version_retention)
            swept = await drive.janitor.ask(Sweep())
            assert swept.held == 0
            removed += swept.versions
        assert removed == 4
        assert len(await keys(drive)) == 1


async def test_sweeping_again_does_nothing(drive: GoDrive, owner: User, clock: ManualClock) -> None:
    await trashed(drive, owner)
    await drive.metadata.ask(EmptyTrash(acting(owner.id)))
    await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), "b.txt", "", 5))
    clock.advance(2 * DAY)
    await drive.ingest.ask(Reconcile())
    await drive.janitor.ask(Sweep())
    clock.advance(2 * DAY)
    await drive.janitor.ask(Sweep())
    assert await drive.janitor.ask(Sweep()) == Swept()


async def test_one_sweep_purges_all_that_is_due_a_few_at_a_time(drive_class: type[GoDrive], clock: ManualClock) -> None:
    store = FragileStore()
    async with open_drive(drive_class=drive_class, clock=clock, blob_store=store, janitor={"batch": 20}) as drive:
        owner = await sign_up(drive)
        for n in range(50):
            await trashed(drive, owner, f"{n}.txt")
        await drive.metadata.ask(EmptyTrash(acting(owner.id)))
        assert (await drive.janitor.ask(Sweep())).purged == 50
        assert await keys(drive) == []
    assert 1 < store.most <= AT_ONCE


async def test_one_blob_that_cannot_be_deleted_holds_nothing_up_and_is_tried_again(
    drive_class: type[GoDrive], clock: ManualClock
) -> None:
    store = FragileStore()
    async with open_drive(drive_class=drive_class, clock=clock, blob_store=store) as drive:
        owner = await sign_up(drive)
        files = [await upload(drive, owner.id, f"{n}.txt", b"hello") for n in range(5)]
        store.stuck = {await key_of(drive, files[2])}
        for file in files:
            await drive.metadata.ask(TrashFile(acting(owner.id), file.id))
        await drive.metadata.ask(EmptyTrash(acting(owner.id)))
        swept = await drive.janitor.ask(Sweep())
        assert (swept.purged, swept.failed) == (4, 1)
        assert swept.problem == DOWN
        assert set(await keys(drive)) == store.stuck
        # Its row is still there, so nobody takes the bytes for an orphan, and they are still charged.
        assert await drive.metadata.ask(UsageDrift()) == Drift(bytes=0, rows=0)
        assert (await drive.janitor.ask(Sweep())).failed == 0
        store.stuck = set()
        clock.advance(3600)
        assert (await drive.janitor.ask(Sweep())).purged == 1
        assert await keys(drive) == []


async def test_a_restore_and_a_purge_at_once_leave_a_whole_file_or_none(drive: GoDrive, owner: User) -> None:
    files = [await trashed(drive, owner, f"{n}.txt") for n in range(20)]
    restored: list[File] = []

    async def restore(file: File) -> None:
        try:
            restored.append(await drive.metadata.ask(RestoreFile(acting(owner.id), file.id)))
        except NotFound:
            return

    async def purge(file: File) -> None:
        try:
            await drive.metadata.ask(PurgeFile(acting(owner.id), file.id))
        except NotFound:
            return
        await drive.janitor.ask(Sweep())

    async with anyio.create_task_group() as tasks:
        for n, file in enumerate(files):
            for act in (restore, purge) if n % 2 else (purge, restore):
                tasks.start_soon(act, file)
    listed = (await drive.metadata.ask(ListFiles(acting(owner.id), Anywhere()))).items
    assert sorted(file.id for file in listed) == sorted(file.id for file in restored)
    assert 0 < len(listed) < len(files)
    assert sorted(await keys(drive)) == sorted([await key_of(drive, file) for file in listed])


async def test_the_bytes_of_a_purge_cut_short_go_with_the_next(drive: GoDrive, owner: User, clock: ManualClock) -> None:
    file = await upload(drive, owner.id, "a.txt", b"hello")
    key = await key_of(drive, file)
    await drive.metadata.ask(TrashFile(acting(owner.id), file.id))
    await drive.metadata.ask(EmptyTrash(acting(owner.id)))
    await drive.blobs.delete(key)  # and then the process was killed
    assert (await drive.janitor.ask(Sweep())).purged == 1
    assert await drive.metadata.ask(UsageDrift()) == Drift(bytes=0, rows=0)


# Jumps of the clock


@pytest.mark.parametrize("days", [40, -40])
async def test_a_jump_of_the_clock_and_back_deletes_nothing(
    drive_class: type[GoDrive], clock: ManualClock, days: int
) -> None:
    store = MemoryBlobStore(clock=clock)
    async with open_drive(drive_class=drive_class, clock=clock, blob_store=store) as drive:
        owner = await sign_up(drive)
        session = (await drive.auth.ask(LogIn("ann@example.org", "correct horse"))).refresh_token
        before = await trashed(drive, owner, "before.txt")
        orphan = ObjectKey("00000000/orphan")
        await drive.blobs.put(orphan, chunks(b"whose?"))
        await drive.janitor.ask(Sweep())
        clock.jump(days * DAY)
        during = await trashed(drive, owner, "during.txt")
        for _ in range(10):
            swept = await drive.janitor.ask(Sweep())
            assert (swept.purged, swept.staging, swept.orphans, swept.sessions) == (0, 0, 0, 0)
            assert swept.held == 6
            assert "clock jumped" in swept.problem
            clock.advance(60)
        clock.jump(-days * DAY)
        for _ in range(3):
            assert (await drive.janitor.ask(Sweep())).purged == 0
            clock.advance(60)
        for file in (before, during):
            await drive.metadata.ask(RestoreFile(acting(owner.id), file.id))
        assert orphan in await keys(drive)
        assert (await drive.auth.ask(Refresh(session))).refresh_token


@pytest.mark.parametrize("days", [40, 9, -1])
async def test_a_clock_that_was_wrong_before_the_start_deletes_nothing(drive_class: type[GoDrive], days: int) -> None:
    """As of a machine whose clock is set while it is off, or by a dead battery."""
    with quick_folder() as folder:
        options: dict[str, Any] = {"drive_class": drive_class, "data_dir": folder, "blobs": {"driver": "disk"}}
        right = ManualClock()
        async with open_drive(clock=right, **options) as drive:
            owner = await sign_up(drive)
            file = await trashed(drive, owner)
            pending = await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), "b.txt", "", 5))
            await drive.janitor.ask(Sweep())
        for _ in range(2):  # a second start does not make it right
            wrong = ManualClock(right.now() + timedelta(days=days))
            async with open_drive(clock=wrong, **options) as drive:
                for _ in range(3):
                    assert (await drive.ingest.ask(Reconcile())).expired == 0
                    swept = await drive.janitor.ask(Sweep())
                    assert (swept.purged, swept.held) == (0, 6)
                    wrong.advance(60)
        async with open_drive(clock=right, **options) as drive:
            assert (await drive.janitor.ask(Sweep())).held == 6
            await drive.metadata.ask(RestoreFile(acting(owner.id), file.id))
            assert (await drive.metadata.ask(GetUpload(SYSTEM, pending.id))).state is UploadState.PENDING


async def test_what_was_trashed_by_a_clock_that_was_behind_is_kept_by_later_processes(
    drive_class: type[GoDrive],
) -> None:
    """The row says that it was trashed 40 days ago, and the process that saw the jump is gone."""
    with quick_folder() as folder:
        options: dict[str, Any] = {"drive_class": drive_class, "data_dir": folder, "blobs": {"driver": "disk"}}
        clock = ManualClock()
        async with open_drive(clock=clock, **options) as drive:
            owner = await sign_up(drive)
            await drive.janitor.ask(Sweep())
            clock.jump(-40 * DAY)
            file = await trashed(drive, owner)
            assert (await drive.janitor.ask(Sweep())).held == 6
        clock.jump(40 * DAY)
        for why in ("jumped forwards by 40 days", "jumped before the last start"):
            async with open_drive(clock=clock, **options) as drive:
                swept = await drive.janitor.ask(Sweep())
                assert (swept.purged, swept.held) == (0, 6)
                assert why in swept.problem
                clock.advance(60)
        async with open_drive(clock=clock, **options) as drive:
            await drive.metadata.ask(RestoreFile(acting(owner.id), file.id))
            assert (await drive.janitor.ask(Sweep(trust_clock=True))).held == 0
        async with open_drive(clock=clock, **options) as drive:
            assert (await drive.janitor.ask(Sweep())).held == 0


async def test_the_first_sweep_after_a_jump_records_the_doubt(drive: GoDrive, clock: ManualClock) -> None:
    await drive.janitor.ask(Sweep())
    clock.jump(40 * DAY)
    await drive.janitor.ask(Sweep())
    noted = await drive.metadata.ask(ReadClock())
    assert (noted.doubt, noted.due_by) == (SETTLE, clock.now() - timedelta(days=40))


async def test_an_operator_may_vouch_for_a_clock_after_a_long_time_off(drive_class: type[GoDrive]) -> None:
    with quick_folder() as folder:
        options: dict[str, Any] = {"drive_class": drive_class, "data_dir": folder, "blobs": {"driver": "disk"}}
        clock = ManualClock()
        async with open_drive(clock=clock, **options) as drive:
            await trashed(drive, await sign_up(drive))
            await drive.janitor.ask(Sweep())
        later = ManualClock(clock.now() + timedelta(days=40))
        async with open_drive(clock=later, **options) as drive:
            swept = await drive.janitor.ask(Sweep())
            assert (swept.purged, swept.held) == (0, 6)
            assert "godrive doctor --accept-clock" in swept.problem
            swept = await drive.janitor.ask(Sweep(trust_clock=True))
            assert (swept.purged, swept.held, swept.problem) == (1, 0, "")


@pytest.mark.parametrize(("off", "step", "purged"), [(0.9, None, 1), (1.1, None, 0), (7, 8 * DAY, 1), (7, 6 * DAY, 0)])
async def test_the_largest_step_that_is_trusted_between_two_processes_is_configured(
    drive_class: type[GoDrive], off: float, step: float | None, purged: int
) -> None:
    with quick_folder() as folder:
        options: dict[str, Any] = {"drive_class": drive_class, "data_dir": folder, "blobs": {"driver": "disk"}}
        options["janitor"] = {"trash_grace": DAY / 2} | ({} if step is None else {"clock_step": step})
        clock = ManualClock()
        async with open_drive(clock=clock, **options) as drive:
            await trashed(drive, await sign_up(drive))
            await drive.janitor.ask(Sweep())
        async with open_drive(clock=ManualClock(clock.now() + timedelta(days=off)), **options) as drive:
            swept = await drive.janitor.ask(Sweep())
            assert (swept.purged, swept.held > 0) == (purged, not purged)


async def test_after_a_jump_forwards_what_is_due_by_the_old_clock_is_purged_and_nothing_else(
    drive: GoDrive, owner: User, clock: ManualClock
) -> None:
    grace = drive.config.janitor.trash_grace
    first = await trashed(drive, owner, "first.txt")
    await replaced(drive, owner, b"1", b"2")
    clock.advance(3600)
    second = await trashed(drive, owner, "second.txt")
    clock.advance(grace - 7200)
    await drive.janitor.ask(Sweep())
    clock.jump(40 * DAY)
    swept = await drive.janitor.ask(Sweep())
    assert (swept.purged, swept.versions, swept.held) == (0, 0, 6)
    clock.advance(3600)
    swept = await drive.janitor.ask(Sweep())
    assert (swept.purged, swept.held) == (1, 6)
    with pytest.raises(NotFound):
        await drive.metadata.ask(RestoreFile(acting(owner.id), first.id))
    await drive.metadata.ask(RestoreFile(acting(owner.id), second.id))


async def test_after_a_restart_the_old_clock_is_the_recorded_one(drive_class: type[GoDrive]) -> None:
    with quick_folder() as folder:
        options: dict[str, Any] = {"drive_class": drive_class, "data_dir": folder, "blobs": {"driver": "disk"}}
        options["janitor"] = {"trash_grace": 2 * 3600.0}
        clock = ManualClock()
        async with open_drive(clock=clock, **options) as drive:
            owner = await sign_up(drive)
            await trashed(drive, owner, "first.txt")
            clock.advance(3600)
            second = await trashed(drive, owner, "second.txt")
            await drive.janitor.ask(Sweep())
        ahead = ManualClock(clock.now() + timedelta(days=40))
        async with open_drive(clock=ahead, **options) as drive:
            assert (await drive.janitor.ask(Sweep())).purged == 0
            ahead.advance(1800)
            assert (await drive.janitor.ask(Sweep())).purged == 0
        async with open_drive(clock=ahead, **options) as drive:  # the half hour of the other process counts
            ahead.advance(1799)
            assert (await drive.janitor.ask(Sweep())).purged == 0
            ahead.advance(1)
            assert (await drive.janitor.ask(Sweep())).purged == 1
            await drive.metadata.ask(RestoreFile(acting(owner.id), second.id))


async def test_an_upload_that_was_due_by_the_old_clock_ends_also_after_a_jump(
    drive: GoDrive, owner: User, clock: ManualClock
) -> None:
    pending = await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), "a.txt", "", 5))
    ttl = drive.config.blobs.upload_ttl
    clock.advance(ttl / 2)
    later = await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), "b.txt", "", 5))
    await drive.ingest.ask(Reconcile())
    clock.jump(40 * DAY)
    assert (await drive.ingest.ask(Reconcile())).expired == 0
    clock.advance(ttl / 2 + 60)
    assert (await drive.ingest.ask(Reconcile())).expired == 1
    assert (await drive.metadata.ask(GetUpload(SYSTEM, pending.id))).state is UploadState.EXPIRED
    assert (await drive.metadata.ask(GetUpload(SYSTEM, later.id))).state is UploadState.PENDING


async def test_a_running_server_follows_an_operator_who_accepts_the_clock(
    drive: GoDrive, owner: User, clock: ManualClock
) -> None:
    await trashed(drive, owner)
    await drive.janitor.ask(Sweep())
    clock.jump(40 * DAY)
    assert (await drive.janitor.ask(Sweep())).held == 6
    await drive.metadata.ask(AcceptClock())
    clock.advance(60)
    swept = await drive.janitor.ask(Sweep())
    assert (swept.purged, swept.held) == (1, 0)
    await trashed(drive, owner)
    clock.jump(40 * DAY)  # what was accepted is not accepted for ever
    assert (await drive.janitor.ask(Sweep())).held == 6


async def test_a_jump_between_two_batches_ends_the_purge(drive_class: type[GoDrive], clock: ManualClock) -> None:
    store = Slow(clock)
    async with open_drive(drive_class=drive_class, clock=clock, blob_store=store, janitor={"batch": 1}) as drive:
        owner = await sign_up(drive)
        first = await trashed(drive, owner, "first.txt")
        clock.advance(drive.config.janitor.trash_grace)
        second = await trashed(drive, owner, "second.txt")

        async def jump() -> None:
            clock.jump(40 * DAY)

        store.meanwhile = jump
        assert (await drive.janitor.ask(Sweep())).purged == 1
        with pytest.raises(NotFound):
            await drive.metadata.ask(RestoreFile(acting(owner.id), first.id))
        await drive.metadata.ask(RestoreFile(acting(owner.id), second.id))


async def test_purges_go_on_when_the_clock_has_run_steadily_since_its_jump(
    drive: GoDrive, owner: User, clock: ManualClock
) -> None:
    await trashed(drive, owner)
    clock.jump(40 * DAY)
    assert (await drive.janitor.ask(Sweep())).purged == 0
    clock.advance(SETTLE - 1)
    assert (await drive.janitor.ask(Sweep())).purged == 0
    clock.advance(1)
    swept = await drive.janitor.ask(Sweep())
    assert (swept.purged, swept.held, swept.problem) == (1, 0, "")


async def test_an_aborted_upload_is_cleaned_up_also_after_a_jump(
    drive: GoDrive, owner: User, clock: ManualClock
) -> None:
    pending = await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), "a.txt", "", 5))
    await drive.blobs.put(pending.object_key, chunks(b"hello"))
    clock.jump(40 * DAY)
    await drive.metadata.ask(AbortUpload(acting(owner.id), pending.id))
    assert (await drive.janitor.ask(Sweep())).cleaned == 1
    assert await keys(drive) == []


# Cleanups


async def test_the_bytes_of_an_ended_upload_are_removed_soon_and_once_more_when_its_url_is_dead(
    drive: GoDrive, owner: User, clock: ManualClock
) -> None:
    pending = await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), "a.txt", "", 5))
    await drive.blobs.put(pending.object_key, chunks(b"hello"))
    await drive.metadata.ask(AbortUpload(acting(owner.id), pending.id))
    assert (await drive.janitor.ask(Sweep())).cleaned == 1
    assert await keys(drive) == []
    await drive.blobs.put(pending.object_key, chunks(b"hello"))  # by who still holds the URL
    assert (await drive.janitor.ask(Sweep())).cleaned == 0
    clock.advance(3 * drive.config.blobs.upload_ttl)
    assert (await drive.janitor.ask(Sweep())).cleaned == 1
    assert await keys(drive) == []


async def test_an_ended_upload_answers_for_a_day_and_is_then_forgotten(
    drive: GoDrive, owner: User, clock: ManualClock
) -> None:
    pending = await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), "a.txt", "", 5))
    await drive.metadata.ask(AbortUpload(acting(owner.id), pending.id))
    clock.advance(drive.config.janitor.upload_retention - 1)
    await drive.janitor.ask(Sweep())
    await drive.metadata.ask(GetUpload(SYSTEM, pending.id))
    clock.advance(1)
    assert (await drive.janitor.ask(Sweep())).uploads == 1
    with pytest.raises(NotFound):
        await drive.metadata.ask(GetUpload(SYSTEM, pending.id))


async def test_staging_files_older_than_an_upload_may_last_are_removed(
    drive_class: type[GoDrive], clock: ManualClock
) -> None:
    with quick_folder() as folder:
        async with open_drive(drive_class=drive_class, data_dir=folder, clock=clock, blobs={"driver": "disk"}) as drive:
            staging = Path(folder, "blobs", "staging")
            old, young = staging / ("0" * 32), staging / ("1" * 32)
            for path, age in ((old, 3601), (young, 3599)):
                path.write_bytes(b"half an upl")
                then = (clock.now() - timedelta(seconds=age)).timestamp()
                os.utime(path, (then, then))
            assert (await drive.janitor.ask(Sweep())).staging == 1
            assert list(staging.iterdir()) == [young]


async def test_a_put_in_progress_loses_nothing_to_a_sweep(drive_class: type[GoDrive], clock: ManualClock) -> None:
    with quick_folder() as folder:
        async with open_drive(drive_class=drive_class, data_dir=folder, clock=clock, blobs={"driver": "disk"}) as drive:
            owner = await sign_up(drive)
            pending = await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), "a.txt", "", 200_000))
            rest = anyio.Event()

            async def slowly() -> AsyncIterator[bytes]:
                yield bytes(100_000)
                await rest.wait()
                yield bytes(100_000)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(drive.blobs.put, pending.object_key, slowly())
                await anyio.wait_all_tasks_blocked()
                clock.advance(2 * DAY)
                await drive.janitor.ask(Sweep())
                rest.set()
            assert (await drive.ingest.ask(CommitUpload(SYSTEM, pending.id))).size_bytes == 200_000


# Orphans


async def test_an_orphan_is_set_aside_when_it_is_old_and_two_sweeps_have_seen_it(
    drive_class: type[GoDrive], clock: ManualClock
) -> None:
    store = MemoryBlobStore(clock=clock)
    async with open_drive(drive_class=drive_class, clock=clock, blob_store=store) as drive:
        owner = await sign_up(drive)
        kept = await key_of(drive, await upload(drive, owner.id, "a.txt", b"hello"))
        orphan = ObjectKey("00000000/orphan")
        await drive.blobs.put(orphan, chunks(b"whose?"))
        clock.advance(drive.config.janitor.orphan_age - 1)
        for _ in range(3):
            assert (await drive.janitor.ask(Sweep())).orphans == 0
        clock.advance(1)
        assert (await drive.janitor.ask(Sweep())).orphans == 0
        assert (await drive.janitor.ask(Sweep())).orphans == 1
        assert (await drive.janitor.ask(Sweep())).orphans == 0
        assert await keys(drive) == [kept]
    assert store.quarantined == {orphan: b"whose?"}


async def test_what_becomes_known_between_two_looks_is_spared(drive_class: type[GoDrive], clock: ManualClock) -> None:
    store = MemoryBlobStore(clock=clock)
    async with open_drive(
        drive_class=drive_class, clock=clock, blob_store=store, blobs={"upload_ttl": 7 * DAY}
    ) as drive:
        owner = await sign_up(drive)
        pending = await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), "a.txt", "", 5))
        await drive.blobs.put(pending.object_key, chunks(b"hello"))
        await drive.catalog.write(lambda tx: tx.run("UPDATE uploads SET object_key = 'lost/for-a-while'"))
        clock.advance(2 * DAY)
        await drive.janitor.ask(Sweep())
        await drive.catalog.write(lambda tx: tx.run("UPDATE uploads SET object_key = $1", pending.object_key))
        assert (await drive.janitor.ask(Sweep())).orphans == 0
        assert (await drive.ingest.ask(CommitUpload(SYSTEM, pending.id))).size_bytes == 5
    assert store.quarantined == {}


async def test_a_large_store_is_looked_through_over_several_sweeps(
    drive_class: type[GoDrive], clock: ManualClock
) -> None:
    store = MemoryBlobStore(clock=clock)
    async with open_drive(drive_class=drive_class, clock=clock, blob_store=store, janitor={"batch": 2}) as drive:
        owner = await sign_up(drive)
        for n in range(9):
            await upload(drive, owner.id, f"{n}.txt", b"hello")
        for n in range(30):
            await drive.blobs.put(ObjectKey(f"ffffffff/orphan-{n:02}"), chunks(b"x"))
        clock.advance(2 * DAY)
        found = [(await drive.janitor.ask(Sweep())).orphans for _ in range(4)]
        assert found == [0, 11, 19, 0]
        assert len(await keys(drive)) == 9


# Many kinds of trouble


async def test_a_store_that_is_down_leaves_the_rest_of_the_sweep_to_be_done(
    drive_class: type[GoDrive], clock: ManualClock
) -> None:
    store = FaultyBlobs(MemoryBlobStore())
    async with open_drive(drive_class=drive_class, clock=clock, blob_store=store) as drive:
        owner = await sign_up(drive)
        await trashed(drive, owner)
        await drive.auth.ask(LogIn("ann@example.org", "correct horse"))
        clock.advance(drive.config.auth.refresh_ttl)
        store.faults = Faults(0, Fault.REFUSED)  # the sweep of the staging area is the first to ask the store
        swept = await drive.janitor.ask(Sweep())
        assert (swept.failed, swept.purged, swept.sessions) == (1, 0, 1)
        clock.advance(3600)
        assert (await drive.janitor.ask(Sweep())).purged == 1


async def test_only_who_has_the_lease_sweeps(drive: GoDrive, owner: User, clock: ManualClock) -> None:
    await trashed(drive, owner)
    await drive.metadata.ask(EmptyTrash(acting(owner.id)))
    assert await drive.metadata.ask(AcquireLease(LEASE, "another process", LEASE_TTL))
    assert await drive.janitor.ask(Sweep()) == Swept()
    clock.advance(LEASE_TTL)
    assert (await drive.janitor.ask(Sweep())).purged == 1


async def test_a_chore_that_fails_as_a_whole_holds_up_no_other(drive_class: type[GoDrive], clock: ManualClock) -> None:
    class Unlisted(MemoryBlobStore):
        def list(self, *, after: str = "") -> AsyncIterator[BlobInfo]:
            raise StoreUnavailable

    settings = {"batch": 1}
    async with open_drive(drive_class=drive_class, clock=clock, blob_store=Unlisted(), janitor=settings) as drive:
        await sign_up(drive)
        for _ in range(3):
            await drive.auth.ask(LogIn("ann@example.org", "correct horse"))
        clock.advance(31 * DAY)
        assert await drive.janitor.ask(Sweep()) == Swept(sessions=3, failed=1, problem=DOWN)


async def test_bytes_of_an_ended_upload_that_cannot_be_deleted_now_are_tried_again_soon(
    drive_class: type[GoDrive], clock: ManualClock
) -> None:
    store = FragileStore()
    async with open_drive(drive_class=drive_class, clock=clock, blob_store=store) as drive:
        owner = await sign_up(drive)
        pending = await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), "a.txt", "", 5))
        await drive.blobs.put(pending.object_key, chunks(b"hello"))
        await drive.metadata.ask(AbortUpload(acting(owner.id), pending.id))
        store.stuck = {pending.object_key}
        assert await drive.janitor.ask(Sweep()) == Swept(failed=1, problem=DOWN)
        store.stuck = set()
        clock.advance(60)
        assert await drive.janitor.ask(Sweep()) == Swept(cleaned=1)
        assert await keys(drive) == []


async def test_the_lease_is_given_back_after_a_sweep(drive: GoDrive) -> None:
    await drive.janitor.ask(Sweep())
    assert await drive.metadata.ask(AcquireLease(LEASE, "another process", LEASE_TTL))


async def test_who_loses_the_lease_stops_sweeping(drive_class: type[GoDrive], clock: ManualClock) -> None:
    store = Slow(clock)
    async with open_drive(drive_class=drive_class, clock=clock, blob_store=store, janitor={"batch": 1}) as drive:
        owner = await sign_up(drive)
        for n in range(3):
            await trashed(drive, owner, f"{n}.txt")
        await drive.metadata.ask(EmptyTrash(acting(owner.id)))

        async def take_over() -> None:
            assert await drive.metadata.ask(AcquireLease(LEASE, "another process", LEASE_TTL))

        store.meanwhile = take_over
        assert (await drive.janitor.ask(Sweep())).purged == 1
        assert len(await keys(drive)) == 2


async def test_the_lease_is_renewed_long_before_it_ends(drive_class: type[GoDrive], clock: ManualClock) -> None:
    store = Slow(clock, LEASE_TTL / 2 + 1)
    async with open_drive(drive_class=drive_class, clock=clock, blob_store=store, janitor={"batch": 1}) as drive:
        owner, taken = await sign_up(drive), list[bool]()
        for n in range(3):
            await trashed(drive, owner, f"{n}.txt")
        await drive.metadata.ask(EmptyTrash(acting(owner.id)))

        async def try_to_take_over() -> None:
            taken.append(await drive.metadata.ask(AcquireLease(LEASE, "another process", LEASE_TTL)))

        store.meanwhile = try_to_take_over
        assert (await drive.janitor.ask(Sweep())).purged == 3
    assert taken == [False] * 3


async def test_a_lease_counts_from_when_it_was_asked_for(clock: ManualClock) -> None:
    async with open_drive(clock=clock) as drive:
        asked = 0

        class Distant:
            """The catalog, far away."""

            async def ask(self, message: Ask[Metadata, Any], *, timeout: float | None = None) -> Any:
                nonlocal asked
                if isinstance(message, AcquireLease):
                    asked += 1
                    clock.advance(LEASE_TTL / 2)
                return await drive.metadata.ask(message)

        await JanitorActor(Distant(), drive.storage, drive.config, clock, ClockGuard(clock)).sweep(Sweep())
    assert asked == 4  # to begin, and again before versions are reviewed, and rows or changes pruned


async def test_every_sweep_asks_for_the_lease_anew(drive: GoDrive, owner: User) -> None:
    await drive.janitor.ask(Sweep())
    assert await drive.metadata.ask(AcquireLease(LEASE, "another process", LEASE_TTL))
    await trashed(drive, owner)
    await drive.metadata.ask(EmptyTrash(acting(owner.id)))
    assert await drive.janitor.ask(Sweep()) == Swept()
    assert len(await keys(drive)) == 1


async def test_who_has_lost_the_lease_prunes_nothing(drive_class: type[GoDrive], clock: ManualClock) -> None:
    class Long(MemoryBlobStore):
        """One that takes longer to list than a lease lasts."""

        async def list(self, *, after: str = "") -> AsyncIterator[BlobInfo]:
            clock.advance(LEASE_TTL)
            assert await drive.metadata.ask(AcquireLease(LEASE, "another process", LEASE_TTL))
            async for blob in super().list(after=after):
                yield blob

    async with open_drive(drive_class=drive_class, clock=clock, blob_store=Long()) as drive:
        await sign_up(drive)
        await drive.auth.ask(LogIn("ann@example.org", "correct horse"))
        clock.advance(31 * DAY)
        assert (await drive.janitor.ask(Sweep())).sessions == 0


class Slow(MemoryBlobStore):
    """A store whose deletions take long: by default longer than a lease lasts."""

    def __init__(self, clock: ManualClock, seconds: float = LEASE_TTL) -> None:
        super().__init__(clock=clock)
        self._manual = clock
        self._seconds = seconds
        self.meanwhile = anyio.lowlevel.checkpoint

    async def delete(self, key: ObjectKey) -> None:
        self._manual.advance(self._seconds)
        await self.meanwhile()
        await super().delete(key)


# People who leave


async def test_a_deleted_user_leaves_nothing_behind(drive: GoDrive, owner: User, clock: ManualClock) -> None:
    stays = await sign_up(drive, "bob@example.org")
    kept = await upload(drive, stays.id, "kept.txt", b"hello")
    kept_key = await key_of(drive, kept)
    file = await upload(drive, owner.id, "a.txt", b"hello")
    version = (await drive.metadata.ask(OpenContent(acting(owner.id), file.id))).file.version_id
    await trashed(drive, owner, "b.txt")
    pending = await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), "c.txt", "", 5))
    await drive.blobs.put(pending.object_key, chunks(b"hello"))
    token = (await drive.auth.ask(LogIn(owner.email, "correct horse"))).token
    await drive.auth.ask(DeleteUser(await drive.auth.ask(Authenticate(token)), "correct horse"))

    with pytest.raises(DriveError):
        await drive.ingest.ask(CommitUpload(SYSTEM, pending.id))
    with pytest.raises(NotFound):
        await drive.metadata.ask(OpenContent(acting(owner.id), file.id, version_id=version))
    for _ in range(4):
        await drive.ingest.ask(Reconcile())
        await drive.janitor.ask(Sweep())
        clock.advance(DAY)
    await drive.janitor.ask(Sweep())
    assert await keys(drive) == [kept_key]
    assert await drive.metadata.ask(GetFile(acting(stays.id), kept.id)) == kept
    for table in ("entries", "versions", "uploads", "users"):
        column = {"users": "id", "versions": "file_id"}.get(table, "owner_id")
        rows = await drive.catalog.read(lambda tx, t=table, c=column: tx.all(f"SELECT {c} FROM {t}"))  # type: ignore[misc]
        assert {row[0] for row in rows} <= {stays.id, kept.id}, table
