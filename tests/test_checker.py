"""The checker: rows against blobs, on each store."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from godrive.backup.create import Progress, create
from godrive.backup.target import open_target
from godrive.backup.verify import verify
from godrive.blobs.memory import MemoryBlobStore
from godrive.checker import READ_AT_ONCE, Checked, check_blobs
from godrive.drive import GoDrive
from godrive.errors import NotFound, StoreUnavailable
from godrive.messages.expected import BlobFault, Fault
from godrive.messages.files import GetFile, OpenContent, PurgeFile, TrashFile
from godrive.messages.system import ClaimPurges
from godrive.model import File, ObjectKey
from godrive.testing import chunks, open_drive, sign_up, upload
from tests.principals import acting
from tests.rot import plant

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def small_drive(tmp_path: Path, **blobs: Any) -> AsyncIterator[tuple[GoDrive, list[File]]]:
    """A drive on disk with a few files, small and large."""
    async with open_drive(data_dir=tmp_path, blobs={"driver": "disk", **blobs}) as drive:
        owner = (await sign_up(drive)).id
        sizes = (0, 5, 20_000, 300_000, 7)
        yield drive, [await upload(drive, owner, f"{size}.bin", bytes(size)) for size in sizes]


async def key_of(drive: GoDrive, file: File) -> ObjectKey:
    return (await drive.metadata.ask(OpenContent(acting(file.owner_id), file.id))).object_key


async def check(drive: GoDrive, *, digests: bool = True, age: float = -3600.0) -> list[BlobFault]:
    """By default, a blob that was stored just now is old enough: files have the time of the machine, which goes on."""
    before, checked = drive.clock.now() - timedelta(seconds=age), Checked()
    found = [finding async for finding in check_blobs(drive, digests=digests, orphans_before=before, checked=checked)]
    assert checked.blobs >= 0
    return found


@pytest.mark.parametrize("pack_below", [0, 16_384])
async def test_a_drive_in_order_has_no_finding_and_every_fault_of_a_blob_is_found(
    tmp_path: Path, pack_below: int
) -> None:
    async with small_drive(tmp_path, pack_below=pack_below) as (drive, files):
        assert await check(drive) == []
        keys = [await key_of(drive, file) for file in files]
        objects = tmp_path / "blobs" / "objects"
        await drive.blobs.delete(keys[1])
        large = objects / keys[3]
        flipped = bytearray(large.read_bytes())
        flipped[100_000] ^= 1
        large.write_bytes(flipped)
        (objects / keys[2]).write_bytes(b"short")
        stray = ObjectKey("018f2c3a/018f2c3a-dead-7000-8000-000000000000")
        await drive.blobs.put(stray, chunks(b"nobody's", 3), size=8)
        found = {finding.object_key: finding for finding in await check(drive)}
        faults = {key: finding.fault for key, finding in found.items()}
        assert faults == {
            keys[1]: Fault.MISSING, keys[2]: Fault.SIZE, keys[3]: Fault.DIGEST, stray: Fault.ORPHAN,
        }  # fmt: skip
        assert found[keys[1]].file_id == files[1].id
        assert {finding.fault for finding in await check(drive, digests=False)} == {
            Fault.MISSING, Fault.SIZE, Fault.ORPHAN,
        }  # fmt: skip
        assert Fault.ORPHAN not in {finding.fault for finding in await check(drive, age=3600)}


async def test_what_is_being_purged_is_no_loss_and_no_orphan(tmp_path: Path) -> None:
    async with small_drive(tmp_path) as (drive, files):
        by, file = acting(files[3].owner_id), files[3]
        key = await key_of(drive, file)
        await drive.metadata.ask(TrashFile(by, file.id))
        await drive.metadata.ask(PurgeFile(by, file.id))
        assert await check(drive) == []
        assert [purge.file_id for purge in await drive.metadata.ask(ClaimPurges(10))] == [file.id]
        await drive.blobs.delete(key)
        assert await check(drive) == []


@pytest.mark.parametrize("digests", [False, True])
async def test_a_file_that_is_purged_while_it_is_checked_is_no_finding(
    tmp_path: Path, digests: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with small_drive(tmp_path) as (drive, files):
        by, file = acting(files[2].owner_id), files[2]
        key, real, read = await key_of(drive, file), drive.storage, drive.blobs.get

        async def purge() -> None:
            await drive.metadata.ask(TrashFile(by, file.id))
            await drive.metadata.ask(PurgeFile(by, file.id))

        class Purging:
            """Purges the file just when the store is asked for it."""

            async def ask(self, message: Any, **options: Any) -> Any:
                if getattr(message, "object_key", None) == key:
                    await purge()
                return await real.ask(message, **options)

        async def purging(asked: ObjectKey) -> AsyncIterator[bytes]:
            if asked == key:
                await purge()
            async for piece in read(asked):
                yield piece

        await drive.blobs.delete(key)
        if digests:
            monkeypatch.setattr(drive.blobs, "get", purging)
        else:
            monkeypatch.setattr(drive, "storage", Purging())
        assert await check(drive, digests=digests) == []
        with pytest.raises(NotFound):
            await drive.metadata.ask(GetFile(by, file.id))


async def test_an_unreadable_blob_is_a_finding_and_a_store_that_is_down_ends_the_check() -> None:
    class Failing(MemoryBlobStore):
        broken: ObjectKey | None = None
        down = False

        async def get(self, key: ObjectKey, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
            if key == self.broken:
                raise StoreUnavailable("An input/output error.")
            async for piece in super().get(key, start=start, end=end):
                yield piece

        async def head(self, key: ObjectKey) -> Any:
            if self.down:
                raise StoreUnavailable("It is down.")
            return await super().head(key)

    store = Failing()
    async with open_drive(blob_store=store) as drive:
        owner = (await sign_up(drive)).id
        file = await upload(drive, owner, "a", b"abc")
        store.broken = await key_of(drive, file)
        (finding,) = await check(drive)
        assert (finding.fault, finding.detail) == (Fault.UNREADABLE, "An input/output error.")
        store.down = True
        with pytest.raises(StoreUnavailable, match="It is down"):
            await check(drive)


async def test_blobs_are_read_several_at_a_time_and_findings_come_in_the_order_of_keys() -> None:
    class Slow(MemoryBlobStore):
        """Answers once as many blobs are being read as may be."""

        reading = 0
        most = 0

        async def get(self, key: ObjectKey, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
            self.reading += 1
            self.most = max(self.most, self.reading)
            if self.most == READ_AT_ONCE:
                enough.set()
            await enough.wait()
            if self.reading % 2:
                await asyncio.sleep(0)
            self.reading -= 1
            async for piece in super().get(key, start=start, end=end):
                yield piece + b"!"

    store, enough = Slow(), asyncio.Event()
    async with open_drive(blob_store=store) as drive:
        owner = (await sign_up(drive)).id
        files = [await upload(drive, owner, f"{number}", b"abc") for number in range(3 * READ_AT_ONCE)]
        keys = [await key_of(drive, file) for file in files]
        with anyio.fail_after(30):
            found = await check(drive)
    assert [finding.object_key for finding in found] == sorted(keys)
    assert {finding.fault for finding in found} == {Fault.SIZE}
    assert store.most == READ_AT_ONCE


async def planted(folder: Path, blobs: int, faults: int) -> dict[str, list[str]]:
    """Damage a drive and its backup, and return what each check did not find, and what it found too much."""
    rng = random.Random(7)
    backup = folder / "backup"
    async with open_drive(data_dir=folder / "drive", blobs={"driver": "disk"}) as drive:
        owner = (await sign_up(drive)).id
        for number in range(blobs):
            size = rng.choice((40, 40, 900, 7000)) if number % 2 else rng.randrange(17_000, 40_000)
            await upload(drive, owner, f"{number}", rng.randbytes(size))
        async with open_target(str(backup), drive.config, drive.clock, create=True) as target:
            await create(drive, target, Progress())
    in_drive = plant(folder / "drive" / "blobs", faults, rng)
    in_backup = plant(backup, faults, rng)
    async with open_drive(data_dir=folder / "drive", blobs={"driver": "disk"}) as drive:
        by_fsck = {finding.object_key for finding in await check(drive)}
        async with open_target(str(backup), drive.config, drive.clock) as target:
            told = [problem async for problem in verify(target, await target.snapshots(), Progress())]
    by_verify = {key for problem in told for key in re.findall(r"blob ([0-9a-z-]+/[0-9a-z-]+)", problem)}
    return {
        "fsck": sorted(f"{key}: {in_drive.get(key)}" for key in in_drive.keys() ^ by_fsck),
        "verify": sorted(f"{key}: {in_backup.get(key)}" for key in in_backup.keys() ^ by_verify),
    }


@pytest.mark.slow
async def test_every_planted_fault_is_found_by_fsck_and_by_verify_and_nothing_else(tmp_path: Path) -> None:
    assert await planted(tmp_path, blobs=120, faults=60) == {"fsck": [], "verify": []}


@pytest.mark.parametrize("digests", [False, True])
async def test_all_blobs_of_a_lost_pack_are_found_the_empty_one_too(tmp_path: Path, digests: bool) -> None:
    async with small_drive(tmp_path) as (_, files):
        pass
    for pack in (tmp_path / "blobs" / "packs").glob("*.pack"):
        pack.unlink()
    async with open_drive(data_dir=tmp_path, blobs={"driver": "disk"}) as drive:
        keys = {await key_of(drive, file) for file in files if file.size_bytes < 16_384}
        found = {finding.object_key: finding.fault for finding in await check(drive, digests=digests)}
    assert found == dict.fromkeys(keys, Fault.UNREADABLE)
