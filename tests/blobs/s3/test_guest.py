"""A command opens a store beside a server: it tries out what the store honours only if it writes or signs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from godrive.blobs.s3 import S3BlobStore
from godrive.clock import SystemClock
from godrive.config import Blobs, Config
from godrive.errors import ConfigError, NotFound
from godrive.model import ObjectKey, new_id
from godrive.opening import make_blobs
from godrive.testing import chunks
from tests.blobs.s3.fake_store import FakeStore

pytestmark = pytest.mark.anyio

SOON = datetime.now(UTC) + timedelta(hours=1)


def new_key() -> ObjectKey:
    return ObjectKey(f"shard/{new_id()}")


@pytest.fixture
async def fake() -> AsyncIterator[FakeStore]:
    store = FakeStore()
    async with store:
        yield store


async def opened(fake: FakeStore) -> S3BlobStore:
    store = make_blobs(Config(blobs=Blobs(driver="s3", s3=fake.settings)), SystemClock(), guest=True)
    assert isinstance(store, S3BlobStore)
    await store.open()
    return store


async def test_what_reads_and_deletes_makes_no_request_but_its_own(fake: FakeStore) -> None:
    server, key, gone = S3BlobStore(fake.settings), new_key(), new_key()
    await server.open()
    assert len(fake.asked) > 20
    await server.put(key, chunks(b"hello"))
    await server.close()
    fake.asked.clear()
    store = await opened(fake)
    assert (await store.head(key)).size_bytes == 5
    assert b"".join([piece async for piece in store.get(key)]) == b"hello"
    with pytest.raises(NotFound):
        await store.head(gone)
    assert [blob.key async for blob in store.list()] == [key]
    await store.delete(key)
    await store.close()
    assert fake.objects == {}
    assert set(fake.asked) <= {"ListObjectsV2", "HeadObject", "GetObject", "DeleteObject"}


async def test_what_writes_or_signs_knows_what_a_server_knows(fake: FakeStore) -> None:
    fake.copies = True
    server = S3BlobStore(fake.settings)
    await server.open()
    signed = await server.presign_put(new_key(), size=5, mime="", sha256=None, expires_at=SOON)
    await server.close()
    store = await opened(fake)
    of_guest = await store.presign_put(new_key(), size=5, mime="", sha256=None, expires_at=SOON)
    assert of_guest.headers == signed.headers
    assert store.capabilities == server.capabilities
    await store.close()

    writer = await opened(fake)
    await writer.put(new_key(), chunks(b"hello"))
    assert writer.capabilities == server.capabilities
    await writer.close()


async def test_a_fault_that_is_not_accepted_is_refused_before_anything_is_signed(fake: FakeStore) -> None:
    fake.copies, fake.guarded = True, False
    store = await opened(fake)
    for _ in range(2):
        with pytest.raises(ConfigError, match="copies"):
            await store.presign_put(new_key(), size=5, mime="", sha256=None, expires_at=SOON)
    assert not store.signs_parts
    await store.close()
    accepting = S3BlobStore(replace(fake.settings, accept_faults=["copies"]), guest=True)
    await accepting.open()
    await accepting.presign_put(new_key(), size=5, mime="", sha256=None, expires_at=SOON)
    await accepting.close()
