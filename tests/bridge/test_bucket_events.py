"""Whether a store's events get here is found out, not assumed."""

from __future__ import annotations

from collections.abc import AsyncIterable

import pytest

from godrive.blobs.layout import Layout
from godrive.blobs.memory import MemoryBlobStore
from godrive.bridge.bucket_events import BucketEventHandler
from godrive.config import S3
from godrive.errors import StoreUnavailable
from godrive.model import BlobInfo, ObjectKey
from tests.bridge.conftest import Scene, event

pytestmark = pytest.mark.anyio


class Telling(MemoryBlobStore):
    """A store that sends an event for what it was given, unless it is *mute*."""

    def __init__(self, bucket_events: BucketEventHandler, *, mute: bool = False) -> None:
        super().__init__()
        self._intake = bucket_events
        self._mute = mute

    async def put(
        self,
        key: ObjectKey,
        body: AsyncIterable[bytes | memoryview],
        *,
        size: int | None = None,
        sha256: str | None = None,
        mime: str | None = None,
    ) -> BlobInfo:
        info = await super().put(key, body, size=size, sha256=sha256, mime=mime)
        if not self._mute:
            await self._intake.take(event(Layout().object(key)))
        return info


async def test_a_store_whose_events_come_is_found_active(scene: Scene, bucket: S3) -> None:
    bucket_events = BucketEventHandler(scene.ingest, bucket)
    store = Telling(bucket_events)
    assert await bucket_events.probe(store, within=5)
    assert bucket_events.state == "active"
    assert [blob async for blob in store.list()] == []


async def test_a_store_that_says_nothing_is_found_absent(scene: Scene, bucket: S3) -> None:
    bucket_events = BucketEventHandler(scene.ingest, bucket)
    store = Telling(bucket_events, mute=True)
    assert not await bucket_events.probe(store, within=0.01)
    assert bucket_events.state == "absent"
    assert [blob async for blob in store.list()] == []


async def test_a_failure_of_the_ingest_actor_is_the_senders_to_repeat(scene: Scene, bucket: S3) -> None:
    bucket_events = BucketEventHandler(scene.ingest, bucket)
    _, message = await scene.arrive("a.txt")
    scene.ingest.failures = [StoreUnavailable()]
    with pytest.raises(StoreUnavailable):
        await bucket_events.take(message)
    await bucket_events.take(message)
    assert len(await scene.files()) == 1


async def test_keys_are_found_whether_a_store_encodes_them_or_not(scene: Scene) -> None:
    bucket_events = BucketEventHandler(scene.ingest, S3(bucket="drive", prefix="a b/"))
    body = event("a+b/objects/01a20305/01a20305-0000-7000-8000-000000000000").replace(b"minio:s3", b"ceph:s3")
    await bucket_events.take(body)
    await bucket_events.take(body.replace(b"ceph:s3", b"aws:s3"))
    assert bucket_events.counts == {"ignored": 2}
