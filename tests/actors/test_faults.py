"""A fault at every step of every way an upload can go, and then time and two tickers: nothing is left in between.

Each way is walked once for each operation on the stores and each kind of fault,
from where it parts from those above it: a client that fails before walks theirs.
Over NATS a walk takes four times as long, so there the first operation fails in
each kind, and each of the others in one kind; with GODRIVE_TEST_EXAMPLES in each.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import anyio
import pytest

from godrive.blobs.memory import MemoryBlobStore
from godrive.catalog.sqlite import SqliteCatalog
from godrive.drive import GoDrive
from godrive.errors import DriveError
from godrive.messages.auth import GetUser
from godrive.messages.files import ListFiles, ListTrash, OpenContent, PurgeFile, TrashFile
from godrive.messages.ingest import CommitUpload, IngestBlob, Reconcile
from godrive.messages.janitor import Sweep
from godrive.messages.system import Drift, UploadCounts, UsageDrift
from godrive.messages.uploads import AbortUpload, BeginUpload
from godrive.model import Anywhere, File, FileId, Root, Upload, User
from godrive.testing import ManualClock, chunks, lay_catalog, open_drive, quick_folder, sign_up
from tests.actors.conftest import over_nats
from tests.faults import Bug, Fault, Faults, FaultyBlobs, FaultyCatalog
from tests.principals import SYSTEM, acting

pytestmark = pytest.mark.anyio

CONTENT = b"what was acknowledged is never lost" * 100


@pytest.fixture(params=["local", pytest.param("nats", marks=pytest.mark.servers)])
def drive_class(request: pytest.FixtureRequest) -> type[GoDrive]:
    """Without a transport, and with the one that can fail most; another that only encodes shows nothing more."""
    return GoDrive if request.param == "local" else over_nats(request.getfixturevalue("nats_server"))


def operations(fault: Fault, drive_class: type[GoDrive]) -> Iterator[int]:
    """The numbers of the operations that are to fail."""
    if drive_class is GoDrive or "GODRIVE_TEST_EXAMPLES" in os.environ:
        return itertools.count()
    return itertools.chain([0], itertools.count(list(Fault).index(fault) or len(Fault), len(Fault)))


@dataclass
class Walk:
    """What a client did, and what it was told."""

    drive: GoDrive
    owner: User
    published: list[File] = field(default_factory=list)
    purged: list[FileId] = field(default_factory=list)
    part: Callable[[], None] = lambda: None
    """Called where a way parts from the others: the operations from here on may fail."""

    async def begin(self, name: str = "a.txt", size: int = len(CONTENT)) -> Upload:
        return await self.drive.metadata.ask(BeginUpload(acting(self.owner.id), Root(), name, "text/plain", size))

    async def put(self, upload: Upload, content: bytes = CONTENT) -> None:
        await self.drive.blobs.put(upload.object_key, chunks(content))


Way = Callable[[Walk], Awaitable[None]]


async def intent_only(walk: Walk) -> None:
    walk.part()
    await walk.begin()


async def put_then_silence(walk: Walk) -> None:
    upload = await walk.begin()
    walk.part()
    await walk.put(upload)


async def put_then_complete(walk: Walk) -> None:
    upload = await walk.begin()
    await walk.put(upload)
    walk.part()
    walk.published.append(await walk.drive.ingest.ask(CommitUpload(acting(walk.owner.id), upload.id)))


async def put_then_event(walk: Walk) -> None:
    upload = await walk.begin()
    await walk.put(upload)
    walk.part()
    await walk.drive.ingest.ask(IngestBlob(upload.object_key))


async def wrong_bytes(walk: Walk) -> None:
    upload = await walk.begin()
    walk.part()
    await walk.put(upload, CONTENT + b"!")
    await walk.drive.ingest.ask(CommitUpload(SYSTEM, upload.id))


async def abort_then_put(walk: Walk) -> None:
    upload = await walk.begin()
    walk.part()
    await walk.drive.metadata.ask(AbortUpload(acting(walk.owner.id), upload.id))
    await walk.put(upload)
    await walk.drive.ingest.ask(CommitUpload(SYSTEM, upload.id))


async def name_taken_meanwhile(walk: Walk) -> None:
    first = await walk.begin()
    walk.part()
    second = await walk.begin()
    for upload in (first, second):
        await walk.put(upload)
        walk.published.append(await walk.drive.ingest.ask(CommitUpload(SYSTEM, upload.id)))


async def upload_then_purge(walk: Walk) -> None:
    upload = await walk.begin()
    await walk.put(upload)
    file = await walk.drive.ingest.ask(CommitUpload(acting(walk.owner.id), upload.id))
    walk.part()
    await walk.drive.metadata.ask(TrashFile(acting(walk.owner.id), file.id))
    walk.purged.append(file.id)
    await walk.drive.metadata.ask(PurgeFile(acting(walk.owner.id), file.id))
    await walk.drive.janitor.ask(Sweep())


WAYS: list[Way] = [
    intent_only,
    put_then_silence,
    put_then_complete,
    put_then_event,
    wrong_bytes,
    abort_then_put,
    name_taken_meanwhile,
    upload_then_purge,
]


@asynccontextmanager
async def walk(drive_class: type[GoDrive], clock: ManualClock) -> AsyncIterator[tuple[Walk, Callable[[Faults], None]]]:
    """A drive with one user, and the switch that turns faults on."""
    with quick_folder() as folder:
        blobs = FaultyBlobs(MemoryBlobStore(clock=clock))
        catalog = FaultyCatalog(SqliteCatalog(path := Path(folder) / "catalog.db"))
        lay_catalog(path)

        def arm(faults: Faults) -> None:
            blobs.faults = catalog.faults = faults

        async with open_drive(
            data_dir=folder, clock=clock, blob_store=blobs, catalog_store=catalog, drive_class=drive_class
        ) as drive:
            yield Walk(drive, await sign_up(drive)), arm


async def go(way: Way, walk: Walk, faults: Faults) -> None:
    """Walk that way; a client that sees an operation hang hangs up."""

    async def client() -> None:
        with suppress(DriveError, Bug):
            await way(walk)
        done.set()

    done = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client)
        async with anyio.create_task_group() as either:
            either.start_soon(_when, done, either.cancel_scope)
            either.start_soon(_when, faults.hanging, either.cancel_scope)
        tasks.cancel_scope.cancel()
    faults.heal()


async def _when(event: anyio.Event, scope: anyio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def let_time_pass(drive: GoDrive, clock: ManualClock) -> None:
    """Past every deadline there is, with the tickers' two messages when a check, an upload and the trash are due."""
    for seconds in (60, 3600, 90_000):
        clock.advance(seconds)
        await drive.ingest.ask(Reconcile())
        await drive.janitor.ask(Sweep())


async def check(walk: Walk) -> None:
    """What must hold in the end, whatever went wrong."""
    drive, owner = walk.drive, walk.owner
    assert (await drive.metadata.ask(UploadCounts()))["pending"] == 0
    listed = (await drive.metadata.ask(ListFiles(acting(owner.id), Anywhere()))).items
    trashed = (await drive.metadata.ask(ListTrash(acting(owner.id)))).items
    ids = [file.id for file in listed]
    for file in walk.published:
        assert ids.count(file.id) == 1
    assert len({file.name for file in listed}) == len(listed)
    keys = set()
    for file in listed:
        content = await drive.metadata.ask(OpenContent(acting(owner.id), file.id))
        assert b"".join([piece async for piece in drive.blobs.get(content.object_key)]) == CONTENT
        keys.add(content.object_key)
    stored = {blob.key async for blob in drive.blobs.list()}
    assert keys <= stored
    assert len(stored) == len(listed) + len(trashed)
    usage = (await drive.auth.ask(GetUser(acting(owner.id)))).usage
    assert usage.reserved_bytes == 0
    assert usage.live_bytes == len(listed) * len(CONTENT)
    assert usage.trash_bytes == len(trashed) * len(CONTENT)
    assert await drive.metadata.ask(UsageDrift()) == Drift(bytes=0, rows=0)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.name.lower())
@pytest.mark.slow
async def test_a_fault_at_any_operation_leaves_nothing_in_between(
    way: Way, fault: Fault, drive_class: type[GoDrive]
) -> None:
    struck = 0
    for at in operations(fault, drive_class):
        clock = ManualClock()
        async with walk(drive_class, clock) as (walked, arm):
            faults = Faults(at, fault)
            walked.part = partial(arm, faults)
            await go(way, walked, faults)
            await let_time_pass(walked.drive, clock)
            await check(walked)
        if not faults.struck:
            break
        struck += 1
    assert struck


@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.ANSWER_LOST, Fault.BUG], ids=lambda fault: fault.name.lower())
async def test_a_fault_while_reconciling_and_sweeping_only_puts_things_off(
    fault: Fault, drive_class: type[GoDrive]
) -> None:
    struck = 0
    for at in operations(fault, drive_class):
        clock = ManualClock()
        async with walk(drive_class, clock) as (walked, arm):
            for way in (put_then_silence, abort_then_put, intent_only, upload_then_purge):
                with suppress(DriveError):
                    await way(walked)
            faults = Faults(at, fault)
            arm(faults)
            clock.advance(20)
            with suppress(DriveError):
                await walked.drive.ingest.ask(Reconcile())
            with suppress(DriveError):
                await walked.drive.janitor.ask(Sweep())
            faults.heal()
            await let_time_pass(walked.drive, clock)
            await check(walked)
        if not faults.struck:
            break
        struck += 1
    assert struck > 3
