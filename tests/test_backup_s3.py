"""Encrypted backups in a bucket: of a drive in a bucket, into one, and back."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from godrive.backup.create import Progress, create
from godrive.backup.passphrase import change_passphrase
from godrive.backup.place import opened_store
from godrive.backup.restore import restore
from godrive.backup.target import open_target
from godrive.backup.verify import prune, verify
from godrive.clock import SystemClock
from godrive.config import Config
from godrive.drive import GoDrive
from godrive.errors import ConfigError
from godrive.messages.files import OpenContent
from godrive.model import ObjectKey
from godrive.opening import make_blobs
from godrive.testing import ManualClock, chunks, open_drive, quick_config
from tests.ceph import ProbedOnce, own_bucket
from tests.principals import acting
from tests.servers import CephGateway
from tests.test_backup import CONTENTS, content_of, fast, fill, sealed

pytestmark = [pytest.mark.anyio, pytest.mark.servers]


@pytest.fixture
def bucket(ceph_gateway: CephGateway, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A bucket for a drive, by the settings of ``blobs.s3``."""
    fast(monkeypatch)
    monkeypatch.setattr("godrive.blobs.s3.S3BlobStore", ProbedOnce)
    return {**msgspec.to_builtins(own_bucket(ceph_gateway)), "create_bucket": True}


@asynccontextmanager
async def drive_in(folder: Path, bucket: dict[str, Any]) -> AsyncIterator[GoDrive]:
    async with open_drive(data_dir=folder, clock=ManualClock(), blobs={"driver": "s3", "s3": bucket}) as drive:
        yield drive


async def problems(config: Config, name: str) -> list[str]:
    async with open_target(name, config, SystemClock()) as target:
        return [problem async for problem in verify(target, await target.snapshots(), Progress())]


async def stored(config: Config, name: str) -> dict[str, bytes]:
    """Return what anybody who may read the bucket sees."""
    async with opened_store(name, config, SystemClock()) as (store, _):
        return {blob.key: b"".join([part async for part in store.get(blob.key)]) async for blob in store.list()}


async def replace_object(config: Config, name: str, key: str, data: bytes) -> None:
    async with opened_store(name, config, SystemClock()) as (store, _):
        await store.delete(ObjectKey(key))
        await store.put(ObjectKey(key), chunks(data, 100_000))


async def test_an_encrypted_backup_in_a_bucket_shows_nothing_and_comes_back(
    tmp_path: Path, bucket: dict[str, Any], ceph_gateway: CephGateway
) -> None:
    name = f"s3://{own_bucket(ceph_gateway).bucket}/daily/drive"
    contents = {**CONTENTS, "text.txt": b"the secret plans " * 10_000}
    async with drive_in(tmp_path / "drive", bucket) as drive:
        files = await fill(drive, contents)
        owner, config = files["3.bin"].owner_id, sealed(drive.config)
        async with open_target(name, config, drive.clock, create=True) as target:
            first = await create(drive, target, Progress())
            second = await create(drive, target, Progress())
        assert (first.added_blobs, second.added_blobs) == (len(contents), 0)
        objects = await stored(config, name)
        assert len([key for key in objects if key.startswith("snapshot/")]) == 2
        everything = b"".join(objects.values())
        for secret in (b"secret plans", b"ann@example.org", b"CREATE TABLE entries", CONTENTS["900.bin"]):
            assert secret not in everything
        digests = {hashlib.sha256(part).hexdigest() for part in objects.values()}
        assert not {key.partition("/")[2] for key in objects} & digests
        assert await problems(config, name) == []
        async with open_target(name, config, drive.clock) as target:
            assert await prune(target, [second]) == (1, 0)
        assert await problems(config, name) == []
        await change_passphrase(name, config, drive.clock, "another staple")
        with pytest.raises(ConfigError, match="is not that of the backup"):
            await problems(config, name)
    folder = tmp_path / "restored"
    elsewhere = {**msgspec.to_builtins(own_bucket(ceph_gateway)), "create_bucket": True}
    settings = sealed(quick_config(folder, blobs={"driver": "s3", "s3": elsewhere}), "another staple")
    blobs = make_blobs(settings, SystemClock())
    await blobs.open()
    async with open_target(name, settings, SystemClock()) as target:
        await restore(settings, blobs, target, await target.find(None), Progress(), clock=ManualClock())
    await blobs.close()
    async with drive_in(folder, elsewhere) as restored:
        assert await content_of(restored, owner) == contents


async def test_an_object_of_an_encrypted_backup_that_was_changed_in_the_bucket_is_found(
    tmp_path: Path, bucket: dict[str, Any], ceph_gateway: CephGateway
) -> None:
    name = f"s3://{own_bucket(ceph_gateway).bucket}"
    async with drive_in(tmp_path / "drive", bucket) as drive:
        files = await fill(drive)
        config = sealed(drive.config)
        keys = [
            (await drive.metadata.ask(OpenContent(acting(file.owner_id), file.id))).object_key
            for file in (files["40000.bin"], files["2000000.bin"])
        ]
        async with open_target(name, config, drive.clock, create=True) as target:
            await create(drive, target, Progress())
        objects = await stored(config, name)
        one, other = (objects[key] for key in keys)
        for damaged in (one[:-1], one[:-1] + bytes([one[-1] ^ 1]), other, b""):
            await replace_object(config, name, keys[0], damaged)
            (problem,) = await problems(config, name)
            assert keys[0] in problem
        await replace_object(config, name, keys[0], one)
        part = next(key for key in objects if key.startswith("part/"))
        await replace_object(config, name, part, objects[part][:-1])
        assert any("catalog" in problem for problem in await problems(config, name))
