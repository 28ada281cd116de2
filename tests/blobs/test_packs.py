"""What is particular to packed blobs: groups, damage, room that is given back, and what a crash leaves behind."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from godrive.blobs import BlobDamaged, BlobExists, BlobTooLarge
from godrive.blobs.disk import PACK_BELOW, DiskBlobStore
from godrive.blobs.objects import Objects
from godrive.blobs.packs import compaction, index, moving, reader, writer
from godrive.blobs.packs.files import PackFile
from godrive.blobs.packs.index import Index
from godrive.blobs.packs.record import DEAD, FIRST, LIVE
from godrive.blobs.packs.writer import PackWriter
from godrive.blobs.pages import GONE
from godrive.errors import Conflict, NotFound, StorageFull, StoreUnavailable, UploadFinished
from godrive.model import ObjectKey, new_id
from godrive.reserve import SIZE
from tests.blobs import putter
from tests.cases import each

pytestmark = pytest.mark.anyio

KIB = 1024
LENGTH_OF_HEAD = 4 + 4 + 4 + 4 + 8 + 32 + 1 + 2
"""The part of a record before the key."""
UNSHARE = ("unshare", "--map-root-user", "--mount")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
async def store(root: Path) -> AsyncIterator[DiskBlobStore]:
    made = DiskBlobStore(root)
    await made.open()
    yield made
    await made.close()


def new_key() -> ObjectKey:
    return ObjectKey(f"shard/{new_id()}")


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def put(store: DiskBlobStore, data: bytes, key: ObjectKey | None = None) -> ObjectKey:
    return (await store.put(key or new_key(), pieces(data), size=len(data), mime="text/plain")).key


async def read(store: DiskBlobStore, key: ObjectKey) -> bytes:
    return b"".join([piece async for piece in store.get(key)])


def packs(root: Path) -> list[Path]:
    return sorted((root / "packs").glob("*.pack"))


def files(root: Path) -> list[Path]:
    return [path for path in (root / "objects").rglob("*") if path.is_file()]


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        (byte,) = file.read(1)
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


@each("size", [0, 1, PACK_BELOW, PACK_BELOW + 1])
async def test_blobs_up_to_the_threshold_are_packed_and_others_are_files(
    store: DiskBlobStore, root: Path, size: int
) -> None:
    before = len(files(root))
    key = await put(store, bytes(size))
    assert len(files(root)) - before == (size > PACK_BELOW)
    assert await read(store, key) == bytes(size)


async def test_puts_that_wait_together_share_one_sync(store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    await put(store, b"the pack exists")
    begun, let = threading.Event(), threading.Event()
    synced = 0
    fdatasync = os.fdatasync

    def held(fd: int) -> None:
        nonlocal synced
        synced += 1
        begun.set()
        assert let.wait(10)
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", held)
    first = asyncio.ensure_future(put(store, b"first"))
    assert await asyncio.to_thread(begun.wait, 10)
    others = [asyncio.ensure_future(put(store, b"%d" % number)) for number in range(20)]
    await anyio.wait_all_tasks_blocked()
    let.set()
    keys = await asyncio.gather(first, *others)
    assert synced == 2
    assert [await read(store, key) for key in keys[1:]] == [b"%d" % number for number in range(20)]


async def test_a_blob_is_durable_before_the_index_has_it(store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    key = new_key()
    fdatasync = os.fdatasync
    seen: list[bool] = []

    def noted(fd: int) -> None:
        seen.append(store._packs is not None and store._packs._reader.find(key) is None)
        fdatasync(fd)

    monkeypatch.setattr(os, "fdatasync", noted)
    await put(store, b"abc", key)
    assert seen == [True]


@pytest.mark.parametrize("sizes", [(100, 100_000), (100_000, 100)])
async def test_of_a_small_and_a_large_put_of_one_key_one_wins(store: DiskBlobStore, sizes: tuple[int, int]) -> None:
    for _ in range(20):
        key = new_key()
        bodies = [os.urandom(size) for size in sizes]
        outcomes = await asyncio.gather(*(put(store, body, key) for body in bodies), return_exceptions=True)
        (lost,) = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert isinstance(lost, UploadFinished)
        won = bodies[1 - outcomes.index(lost)]
        assert await read(store, key) == won
        assert [blob.key async for blob in store.list()].count(key) == 1
        with pytest.raises(BlobExists) as refused:
            await put(store, bodies[0], key)
        assert refused.value.sha256 == hashlib.sha256(bodies[0]).hexdigest()


async def test_files_and_packed_blobs_are_one_list(root: Path) -> None:
    made = []
    for below in (0, PACK_BELOW, 0, PACK_BELOW):
        store = DiskBlobStore(root, pack_below=below)
        await store.open()
        made += [await put(store, os.urandom(100)) for _ in range(5)]
        await store.close()
    store = DiskBlobStore(root, pack_below=0)
    await store.open()
    assert [blob.key async for blob in store.list()] == sorted(made)
    assert [blob.key async for blob in store.list(after=sorted(made)[9])] == sorted(made)[10:]
    await store.close()


async def test_a_packed_blob_that_is_cached_is_read_without_a_thread(
    store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await put(store, b"cached")

    def refused(*_: object) -> None:
        pytest.fail("a thread was asked")

    assert store._packs is not None
    monkeypatch.setattr(store._packs._disk, "submit", refused)
    monkeypatch.setattr(store._packs, "_run", refused)
    assert await read(store, key) == b"cached"
    assert (await store.head(key)).size_bytes == 6


async def test_a_read_that_would_wait_for_the_disk_leaves_the_loop(
    store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await put(store, b"on a slow disk")
    threads = []
    pread = os.pread

    def would_wait(*_: object) -> int:
        raise BlockingIOError(errno.EAGAIN, "not cached")

    def noted(fd: int, length: int, offset: int) -> bytes:
        threads.append(threading.current_thread())
        return pread(fd, length, offset)

    monkeypatch.setattr(os, "preadv", would_wait)
    monkeypatch.setattr(os, "pread", noted)
    assert await read(store, key) == b"on a slow disk"
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_a_packed_blob_is_no_file(store: DiskBlobStore) -> None:
    assert await store.open_file(await put(store, b"packed")) is None
    with pytest.raises(NotFound):
        await store.open_file(new_key())


async def test_what_is_set_aside_keeps_its_bytes_for_an_operator(store: DiskBlobStore, root: Path) -> None:
    key = await put(store, b"strange")
    await store.quarantine(key)
    with pytest.raises(NotFound):
        await read(store, key)
    (aside,) = (root / "quarantine").iterdir()
    assert aside.name.startswith(key.replace("/", "."))
    assert aside.read_bytes() == b"strange"


@each("damage", ["body", "head", "short", "missing"])
async def test_of_a_damaged_blob_what_is_left_is_set_aside(root: Path, damage: str) -> None:
    """A repair must not end at the blob that it is needed for."""
    shutil.rmtree(root, ignore_errors=True)
    store = DiskBlobStore(root)
    await store.open()
    key = await put(store, b"1234567890")
    (pack,) = packs(root)
    at, left = pack.read_bytes().index(b"1234567890"), b"1234567890"
    await store.close()
    if damage == "body":
        flip(pack, at + 3)
        left = b"123$567890"
    elif damage == "head":
        flip(pack, at - 20)
    elif damage == "short":
        os.truncate(pack, at + 4)
        left = b"1234"
    else:
        pack.unlink()
        left = b""
    await store.open()
    await store.quarantine(key)
    with pytest.raises(NotFound):
        await read(store, key)
    (aside,) = (root / "quarantine").iterdir()
    assert aside.read_bytes() == left
    await store.close()


async def test_room_is_given_back_while_others_write_and_read(store: DiskBlobStore, root: Path) -> None:
    keys = [await put(store, os.urandom(4 * KIB)) for _ in range(20)]
    batch = [asyncio.ensure_future(put(store, os.urandom(8 * KIB))) for _ in range(600)]
    keys += await asyncio.gather(*batch)
    before = sum(path.stat().st_size for path in packs(root))
    kept = dict.fromkeys(keys[::20])
    for key in kept:
        kept[key] = await read(store, key)
    reading = asyncio.ensure_future(_read_for_long(store, kept))
    await asyncio.gather(*(store.delete(key) for key in keys if key not in kept))
    while sum(path.stat().st_size for path in packs(root)) > before // 4:
        await put(store, b"a writer beside")
    await reading
    for key, data in kept.items():
        assert await read(store, key) == data
        assert (await store.head(key)).sha256 == hashlib.sha256(data or b"").hexdigest()
    status = await store.pack_status()
    assert status is not None
    assert not status.problems


async def _read_for_long(store: DiskBlobStore, kept: dict[ObjectKey, bytes | None]) -> None:
    for _ in range(20):
        for key, data in kept.items():
            assert await read(store, key) == data
            await asyncio.sleep(0)


@pytest.mark.parametrize("left", ["half deleted", "damaged"])
async def test_a_file_is_kept_if_its_blob_in_the_packs_cannot_be_read(
    store: DiskBlobStore, root: Path, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    """A move out of the packs writes the file and marks the record, and may be killed before the index follows."""
    key = await put(store, b"1234567890")
    with monkeypatch.context() as patch:
        if left == "damaged":
            patch.setattr(PackWriter, "commit", fail)
        else:
            patch.setattr(Index, "remove", fail)
        with pytest.raises(StoreUnavailable):
            await store.unpack()
    if left == "damaged":
        flip(packs(root)[0], packs(root)[0].read_bytes().index(b"1234567890"))
    assert len(files(root)) == 1
    for _ in range(2):
        await store.pack()
        assert await read(store, key) == b"1234567890"
    assert files(root) == []


async def test_a_blob_that_is_deleted_while_it_leaves_the_packs_is_gone(
    store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier run was interrupted, so the blob was a file too."""
    keys = [await put(store, b"%d" % number) for number in range(3)]
    with monkeypatch.context() as patch:
        patch.setattr(PackWriter, "commit", fail)
        with pytest.raises(StoreUnavailable):
            await store.unpack()
    write, loop = moving._write, asyncio.get_running_loop()

    def written(objects: Objects, key: ObjectKey, *args: Any) -> None:
        try:
            write(objects, key, *args)
        finally:
            if key == keys[1]:
                asyncio.run_coroutine_threadsafe(store.delete(key), loop).result(10)

    monkeypatch.setattr(moving, "_write", written)
    assert await store.unpack() == 2
    assert [blob.key async for blob in store.list()] == [keys[0], keys[2]]


def fail(*_: object, **__: object) -> bool:
    raise OSError(errno.EIO, "Input/output error")


async def test_an_operator_can_keep_packs_in_place(store: DiskBlobStore, root: Path) -> None:
    keys = await asyncio.gather(*(put(store, os.urandom(8 * KIB)) for _ in range(200)))
    (root / "packs" / "hold").touch()
    first = packs(root)
    await asyncio.gather(*(store.delete(key) for key in keys))
    for _ in range(10):  # groups and compactions take turns
        await put(store, b"another")
    assert packs(root) == first
    (root / "packs" / "hold").unlink()
    await store.delete(await put(store, b"gone"))
    while first[0] in packs(root):
        await put(store, b"another")


async def test_a_compaction_that_has_begun_stops_when_an_operator_keeps_packs_in_place(
    store: DiskBlobStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The operator's copy may have the pack to which blobs are moved as it was before."""
    keys = await asyncio.gather(*(put(store, os.urandom(8 * KIB)) for _ in range(200)))
    first, step, steps = packs(root), compaction.step, 0

    def held(writer: PackWriter, begun: compaction.Compaction) -> bool:
        nonlocal steps
        steps += 1
        more = step(writer, begun)
        (root / "packs" / "hold").touch()
        return more

    monkeypatch.setattr(compaction, "step", held)
    await asyncio.gather(*(store.delete(key) for key in keys[1:]))
    for _ in range(20):  # groups and compactions take turns
        await put(store, b"another")
    assert steps == 1
    assert set(first) <= set(packs(root))


async def test_a_failure_of_a_compaction_is_told_until_one_succeeds(
    store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def problems() -> tuple[str, ...]:
        for _ in range(20):  # groups and compactions take turns
            await put(store, b"another")
        status = await store.pack_status()
        assert status is not None
        return status.problems

    keys = await asyncio.gather(*(put(store, os.urandom(8 * KIB)) for _ in range(200)))
    with monkeypatch.context() as patch:
        patch.setattr(compaction, "step", fail)
        await asyncio.gather(*(store.delete(key) for key in keys))
        assert [problem[:27] for problem in await problems()] == ["Pack 1 could not be emptied"]
    await store.delete(await put(store, b"gone"))
    assert await problems() == ()


@pytest.mark.parametrize("damage", ["missing", "header"])
async def test_a_pack_that_cannot_be_emptied_keeps_no_other_from_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(writer, "PACK_SIZE", 100 * KIB)
    store = DiskBlobStore(root)
    await store.open()
    keys = [await put(store, os.urandom(10 * KIB)) for _ in range(25)]
    lost, emptied, _ = packs(root)
    if damage == "missing":
        await store.close()
        lost.unlink()
        await store.open()
    else:
        lost.write_bytes(bytes(100 * KIB))
        assert store._packs is not None
        store._packs._files.release(1)
    await asyncio.gather(*(store.delete(key) for key in (*keys[:8], *keys[10:18])))
    for _ in range(20):  # groups and compactions take turns
        await put(store, b"another")
    assert not emptied.exists()
    await store.close()


@pytest.mark.parametrize("where", ["body", "head"])
async def test_damage_is_found_when_the_blob_is_read_and_the_rest_can_be_read(root: Path, where: str) -> None:
    store = DiskBlobStore(root)
    await store.open()
    keys = [await put(store, b"%d" % number * 100) for number in range(10)]
    await store.close()
    (pack,) = packs(root)
    flip(pack, pack.read_bytes().index(b"4" * 100) + (50 if where == "body" else -20))
    await store.open()
    for number, key in enumerate(keys):
        if number == 4:
            with pytest.raises(BlobDamaged, match=key):
                await read(store, key)
        else:
            assert await read(store, key) == b"%d" % number * 100
    assert await read(store, await put(store, b"still")) == b"still"
    await store.close()


def spoil(pack: Path, damage: str) -> None:
    if damage == "missing":
        pack.unlink()
    elif damage == "other":
        pack.write_bytes(bytes(pack.stat().st_size))
    else:
        os.truncate(pack, 0 if damage == "empty" else pack.stat().st_size - 1)


@pytest.mark.parametrize("damage", ["missing", "empty", "short", "other"])
async def test_a_pack_that_is_lost_is_told_and_everything_else_works(root: Path, damage: str) -> None:
    store = DiskBlobStore(root)
    await store.open()
    small, large = await put(store, b"small"), await put(store, bytes(100_000))
    await store.close()
    (pack,) = packs(root)
    spoil(pack, damage)
    await store.open()
    with pytest.raises(BlobDamaged):
        await read(store, small)
    assert await read(store, large) == bytes(100_000)
    assert await read(store, await put(store, b"another")) == b"another"
    status = await store.pack_status()
    assert status is not None
    assert [problem[:7] for problem in status.problems] == ["Pack 1 "]
    await store.delete(small)
    with pytest.raises(NotFound):
        await read(store, small)
    await store.close()


@pytest.mark.parametrize("damage", ["missing", "empty", "short", "other"])
async def test_the_sizes_of_blobs_are_those_that_a_lost_pack_still_has(root: Path, damage: str) -> None:
    """So `godrive fsck` finds them without reading every blob."""
    store = DiskBlobStore(root)
    await store.open()
    first, empty, last = await put(store, b"first"), await put(store, b""), await put(store, b"last")
    large = await put(store, bytes(100_000))
    await store.close()
    (pack,) = packs(root)
    spoil(pack, damage)
    await store.open()
    sizes = {key: size async for page in store.size_pages() for key, size in page.items()}
    left = {first: 5, empty: 0, last: 3} if damage == "short" else dict.fromkeys([first, empty, last], GONE)
    assert sizes == left | {large: 100_000}
    await store.close()


async def test_an_empty_blob_is_gone_if_its_head_was_cut_off(store: DiskBlobStore, root: Path) -> None:
    first = await put(store, b"first")
    size = packs(root)[0].stat().st_size
    empty = await put(store, b"")
    os.truncate(packs(root)[0], size)
    sizes = {key: size async for page in store.size_pages() for key, size in page.items()}
    assert sizes == {first: 5, empty: GONE}


async def test_a_damaged_blob_stays_in_its_pack_and_all_others_leave_it(root: Path) -> None:
    store = DiskBlobStore(root)
    await store.open()
    keys = [await put(store, b"%d" % number * 100) for number in range(100, 200)]
    await store.close()
    (pack,) = packs(root)
    flip(pack, pack.read_bytes().index(b"110" * 100) + 50)
    await store.open()
    with pytest.raises(BlobDamaged, match=r"1 damaged blobs stay .* \(99\) .*" + keys[10]):
        await store.unpack()
    assert len(files(root)) == 99
    status = await store.pack_status()
    assert status is not None
    assert status.blobs == 1
    await store.close()


async def test_a_pack_cut_short_while_it_is_served_is_an_error(store: DiskBlobStore, root: Path) -> None:
    key = await put(store, b"served")
    assert await read(store, key) == b"served"
    os.truncate(packs(root)[0], FIRST)
    with pytest.raises(BlobDamaged):
        await read(store, key)


@pytest.mark.parametrize("how", ["replaced", "removed"])
async def test_what_is_stored_after_a_pack_was_exchanged_is_there_after_a_restart(
    store: DiskBlobStore, root: Path, how: str
) -> None:
    """An operator who puts a pack back beside a server makes a new file of that name."""
    before, deleted = await put(store, b"before"), await put(store, b"deleted")
    (pack,) = packs(root)
    if how == "replaced":
        shutil.copy(pack, root / "copy")
        (root / "copy").replace(pack)
    else:
        pack.unlink()
    after = await put(store, b"after")
    await store.delete(deleted)
    await store.close()
    (root / "packs" / "index.db").unlink()
    await store.open()
    assert await read(store, after) == b"after"
    assert {blob.key async for blob in store.list()} == ({before, after} if how == "replaced" else {after})


@pytest.mark.parametrize("index", ["missing", "garbage", "empty"])
async def test_the_index_is_made_again_from_the_packs(root: Path, index: str) -> None:
    store = DiskBlobStore(root)
    await store.open()
    keys = [await put(store, b"%d" % number) for number in range(50)]
    for key in keys[::2]:
        await store.delete(key)
    expected = [await store.head(key) for key in keys[1::2]]
    await store.close()
    path = root / "packs" / "index.db"
    if index == "missing":
        path.unlink()
    else:
        path.write_bytes(random.Random(1).randbytes(20_000) if index == "garbage" else b"")
    await store.open()
    assert [blob async for blob in store.list()] == sorted(expected, key=lambda blob: blob.key)
    for number, key in list(enumerate(keys))[1::2]:
        assert await read(store, key) == b"%d" % number
    await store.close()


async def test_blobs_that_an_old_index_has_elsewhere_are_found(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody removed the log of the index, or put an index back."""
    monkeypatch.setattr(writer, "PACK_SIZE", 100 * KIB)
    monkeypatch.setattr(compaction, "SMALLEST", 1)
    store, old = DiskBlobStore(root), root / "old.db"
    await store.open()
    keys = [await put(store, b"%d" % number * 10 * KIB) for number in range(11)]
    again = await put(store, b"first")
    await store.close()
    shutil.copy(root / "packs" / "index.db", old)
    await store.open()
    await store.delete(again)
    await put(store, b"second", again)
    (first, *_) = packs(root)
    for key in keys[:8]:
        await store.delete(key)
    while first.exists():
        await put(store, b"another")
    await store.delete(keys[8])
    await store.close()
    old.replace(root / "packs" / "index.db")
    await store.open()
    assert await read(store, keys[9]) == b"9" * 10 * KIB
    assert await read(store, again) == b"second"
    with pytest.raises(NotFound):
        await store.head(keys[8])
    await store.close()


async def test_a_pack_that_was_unreadable_is_like_any_other_once_it_is_put_back(root: Path) -> None:
    store = DiskBlobStore(root)
    await store.open()
    keys = [await put(store, os.urandom(8 * KIB)) for _ in range(200)]
    await store.close()
    (pack,) = packs(root)
    whole = pack.read_bytes()
    pack.write_bytes(bytes(len(whole)))
    await store.open()
    await store.close()
    pack.write_bytes(whole)
    await store.open()
    status = await store.pack_status()
    assert status is not None
    assert status.problems == ()
    await asyncio.gather(*(store.delete(key) for key in keys[1:]))
    while pack.exists():
        await put(store, b"another")
    await store.close()


async def test_a_blob_whose_deletion_was_interrupted_can_be_set_aside(store: DiskBlobStore, root: Path) -> None:
    key, kept = await put(store, b"half deleted"), await put(store, b"kept")
    (pack,) = packs(root)
    with pack.open("r+b") as file:
        file.seek(FIRST)
        file.write(DEAD)
    await store.quarantine(key)
    assert [blob.key async for blob in store.list()] == [kept]


async def test_nothing_is_packed_once_nothing_is_small(root: Path) -> None:
    store = DiskBlobStore(root)
    await store.open()
    await put(store, b"")
    await store.close()
    store = DiskBlobStore(root, pack_below=0)
    await store.open()
    await put(store, b"")
    assert len(files(root)) == 1
    await store.close()


async def test_a_body_that_looks_like_a_record_is_no_record(root: Path) -> None:
    store = DiskBlobStore(root)
    await store.open()
    await put(store, b"first")
    forged = packs(root)[0].read_bytes()[FIRST:]
    damaged, other = await put(store, b"x" + forged * 2), await put(store, b"other")
    await store.close()
    (pack,) = packs(root)
    flip(pack, pack.read_bytes().rindex(forged * 2) - 1 - len(damaged) - 20)  # the head before it
    (root / "packs" / "index.db").unlink()
    await store.open()
    keys = [blob.key async for blob in store.list()]
    assert other in keys
    assert damaged not in keys
    assert len(keys) == 2
    await store.close()


async def test_a_group_that_cannot_be_stored_leaves_nothing(
    store: DiskBlobStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = await put(store, b"kept")
    size = packs(root)[0].stat().st_size

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "the disk is broken")

    key = new_key()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(StoreUnavailable):
            await put(store, b"lost", key)
    assert packs(root)[0].stat().st_size == size
    with pytest.raises(NotFound):
        await store.head(key)
    await put(store, b"found", key)
    assert [await read(store, each_) for each_ in (kept, key)] == [b"kept", b"found"]


def test_on_a_full_disk_blobs_are_read_and_deleted_until_there_is_room(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=16m tmpfs {disk}"
    if (
        shutil.which("unshare") is None
        or subprocess.run([*UNSHARE, "sh", "-c", mount], check=False, capture_output=True).returncode
    ):
        pytest.skip("unshare --mount is not permitted here, so there is no small file system")
    command = f"{mount} && exec {sys.executable} -m tests.blobs.full_packs {disk}"
    done = subprocess.run([*UNSHARE, "sh", "-c", command], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == {
        "refused": ["StorageFull"],
        "deleted": 550,
        "others": ["StorageFull"],
        "gone": True,
        "packed": True,
        "reserve": SIZE,
    }


FULL_AT = {
    "the record": ("pwrite", errno.ENOSPC),
    "its sync": ("fdatasync", errno.EDQUOT),
    "the index": ("", 0),
}


@pytest.mark.parametrize("where", FULL_AT)
async def test_a_disk_that_is_full_half_way_refuses_puts_and_deletes(
    store: DiskBlobStore, root: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, gone = await put(store, b"kept"), [await put(store, b"gone") for _ in range(3)]
    size = packs(root)[0].stat().st_size
    call, number = FULL_AT[where]
    full = os.statvfs_result((4096, 4096, 1000, 0, 0, 100, 100, 100, 0, 255))
    assert store._packs is not None
    writer = store._packs._writer
    with monkeypatch.context() as patch:
        patch.setattr("godrive.reserve.os.statvfs", lambda _: full)
        if call:
            before = getattr(os, call)

            def fail_once(*arguments: object) -> object:
                patch.setattr(os, call, before)
                raise OSError(number, "full")

            patch.setattr(os, call, fail_once)
        else:
            execute = writer.index._execute
            execute("PRAGMA max_page_count = 1")  # which SQLite raises to the pages that there are
        bodies = [os.urandom(4000) for _ in range(100)]
        together = [*(put(store, body) for body in bodies), *(store.delete(key) for key in gone)]
        outcomes = await asyncio.gather(*together, return_exceptions=True)
        stored = {outcome for outcome in outcomes[:100] if not isinstance(outcome, StorageFull)}
        assert len(stored) <= (0 if call else 1)  # the first is a group by itself
        assert outcomes[100:] == [None] * 3
        with pytest.raises(StorageFull):
            await put(store, b"more")
        assert (packs(root)[0].stat().st_size == size) == (not stored)
        assert not (root / "packs" / "index.db-reserve").exists()
    if not call:
        execute("PRAGMA max_page_count = 1000000")
    again = await put(store, b"again")
    assert [await read(store, key) for key in (kept, again)] == [b"kept", b"again"]
    assert {blob.key async for blob in store.list()} == {kept, again, *stored}
    assert (root / "packs" / "index.db-reserve").stat().st_size == SIZE


async def test_a_pack_that_the_system_lets_grow_no_more_is_followed_by_another(
    store: DiskBlobStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of a file, of the process or of the file system, can be below that of a pack."""
    pwrite, limit = os.pwrite, 30_000

    def write_below(fd: int, data: bytes, offset: int) -> int:
        if offset + len(data) > limit:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return pwrite(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", write_below)
    bodies = [os.urandom(12_000) for _ in range(5)]
    keys = [await put(store, body) for body in bodies]
    assert [await read(store, key) for key in keys] == bodies
    assert [path.stat().st_size <= limit for path in packs(root)] == [True] * 3
    limit = 10_000
    with pytest.raises(BlobTooLarge):
        await put(store, bodies[0])
    assert await read(store, await put(store, b"small")) == b"small"


async def test_an_index_that_another_process_holds_at_the_start_is_no_mistake_of_the_operator(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``serve`` must end with 1, after which an init system tries again, and not with 2."""
    store = DiskBlobStore(root)
    await store.open()
    await store.close()
    monkeypatch.setattr(index, "_TIMEOUT", 0.0)
    with closing(sqlite3.connect(root / "packs" / "index.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.open()
        await store.close()
        assert open_below(root / "packs") <= {"index.db", "index.db-wal", "index.db-shm"}
    await store.open()
    await store.close()


@pytest.mark.parametrize("step", ["recovery", "reader"])
async def test_a_start_that_fails_leaves_nothing_open(root: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    store = DiskBlobStore(root)
    await store.open()
    key = await put(store, b"hello")
    await store.close()
    (root / "packs" / "index.db").unlink()
    with monkeypatch.context() as patch:
        if step == "recovery":
            patch.setattr(os, "scandir", fail)
        else:
            patch.setattr(reader, "Index", partial(fail_second, []))
        with pytest.raises(StoreUnavailable):
            await store.open()
        await store.close()
    assert open_below(root) == set()
    await store.open()
    assert await read(store, key) == b"hello"
    await store.close()


def open_below(folder: Path) -> set[str]:
    """What this process has open in the folder or below, by name."""
    found = [handle.resolve() for handle in Path("/proc/self/fd").iterdir()]
    return {path.name for path in found if path.is_relative_to(folder)}


def fail_second(before: list[Index], *values: Any, **options: Any) -> Index:
    """Open the first index, and fail at the second."""
    if before:
        fail()
    before.append(Index(*values, **options))
    return before[0]


def test_a_transaction_that_could_not_be_rolled_back_ends_before_the_next(tmp_path: Path) -> None:
    made = Index(tmp_path / "index.db")
    execute, failing = made._execute, True

    def fail_once(sql: str, *values: Any) -> sqlite3.Cursor:
        nonlocal failing
        if sql == "ROLLBACK" and failing:
            failing = False
            raise sqlite3.OperationalError("disk I/O error")
        return execute(sql, *values)

    made._execute = fail_once
    with pytest.raises(OSError), made.transaction():
        made.add_pack(1, FIRST)
        fail()
    with made.transaction():
        made.add_pack(2, FIRST)
    assert [pack.number for pack in made.packs()] == [2]
    made.close()


async def test_another_process_may_delete_beside_the_one_that_stores(root: Path) -> None:
    server, command = DiskBlobStore(root), DiskBlobStore(root)
    await server.open()
    await command.open()
    keys = [await put(server, b"%d" % number) for number in range(20)]
    await asyncio.gather(
        *(command.delete(key) for key in keys[:10]), *(put(server, b"%d" % number) for number in range(20, 40))
    )
    for key in keys[:10]:
        with pytest.raises(NotFound):
            await read(server, key)
    assert [await read(command, key) for key in keys[10:]] == [b"%d" % number for number in range(10, 20)]
    await command.close()
    await server.close()


async def test_a_command_beside_a_server_leaves_compaction_to_it(root: Path) -> None:
    """Its steps, one right after the other, would keep the server from the lock of the index."""
    server, command = DiskBlobStore(root), DiskBlobStore(root, guest=True)
    await server.open()
    keys = await asyncio.gather(*(put(server, os.urandom(8 * KIB)) for _ in range(200)))
    (pack,) = packs(root)
    await command.open()
    await asyncio.gather(*(command.delete(key) for key in keys[1:]))
    for _ in range(20):  # groups and compactions take turns
        await put(command, b"another")
    await command.close()
    assert packs(root) == [pack]
    await server.sweep_staging(datetime.now(UTC))
    for _ in range(20):
        await put(server, b"another")
    assert pack not in packs(root)
    await server.close()


async def test_a_command_alone_gives_room_back(root: Path) -> None:
    command = DiskBlobStore(root, guest=True)
    await command.open()
    keys = await asyncio.gather(*(put(command, os.urandom(8 * KIB)) for _ in range(200)))
    (pack,) = packs(root)
    await asyncio.gather(*(command.delete(key) for key in keys[1:]))
    for _ in range(20):  # groups and compactions take turns
        await put(command, b"another")
    assert pack not in packs(root)
    await command.close()


async def test_compaction_is_done_in_steps_and_continues_after_each(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "STEP", 10_000)
    store = DiskBlobStore(root)
    await store.open()
    keys = await asyncio.gather(*(put(store, os.urandom(8 * KIB)) for _ in range(200)))
    kept = {key: await read(store, key) for key in keys[::3]}
    await asyncio.gather(*(store.delete(key) for key in keys if key not in kept))
    while len(packs(root)) > 1 or packs(root)[0].name == "00000001.pack":
        await asyncio.sleep(0.001)
    assert {key: await read(store, key) for key in kept} == kept
    await store.close()
    with closing(sqlite3.connect(root / "packs" / "index.db")) as index:
        assert [row[0] for row in index.execute("SELECT DISTINCT pack FROM blobs")] == [2]


async def test_a_deletion_that_a_power_failure_interrupted_is_finished_when_its_pack_is_emptied(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compaction, "SMALLEST", 0)
    store = DiskBlobStore(root)
    await store.open()
    interrupted, kept = await put(store, b"deleted" * 9), await put(store, b"kept")
    gone = await put(store, bytes(KIB))
    await store.close()
    (pack,) = packs(root)
    with pack.open("r+b") as file:  # the mark has reached the disk, and the index has not
        file.seek(pack.read_bytes().index(interrupted.encode()) - LENGTH_OF_HEAD)
        file.write(DEAD)
    await store.open()
    await store.delete(gone)
    with anyio.fail_after(30):
        while pack in packs(root):
            await asyncio.sleep(0.001)
    status = await store.pack_status()
    assert status is not None
    assert status.problems == ()
    assert [blob.key async for blob in store.list()] == [kept]
    await store.close()


async def test_a_deletion_that_was_half_written_is_finished(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pwrite, fails = os.pwrite, [False, True]

    def writes_two_bytes(fd: int, data: memoryview, offset: int) -> int:
        if len(data) > len(DEAD):
            return pwrite(fd, data, offset)
        if fails.pop(0):
            raise OSError(errno.EIO, "simulated")
        return pwrite(fd, data[:2], offset)

    store = DiskBlobStore(root)
    await store.open()
    key, _kept = await put(store, b"x" * 100), await put(store, b"y" * 100)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", writes_two_bytes)
        with pytest.raises(StoreUnavailable):
            await store.delete(key)
        assert fails == []
        assert packs(root)[0].read_bytes().count(b"deob") == 1
        assert await read(store, key) == b"x" * 100  # it is there until its deletion is acknowledged
        fails += [False, False]
        await store.delete(key)
        assert fails == []
    await store.close()
    (root / "packs" / "index.db").unlink()
    await store.open()
    with pytest.raises(NotFound):
        await read(store, key)
    assert DEAD in packs(root)[0].read_bytes()
    await store.close()


@pytest.mark.parametrize("state", [b"deob", b"dlob", b"blad"], ids=bytes.decode)
async def test_a_deletion_that_a_power_failure_tore_damages_nothing(root: Path, state: bytes) -> None:
    """Nor when the index is lost too."""
    store = DiskBlobStore(root)
    await store.open()
    torn, kept = await put(store, b"x" * 100), await put(store, b"y" * 100)
    await store.close()
    (pack,) = packs(root)
    pack.write_bytes(pack.read_bytes().replace(LIVE, state, 1))
    for has_index in (True, False):
        if not has_index:
            (root / "packs" / "index.db").unlink()
        await store.open()
        assert [await read(store, key) for key in (torn, kept)] == [b"x" * 100, b"y" * 100]
        status = await store.pack_status()
        assert status is not None
        assert status.problems == ()
        await store.close()
    await store.open()
    await store.delete(torn)
    with pytest.raises(NotFound):
        await read(store, torn)
    await store.close()


async def test_records_torn_by_a_power_failure_do_not_make_a_new_pack_a_damaged_one(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DiskBlobStore(root)
    await store.open()
    append = PackWriter.append

    def torn(file: PackFile, buffers: Sequence[bytes | memoryview], start: int) -> None:
        append(file, [bytes(len(buffers[0])), *buffers[1:]], start)
        raise OSError(errno.EIO, "The power is cut.")

    with monkeypatch.context() as patch:
        patch.setattr(PackWriter, "append", staticmethod(torn))
        patch.setattr(os, "ftruncate", lambda fd, length: None)
        results = await asyncio.gather(*(put(store, b"%d" % number) for number in range(20)), return_exceptions=True)
    assert all(isinstance(result, StoreUnavailable) for result in results)
    await store.close()
    await store.open()
    status = await store.pack_status()
    assert status is not None
    assert status.problems == ()
    key = await put(store, b"next")
    assert await read(store, key) == b"next"
    await store.close()


@pytest.mark.parametrize("acknowledged", [1, 5, 40])
@pytest.mark.slow
async def test_after_a_kill_what_was_acknowledged_is_there_and_nothing_is_partial(
    root: Path, acknowledged: int
) -> None:
    command = [sys.executable, "-m", "tests.blobs.putter", str(root), "4096", "packed"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().strip() for _ in range(acknowledged)]
        process.kill()
        told += process.stdout.read().split()
    store = DiskBlobStore(root)
    await store.open()
    found = set()
    async for blob in store.list():
        found.add(blob.key)
        assert await read(store, blob.key) == putter.content(blob.key, 4096)
    assert found >= set(told)
    await store.close()


@pytest.mark.parametrize("direction", ["pack", "unpack"])
@pytest.mark.slow
async def test_a_move_that_is_killed_is_finished_by_the_next(root: Path, direction: str) -> None:
    store = DiskBlobStore(root, pack_below=0 if direction == "pack" else PACK_BELOW)
    await store.open()
    keys = [await put(store, b"%d" % number) for number in range(200)]
    before = [blob async for blob in store.list()]
    await store.close()
    command = [sys.executable, "-m", "tests.blobs.mover", str(root), direction, "none"]
    for moved in (1, 40):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(moved)] == ["moved\n"] * moved
            process.kill()
        store = DiskBlobStore(root)
        await store.open()
        assert [blob async for blob in store.list()] == before
        await store.close()
    await store.open()
    await getattr(store, direction)()
    assert [blob async for blob in store.list()] == before
    assert [await read(store, key) for key in keys] == [b"%d" % number for number in range(200)]
    assert len(files(root)) == (0 if direction == "pack" else 200)
    await store.close()


async def test_small_files_move_into_the_packs_and_out_of_them_unchanged(root: Path) -> None:
    old = DiskBlobStore(root, pack_below=0)
    await old.open()
    small, large = [await put(old, b"%d" % number) for number in range(70)], await put(old, bytes(100_000))
    before = [blob async for blob in old.list()]
    await old.close()
    store = DiskBlobStore(root)
    await store.open()
    assert await store.pack() == 70
    assert await store.pack() == 0
    assert [blob async for blob in store.list()] == before
    assert [path.name for path in files(root)] == [large.partition("/")[2]]
    assert [await read(store, key) for key in small] == [b"%d" % number for number in range(70)]
    assert await store.unpack() == 70
    assert await store.unpack() == 0
    assert [blob async for blob in store.list()] == before
    assert len(files(root)) == 71
    assert [await read(store, key) for key in small] == [b"%d" % number for number in range(70)]
    await store.close()


@pytest.mark.parametrize("direction", ["pack", "unpack"])
@pytest.mark.parametrize("step", range(4))
async def test_a_move_that_is_interrupted_is_finished_by_the_next(
    root: Path, direction: str, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = DiskBlobStore(root, pack_below=0 if direction == "pack" else PACK_BELOW)
    await store.open()
    keys = [await put(store, b"%d" % number) for number in range(3)]
    before = [blob async for blob in store.list()]
    await store.close()
    store = DiskBlobStore(root)
    await store.open()
    unlink, calls = os.unlink, 0

    class Killed(Exception):
        pass

    def killed(*_: object, **__: object) -> None:
        nonlocal calls
        calls += 1
        if calls > step:
            raise Killed
        unlink(*_, **__)  # type: ignore[arg-type]

    pwrite = os.pwrite

    def killed_write(fd: int, data: bytes, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls > step:
            raise Killed
        return pwrite(fd, data, offset)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", killed)
        patch.setattr(os, "pwrite", killed_write)
        with suppress(Killed):
            await getattr(store, direction)()
    assert [blob async for blob in store.list()] == before
    await getattr(store, direction)()
    assert [blob async for blob in store.list()] == before
    assert [await read(store, key) for key in keys] == [b"0", b"1", b"2"]
    assert len(files(root)) == (0 if direction == "pack" else 3)
    await store.close()


async def test_a_blob_that_is_deleted_while_it_moves_is_gone(root: Path) -> None:
    store = DiskBlobStore(root, pack_below=0)
    await store.open()
    keys = [await put(store, b"%d" % number) for number in range(64)]
    await store.close()
    store, server = DiskBlobStore(root), DiskBlobStore(root)
    await store.open()
    await server.open()
    for move in (store.pack, store.unpack, store.pack):
        keys += [await put(server, b"more") for _ in range(32)]
        deleted, keys = keys[::3], [key for key in keys if key not in keys[::3]]
        await asyncio.gather(move(), *(server.delete(key) for key in deleted))
        assert [blob.key async for blob in server.list()] == sorted(keys)
        for key in keys:
            assert await read(server, key)
    await store.close()
    await server.close()


async def test_one_process_at_a_time_moves_blobs(root: Path) -> None:
    store = DiskBlobStore(root)
    await store.open()
    with moving.alone(root / "packs"), pytest.raises(Conflict):
        await store.pack()
    assert await store.pack() == 0
    await store.close()


async def test_a_damaged_file_is_not_packed(root: Path) -> None:
    store = DiskBlobStore(root, pack_below=0)
    await store.open()
    key = await put(store, b"whole")
    await store.close()
    flip(root / "objects" / key, 2)
    store = DiskBlobStore(root)
    await store.open()
    assert await store.pack() == 0
    assert len(files(root)) == 1
    await store.close()
