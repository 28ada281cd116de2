"""What every blob store promises that can write a blob in several steps."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from godrive.blobs import Appendable, BlobStore, Staged
from godrive.blobs.disk import DiskBlobStore
from godrive.blobs.memory import MemoryBlobStore
from godrive.errors import DigestMismatch, Gone, LengthMismatch, UploadFinished
from godrive.model import BlobInfo, ObjectKey
from tests.contracts.test_blob_store import absent, keys, new_key, pieces, read
from tests.noise import noise

pytestmark = pytest.mark.anyio

MIB = 1 << 20


class _Store(BlobStore, Appendable):
    """A store with the capability."""


@pytest.fixture(params=["memory", "disk", pytest.param("s3", marks=pytest.mark.servers)])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[_Store]:
    """Each implementation, open and empty.  In S3, parts are as small as a store allows."""
    made: BlobStore
    if request.param == "memory":
        made = MemoryBlobStore()
    elif request.param == "disk":
        made = DiskBlobStore(tmp_path / "blobs")
    else:
        from tests.ceph import ProbedOnce, own_bucket

        made = ProbedOnce(own_bucket(request.getfixturevalue("ceph_gateway")), part=5 * MIB, copy_part=11 * MIB)
    assert isinstance(made, Appendable)
    await made.open()
    try:
        yield cast("_Store", made)
    finally:
        await made.close()


async def again(store: _Store) -> None:
    """Close and open the store, as a restart of the process does for a store that keeps nothing in memory."""
    await store.close()
    await store.open()


class Cut(Exception):
    """The line was cut."""


async def cut(data: bytes) -> AsyncIterator[bytes]:
    async for piece in pieces(data):
        yield piece
    raise Cut


async def append(store: _Store, staged: Staged, data: bytes, size: int | None = None) -> Staged:
    async with aclosing(store.append(staged, pieces(data), size=size)) as steps:
        async for step in steps:
            assert step.offset >= staged.offset
            staged = step
    return staged


async def finish(store: _Store, staged: Staged, data: bytes) -> BlobInfo:
    info = await store.finish(staged)
    assert (info.key, info.size_bytes) == (staged.key, len(data))
    assert info.sha256 in {None, hashlib.sha256(data).hexdigest()}
    assert await read(store, staged.key) == data
    return info


@pytest.mark.parametrize(
    "sizes",
    [
        (1,),
        (0, 1),
        (10, 20, 30),
        (3 * MIB + 1, 0, 5 * MIB),
        pytest.param((5 * MIB, 12 * MIB, 3), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("is_known", [True, False])
async def test_bytes_appended_in_steps_are_a_blob(store: _Store, sizes: tuple[int, ...], is_known: bool) -> None:
    data = noise(sum(sizes))
    staged, at = Staged(key=new_key()), 0
    for size in sizes:
        staged = await append(store, staged, data[at : at + size], len(data) if is_known else None)
        at += size
        assert staged.offset == at
        assert await absent(store, staged.key)
    await finish(store, staged, data)
    assert await keys(store) == [staged.key]
    assert [key async for key in store.abandoned(datetime.now(UTC) + timedelta(hours=1))] == []


async def test_a_blob_of_which_nothing_was_appended_is_empty(store: _Store) -> None:
    await finish(store, Staged(key=new_key()), b"")


@pytest.mark.parametrize("size", [0, 10, 3 * MIB + 5])
async def test_what_came_of_a_body_that_breaks_off_stays(store: _Store, size: int) -> None:
    data, staged = noise(size), Staged(key=new_key())
    with pytest.raises(Cut):
        async with aclosing(store.append(staged, cut(data), size=size + 3)) as steps:
            async for step in steps:
                staged = step
    assert staged.offset == size
    await again(store)
    staged = await append(store, staged, b"end", size + 3)
    await finish(store, staged, data + b"end")


@pytest.mark.parametrize("first", [b"", b"first"])
async def test_of_a_body_that_counts_as_a_whole_no_part_stays(store: _Store, first: bytes) -> None:
    staged = await append(store, Staged(key=new_key()), first)
    with pytest.raises(Cut):
        async with aclosing(store.append(staged, cut(noise(3 * MIB)), whole=True)) as steps:
            assert [step async for step in steps] == []
    staged = await append(store, staged, b"second")
    info = await finish(store, staged, first + b"second")
    assert info.sha256 == hashlib.sha256(first + b"second").hexdigest()


@pytest.mark.parametrize(("size", "lost"), [(5, 4), (5 * MIB, 6 * MIB), (5, 6 * MIB), (0, 3)])
async def test_bytes_after_the_offset_are_dropped(store: _Store, size: int, lost: int) -> None:
    """As after a kill between the store and the row of the upload."""
    kept = noise(size)
    staged = await append(store, Staged(key=new_key()), kept)
    async with aclosing(store.append(staged, pieces(noise(lost)))) as steps:
        assert (await anext(steps)).offset > size
    await again(store)
    staged = await append(store, staged, b"new")
    await finish(store, staged, kept + b"new")


async def test_the_last_step_follows_the_end_of_the_body(store: _Store) -> None:
    ended: list[bool] = []

    async def body() -> AsyncIterator[bytes]:
        yield b"a" * MIB
        yield b"b" * MIB
        ended.append(True)

    async with aclosing(store.append(Staged(key=new_key()), body())) as steps:
        after = [step async for step in steps if ended]
    assert [step.offset for step in after] == [2 * MIB]


async def test_a_byte_too_many_is_refused(store: _Store) -> None:
    staged = await append(store, Staged(key=new_key()), b"12345", 8)
    with pytest.raises(LengthMismatch):
        await append(store, staged, b"6789", 8)
    staged = await append(store, staged, b"678", 8)
    await finish(store, staged, b"12345678")


async def test_a_blob_with_another_digest_is_refused_and_stays_staged(store: _Store) -> None:
    staged = await append(store, Staged(key=new_key()), b"abc")
    with pytest.raises(DigestMismatch):
        await store.finish(staged, sha256="0" * 64)
    assert await absent(store, staged.key)
    info = await store.finish(staged, sha256=hashlib.sha256(b"abc").hexdigest(), mime="text/plain")
    assert info.mime == "text/plain"


async def test_a_key_that_has_a_blob_gets_no_other(store: _Store) -> None:
    staged = await append(store, Staged(key=new_key()), b"second")
    await store.put(staged.key, pieces(b"first"))
    with pytest.raises(UploadFinished):
        await store.finish(staged)
    assert await read(store, staged.key) == b"first"
    assert [key async for key in store.abandoned(datetime.now(UTC) + timedelta(hours=1))] == []


async def test_finishing_twice_finds_the_blob(store: _Store) -> None:
    staged = await append(store, Staged(key=new_key()), b"abc")
    await store.finish(staged)
    with pytest.raises(UploadFinished):
        await store.finish(staged)


async def test_what_was_discarded_is_gone(store: _Store) -> None:
    staged = await append(store, Staged(key=new_key()), b"abc")
    await store.discard(staged)
    await store.discard(staged)
    with pytest.raises(Gone):
        await append(store, staged, b"def")
    with pytest.raises(Gone):
        await store.finish(staged)
    assert await absent(store, staged.key)


@pytest.mark.parametrize("sizes", [(3 * MIB, 0, 5, 6 * MIB + 1), (13 * MIB, 2), (1, 2), (0,)])
async def test_parts_are_joined_in_order(store: _Store, sizes: tuple[int, ...]) -> None:
    datas = [noise(size) for size in sizes]
    parts = [await append(store, Staged(key=new_key()), data) for data in datas]
    for _ in range(2):  # the second time as after a crash
        joined = await store.join(ObjectKey("00000000/joined"), parts)
    assert joined.offset == sum(map(len, datas))
    await finish(store, joined, b"".join(datas))
    for part in parts:
        await store.discard(part)
        await store.delete(part.key)
    if any(sizes):
        with pytest.raises(Gone):
            await store.join(new_key(), parts)


async def test_what_is_staged_is_listed_in_order_and_no_sweep_removes_it(store: _Store) -> None:
    staged = [await append(store, Staged(key=new_key()), b"abc") for _ in range(5)]
    soon = datetime.now(UTC) + timedelta(hours=1)
    assert [key async for key in store.abandoned(soon)] == sorted(item.key for item in staged)
    assert [key async for key in store.abandoned(soon - timedelta(hours=2))] == []
    later = sorted(item.key for item in staged)
    assert [key async for key in store.abandoned(soon, after=later[1])] == later[2:]
    await store.sweep_staging(soon)
    for item in staged:
        await finish(store, item, b"abc")
