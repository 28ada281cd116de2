"""Uploads in appends that nobody continues: they expire, with all that they hold, and no other one does."""

from __future__ import annotations

import asyncio
import os
import time

import pytest

from godrive import resumable
from godrive.blobs import BlobStore
from godrive.messages.ingest import Reconcile
from godrive.messages.janitor import Sweep
from godrive.messages.system import RecountUsage
from godrive.model import ObjectKey, Root
from godrive.principal import HostUser
from godrive.testing import ManualClock, chunks, open_drive, sign_up
from tests.test_resumable import Line, check_file, staged

pytestmark = pytest.mark.anyio

ABANDONED = int(os.environ.get("GODRIVE_TEST_ABANDONED", "40"))
ROOT = Root()


@pytest.mark.parametrize("store", ["disk", pytest.param("s3", marks=pytest.mark.servers)])
async def test_abandoned_uploads_expire_and_live_ones_finish(
    request: pytest.FixtureRequest, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    blobs: BlobStore | None = None
    if store == "s3":
        from tests.ceph import ProbedOnce, own_bucket

        blobs = ProbedOnce(own_bucket(request.getfixturevalue("ceph_gateway")))
    clock, many = ManualClock(), ABANDONED if store == "disk" else 7
    tables = {"driver": "memory" if blobs else store, "resume_ttl": 1000.0, "upload_ttl": 10.0}
    async with open_drive(
        clock=clock, blob_store=blobs, blobs=tables, auth={"max_pending_uploads": many + 10}
    ) as drive:
        ann, bob = [HostUser(user_id=(await sign_up(drive, f"{name}@example.org")).id) for name in ("ann", "bob")]

        async def abandon(number: int) -> ObjectKey:
            upload = await resumable.begin(drive, ann, ROOT, f"{number}.bin", size=10, part=number % 2 == 0)
            await resumable.append(drive, ann, upload.id, 0, chunks(b"abc"))
            return upload.object_key

        abandoned = set()
        for first in range(0, many, 50):
            some = range(first, min(first + 50, many))
            abandoned |= set(await asyncio.gather(*map(abandon, some)))
        paused, sending = [await resumable.begin(drive, bob, ROOT, name, size=10) for name in ("paused", "sending")]
        clock.advance(600)
        await resumable.append(drive, bob, paused.id, 0, chunks(b"12345"))
        line = Line()
        appending = asyncio.create_task(resumable.append(drive, bob, sending.id, 0, line))
        await line.send(b"12345")
        clock.advance(600)
        began = time.perf_counter()
        expired = (await drive.ingest.ask(Reconcile(), timeout=600)).expired
        swept = await drive.janitor.ask(Sweep(trust_clock=True), timeout=600)
        seconds = time.perf_counter() - began
        with capsys.disabled():
            if many > 100:
                print(f"\n{many} abandoned uploads expired and were swept in {seconds:.1f} s")
        assert (expired, swept.failed) == (many, 0)
        assert not abandoned.intersection(await staged(drive))
        assert await drive.metadata.ask(RecountUsage()) == 0
        await line.send(b"67890")
        await line.send(None)
        finished = [await appending, await resumable.append(drive, bob, paused.id, 5, chunks(b"67890"))]
        for upload in finished:
            await check_file(drive, bob, upload, b"1234567890", upload.name)
        assert await staged(drive) == []
