"""Backups: nothing is left out, nothing is copied twice, and what is damaged is found."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from godrive.backup.create import Progress, create
from godrive.backup.restore import restore
from godrive.backup.target import Snapshot, new_id, open_target
from godrive.backup.verify import chosen, prune, verify
from godrive.blobs import is_key
from godrive.catalog.copy import copy_catalog
from godrive.clock import SystemClock
from godrive.config import Config
from godrive.drive import GoDrive
from godrive.errors import ConfigError, Conflict, NotFound
from godrive.messages.files import EmptyTrash, ListTrash, OpenContent, TrashFile
from godrive.messages.janitor import Sweep, Swept
from godrive.messages.system import UsageDrift
from godrive.model import File, UserId
from godrive.opening import make_blobs
from godrive.rules.housekeeping import check_usage
from godrive.testing import ManualClock, open_drive, quick_config, sign_up, upload
from tests.principals import acting
from tests.servers import PostgresServer

pytestmark = pytest.mark.anyio

CONTENTS = {f"{size}.bin": random.Random(size).randbytes(size) for size in (0, 3, 900, 40_000, 2_000_000)}


def drive_in(folder: Path, **tables: Any) -> Any:
    return open_drive(data_dir=folder, clock=ManualClock(), blobs={"driver": "disk"}, **tables)


async def fill(drive: GoDrive, contents: dict[str, bytes] = CONTENTS) -> dict[str, File]:
    owner = (await sign_up(drive)).id
    return {name: await upload(drive, owner, name, content) for name, content in contents.items()}


async def back_up(drive: GoDrive, folder: Path, **options: Any) -> Snapshot:
    async with open_target(str(folder), drive.config, drive.clock, create=True) as target:
        return await create(drive, target, Progress(), **options)


async def problems(config: Config, folder: Path) -> list[str]:
    async with open_target(str(folder), config, SystemClock()) as target:
        return [problem async for problem in verify(target, await target.snapshots(), Progress())]


async def restore_into(config: Config, folder: Path, snapshot_id: str | None = None) -> Path | None:
    blobs = make_blobs(config, SystemClock())
    async with open_target(str(folder), config, SystemClock()) as target:
        await blobs.open()
        try:
            return await restore(config, blobs, target, await target.find(snapshot_id), Progress())
        finally:
            await blobs.close()


async def content_of(drive: GoDrive, owner: UserId) -> dict[str, bytes]:
    files = drive.files(owner)
    return {path: await files.read(path) async for path, entry in files.walk() if entry.size_bytes is not None}


async def test_a_second_backup_adds_only_what_is_new_and_both_can_be_restored(tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    async with drive_in(tmp_path / "drive") as drive:
        files = await fill(drive)
        owner = files["3.bin"].owner_id
        first = await back_up(drive, backup)
        assert (first.blobs, first.added_blobs) == (5, 5)
        await upload(drive, owner, "new.txt", b"new")
        await drive.metadata.ask(TrashFile(acting(owner), files["900.bin"].id))
        drive.clock.advance(1)
        second = await back_up(drive, backup)
        assert (second.blobs, second.added_blobs, second.added_bytes) == (6, 1, 3)
        keyring = drive.config.secret_path.read_text()
        assert await problems(drive.config, backup) == []
    for snapshot, expected in ((first, CONTENTS), (second, {**CONTENTS, "new.txt": b"new"})):
        folder = tmp_path / snapshot.id
        async with drive_in(folder) as empty:
            config = empty.config
        (folder / "godrive.db").unlink()
        (folder / "secret.key").unlink()
        await restore_into(config, backup, snapshot.id)
        async with drive_in(folder) as restored:
            found = await content_of(restored, owner)
            gone = {"900.bin"} if snapshot is second else set()
            assert found == {name: content for name, content in expected.items() if name not in gone}
            assert restored.config.secret_path.read_text() == keyring
            assert (folder / "secret.key").stat().st_mode & 0o77 == 0


async def test_what_was_restored_is_not_purged_at_once(tmp_path: Path) -> None:
    backup, folder = tmp_path / "backup", tmp_path / "restored"
    async with drive_in(tmp_path / "drive") as drive:
        files = await fill(drive)
        owner = files["3.bin"].owner_id
        await drive.metadata.ask(TrashFile(acting(owner), files["3.bin"].id))
        await back_up(drive, backup)
    async with drive_in(folder) as empty:
        config = empty.config
    (folder / "godrive.db").unlink()
    (folder / "secret.key").unlink()
    await restore_into(config, backup)
    async with drive_in(folder) as restored:
        restored.clock.advance(40 * 86_400)
        swept = await restored.janitor.ask(Sweep())
        assert (swept.purged, swept.held > 0) == (0, True)
        restored.clock.advance(2 * 86_400)
        assert (await restored.janitor.ask(Sweep())).purged == 1


async def test_nothing_is_purged_while_a_backup_is_made(tmp_path: Path) -> None:
    async with drive_in(tmp_path / "drive") as drive:
        files = await fill(drive)
        owner = files["3.bin"].owner_id
        swept: list[Swept] = []
        begun = False

        async def purge(_size: int) -> None:
            nonlocal begun
            if not begun:
                begun = True
                await drive.metadata.ask(TrashFile(acting(owner), files["2000000.bin"].id))
                await drive.metadata.ask(EmptyTrash(acting(owner)))
                swept.append(await drive.janitor.ask(Sweep()))

        await back_up(drive, tmp_path / "backup", pace=purge)
        assert [each.purged for each in swept] == [0]
        assert await problems(drive.config, tmp_path / "backup") == []
        assert (await drive.janitor.ask(Sweep())).purged == 1


class Stop(Exception):
    """The end of a process, in the middle of a copy."""


async def test_a_backup_that_was_interrupted_does_not_count_and_the_next_continues_it(tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    async with drive_in(tmp_path / "drive") as drive:
        await fill(drive)
        copied = 0

        async def stop(size: int) -> None:
            nonlocal copied
            copied += size
            if copied > 100_000:
                raise Stop

        with pytest.raises(Stop):
            await back_up(drive, backup, pace=stop)
        async with open_target(str(backup), drive.config, drive.clock) as target:
            assert await target.snapshots() == []
            with pytest.raises(NotFound):
                await target.find(None)
        again = await back_up(drive, backup)
        assert 0 < again.added_blobs < again.blobs == 5
        assert await problems(drive.config, backup) == []
        assert list(drive.config.data_dir.glob("backup-*")) == []


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def swap(path: Path) -> None:
    """Take the bytes of another file."""
    other = max(
        (each for each in path.parent.parent.rglob("*") if each.is_file()), key=lambda each: each.stat().st_size
    )
    path.write_bytes(other.read_bytes()[: path.stat().st_size])


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink, swap], ids=["flip", "truncate", "delete", "swap"])
async def test_every_damaged_blob_is_found_and_named(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    backup = tmp_path / "backup"
    async with drive_in(tmp_path / "drive") as drive:
        files = await fill(drive)
        key = (await drive.metadata.ask(OpenContent(acting(files["3.bin"].owner_id), files["40000.bin"].id))).object_key
        await back_up(drive, backup)
        damage(backup / "objects" / key)
        (problem,) = await problems(drive.config, backup)
        assert key in problem


@pytest.mark.parametrize("damage", [flip, truncate], ids=["flip", "truncate"])
async def test_a_damaged_catalog_is_found_and_stops_a_restore_and_a_prune(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    backup = tmp_path / "backup"
    async with drive_in(tmp_path / "drive") as drive:
        await fill(drive)
        snapshot = await back_up(drive, backup)
        damage(backup / "objects" / snapshot.catalog_key)
        assert any(snapshot.id in problem for problem in await problems(drive.config, backup))
        async with open_target(str(backup), drive.config, drive.clock) as target:
            before = [blob.key async for blob in target.store.list()]
            with pytest.raises(Conflict, match="Nothing was deleted"):
                await prune(target, [snapshot])
            assert [blob.key async for blob in target.store.list()] == before


async def test_a_damaged_blob_of_the_drive_makes_no_snapshot(tmp_path: Path) -> None:
    async with drive_in(tmp_path / "drive") as drive:
        files = await fill(drive)
        key = (await drive.metadata.ask(OpenContent(acting(files["3.bin"].owner_id), files["40000.bin"].id))).object_key
        flip(drive.config.blobs_path / "objects" / key)
        with pytest.raises(Conflict, match=key):
            await back_up(drive, tmp_path / "backup")
        async with open_target(str(tmp_path / "backup"), drive.config, drive.clock) as target:
            assert await target.snapshots() == []


async def test_a_prune_keeps_what_the_kept_snapshots_name_and_nothing_else(tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    async with drive_in(tmp_path / "drive") as drive:
        files = await fill(drive)
        owner = files["3.bin"].owner_id
        first = await back_up(drive, backup)
        await drive.metadata.ask(TrashFile(acting(owner), files["2000000.bin"].id))
        await drive.metadata.ask(EmptyTrash(acting(owner)))
        assert (await drive.janitor.ask(Sweep())).purged == 1
        drive.clock.advance(60)
        second = await back_up(drive, backup)
        async with open_target(str(backup), drive.config, drive.clock) as target:
            assert [snapshot.id for snapshot in await target.snapshots()] == [first.id, second.id]
            assert await prune(target, [second]) == (1, 1)
            assert [snapshot.id for snapshot in await target.snapshots()] == [second.id]
            assert await prune(target, [second]) == (0, 0)
        assert await problems(drive.config, backup) == []


def test_ids_sort_by_time_within_a_second_too() -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    ids = [new_id(start + timedelta(microseconds=number * 37)) for number in range(500)]
    assert sorted(ids) == ids
    assert all(is_key(f"snapshot/{each}") for each in ids)


def test_the_snapshots_to_keep_are_the_newest_of_each_period() -> None:
    def snapshot(day: float) -> Snapshot:
        at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(days=day)
        values = {"blobs": 0, "bytes": 0, "added_blobs": 0, "added_bytes": 0, "catalog_bytes": 0}
        return Snapshot(
            id=f"{at:%Y%m%dt%H%M%Sz}", created_at=at, godrive="1", catalog_sha256="", keyring="", **values
        )  # fmt: skip

    every = [snapshot(number / 2) for number in range(200)]
    kept = chosen(every, daily=3, weekly=2, monthly=2)
    days = [(each.created_at - datetime(2026, 1, 1, tzinfo=UTC)).total_seconds() / 86_400 for each in kept]
    assert days == [89.5, 94.5, 97.5, 98.5, 99.5]  # the end of March, a Sunday, and the last three days
    assert chosen(every, daily=0, weekly=0, monthly=0) == every[-1:]
    assert chosen([], daily=7, weekly=5, monthly=12) == []


async def test_the_wrong_folder_is_a_mistake(tmp_path: Path) -> None:
    async with drive_in(tmp_path / "drive") as drive:
        await fill(drive)
        await back_up(drive, tmp_path / "backup")
        for folder in (drive.config.data_dir, drive.config.blobs_path):
            with pytest.raises(ConfigError, match="of a drive"):
                async with open_target(str(folder), drive.config, drive.clock, create=True):
                    pass
        with pytest.raises(ConfigError, match="no backup"):
            async with open_target(str(tmp_path / "nothing"), drive.config, drive.clock):
                pass
        with pytest.raises(ConfigError, match="There is a drive"):
            await restore_into(drive.config, tmp_path / "backup")
        async with open_target(str(tmp_path / "backup"), drive.config, drive.clock):
            with pytest.raises(ConfigError, match="Another server"):
                async with open_target(str(tmp_path / "backup"), drive.config, drive.clock):
                    pass


async def test_a_snapshot_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    async with drive_in(tmp_path / "drive") as drive:
        await fill(drive)
        snapshot = await back_up(drive, tmp_path / "backup")
        async with open_target(str(tmp_path / "backup"), drive.config, drive.clock) as target:
            await target.forget(snapshot)
            await target.write(msgspec.structs.replace(snapshot, format=2))
            with pytest.raises(ConfigError, match="format 2"):
                await target.snapshots()


@pytest.mark.parametrize("engine", ["postgres to sqlite", "sqlite to postgres"])
async def test_a_backup_is_restored_into_the_other_engine(
    tmp_path: Path, postgres_server: PostgresServer, engine: str
) -> None:
    tables = {"catalog": {"driver": "postgres", "dsn": postgres_server.create_database()}}
    source, target = (tables, {}) if engine == "postgres to sqlite" else ({}, tables)
    async with drive_in(tmp_path / "drive", **source) as drive:
        files = await fill(drive)
        owner = files["3.bin"].owner_id
        await drive.metadata.ask(TrashFile(acting(owner), files["3.bin"].id))
        await back_up(drive, tmp_path / "backup")
        assert await problems(drive.config, tmp_path / "backup") == []
    settings = quick_config(tmp_path / "restored", blobs={"driver": "disk"}, **target)
    path = await restore_into(settings, tmp_path / "backup")
    if engine == "sqlite to postgres":
        assert path is not None
        await copy_catalog(path, settings.catalog, check=check_usage)
    else:
        assert path is None
    async with drive_in(tmp_path / "restored", **target) as restored:
        contents = {name: content for name, content in CONTENTS.items() if name != "3.bin"}
        assert await content_of(restored, owner) == contents
        assert [file.id for file in (await restored.metadata.ask(ListTrash(acting(owner)))).items] == [
            files["3.bin"].id
        ]
        assert not await restored.metadata.ask(UsageDrift())
