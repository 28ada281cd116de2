"""What every blob store promises, whatever it is made of."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from godrive.blobs import BlobExists, BlobStore, FileBacked, split_key
from godrive.blobs.disk import PACK_BELOW, DiskBlobStore
from godrive.blobs.memory import MemoryBlobStore
from godrive.errors import DigestMismatch, Invalid, LengthMismatch, NotFound, StoreUnavailable, UploadFinished
from godrive.model import ObjectKey, new_id
from tests.cases import each
from tests.noise import noise

pytestmark = pytest.mark.anyio

LARGE = 9 * 1024 * 1024 + 12_345


@pytest.fixture(params=["memory", "disk", "disk-named", "disk-files", pytest.param("s3", marks=pytest.mark.servers)])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    """Each implementation, open and empty."""
    made: BlobStore
    if request.param == "memory":
        made = MemoryBlobStore()
    elif request.param.startswith("disk"):
        below = 0 if request.param == "disk-files" else PACK_BELOW
        made = DiskBlobStore(tmp_path / "blobs", named=request.param == "disk-named", pack_below=below)
    else:
        gateway = request.getfixturevalue("ceph_gateway")
        from tests.ceph import ProbedOnce, own_bucket

        made = ProbedOnce(own_bucket(gateway))
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def new_key(shard: str | None = None) -> ObjectKey:
    name = new_id()
    return ObjectKey(f"{shard or name[:8]}/{name}")


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def read(store: BlobStore, key: ObjectKey, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in store.get(key, start=start, end=end)])


async def keys(store: BlobStore, after: str = "") -> list[ObjectKey]:
    return [blob.key async for blob in store.list(after=after)]


async def absent(store: BlobStore, key: ObjectKey) -> bool:
    try:
        await store.head(key)
    except NotFound:
        return key not in await keys(store)
    return False


@pytest.mark.parametrize("length", [0, 1, 4096, 1 << 20, LARGE])
async def test_what_was_put_is_read_back_the_same(store: BlobStore, length: int) -> None:
    key, data = new_key(), noise(length)
    info = await store.put(key, pieces(data), size=length, mime="image/png")
    assert info.key == key
    assert info.size_bytes == length
    assert info.sha256 == hashlib.sha256(data).hexdigest()
    assert await read(store, key) == data


async def test_a_put_need_not_say_how_much_will_come(store: BlobStore) -> None:
    key = new_key()
    info = await store.put(key, pieces(b"some bytes"))
    assert info.size_bytes == 10
    assert await read(store, key) == b"some bytes"


async def test_head_tells_what_put_told(store: BlobStore) -> None:
    key = new_key()
    before = datetime.now(UTC)
    put = await store.put(key, pieces(b"abc"), size=3, mime="text/plain")
    head = await store.head(key)
    assert (head.key, head.size_bytes, head.etag, head.sha256) == (key, 3, put.etag, put.sha256)
    assert head.mime == "text/plain"
    assert abs(head.modified_at - before) < timedelta(minutes=1)


async def test_blobs_with_different_bytes_have_different_etags(store: BlobStore) -> None:
    one, other = new_key(), new_key()
    assert (await store.put(one, pieces(b"one"))).etag != (await store.put(other, pieces(b"two"))).etag


@each(("start", "end"), [(0, 1), (0, None), (1, 2), (10, 300_000), (999_999, None), (5, 5), (999_000, 5_000_000)])
async def test_any_part_can_be_read(store: BlobStore, start: int, end: int | None) -> None:
    key, data = new_key(), noise(1_000_000)
    await store.put(key, pieces(data), size=len(data))
    assert await read(store, key, start, end) == data[start:end]


async def test_nothing_lies_beyond_the_end(store: BlobStore) -> None:
    key = new_key()
    await store.put(key, pieces(b"abc"))
    assert await read(store, key, 3) == b""
    assert await read(store, key, 10, 20) == b""


async def test_a_read_may_stop_half_way(store: BlobStore) -> None:
    key, data = new_key(), noise(LARGE)
    await store.put(key, pieces(data))
    reading = store.get(key)
    async with aclosing(reading):  # type: ignore[type-var]
        first = await anext(reading)
    assert data.startswith(first)
    assert await read(store, key) == data


async def test_what_is_absent_is_not_found(store: BlobStore) -> None:
    key = new_key()
    with pytest.raises(NotFound):
        await store.head(key)
    with pytest.raises(NotFound):
        await read(store, key)
    if isinstance(store, FileBacked):
        with pytest.raises(NotFound):
            await store.open_file(key)


async def test_a_second_put_is_refused_and_changes_nothing(store: BlobStore) -> None:
    key = new_key()
    first = await store.put(key, pieces(b"first"))
    for second in (b"other", b"first", noise(LARGE)):
        with pytest.raises(UploadFinished) as refused:
            await store.put(key, pieces(second))
        if isinstance(refused.value, BlobExists):
            assert refused.value.sha256 == hashlib.sha256(second).hexdigest()
    assert await read(store, key) == b"first"
    assert (await store.head(key)).etag == first.etag


@pytest.mark.parametrize("length", [1000, 2_000_000])
async def test_of_many_writers_exactly_one_wins(store: BlobStore, length: int) -> None:
    key = new_key()
    bodies = [noise(length) for _ in range(6)]
    outcomes = await asyncio.gather(
        *(store.put(key, pieces(body), size=length) for body in bodies), return_exceptions=True
    )
    won = [body for body, outcome in zip(bodies, outcomes, strict=True) if not isinstance(outcome, BaseException)]
    assert [isinstance(lost, UploadFinished) for lost in outcomes if isinstance(lost, BaseException)] == [True] * 5
    assert [await read(store, key)] == won


@pytest.mark.parametrize("length", [10, LARGE])
async def test_a_byte_too_many_is_refused_while_it_comes(store: BlobStore, length: int) -> None:
    key = new_key()
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1000
            yield bytes(1000)

    with pytest.raises(LengthMismatch):
        await store.put(key, endless(), size=length)
    assert sent <= length + 10 * 1024 * 1024  # what a store may buffer, not what a client may send
    assert await absent(store, key)


@pytest.mark.parametrize("length", [10, LARGE])
async def test_a_byte_too_few_is_refused(store: BlobStore, length: int) -> None:
    key = new_key()
    with pytest.raises(LengthMismatch):
        await store.put(key, pieces(noise(length - 1)), size=length)
    assert await absent(store, key)


@pytest.mark.parametrize("length", [10, LARGE])
async def test_other_bytes_than_were_promised_are_refused(store: BlobStore, length: int) -> None:
    key, data = new_key(), noise(length)
    with pytest.raises(DigestMismatch):
        await store.put(key, pieces(data), size=length, sha256=hashlib.sha256(b"others").hexdigest())
    assert await absent(store, key)
    await store.put(key, pieces(data), size=length, sha256=hashlib.sha256(data).hexdigest())
    assert await read(store, key) == data


@pytest.mark.parametrize("length", [10, LARGE])
async def test_a_body_that_fails_leaves_nothing_and_its_error_comes_out_as_itself(
    store: BlobStore, length: int
) -> None:
    key, data = new_key(), noise(length)

    async def failing() -> AsyncIterator[bytes]:
        async for piece in pieces(data):
            yield piece
        raise TimeoutError("the client sleeps")

    with pytest.raises(TimeoutError, match="the client sleeps"):
        await store.put(key, failing(), size=length + 1)
    assert await absent(store, key)
    await store.put(key, pieces(data), size=length)
    assert await read(store, key) == data


@pytest.mark.parametrize("length", [10, LARGE])
async def test_a_cancelled_put_leaves_nothing(store: BlobStore, length: int) -> None:
    key = new_key()
    waiting = anyio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        async for piece in pieces(noise(length)):
            yield piece
        waiting.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as puts:
        puts.start_soon(store.put, key, stalling())
        await waiting.wait()
        assert store.receiving(key) == length
        puts.cancel_scope.cancel()
    assert store.receiving(key) is None
    assert await absent(store, key)


async def test_a_put_in_progress_tells_how_far_it_is_and_is_not_found(store: BlobStore) -> None:
    key, other = new_key(), new_key()
    step, go_on = anyio.Event(), anyio.Event()

    async def halting() -> AsyncIterator[bytes]:
        yield b"12345"
        step.set()
        await go_on.wait()
        yield b"678"

    assert store.receiving(key) is None
    async with anyio.create_task_group() as puts:
        puts.start_soon(store.put, key, halting())
        await step.wait()
        assert store.receiving(key) == 5
        assert store.receiving(other) is None
        assert await absent(store, key)
        go_on.set()
    assert store.receiving(key) is None
    assert await read(store, key) == b"12345678"


async def test_what_is_deleted_is_gone_and_deleting_again_is_harmless(store: BlobStore) -> None:
    key, neighbour = new_key("shard"), new_key("shard")
    await store.put(key, pieces(b"gone"))
    await store.put(neighbour, pieces(b"stays"))
    await store.delete(key)
    await store.delete(key)
    assert await absent(store, key)
    assert await read(store, neighbour) == b"stays"
    await store.delete(new_key())
    await store.put(key, pieces(b"back"))
    assert await read(store, key) == b"back"


async def test_a_read_under_way_never_gets_other_bytes_when_the_blob_is_deleted(store: BlobStore) -> None:
    key, data = new_key(), noise(LARGE)
    await store.put(key, pieces(data))
    reading = store.get(key)
    async with aclosing(reading):  # type: ignore[type-var]
        first = await anext(reading)
        await store.delete(key)
        await store.put(key, pieces(noise(LARGE)))
        rest = b""
        try:
            async for piece in reading:
                rest += piece
        except (NotFound, StoreUnavailable):
            assert not isinstance(store, FileBacked | MemoryBlobStore)  # a remote store may end the read
            data = data[: len(first + rest)]
    assert first + rest == data


async def test_a_list_has_every_key_in_order_and_begins_anywhere(store: BlobStore) -> None:
    # Shards of which one begins another: the slash takes part in the order.
    made = [new_key(shard) for shard in ("a", "a-b", "aa", "b", "0", "a", "a") for _ in range(2)]
    for key in made:
        await store.put(key, pieces(key.encode()))
    assert await keys(store) == sorted(made)
    for number, key in enumerate(sorted(made)):
        assert await keys(store, after=key) == sorted(made)[number + 1 :]
    assert await keys(store, after="a") == sorted(key for key in made if key > "a")
    assert await keys(store, after="zz") == []


async def test_a_list_tells_size_and_time(store: BlobStore) -> None:
    key = new_key()
    await store.put(key, pieces(b"abc"))
    (listed,) = [blob async for blob in store.list()]
    head = await store.head(key)
    assert (listed.key, listed.size_bytes, listed.etag) == (key, 3, head.etag)
    assert abs(listed.modified_at - head.modified_at) < timedelta(seconds=1)


async def test_what_is_set_aside_is_found_by_nobody(store: BlobStore) -> None:
    key = new_key()
    await store.put(key, pieces(b"strange"))
    await store.quarantine(key)
    await store.quarantine(key)
    await store.quarantine(new_key())
    assert await absent(store, key)
    with pytest.raises(NotFound):
        await read(store, key)


async def test_sweeping_touches_no_blob_and_no_put_in_progress(store: BlobStore) -> None:
    stored, arriving = new_key(), new_key()
    await store.put(stored, pieces(b"stored"))
    step, go_on = anyio.Event(), anyio.Event()
    data = noise(LARGE)

    async def halting() -> AsyncIterator[bytes]:
        async for piece in pieces(data):
            yield piece
        step.set()
        await go_on.wait()

    async with anyio.create_task_group() as puts:
        puts.start_soon(store.put, arriving, halting())
        await step.wait()
        if isinstance(store, FileBacked | MemoryBlobStore):
            await store.sweep_staging(datetime.now(UTC) + timedelta(days=1))
        await store.sweep_staging(datetime.now(UTC) - timedelta(days=1))
        go_on.set()
    assert await read(store, stored) == b"stored"
    assert await read(store, arriving) == data


async def test_the_room_left_is_a_size_or_unknown(store: BlobStore) -> None:
    free = await store.free_bytes()
    assert free is None or free > 0


@each(
    "key",
    ["", "a", "a/", "/a", "a/b/c", "../a", "a/..", "a/.", "A/b", "a/b\n", "a/b\0", "a\\b", "ä/b", "a/" + "b" * 65],
)
async def test_a_key_that_we_would_not_make_is_refused_everywhere(store: BlobStore, key: str) -> None:
    bad = ObjectKey(key)
    with pytest.raises(Invalid):
        split_key(bad)
    with pytest.raises(Invalid):
        await store.put(bad, pieces(b"abc"))
    with pytest.raises(Invalid):
        await store.head(bad)
    with pytest.raises(Invalid):
        await read(store, bad)
    with pytest.raises(Invalid):
        await store.delete(bad)
    with pytest.raises(Invalid):
        await store.quarantine(bad)
    assert await keys(store) == []


async def test_closing_twice_is_harmless(store: BlobStore) -> None:
    await store.put(new_key(), pieces(b"abc"))
    await store.close()
    await store.close()


async def test_what_was_put_is_there_when_the_store_is_opened_again(store: BlobStore) -> None:
    key = new_key()
    await store.put(key, pieces(b"kept"))
    await store.close()
    await store.open()
    assert await read(store, key) == b"kept"
