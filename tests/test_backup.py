"""Backups: nothing is left out, nothing is copied twice, and what is damaged is found."""

from __future__ import annotations

import os
import random
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from godrive.backup import sealing
from godrive.backup.catalog_file import CatalogFile
from godrive.backup.create import Progress, create
from godrive.backup.restore import restore
from godrive.backup.restore_files import RestoredFiles, restore_files
from godrive.backup.target import FORMAT, Snapshot, Target, new_id, open_target
from godrive.backup.verify import chosen, prune, verify
from godrive.blobs import is_key
from godrive.blobs.disk import DiskBlobStore
from godrive.blobs.memory import MemoryBlobStore
from godrive.catalog.copy import copy_catalog
from godrive.clock import SystemClock
from godrive.commands.progress import pacer
from godrive.config import Config
from godrive.credentials import Keyring
from godrive.drive import GoDrive
from godrive.errors import ConfigError, Conflict, NotFound, StorageFull, StoreUnavailable
from godrive.messages.auth import GetUser
from godrive.messages.files import CopyFile, EmptyTrash, ListTrash, OpenContent, TrashFile
from godrive.messages.janitor import Sweep, Swept
from godrive.messages.system import UsageDrift
from godrive.model import File, FileKind, ObjectKey, OnConflict, UserId
from godrive.opening import FolderLock, make_blobs
from godrive.rules.housekeeping import check_usage
from godrive.testing import ManualClock, chunks, open_drive, quick_config, sign_up, upload
from tests.drive_server import run
from tests.principals import acting
from tests.servers import PostgresServer

pytestmark = pytest.mark.anyio

DAY = 86_400.0

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


async def restore_into(
    config: Config,
    folder: Path,
    snapshot_id: str | None = None,
    *,
    clock: ManualClock | None = None,
    progress: Progress | None = None,
) -> Path | None:
    blobs = make_blobs(config, SystemClock())
    async with open_target(str(folder), config, SystemClock()) as target:
        await blobs.open()
        try:
            chosen_one = await target.find(snapshot_id)
            return await restore(
                config, blobs, target, chosen_one, progress or Progress(), clock=clock or ManualClock()
            )
        finally:
            await blobs.close()


async def content_of(drive: GoDrive, owner: UserId) -> dict[str, bytes]:
    files = drive.files(owner)
    return {path: await files.read(path) async for path, entry in files.walk() if entry.kind is FileKind.FILE}


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


async def test_a_blob_that_versions_share_is_counted_once(tmp_path: Path) -> None:
    async with drive_in(tmp_path / "drive") as drive:
        file = (await fill(drive, {"a.bin": bytes(900), "b.bin": bytes(7)}))["a.bin"]
        by = acting(file.owner_id)
        _, trashed, purged = [await drive.metadata.ask(CopyFile(by, file.id, name=f"{n}")) for n in range(3)]
        await drive.metadata.ask(TrashFile(by, purged.id))
        await drive.metadata.ask(EmptyTrash(by))
        await drive.metadata.ask(TrashFile(by, trashed.id))
        for _ in range(2):
            made = await back_up(drive, tmp_path / "backup")
            assert (made.blobs, made.bytes) == (2, 907)
        await drive.metadata.ask(EmptyTrash(by))
        assert (await back_up(drive, tmp_path / "backup")).bytes == 907
    async with drive_in(tmp_path / "empty") as empty:
        config = empty.config
    (tmp_path / "empty" / "godrive.db").unlink()
    (tmp_path / "empty" / "secret.key").unlink()
    progress = Progress()
    await restore_into(config, tmp_path / "backup", progress=progress)
    assert (progress.blobs, progress.bytes) == (2, 907)


@pytest.mark.parametrize("engine", ["sqlite", pytest.param("postgres", marks=pytest.mark.servers)])
async def test_retention_after_a_restore_purges_nothing_that_came_back(
    tmp_path: Path, engine: str, request: pytest.FixtureRequest
) -> None:
    """The snapshot is a year old: all in its trash, and all its earlier versions, would be long overdue."""
    backup, folder = tmp_path / "backup", tmp_path / "restored"
    tables: dict[str, Any] = {}
    if engine == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        tables = {"catalog": {"driver": "postgres", "dsn": server.create_database()}}
    kept: dict[str, Any] = {"janitor": {"versions_kept": 0}}
    async with drive_in(tmp_path / "drive", **kept) as drive:
        files = await fill(drive)
        owner = files["3.bin"].owner_id
        await upload(drive, owner, "900.bin", b"new", on_conflict=OnConflict.REPLACE)
        drive.clock.advance(10 * DAY)
        await drive.metadata.ask(TrashFile(acting(owner), files["3.bin"].id))
        drive.clock.advance(10 * DAY)
        await back_up(drive, backup)
        clock = ManualClock(drive.clock.now() + timedelta(days=365))
    settings = quick_config(folder, blobs={"driver": "disk"}, **tables, **kept)
    path = await restore_into(settings, backup, clock=clock)
    if path is not None:
        await copy_catalog(path, settings.catalog, check=check_usage)
    async with open_drive(data_dir=folder, clock=clock, blobs={"driver": "disk"}, **tables, **kept) as restored:

        async def purged() -> tuple[int, int]:
            swept = await restored.janitor.ask(Sweep())
            return swept.purged, swept.versions

        assert await purged() == (0, 0)
        clock.advance(3 * DAY)
        assert await purged() == (0, 0)
        clock.advance(8 * DAY)
        assert await purged() == (0, 1), "the version had ten days left"
        clock.advance(10 * DAY)
        assert await purged() == (1, 0), "the file in the trash had twenty"


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


@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink, swap], ids=["flip", "truncate", "delete", "swap"])
async def test_a_damaged_catalog_is_found_and_stops_a_restore_and_a_prune(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    backup = tmp_path / "backup"
    async with drive_in(tmp_path / "drive") as drive:
        await fill(drive)
        snapshot = await back_up(drive, backup)
        part = next((backup / "objects" / "part").iterdir())
        damage(part)
        assert any(snapshot.id in problem for problem in await problems(drive.config, backup))
        async with open_target(str(backup), drive.config, drive.clock) as target:
            before = [blob.key async for blob in target.store.list()]
            with pytest.raises(Conflict, match="Nothing was deleted"):
                await prune(target, [snapshot])
            assert [blob.key async for blob in target.store.list()] == before


@pytest.mark.parametrize(
    ("table", "outcome"), [("names", (1, 0)), ("versions", "is damaged"), ("entries", "is damaged")]
)
async def test_a_prune_checks_what_names_the_blobs_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, outcome: object
) -> None:
    load = CatalogFile.load

    async def load_damaged(self: CatalogFile, snapshot: Snapshot) -> None:
        await load(self, snapshot)
        with closing(sqlite3.connect(self._path, isolation_level=None)) as catalog:
            catalog.execute("PRAGMA journal_mode = DELETE")
            (size,) = catalog.execute("PRAGMA page_size").fetchone()
            (root,) = catalog.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", [table]).fetchone()
        with self._path.open("r+b") as file:
            file.seek((root - 1) * size)
            file.write(bytes(size))

    monkeypatch.setattr(CatalogFile, "load", load_damaged)
    async with drive_in(tmp_path / "drive") as drive:
        await fill(drive)
        await back_up(drive, tmp_path / "backup")
        kept = await back_up(drive, tmp_path / "backup")
        async with open_target(str(tmp_path / "backup"), drive.config, drive.clock) as target:
            try:
                found: object = await prune(target, [kept])
            except Conflict as error:
                found = error.detail
            assert found == outcome or str(outcome) in str(found)
            assert len(await target.snapshots()) == (1 if found == (1, 0) else 2)


async def test_a_disk_that_takes_a_part_of_a_write_gets_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    async with drive_in(tmp_path / "drive") as drive:
        files = await fill(drive)
        await back_up(drive, tmp_path / "backup")
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, data[:9000], at))
    config = quick_config(tmp_path / "restored", blobs={"driver": "disk"})
    await restore_into(config, tmp_path / "backup")
    monkeypatch.undo()
    async with drive_in(tmp_path / "restored") as drive:
        assert await content_of(drive, next(iter(files.values())).owner_id) == CONTENTS


@pytest.mark.parametrize("code", [sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR])
async def test_a_disk_without_room_for_the_catalog_that_is_checked_is_no_damage_of_the_backup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    class Full(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            if "quick_check" in sql:
                error = sqlite3.OperationalError("no room")
                error.sqlite_errorcode = code
                raise error
            return super().execute(sql, *parameters)

    connect = sqlite3.connect
    async with drive_in(tmp_path / "drive") as drive:
        await fill(drive)
        await back_up(drive, tmp_path / "backup")
        monkeypatch.setattr(sqlite3, "connect", lambda *given, **options: connect(*given, **options, factory=Full))
        with pytest.raises((StorageFull, StoreUnavailable)):
            await problems(drive.config, tmp_path / "backup")


async def test_what_was_removed_from_a_backup_because_it_was_damaged_is_stored_again(tmp_path: Path) -> None:
    objects = tmp_path / "backup" / "objects"
    async with drive_in(tmp_path / "drive") as drive:
        files = await fill(drive)
        key = (await drive.metadata.ask(OpenContent(acting(files["3.bin"].owner_id), files["40000.bin"].id))).object_key
        before = await back_up(drive, tmp_path / "backup")
        (objects / key).unlink()
        for part in (objects / "part").iterdir():
            part.unlink()
        assert len(await problems(drive.config, tmp_path / "backup")) >= 1
        after = await back_up(drive, tmp_path / "backup")
        assert after.added_blobs == 1
        async with open_target(str(tmp_path / "backup"), drive.config, drive.clock) as target:
            assert [problem async for problem in verify(target, [after], Progress())] == []
            assert before.id in [snapshot.id for snapshot in await target.snapshots()]


async def test_what_a_killed_backup_has_linked_is_durable_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    listed = DiskBlobStore.key_pages

    def noted(store: DiskBlobStore, *values: Any, **options: Any) -> Any:
        order.append("list")
        return listed(store, *values, **options)

    monkeypatch.setattr(os, "sync", lambda: order.append("sync"))
    async with drive_in(tmp_path / "drive") as drive:
        await fill(drive)
        monkeypatch.setattr(DiskBlobStore, "key_pages", noted)
        await back_up(drive, tmp_path / "backup")
    assert order[:2] == ["sync", "list"]


async def test_a_damaged_blob_of_the_drive_makes_no_snapshot(tmp_path: Path) -> None:
    async with drive_in(tmp_path / "drive") as drive:
        files = await fill(drive)
        key = (await drive.metadata.ask(OpenContent(acting(files["3.bin"].owner_id), files["40000.bin"].id))).object_key
        flip(drive.config.blobs_path / "objects" / key)
        with pytest.raises(Conflict, match=key):
            await back_up(drive, tmp_path / "backup")
        async with open_target(str(tmp_path / "backup"), drive.config, drive.clock) as target:
            assert await target.snapshots() == []


async def test_a_backup_that_fails_names_the_damaged_blobs_and_has_copied_all_others(tmp_path: Path) -> None:
    contents = {f"{number:02}": b"%02d" % number * 20_000 for number in range(15)}
    async with drive_in(tmp_path / "drive") as drive:
        files = await fill(drive, contents)
        asks = [OpenContent(acting(file.owner_id), file.id) for file in files.values()]
        keys = [(await drive.metadata.ask(ask)).object_key for ask in asks]
        objects = drive.config.blobs_path / "objects"
        kept = {key: (objects / key).read_bytes() for key in keys[:12]}
        (objects / keys[0]).unlink()
        (objects / keys[0]).mkdir()  # reading it fails, as with a bad sector
        (objects / keys[1]).unlink()
        for key in keys[2:12]:
            flip(objects / key)
        with pytest.raises(Conflict) as caught:
            await back_up(drive, tmp_path / "backup")
        named = [key for key in keys if key in caught.value.detail]
        assert len(named) == 10
        assert set(named) < set(keys[:12])
        assert caught.value.detail.startswith("12 blobs cannot be copied.")
        assert caught.value.detail.endswith("And 2 more.")
        (objects / keys[0]).rmdir()
        for key, content in kept.items():
            (objects / key).write_bytes(content)
        assert (await back_up(drive, tmp_path / "backup")).added_blobs == 12


async def test_a_restore_that_fails_names_the_damaged_blobs_of_the_backup(tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    async with drive_in(tmp_path / "drive") as drive:
        await fill(drive)
        await back_up(drive, backup)
        config = quick_config(data_dir=tmp_path / "restored", blobs={"driver": "disk"})
    damaged = [path for path in (backup / "objects").rglob("*-*") if path.is_file() and path.stat().st_size > 20_000]
    for path in damaged:
        flip(path)
    with pytest.raises(Conflict, match=r"^2 blobs cannot be copied") as caught:
        await restore_into(config, backup)
    assert all(path.name in caught.value.detail for path in damaged)
    assert not config.catalog_path.exists()


@pytest.mark.parametrize("how", ["flipped", "missing", "unreadable"])
async def test_what_a_damaged_backup_still_has_can_be_restored(tmp_path: Path, how: str) -> None:
    backup, rest = tmp_path / "backup", {name: content for name, content in CONTENTS.items() if name != "40000.bin"}
    async with drive_in(tmp_path / "drive") as drive:
        owner = (await fill(drive))["3.bin"].owner_id
        await back_up(drive, backup)
    (damaged,) = [path for path in (backup / "objects").rglob("*-*") if path.stat().st_size == 40_000]
    if how == "flipped":
        flip(damaged)
    else:
        damaged.unlink()
        if how == "unreadable":
            damaged.mkdir()  # reading it fails, as with a bad sector
    config = tmp_path / "config.toml"
    config.write_text(f'[server]\ndata_dir = "{tmp_path / "restored"}"\n[auth]\nbcrypt_cost = 4\n')
    command = "backup", "restore", backup, "--config", config
    assert run(*command).returncode == 1
    done = run(*command, "--despite-damage")
    assert (done.returncode, damaged.name in done.stdout, "Restored" in done.stdout) == (1, True, True), done.stderr
    async with drive_in(tmp_path / "restored") as restored:
        files = restored.files(owner)
        assert {path: await files.read(path) for path in rest} == rest
        with pytest.raises((NotFound, StoreUnavailable)):
            await files.read("40000.bin")
        by_user = RestoredFiles()
        for path in CONTENTS:
            await files.trash(path)
        async with open_target(str(backup), restored.config, restored.clock) as target:
            ann = await restored.auth.ask(GetUser(acting(owner)))
            await restore_files(restored, target, await target.find(None), ann, by_user)
        assert (by_user.files, by_user.damaged) == (4, ["40000.bin"])
        assert await content_of(restored, owner) == rest


@pytest.mark.parametrize("damage", ["missing", "empty", "short"])
async def test_a_restore_beside_a_lost_pack_or_a_cut_file_brings_their_bytes_back(tmp_path: Path, damage: str) -> None:
    backup = tmp_path / "backup"
    async with drive_in(tmp_path / "drive") as drive:
        owner = (await fill(drive))["3.bin"].owner_id
        await back_up(drive, backup)
        config = drive.config
    config.catalog_path.unlink()
    (pack,) = (config.blobs_path / "packs").glob("*.pack")
    if damage == "missing":
        pack.unlink()
    else:
        os.truncate(pack, 0 if damage == "empty" else pack.stat().st_size // 2)
    large = next(path for path in (config.blobs_path / "objects").rglob("*-*") if path.stat().st_size == 40_000)
    os.truncate(large, 7)
    await restore_into(config, backup)
    async with drive_in(tmp_path / "drive") as restored:
        assert await content_of(restored, owner) == CONTENTS
    assert [path.stat().st_size for path in (config.blobs_path / "quarantine").rglob(f"*{large.name}*")] == [7]


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


async def test_a_prune_of_a_bucket_leaves_what_another_process_may_be_adding(tmp_path: Path) -> None:
    """A folder is locked while it is used; a bucket cannot be."""
    async with drive_in(tmp_path / "drive") as drive:
        await fill(drive)
        store = MemoryBlobStore(clock=drive.clock)
        target = Target(store, "s3://bucket", drive.clock)
        first = await create(drive, target, Progress())
        drive.clock.advance(DAY)
        adding = [ObjectKey("018f2c3a/" + "0" * 32), ObjectKey("part/" + "0" * 64)]
        for key in adding:
            await store.put(key, chunks(b"new", 3), size=3)
        drive.clock.advance(DAY - 1)
        assert await prune(target, [first]) == (0, 0)
        assert {blob.key async for blob in store.list()} > {*adding}
        drive.clock.advance(2)
        assert await prune(target, [first]) == (0, 1)
        assert not {blob.key async for blob in store.list()} & {*adding}
        assert [problem async for problem in verify(target, [first], Progress())] == []


async def test_after_a_clock_that_was_ahead_the_last_snapshot_is_the_newest(tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    async with drive_in(tmp_path / "drive") as drive:
        await fill(drive)
        drive.clock.jump(400 * DAY)
        ahead = await back_up(drive, backup)
        drive.clock.jump(-400 * DAY)
        first = await back_up(drive, backup)
        second = await back_up(drive, backup)
        assert first.created_at == second.created_at == drive.clock.now()
        async with open_target(str(backup), drive.config, drive.clock) as target:
            assert await target.snapshots() == [ahead, first, second]
            assert await target.find(None) == second
            assert chosen(await target.snapshots(), daily=1, weekly=0, monthly=0) == [second]


async def test_keys_that_were_rotated_since_are_moved_away_before_a_restore(tmp_path: Path) -> None:
    """The keys of several processes are outside the folder, so an empty folder is not enough."""
    async with drive_in(tmp_path / "drive") as drive:
        await fill(drive)
        snapshot = await back_up(drive, tmp_path / "backup")
    secret = tmp_path / "etc" / "secret.key"
    secret.parent.mkdir()
    Keyring.create(secret)
    config = quick_config(tmp_path / "restored", blobs={"driver": "disk"}, auth={"secret_file": str(secret)})
    with pytest.raises(ConfigError, match="other keys") as raised:
        await restore_into(config, tmp_path / "backup")
    assert raised.value.hint == "Move the file away: the restore writes the keys of the snapshot."
    secret.unlink()
    await restore_into(config, tmp_path / "backup")
    assert secret.read_text() == snapshot.keyring


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
            with pytest.raises(ConfigError, match="which is a folder of the drive"):
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
            await target.write(msgspec.structs.replace(snapshot, format=FORMAT + 1))
            with pytest.raises(ConfigError, match=f"format {FORMAT + 1}"):
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


# Encryption


def sealed(config: Config, passphrase: str = "correct horse battery") -> Config:
    return replace(config, backup=replace(config.backup, passphrase=passphrase))


def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "_OPSLIMIT", 1)
    monkeypatch.setattr(sealing, "_MEMLIMIT", 8192)


async def test_an_encrypted_backup_shows_nothing_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast(monkeypatch)
    backup, folder = tmp_path / "backup", tmp_path / "restored"
    contents = {**CONTENTS, "text.txt": b"the secret plans " * 10_000, "whole.bin": b"x" * (2 * sealing.PIECE)}
    async with drive_in(tmp_path / "drive") as drive:
        owner = next(iter((await fill(drive, contents)).values())).owner_id
        config, keyring = sealed(drive.config), drive.config.secret_path.read_bytes()
        async with open_target(str(backup), config, drive.clock, create=True) as target:
            first = await create(drive, target, Progress())
            again = await create(drive, target, Progress())
        assert (first.added_blobs, again.added_blobs) == (7, 0)
        stored = b"".join(path.read_bytes() for path in backup.rglob("*") if path.is_file())
        for secret in (
            b"secret plans",
            b"ann@example.org",
            b"CREATE TABLE entries",
            keyring[:40],
            CONTENTS["900.bin"],
            b"xxxxxxxx",
        ):
            assert secret not in stored
        assert await problems(config, backup) == []
        async with open_target(str(backup), config, drive.clock) as target:
            assert await prune(target, [again]) == (1, 0)
        assert await problems(config, backup) == []
    settings = sealed(quick_config(folder, blobs={"driver": "disk"}))
    await restore_into(settings, backup)
    async with drive_in(folder) as restored:
        assert await content_of(restored, owner) == contents


async def test_a_wrong_passphrase_is_one_clear_line_and_so_is_a_missing_or_needless_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast(monkeypatch)
    async with drive_in(tmp_path / "drive") as drive:
        await fill(drive)
        plain, secret = tmp_path / "plain", tmp_path / "secret"
        await back_up(drive, plain)
        async with open_target(str(secret), sealed(drive.config), drive.clock, create=True) as target:
            await create(drive, target, Progress())
        for folder, config, said in (
            (secret, sealed(drive.config, "correct horse batterx"), "The passphrase is not that of the backup in "),
            (secret, drive.config, "is encrypted"),
            (plain, sealed(drive.config), "is not encrypted"),
        ):
            for creating in (False, True):
                with pytest.raises(ConfigError, match=said) as raised:
                    async with open_target(str(folder), config, drive.clock, create=creating):
                        pass
                assert "\n" not in raised.value.detail


def cut(path: Path) -> None:
    """Drop a whole piece from the end, and with it the mark of the last one."""
    path.write_bytes(path.read_bytes()[: 32 + 3 * (sealing.PIECE + 17)])


def reorder(path: Path) -> None:
    data, piece = path.read_bytes(), sealing.PIECE + 17
    path.write_bytes(data[:32] + data[32 + piece : 32 + 2 * piece] + data[32 : 32 + piece] + data[32 + 2 * piece :])


def extend(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(100))


@pytest.mark.parametrize("damage", [flip, truncate, cut, reorder, extend, swap, Path.unlink])
async def test_an_encrypted_object_that_was_changed_is_found_even_without_a_digest(
    tmp_path: Path, damage: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    fast(monkeypatch)
    backup, contents = tmp_path / "backup", {"large.bin": CONTENTS["2000000.bin"], "swap.bin": bytes(2_500_000)}
    async with drive_in(tmp_path / "drive") as drive:
        files = await fill(drive, contents)
        owner, large = files["large.bin"].owner_id, files["large.bin"].id
        await drive.catalog.write(lambda tx: tx.run("UPDATE versions SET sha256 = NULL"))
        key = (await drive.metadata.ask(OpenContent(acting(owner), large))).object_key
        config = sealed(drive.config)
        async with open_target(str(backup), config, drive.clock, create=True) as target:
            await create(drive, target, Progress())
        assert await problems(config, backup) == []
        damage(backup / "objects" / key)
        (problem,) = await problems(config, backup)
        assert key in problem


@pytest.mark.parametrize("damage", [flip, truncate])
async def test_a_blob_without_a_digest_is_compared_with_that_of_the_target(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    async with drive_in(tmp_path / "drive") as drive:
        files = await fill(drive)
        await drive.catalog.write(lambda tx: tx.run("UPDATE versions SET sha256 = NULL"))
        key = (await drive.metadata.ask(OpenContent(acting(files["3.bin"].owner_id), files["40000.bin"].id))).object_key
        await back_up(drive, tmp_path / "backup")
        damage(tmp_path / "backup" / "objects" / key)
        (problem,) = await problems(drive.config, tmp_path / "backup")
        assert key in problem


def test_a_key_that_asks_for_too_much_work_is_refused() -> None:
    key = sealing.SealedKey(bytes(16), 1, 2**40, b"")
    with pytest.raises(ConfigError, match="more work"):
        key.open("x", "the backup")


# Single files and users


async def test_the_files_of_one_user_come_back_beside_what_is_there(tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    async with drive_in(tmp_path / "drive") as drive:
        ann, bob = await sign_up(drive), await sign_up(drive, "bob@example.org")
        files = drive.files(ann.id)
        at = datetime(2020, 1, 2, tzinfo=UTC)
        await files.write("docs/2026/plan.txt", b"the plan", modified_at=at)
        await files.write("docs/kept.txt", b"kept")
        await files.write("docs/changed.txt", b"before")
        await files.make_folder("empty")
        await drive.files(bob.id).write("docs/bob.txt", b"bob's")
        await back_up(drive, backup)
        await files.trash("docs/2026")
        await files.trash("empty")
        await files.write("docs/changed.txt", b"after")

        async def bring_back(path: str = "") -> tuple[int, int]:
            restored = RestoredFiles()
            async with open_target(str(backup), drive.config, drive.clock) as target:
                snapshot = await target.find(None)
                await restore_files(drive, target, snapshot, ann, restored, path=path)
            return restored.files, restored.unchanged

        with pytest.raises(NotFound, match=r"plan\.md"):
            await bring_back("docs/2026/plan.md")
        assert await bring_back("docs/2026/plan.txt") == (1, 0)
        assert (await files.get("docs/2026/plan.txt")).modified_at == at
        assert await bring_back() == (1, 2)
        assert await bring_back() == (0, 3)
        assert await content_of(drive, ann.id) == {
            "docs/2026/plan.txt": b"the plan",
            "docs/kept.txt": b"kept",
            "docs/changed.txt": b"after",
            "docs/changed (1).txt": b"before",
        }
        assert (await files.get("empty")).kind is FileKind.FOLDER
        assert await content_of(drive, bob.id) == {"docs/bob.txt": b"bob's"}
        assert not list(drive.config.data_dir.glob("restore-*"))
        stranger = await sign_up(drive, "eve@example.org")
        async with open_target(str(backup), drive.config, drive.clock) as target:
            with pytest.raises(NotFound, match="no user"):
                await restore_files(drive, target, await target.find(None), stranger, RestoredFiles())


async def test_files_with_any_time_come_back_with_it_and_beside_what_took_their_folders_name(tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    async with drive_in(tmp_path / "drive") as drive:
        ann = await sign_up(drive)
        files = drive.files(ann.id)
        last, far = datetime(9999, 12, 31, 23, 59, 59, 999999, UTC), datetime(3000, 1, 2, 3, 4, 5, 678901, UTC)
        await files.write("docs/last.txt", b"last", modified_at=last)
        await files.write("docs/2026/far.txt", b"far", modified_at=far)
        await files.write("then.txt", b"then")
        await back_up(drive, backup)
        await files.trash("docs")
        await files.trash("then.txt")
        await files.write("docs", b"a file of that name")
        for _ in range(2):  # what has come back is left alone
            async with open_target(str(backup), drive.config, drive.clock) as target:
                await restore_files(drive, target, await target.find(None), ann, RestoredFiles())
        assert await content_of(drive, ann.id) == {
            "docs": b"a file of that name",
            "docs (1)/last.txt": b"last",
            "docs (1)/2026/far.txt": b"far",
            "then.txt": b"then",
        }
        assert (await files.get("docs (1)/last.txt")).modified_at == last
        assert (await files.get("docs (1)/2026/far.txt")).modified_at == far


# Pace


async def test_the_pace_is_asked_before_each_piece_of_each_blob(tmp_path: Path) -> None:
    async with drive_in(tmp_path / "drive") as drive:
        await fill(drive)
        passed: list[int] = []

        async def pace(length: int) -> None:
            passed.append(length)

        await back_up(drive, tmp_path / "backup", pace=pace)
        assert sum(passed) == sum(map(len, CONTENTS.values()))
        assert max(passed) <= 2**18


async def test_a_rate_lets_no_more_bytes_pass_than_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    async def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("godrive.commands.progress.time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr("godrive.commands.progress.asyncio", SimpleNamespace(sleep=sleep))
    pace = pacer(1000)
    assert pace is not None
    for _ in range(10):
        await pace(500)
    assert now == 5.0
    assert pacer(0) is None


async def test_what_a_killed_restore_left_in_the_data_folder_is_removed(tmp_path: Path) -> None:
    async with drive_in(tmp_path / "drive") as drive:
        user = await sign_up(drive)
        await upload(drive, user.id, "a.txt", b"hello")
        snapshot = await back_up(drive, tmp_path / "backup")
        left, used = (drive.config.data_dir / f"restore-{name}" for name in ("left", "used"))
        for folder in (left, used):
            folder.mkdir()
            (folder / "catalog.db").write_bytes(b"x")
        other = FolderLock(used / "lock")
        other.acquire()
        for folder in (left, used):
            os.utime(folder, (0, 0))
        async with open_target(str(tmp_path / "backup"), drive.config, drive.clock) as target:
            await restore_files(drive, target, snapshot, user, RestoredFiles())
        assert [*drive.config.data_dir.glob("restore-*")] == [used]
        assert (used / "catalog.db").read_bytes() == b"x"
        other.release()


async def test_what_a_killed_verify_left_among_temporary_files_is_removed_and_nothing_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the catalog, which an encrypted backup hides."""
    temporary, backup = tmp_path / "tmp", tmp_path / "backup"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for name in ("left", "young", "foreign", "file"):
        path = temporary / f"godrive-backup-{name}"
        if name == "file":
            path.write_text("")
        else:
            path.mkdir()
            (path / "catalog.db").write_bytes(b"x")
        if name != "young":
            os.utime(path, (0, 0))
    (temporary / "godrive-backup-link").symlink_to(tmp_path / "drive")
    left = {"young", "file", "link"}
    if os.geteuid() == 0:
        os.chown(temporary / "godrive-backup-foreign", 65534, 65534)
        left.add("foreign")
    async with drive_in(tmp_path / "drive") as drive:
        await fill(drive, {"a.bin": b"abc"})
        await back_up(drive, backup)
        assert await problems(drive.config, backup) == []
    assert {path.name.removeprefix("godrive-backup-") for path in temporary.iterdir()} == left


async def test_what_a_killed_backup_left_in_the_data_folder_is_removed(tmp_path: Path) -> None:
    async with drive_in(tmp_path / "drive") as drive:
        await fill(drive)
        left = drive.config.data_dir / "backup-left"
        left.mkdir()
        (left / "catalog.db").write_bytes(b"x")
        await back_up(drive, tmp_path / "backup")
        assert not left.exists()
