"""The log of a server has room for the commits to come, and nothing else about it changes."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from godrive.catalog import Tx
from godrive.catalog.sqlite import SqliteCatalog

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "godrive.db"


@pytest.fixture
async def catalog(path: Path) -> AsyncIterator[SqliteCatalog]:
    made = SqliteCatalog(path)
    await made.open()
    yield made
    await made.close()


async def add(catalog: SqliteCatalog, name: str) -> None:
    async def write(tx: Tx) -> None:
        await tx.run("INSERT INTO leases (name, holder, expires_at) VALUES ($1, 'x', 0)", name)

    await catalog.write(write)


async def names_after_a_crash(path: Path, aside: Path) -> list[str]:
    """Return what a catalog has that gets the files as a crash leaves them: the index of the log is lost."""
    aside.mkdir()
    for name in (path.name, f"{path.name}-wal"):
        shutil.copy(path.with_name(name), aside / name)

    async def names(tx: Tx) -> list[str]:
        return [row[0] for row in await tx.all("SELECT name FROM leases ORDER BY name")]

    again = SqliteCatalog(aside / path.name)
    await again.open()
    try:
        return await again.read(names)
    finally:
        await again.close()


def log_bytes(path: Path) -> int:
    return path.with_name(f"{path.name}-wal").stat().st_size


async def test_few_commits_make_the_log_longer(catalog: SqliteCatalog, path: Path) -> None:
    lengths = []
    for number in range(300):
        await add(catalog, f"{number}")
        lengths.append(log_bytes(path))
    assert len(set(lengths)) < 30
    assert lengths == sorted(lengths)


async def test_after_a_crash_the_room_is_no_part_of_the_log(catalog: SqliteCatalog, path: Path, tmp_path: Path) -> None:
    added = [f"{number:03}" for number in range(100)]
    for name in added:
        await add(catalog, name)
    room = path.with_name(f"{path.name}-wal").read_bytes()[-4096:]
    assert room == bytes(4096)
    assert await names_after_a_crash(path, tmp_path / "crashed") == added


async def test_room_takes_nothing_from_what_another_process_has_written(
    catalog: SqliteCatalog, path: Path, tmp_path: Path
) -> None:
    guest = SqliteCatalog(path, guest=True)
    await guest.open()
    added = [f"{number:03}" for number in range(200)]
    for number, name in enumerate(added):
        await add(guest if number % 5 else catalog, name)
    await guest.close()
    assert await names_after_a_crash(path, tmp_path / "crashed") == added


@pytest.mark.parametrize("written", [None, 4096], ids=["nothing", "a part"])
async def test_a_disk_without_room_for_more_takes_the_commit(
    catalog: SqliteCatalog, path: Path, monkeypatch: pytest.MonkeyPatch, written: int | None
) -> None:
    write = os.pwrite

    def refuse(handle: int, data: bytes, offset: int) -> int:
        if written is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(handle, data[:written], offset)

    monkeypatch.setattr("godrive.catalog.log_room.os.pwrite", refuse)
    await add(catalog, "a")
    before = log_bytes(path)
    for name in "bcdefg":
        await add(catalog, name)
    assert 0 < log_bytes(path) - before < 200_000
    assert catalog.problem is None
