"""What can and cannot be done with the signed URL of a part, sent to the real gateway as a client would."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import pytest
from msgspec.structs import replace
from yarl import URL

from godrive.blobs.parts import SMALLEST_PART, PartSigner, StoredPart
from godrive.blobs.s3 import S3BlobStore, probe
from godrive.blobs.s3.client import S3Client
from godrive.blobs.s3.probe import Capabilities
from godrive.clock import SystemClock
from godrive.config import S3
from godrive.errors import Invalid, NotFound, StoreUnavailable
from godrive.model import ObjectKey, SignedRequest, new_id
from godrive.testing import chunks
from tests.blobs.s3.fake_store import FakeStore
from tests.cases import each

pytestmark = pytest.mark.anyio

FIRST, LAST = os.urandom(SMALLEST_PART), b"the end"


def new_key() -> ObjectKey:
    name = new_id()
    return ObjectKey(f"{name[:8]}/{name}")


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


async def sign(store: S3BlobStore, key: ObjectKey, multipart: str, number: int, size: int) -> SignedRequest:
    until = datetime.now(UTC) + timedelta(minutes=5)
    return await store.presign_part(key, multipart, number, size=size, expires_at=until)


async def send(
    client: aiohttp.ClientSession, request: SignedRequest, body: bytes, headers: dict[str, str] | None = None
) -> int:
    sent = {**request.headers, "Content-Length": str(len(body)), **(headers or {})}
    async with client.request(
        request.method, URL(request.url, encoded=True), data=io.BytesIO(body), headers=sent
    ) as answer:
        return answer.status


async def arrived(store: S3BlobStore, key: ObjectKey, multipart: str) -> list[StoredPart]:
    return [part async for part in store.stored_parts(key, multipart)]


async def sent(store: S3BlobStore, client: aiohttp.ClientSession, key: ObjectKey) -> tuple[str, list[StoredPart]]:
    """Parts that have all arrived."""
    multipart = await store.begin_parts(key)
    for number, body in enumerate((FIRST, LAST), start=1):
        assert await send(client, await sign(store, key, multipart, number, len(body)), body) == 200
    return multipart, await arrived(store, key, multipart)


async def read(store: S3BlobStore, key: ObjectKey) -> bytes:
    return b"".join([piece async for piece in store.get(key)])


async def unfinished(store: S3BlobStore) -> int:
    return len([upload async for upload in store.multipart.unfinished((store.layout.prefix,))])


async def test_parts_become_a_blob_once_they_are_joined(s3_store: S3BlobStore, client: aiohttp.ClientSession) -> None:
    assert isinstance(s3_store, PartSigner)
    assert s3_store.signs_parts
    key = new_key()
    multipart, parts = await sent(s3_store, client, key)
    assert [(part.number, part.size_bytes) for part in parts] == [(1, len(FIRST)), (2, len(LAST))]
    assert [part.number async for part in s3_store.stored_parts(key, multipart, after=1)] == [2]
    with pytest.raises(NotFound):
        await s3_store.head_in_parts(key, multipart)
    await s3_store.join_parts(key, multipart, parts)
    info = await s3_store.head_in_parts(key, multipart)
    assert (info.size_bytes, info.sha256, info.mime) == (len(FIRST + LAST), None, None)
    assert await read(s3_store, key) == FIRST + LAST
    assert await unfinished(s3_store) == 0


async def test_joining_is_idempotent_and_races_with_itself(
    s3_store: S3BlobStore, client: aiohttp.ClientSession
) -> None:
    key = new_key()
    multipart, parts = await sent(s3_store, client, key)
    await asyncio.gather(*(s3_store.join_parts(key, multipart, parts) for _ in range(4)))
    await s3_store.join_parts(key, multipart, parts)
    assert await read(s3_store, key) == FIRST + LAST


async def test_the_urls_of_parts_that_were_joined_change_nothing(
    s3_store: S3BlobStore, client: aiohttp.ClientSession
) -> None:
    key = new_key()
    multipart, parts = await sent(s3_store, client, key)
    await s3_store.join_parts(key, multipart, parts)
    info = await s3_store.head(key)
    request = await sign(s3_store, key, multipart, 2, len(LAST))
    assert await send(client, request, b"another") == 404
    assert await s3_store.head(key) == info


async def test_a_part_that_is_replaced_while_it_is_being_joined_is_refused(
    s3_store: S3BlobStore, client: aiohttp.ClientSession
) -> None:
    key = new_key()
    multipart, parts = await sent(s3_store, client, key)
    assert await send(client, await sign(s3_store, key, multipart, 2, len(LAST)), b"another") == 200
    with pytest.raises(Invalid):
        await s3_store.join_parts(key, multipart, parts)
    with pytest.raises(NotFound):
        await s3_store.head(key)


async def test_a_signed_part_takes_its_length_only(s3_store: S3BlobStore, client: aiohttp.ClientSession) -> None:
    key = new_key()
    multipart = await s3_store.begin_parts(key)
    request = await sign(s3_store, key, multipart, 1, 5)
    for body in (b"", b"four", b"sixsix"):
        assert await send(client, request, body) == 403
    assert await arrived(s3_store, key, multipart) == []
    assert await send(client, request, b"fives") == 200


async def test_a_signed_part_is_for_that_part_only(s3_store: S3BlobStore, client: aiohttp.ClientSession) -> None:
    key = new_key()
    multipart = await s3_store.begin_parts(key)
    request = await sign(s3_store, key, multipart, 1, 5)
    other = await s3_store.begin_parts(key)
    for url in (
        request.url.replace("partNumber=1", "partNumber=2"),
        request.url.replace(multipart, other),
        request.url.replace("partNumber=1&", ""),
    ):
        assert url != request.url
        assert await send(client, replace(request, url=url), b"fives") == 403
    for method in ("GET", "POST", "DELETE", "HEAD"):
        async with client.request(method, URL(request.url, encoded=True), headers=request.headers) as answer:
            assert answer.status in {400, 403, 405}
    assert await arrived(s3_store, key, multipart) == []
    assert await arrived(s3_store, key, other) == []


async def test_a_signed_part_cannot_be_made_a_copy_of_another_blob(
    s3_store: S3BlobStore, client: aiohttp.ClientSession
) -> None:
    secret, key = new_key(), new_key()
    await s3_store.put(secret, chunks(b"secret"))
    source = {"x-amz-copy-source": f"/{s3_store.client.bucket}/{s3_store.layout.object(secret)}"}
    multipart = await s3_store.begin_parts(key)
    request = await sign(s3_store, key, multipart, 1, 6)
    for added in (source, {**source, "x-amz-copy-source-range": "bytes=0-5"}):
        for body in (b"mine!!", b""):
            await send(client, request, body, added)
    stored = [part.size_bytes for part in await arrived(s3_store, key, multipart)]
    if stored:
        await s3_store.join_parts(key, multipart, await arrived(s3_store, key, multipart))
        assert await read(s3_store, key) == b"mine!!"


async def test_aborted_parts_are_gone_and_take_no_more(s3_store: S3BlobStore, client: aiohttp.ClientSession) -> None:
    key = new_key()
    multipart, parts = await sent(s3_store, client, key)
    await s3_store.abort_parts(key, multipart)
    await s3_store.abort_parts(key, multipart)
    assert await unfinished(s3_store) == 0
    assert await send(client, await sign(s3_store, key, multipart, 2, len(LAST)), LAST) == 404
    with pytest.raises(NotFound):
        await arrived(s3_store, key, multipart)
    with pytest.raises(NotFound):
        await s3_store.join_parts(key, multipart, parts)


@pytest.mark.parametrize("direct", [True, False])
async def test_a_blob_that_came_in_one_put_is_not_replaced_by_parts(
    s3_store: S3BlobStore, s3_settings: S3, client: aiohttp.ClientSession, direct: bool
) -> None:
    """Whichever comes first stays, on a store without conditional writes too."""
    store = S3BlobStore(s3_settings, capabilities=dataclasses.replace(s3_store.capabilities, conditional_put=direct))
    await store.open()
    until = datetime.now(UTC) + timedelta(minutes=5)
    for described in (False, True):
        key = new_key()
        put = await store.presign_put(key, size=5, mime="", sha256=None, expires_at=until)
        multipart, parts = await sent(store, client, key)
        assert await send(client, put, b"first") == 200
        if described:
            assert (await store.head_in_parts(key, multipart)).size_bytes == 5
            await store.join_parts(key, multipart, parts)
        elif direct:
            await store.join_parts(key, multipart, parts)
        info = await store.head_in_parts(key, multipart)
        assert info.size_bytes == 5
        assert await read(store, key) == b"first"
        assert await unfinished(store) == 0
        await store.join_parts(key, multipart, parts)
        assert await store.head(key) == info
    await store.close()


async def test_nothing_is_signed_for_a_part_that_the_answer_does_not_name(s3_store: S3BlobStore) -> None:
    key = new_key()
    request = await sign(s3_store, key, "multipart", 7, 5)
    assert request.headers == {"Content-Length": "5"}
    query = dict(parse_qsl(urlsplit(request.url).query))
    assert (query["partNumber"], query["uploadId"]) == ("7", "multipart")
    assert query["X-Amz-SignedHeaders"] == "content-length;host"
    assert "checksum" not in request.url


@each(
    ("heeded", "guards"),
    [
        (("x-amz-copy-source-range",), {"x-amz-copy-source-range": "none"}),
        (("x-amz-copy-source-if-match",), {"x-amz-copy-source-if-match": "none"}),
        (("x-amz-copy-if-match",), {"x-amz-copy-if-match": "none"}),
        ((), None),
    ],
)
async def test_the_probe_finds_what_keeps_a_part_from_becoming_a_copy(
    heeded: tuple[str, ...], guards: dict[str, str] | None
) -> None:
    fake = FakeStore()
    async with fake:
        fake.copies_parts, fake.heeded_on_parts = True, set(heeded)
        client = S3Client(fake.settings, SystemClock())
        await client.open()
        await client.call("put_object", Key="probe/a", Body=b"probe")
        assert await probe._guard_parts(client, "probe/a") == guards
        assert (list(fake.objects), fake.uploads) == (["probe/a"], {})
        await client.close()


async def test_a_store_that_nothing_keeps_from_copying_takes_no_signed_parts() -> None:
    settings = S3(access_key="a", secret_key="b")
    assert not S3BlobStore(settings, capabilities=Capabilities(part_guards=None)).signs_parts


@pytest.mark.parametrize("operation", ["CreateMultipartUpload", "UploadPart", "ListParts", "CompleteMultipartUpload"])
async def test_a_store_that_cannot_do_what_parts_take_is_used_without_parts(operation: str) -> None:
    fake = FakeStore()
    async with fake:
        fake.denied = {operation}
        store = S3BlobStore(fake.settings)
        await store.open()
        assert not store.signs_parts
        await store.close()


async def test_parts_that_another_process_is_joining_are_not_aborted() -> None:
    fake = FakeStore()
    async with fake:
        store, key = S3BlobStore(fake.settings, capabilities=Capabilities(conditional_complete=True)), new_key()
        await store.open()
        multipart = await store.begin_parts(key)
        await store.multipart.send(store.layout.object(key), multipart, 1, b"part")
        parts, fake.busy = await arrived(store, key, multipart), True
        with pytest.raises(StoreUnavailable):
            await store.join_parts(key, multipart, parts)
        fake.busy = False
        await store.join_parts(key, multipart, parts)
        assert await read(store, key) == b"part"
        await store.close()


async def test_the_probe_finds_that_a_store_which_copies_no_part_needs_no_guard() -> None:
    fake = FakeStore()
    async with fake:
        store = S3BlobStore(fake.settings)
        await store.open()
        assert store.capabilities.part_guards == {}
        await store.close()


async def test_the_guards_are_part_of_what_is_signed() -> None:
    fake = FakeStore()
    async with fake:
        guards = {"x-amz-copy-source-range": "none"}
        store = S3BlobStore(fake.settings, capabilities=Capabilities(part_guards=guards))
        await store.open()
        request = await sign(store, new_key(), "multipart", 1, 5)
        assert request.headers == {"Content-Length": "5", **guards}
        assert "x-amz-copy-source-range" in request.url
        await store.close()
