"""A second process never checkpoints the log of a database that a server has open."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from godrive import wal_lock
from godrive.blobs.disk import DiskBlobStore
from godrive.catalog import Tx
from godrive.catalog.sqlite import SqliteCatalog
from godrive.model import ObjectKey
from godrive.testing import chunks

pytestmark = pytest.mark.anyio


async def add(catalog: SqliteCatalog, name: str, size: int = 100_000) -> None:
    async def write(tx: Tx) -> None:
        await tx.run("INSERT INTO invites (digest, created_at, used_by) VALUES ($1, 0, $2)", name, "x" * size)

    await catalog.write(write)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "godrive.db"


async def test_a_guest_beside_a_server_copies_no_frame_whatever_it_writes(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_lock, "GUEST_LOG", 100_000)
    server, guest = SqliteCatalog(path), SqliteCatalog(path, guest=True)
    await server.open()
    await add(server, "server")
    before = path.read_bytes()
    await guest.open()
    for number in range(60):  # some 6 MB: SQLite's own limit is 4 MB, ours here is 0.1
        await add(guest, f"{number}")
    await guest.close()
    assert path.with_name("godrive.db-wal").stat().st_size > 6_000_000
    assert path.read_bytes() == before, "a checkpoint has copied the log into the database"
    await server.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM invites").fetchone() == (61,)


async def test_a_guest_that_is_alone_keeps_the_log_short(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wal_lock, "GUEST_LOG", 1_000_000)
    guest, other = SqliteCatalog(path, guest=True), SqliteCatalog(path, guest=True)
    await guest.open()
    await other.open()
    for number in range(100):
        await add(guest, f"{number}")
    assert path.with_name("godrive.db-wal").stat().st_size < 3_000_000
    await other.close()
    await guest.close()


async def test_a_server_that_starts_ends_the_checkpoints_of_a_guest(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_lock, "GUEST_LOG", 0)
    guest, server = SqliteCatalog(path, guest=True), SqliteCatalog(path)
    await guest.open()
    before = path.read_bytes()
    await add(guest, "alone")
    assert path.read_bytes() != before
    await server.open()
    before = path.read_bytes()
    await add(guest, "beside")
    assert path.read_bytes() == before
    await server.close()
    await add(guest, "alone again")
    assert path.read_bytes() != before
    await guest.close()


# The index of packs


async def store(blobs: DiskBlobStore, number: int) -> ObjectKey:
    key = ObjectKey(f"018f2c3a/{number:08}-" + "x" * 50)
    await blobs.put(key, chunks(b"%d" % number, 10), mime="text/plain; comment=" + "x" * 4000)
    return key


async def test_a_guest_beside_a_server_copies_no_frame_of_the_index_of_packs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_lock, "GUEST_LOG", 100_000)
    server, guest = DiskBlobStore(tmp_path), DiskBlobStore(tmp_path, guest=True)
    await server.open()
    keys = [await store(server, 0)]
    index = tmp_path / "packs" / "index.db"
    before = index.read_bytes()
    await guest.open()
    keys += [await store(guest, number) for number in range(1, 700)]  # SQLite's own limit is 4 MB, ours here is 0.1
    await guest.delete(keys.pop())
    await guest.close()
    assert index.with_name("index.db-wal").stat().st_size > 5_000_000
    assert index.read_bytes() == before, "a checkpoint has copied the log into the index"
    assert [blob.key async for blob in server.list()] == keys
    await server.close()
    assert index.read_bytes() != before


async def test_a_guest_that_is_alone_keeps_the_log_of_the_index_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wal_lock, "GUEST_LOG", 100_000)
    guest = DiskBlobStore(tmp_path, guest=True)
    await guest.open()
    for number in range(100):
        await store(guest, number)
    assert (tmp_path / "packs" / "index.db-wal").stat().st_size < 500_000
    await guest.close()
