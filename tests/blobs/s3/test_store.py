"""What is particular to blobs in S3: parts, ranges, shared buckets, what others left behind.

The rest is said by ``tests/contracts/test_blob_store.py``, which this store passes too.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from yarl import URL

from godrive.blobs import Staged
from godrive.blobs.layout import Layout
from godrive.blobs.s3 import S3BlobStore, reading
from godrive.blobs.s3.body import MAX_PARTS, MIB, part_size
from godrive.blobs.s3.probe import Capabilities
from godrive.blobs.s3.reading import CHUNK
from godrive.config import S3
from godrive.errors import (
    ConfigError,
    DigestMismatch,
    DriveError,
    LengthMismatch,
    NotFound,
    StoreUnavailable,
    TooLarge,
    UploadFinished,
)
from godrive.model import ObjectKey, new_id
from tests.blobs.s3.fake_store import FakeStore
from tests.ceph import ProbedOnce

pytestmark = pytest.mark.anyio


OVERRIDES = {
    "response-cache-control": "private, no-cache",
    "response-content-encoding": "identity",
    "response-content-language": "und",
    "response-expires": "Thu, 01 Jan 1970 00:00:00 GMT",
}


def new_key() -> ObjectKey:
    name = new_id()
    return ObjectKey(f"{name[:8]}/{name}")


async def pieces(data: bytes, length: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), length):
        yield data[start : start + length]


async def read(store: S3BlobStore, key: ObjectKey, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([piece async for piece in store.get(key, start=start, end=end)])


async def unfinished(store: S3BlobStore) -> int:
    return len([upload async for upload in store.client.pages("list_multipart_uploads", "Uploads", {})])


async def keys(store: S3BlobStore) -> list[ObjectKey]:
    return [blob.key async for blob in store.list()]


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(hours=1)


async def test_the_probe_finds_what_ceph_honours_and_leaves_nothing(s3_settings: S3) -> None:
    s3_store = S3BlobStore(s3_settings)
    await s3_store.open()
    guards = {"x-amz-copy-if-match": "none", "x-amz-acl": "private"}
    assert s3_store.capabilities == Capabilities(
        conditional_put=True, signed_digest=True, guards=guards, overrides=OVERRIDES
    )
    answer = await s3_store.client.call("list_objects_v2")
    assert "Contents" not in answer
    assert await unfinished(s3_store) == 0
    await s3_store.close()


async def test_a_large_body_goes_up_in_parts_whole_and_with_its_digest(s3_store: S3BlobStore) -> None:
    data, key = os.urandom(12 * MIB + 17), new_key()
    info = await s3_store.put(key, pieces(data), size=len(data), mime="video/mp4")
    assert info.sha256 == hashlib.sha256(data).hexdigest()
    assert (info.size_bytes, info.mime) == (len(data), "video/mp4")
    assert info.etag.endswith("-3")
    assert await read(s3_store, key) == data
    assert await read(s3_store, key, 5 * MIB - 1, 5 * MIB + 1) == data[5 * MIB - 1 : 5 * MIB + 1]


async def test_a_declared_digest_of_a_large_body_is_kept(s3_store: S3BlobStore) -> None:
    data, key = bytes(6 * MIB), new_key()
    digest = hashlib.sha256(data).hexdigest()
    await s3_store.put(key, pieces(data), sha256=digest)
    assert (await s3_store.head(key)).sha256 == digest


@pytest.mark.parametrize("parts", [1, 2])
async def test_a_body_of_exactly_whole_parts_has_no_empty_one(s3_store: S3BlobStore, parts: int) -> None:
    data, key = bytes(parts * 5 * MIB), new_key()
    info = await s3_store.put(key, pieces(data), size=len(data))
    assert info.size_bytes == len(data)
    assert info.etag.endswith("-2") == (parts == 2)


async def test_a_large_body_is_never_held_whole(s3_store: S3BlobStore) -> None:
    chunk = bytes(64 * 1024)

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(60 * MIB // len(chunk)):
            yield chunk

    tracemalloc.start()
    try:
        await s3_store.put(new_key(), endless())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 25 * MIB  # two parts of 5 MiB, the one that is being cut, and what sending takes


async def test_of_large_bodies_put_at_once_exactly_one_wins(s3_store: S3BlobStore) -> None:
    key = new_key()
    bodies = [bytes([number]) * (6 * MIB) for number in range(4)]
    outcomes = await asyncio.gather(*(s3_store.put(key, pieces(body)) for body in bodies), return_exceptions=True)
    won = [number for number, outcome in enumerate(outcomes) if not isinstance(outcome, Exception)]
    assert len(won) == 1
    assert all(isinstance(outcome, UploadFinished) for number, outcome in enumerate(outcomes) if number not in won)
    assert await read(s3_store, key) == bodies[won[0]]
    assert await unfinished(s3_store) == 0


async def test_a_large_and_a_small_body_put_at_once_do_not_mix(s3_store: S3BlobStore) -> None:
    key = new_key()
    outcomes = await asyncio.gather(
        s3_store.put(key, pieces(bytes(6 * MIB))), s3_store.put(key, pieces(b"small")), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["BlobInfo", "UploadFinished"]


async def broken(data: bytes) -> AsyncIterator[bytes]:
    yield data
    raise ConnectionResetError("the sender hung up")


async def test_a_body_that_breaks_off_in_its_parts_leaves_nothing(s3_store: S3BlobStore) -> None:
    key = new_key()
    with pytest.raises(ConnectionResetError):
        await s3_store.put(key, broken(bytes(16 * MIB)))
    with pytest.raises(NotFound):
        await s3_store.head(key)
    assert await unfinished(s3_store) == 0
    assert s3_store.receiving(key) is None


@pytest.mark.parametrize(
    ("declared", "error"),
    [
        ({"size": 12 * MIB - 1}, LengthMismatch),
        ({"size": 12 * MIB + 1}, LengthMismatch),
        ({"sha256": "0" * 64}, DigestMismatch),
    ],
)
async def test_a_large_body_that_is_not_the_declared_one_leaves_nothing(
    s3_store: S3BlobStore, declared: dict[str, Any], error: type[Exception]
) -> None:
    key = new_key()
    with pytest.raises(error):
        await s3_store.put(key, pieces(bytes(12 * MIB)), **declared)
    with pytest.raises(NotFound):
        await s3_store.head(key)
    assert await unfinished(s3_store) == 0


async def test_a_cancelled_put_in_parts_leaves_nothing(s3_store: S3BlobStore) -> None:
    key, under_way, never = new_key(), asyncio.Event(), asyncio.Event()

    async def stalls() -> AsyncIterator[bytes]:
        yield bytes(16 * MIB)
        under_way.set()
        await never.wait()

    task = asyncio.create_task(s3_store.put(key, stalls()))
    await under_way.wait()
    assert s3_store.receiving(key) == 16 * MIB
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await unfinished(s3_store) == 0


async def test_a_list_goes_over_all_pages_in_order_and_from_any_key(s3_store: S3BlobStore) -> None:
    made = sorted(new_key() for _ in range(1003))
    place = s3_store.layout.object
    limit = asyncio.Semaphore(32)

    async def put(key: ObjectKey) -> None:
        async with limit:
            await s3_store.client.call("put_object", Key=place(key), Body=b"")

    await asyncio.gather(*map(put, made))
    assert await keys(s3_store) == made
    assert [blob.key async for blob in s3_store.list(after=made[500])] == made[501:]


async def test_what_else_lies_in_the_bucket_is_neither_listed_nor_swept(s3_settings: S3) -> None:
    mine = ProbedOnce(s3_settings)
    other = ProbedOnce(replace(s3_settings, prefix="drive/objects/"))
    await mine.open()
    await other.open()
    key, foreign = new_key(), new_key()
    await mine.put(key, pieces(b"mine"))
    await other.put(foreign, pieces(b"theirs"))
    await mine.client.call("put_object", Key="drive/objects/readme", Body=b"by hand")
    await mine.client.call("put_object", Key="elsewhere", Body=b"by hand")
    await other.multipart.begin(other.layout.object(new_key()), "text/plain", {})
    await mine.client.call("create_multipart_upload", Key="elsewhere/2")
    assert await keys(mine) == [key]
    assert await keys(other) == [foreign]
    stranger = ProbedOnce(replace(s3_settings, prefix="driv/"))
    await stranger.open()
    assert await keys(stranger) == []
    assert await stranger.sweep_staging(soon()) == 0
    assert await unfinished(mine) == 2
    for store in (mine, other, stranger):
        await store.close()


KEYS = st.from_regex(r"[0-9a-z-]{1,32}/[0-9a-z-]{1,64}", fullmatch=True).map(ObjectKey)
PREFIXES = st.sampled_from(["", "a/", "a/b/", "objects/", "a/objects/", "ab/"])


@given(KEYS, PREFIXES, PREFIXES)
def test_a_key_is_found_again_only_below_its_own_prefix(key: ObjectKey, mine: str, other: str) -> None:
    place = Layout(mine).object(key)
    assert Layout(mine).object_key(place) == key
    if mine != other:
        assert Layout(other).object_key(place) != key or Layout(other).object(key) == place
    assert Layout(mine).object_key(Layout(mine).quarantine(key)) is None


@pytest.mark.parametrize("prefix", ["a?b/", "a#b/", "a b+c%/", "ü/", "../x/"])
async def test_any_prefix_is_one_that_signed_urls_lead_to(s3_settings: S3, prefix: str) -> None:
    store, key = ProbedOnce(replace(s3_settings, prefix=prefix)), new_key()
    await store.open()
    until = datetime.now(UTC) + timedelta(minutes=5)
    request = await store.presign_put(key, size=5, mime="text/plain", sha256=None, expires_at=until)
    url = URL(request.url, encoded=True)
    async with aiohttp.ClientSession() as client, client.put(url, data=b"hello", headers=request.headers) as sent:
        assert sent.status == 200
    assert await read(store, key) == b"hello"
    await store.close()


@pytest.mark.parametrize("prefix", ["drive", "/", "/drive/", "a//b/"])
def test_a_prefix_that_does_not_end_in_one_slash_is_refused(s3_settings: S3, prefix: str) -> None:
    with pytest.raises(ConfigError, match="prefix"):
        S3BlobStore(replace(s3_settings, prefix=prefix))


async def test_objects_over_the_limit_of_one_copy_are_copied_in_parts(s3_settings: S3) -> None:
    store = ProbedOnce(s3_settings, copy_limit=6 * MIB, copy_part=5 * MIB)
    await store.open()
    data, key = os.urandom(12 * MIB), new_key()
    await store.put(key, pieces(data), sha256=hashlib.sha256(data).hexdigest(), mime="image/png")
    await store.quarantine(key)
    kept = await store.client.call("get_object", Key=store.layout.quarantine(key))
    assert await kept["Body"].read() == data
    assert kept["ContentType"] == "image/png"
    assert kept["ETag"].strip('"').endswith("-3")
    await store.close()


async def test_a_bucket_that_is_gone_is_an_outage_and_no_answer_about_its_blobs(s3_store: S3BlobStore) -> None:
    """HEAD says 404 for both."""
    await s3_store.client.call("delete_bucket")
    with pytest.raises(StoreUnavailable):
        await s3_store.head(new_key())
    await s3_store.client.call("create_bucket")
    with pytest.raises(NotFound):
        await s3_store.head(new_key())


async def test_a_blob_in_quarantine_is_where_only_an_operator_finds_it(s3_store: S3BlobStore) -> None:
    key = new_key()
    await s3_store.put(key, pieces(b"odd"))
    await s3_store.quarantine(key)
    assert await keys(s3_store) == []
    kept = await s3_store.client.call("get_object", Key=f"drive/quarantine/{key}")
    assert await kept["Body"].read() == b"odd"


async def test_only_multipart_uploads_that_stand_still_are_abandoned(s3_store: S3BlobStore) -> None:
    async def abandoned(before: datetime) -> list[str]:
        return [s3_store.layout.object(key) async for key in s3_store.abandoned(before)]

    idle, busy = sorted(s3_store.layout.object(new_key()) for _ in range(2))
    await s3_store.multipart.begin(idle, "text/plain", {})
    growing = await s3_store.multipart.begin(busy, "text/plain", {})
    assert await abandoned(datetime.now(UTC) - timedelta(hours=1)) == []
    begun = {upload["Key"]: upload async for upload in s3_store.client.pages("list_multipart_uploads", "Uploads", {})}
    between = max(upload["Initiated"] for upload in begun.values()) + timedelta(milliseconds=1)
    await asyncio.sleep(max(0.0, (between - datetime.now(UTC)).total_seconds()))  # by the store's own clock
    await s3_store.multipart.send(busy, growing, 1, b"x")
    assert await abandoned(between) == [idle]
    await s3_store.multipart.send(busy, growing, 2, b"y")
    assert await abandoned(soon()) == [idle, busy]
    assert await s3_store.sweep_staging(soon()) == 0
    await s3_store.discard(Staged(key=ObjectKey(busy.removeprefix(s3_store.layout.objects))))
    assert await abandoned(soon()) == [idle]
    with pytest.raises(NotFound):
        await s3_store.multipart.send(busy, growing, 3, b"z")


async def test_a_put_in_parts_replaces_no_blob_that_came_while_it_was_sent(s3_store: S3BlobStore) -> None:
    key = new_key()

    async def overtaken() -> AsyncIterator[bytes]:
        yield bytes(12 * MIB)
        await s3_store.put(key, pieces(b"first"))

    with pytest.raises(UploadFinished):
        await s3_store.put(key, overtaken())
    assert await read(s3_store, key) == b"first"
    assert await unfinished(s3_store) == 0


@given(st.integers(0, 48_000 * 1024 * MIB))
def test_any_size_fits_into_the_allowed_number_of_parts(size: int) -> None:
    length = part_size(1, size)
    assert -(-size // length) <= MAX_PARTS
    assert length <= max(8 * MIB, size // MAX_PARTS + MIB)


def test_a_body_of_unknown_size_may_grow_to_300_gib_before_its_parts_run_out() -> None:
    assert part_size(1, None) == part_size(2500, None) == 8 * MIB
    assert sum(part_size(number, None) for number in range(1, MAX_PARTS + 1)) > 290 * 1024 * MIB
    with pytest.raises(TooLarge):
        part_size(MAX_PARTS + 1, None)


async def test_a_download_that_breaks_off_does_not_go_on_with_the_bytes_of_another_blob(
    s3_store: S3BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours never change; those of somebody who has the keys of the bucket may."""
    key, first, other = new_key(), b"1" * (2 * CHUNK), b"2" * (2 * CHUNK)
    await s3_store.put(key, pieces(first))
    read_piece = reading._piece

    async def break_off(_body: object, _deadline: float) -> bytes:
        monkeypatch.setattr(reading, "_piece", read_piece)
        await s3_store.client.call("put_object", Key=s3_store.layout.object(key), Body=other)
        raise StoreUnavailable

    received = b""
    async with aclosing(s3_store.get(key)) as body:  # type: ignore[type-var]
        received += await anext(body)
        monkeypatch.setattr(reading, "_piece", break_off)
        with pytest.raises(DriveError):
            async for piece in body:
                received += piece
    assert received == first[: len(received)]
    assert len(received) < len(first)


async def test_multipart_uploads_are_swept_where_a_list_by_prefix_is_empty() -> None:
    """As MinIO's is, for a prefix that is not a whole key."""
    fake = FakeStore()
    async with fake:
        fake.lists_uploads_by_prefix = False
        store = S3BlobStore(fake.settings, capabilities=Capabilities())
        await store.open()
        for place in (store.layout.object(new_key()), store.layout.quarantine(new_key()), "probe/left", "of/others"):
            await store.multipart.begin(place, "text/plain", {})
        assert await store.sweep_staging(soon()) == 2
        (key,) = [key async for key in store.abandoned(soon())]
        await store.discard(Staged(key=key))
        assert [place for place, _ in fake.uploads] == ["of/others"]
        await store.close()


async def test_what_a_killed_probe_left_is_swept(s3_store: S3BlobStore) -> None:
    await s3_store.client.call("put_object", Key="drive/probe/left/over", Body=b"probe")
    await s3_store.multipart.begin("drive/probe/left", "text/plain", {})
    assert await s3_store.sweep_staging(datetime.now(UTC) - timedelta(hours=1)) == 0
    assert await s3_store.sweep_staging(soon()) == 2
    assert "Contents" not in await s3_store.client.call("list_objects_v2")
