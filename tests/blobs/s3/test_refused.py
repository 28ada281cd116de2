"""Uploads whose object the store refuses to describe, as it may after headers that a client added to its PUT."""

from __future__ import annotations

import pytest

from godrive.blobs.s3 import S3BlobStore
from godrive.blobs.s3.probe import Capabilities
from godrive.messages.ingest import Reconcile
from godrive.messages.uploads import BeginUpload, GetUpload
from godrive.model import Root, UploadState
from godrive.testing import ManualClock, chunks, open_drive, sign_up
from tests.blobs.s3.fake_store import FakeStore
from tests.principals import acting

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("status", [400, 403, 405, 409, 412, 416, 429, 500, 501])
async def test_an_upload_ends_by_its_deadline_whatever_the_store_answers(status: int) -> None:
    fake, clock = FakeStore(), ManualClock()
    async with fake:
        store = S3BlobStore(fake.settings, capabilities=Capabilities(conditional_put=True))
        async with open_drive(blob_store=store, clock=clock) as drive:
            owner = await sign_up(drive)
            begin = BeginUpload(acting(owner.id), Root(), "a.txt", "text/plain", 5)
            upload = await drive.metadata.ask(begin)
            await store.put(upload.object_key, chunks(b"hello"))
            fake.heads[store.layout.object(upload.object_key)] = status
            clock.advance(60)
            assert (await drive.ingest.ask(Reconcile())).failed == 0
            clock.advance(drive.config.blobs.upload_ttl)
            reply = await drive.ingest.ask(Reconcile())
            assert (reply.failed, reply.postponed) == (1, 0)
            assert upload.id in reply.problem
            ended = await drive.metadata.ask(GetUpload(acting(owner.id), upload.id))
            assert ended.state is UploadState.FAILED
            assert ended.reason
            assert fake.objects == {}
