"""The passphrase of a backup can be changed: one opens it at each instant, and nothing else is written again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from godrive.backup import passphrase as module
from godrive.backup.create import Progress, create
from godrive.backup.passphrase import change_passphrase
from godrive.backup.place import opened_store
from godrive.backup.target import open_target
from godrive.backup.verify import prune
from godrive.blobs import BlobStore
from godrive.config import Config
from godrive.drive import GoDrive
from godrive.errors import ConfigError, Conflict
from godrive.model import ObjectKey
from tests.test_backup import drive_in, fast, fill, problems, sealed

pytestmark = pytest.mark.anyio

OLD, NEW = "correct horse battery", "another staple"


@pytest.fixture
async def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[GoDrive]:
    """A drive with an encrypted backup in ``tmp_path / "backup"``."""
    fast(monkeypatch)
    async with drive_in(tmp_path / "drive") as opened:
        await fill(opened)
        async with open_target(str(tmp_path / "backup"), sealed(opened.config, OLD), opened.clock, create=True) as t:
            await create(opened, t, Progress())
        yield opened


async def opens(drive: GoDrive, folder: Path, passphrase: str) -> bool:
    try:
        async with open_target(str(folder), sealed(drive.config, passphrase), drive.clock) as target:
            return len(await target.snapshots()) == 1
    except ConfigError as error:
        if "is not that of the backup" not in error.detail:
            raise
        return False


async def objects(drive: GoDrive, folder: Path) -> dict[str, bytes]:
    async with opened_store(str(folder), drive.config, drive.clock) as (store, _):
        return {blob.key: b"".join([part async for part in store.get(blob.key)]) async for blob in store.list()}


async def test_a_new_passphrase_opens_the_backup_and_the_old_one_does_not(drive: GoDrive, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    before = await objects(drive, backup)
    await change_passphrase(str(backup), sealed(drive.config, OLD), drive.clock, NEW)
    assert (await opens(drive, backup, OLD), await opens(drive, backup, NEW)) == (False, True)
    after = await objects(drive, backup)
    assert before.keys() - after.keys() == {"key/1"}
    assert after.keys() - before.keys() == {"key/2"}
    assert all(after[key] == before[key] for key in after.keys() & before.keys())
    config = sealed(drive.config, NEW)
    assert await problems(config, backup) == []
    async with open_target(str(backup), config, drive.clock, create=True) as target:
        assert (await create(drive, target, Progress())).added_blobs == 0
        await prune(target, (await target.snapshots())[-1:])
    assert await opens(drive, backup, NEW)


async def test_an_interrupted_change_leaves_one_that_opens_it_and_is_completed(
    drive: GoDrive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup = str(tmp_path / "backup")

    class Stop(Exception):
        pass

    async def stop(store: BlobStore) -> None:
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(module, "drop_old_keys", stop)
        with pytest.raises(Stop):
            await change_passphrase(backup, sealed(drive.config, OLD), drive.clock, NEW)
    assert {"key/1", "key/2"} <= (await objects(drive, tmp_path / "backup")).keys()
    assert (await opens(drive, tmp_path / "backup", OLD), await opens(drive, tmp_path / "backup", NEW)) == (False, True)
    async with open_target(backup, sealed(drive.config, NEW), drive.clock) as target:
        await prune(target, await target.snapshots())
    assert "key/1" not in await objects(drive, tmp_path / "backup")
    await change_passphrase(backup, sealed(drive.config, NEW), drive.clock, OLD)
    assert await opens(drive, tmp_path / "backup", OLD)


async def test_of_two_changes_at_once_one_is_refused(
    drive: GoDrive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup, real = tmp_path / "backup", module._write

    async def second(store: BlobStore, number: int, key: bytes, passphrase: str, name: str) -> None:
        await real(store, number, key, "the other was first", name)
        await real(store, number, key, passphrase, name)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_write", second)
        with pytest.raises(Conflict):
            await change_passphrase(str(backup), sealed(drive.config, OLD), drive.clock, NEW)
    assert await opens(drive, backup, "the other was first")


@pytest.mark.parametrize("data", [b"", b"{}", b'{"kdf":"scrypt"}', b"\xff"])
async def test_a_key_that_cannot_be_read_is_one_clear_line(drive: GoDrive, tmp_path: Path, data: bytes) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield data

    async with opened_store(str(tmp_path / "backup"), drive.config, drive.clock) as (store, _):
        await store.put(ObjectKey("key/7"), body())
    with pytest.raises(ConfigError, match="cannot be read"):
        async with open_target(str(tmp_path / "backup"), sealed(drive.config, OLD), drive.clock):
            pass


async def test_what_has_no_passphrase_gets_none_and_none_becomes_empty(drive: GoDrive, tmp_path: Path) -> None:
    plain, backup = tmp_path / "plain", str(tmp_path / "backup")
    async with open_target(str(plain), drive.config, drive.clock, create=True) as target:
        await create(drive, target, Progress())

    async def refused(name: str, config: Config, passphrase: str, said: str) -> None:
        with pytest.raises(ConfigError, match=said):
            await change_passphrase(name, config, drive.clock, passphrase)

    await refused(str(plain), drive.config, NEW, "is not encrypted")
    await refused(backup, sealed(drive.config, OLD), "", "is empty")
    await refused(backup, sealed(drive.config, "wrong"), NEW, "is not that of the backup")
    await refused(backup, drive.config, NEW, "is encrypted")
    await refused(str(tmp_path / "none"), sealed(drive.config, OLD), NEW, "There is no backup")
    assert await opens(drive, tmp_path / "backup", OLD)
