"""Whether a store's events get here is found out, not assumed."""

from __future__ import annotations

from collections.abc import AsyncIterable

import pytest

from godrive.blobs.layout import Layout
from godrive.blobs.memory import MemoryBlobStore
from godrive.bridge.intake import Intake
from godrive.config import S3
from godrive.errors import StoreUnavailable
from godrive.model import BlobInfo, ObjectKey
from tests.bridge.conftest import Scene, event

pytestmark = pytest.mark.anyio


class Telling(MemoryBlobStore):
    """A store that sends an event for what it was given, unless it is *mute*."""

    def __init__(self, intake: Intake, *, mute: bool = False) -> None:
        super().__init__()
        self._intake = intake
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
    intake = Intake(scene.ingest, bucket)
    store = Telling(intake)
    assert await intake.probe(store, within=5)
    assert intake.state == "active"
    assert [blob async for blob in store.list()] == []


async def test_a_store_that_says_nothing_is_found_absent(scene: Scene, bucket: S3) -> None:
    intake = Intake(scene.ingest, bucket)
    store = Telling(intake, mute=True)
    assert not await intake.probe(store, within=0.01)
    assert intake.state == "absent"
    assert [blob async for blob in store.list()] == []


async def test_a_failure_of_the_ingest_actor_is_the_senders_to_repeat(scene: Scene, bucket: S3) -> None:
    intake = Intake(scene.ingest, bucket)
    _, message = await scene.arrive("a.txt")
    scene.ingest.failures = [StoreUnavailable()]
    with pytest.raises(StoreUnavailable):
        await intake.take(message)
    await intake.take(message)
    assert len(await scene.files()) == 1


async def test_keys_are_found_whether_a_store_encodes_them_or_not(scene: Scene) -> None:
    intake = Intake(scene.ingest, S3(bucket="drive", prefix="a b/"))
    body = event("a+b/objects/01a20305/01a20305-0000-7000-8000-000000000000").replace(b"minio:s3", b"ceph:s3")
    await intake.take(body)
    await intake.take(body.replace(b"ceph:s3", b"aws:s3"))
    assert intake.counts == {"ignored": 2}
