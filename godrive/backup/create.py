"""Make a snapshot, and copy the blobs that the backup lacks."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, TypeVar

import anyio
import msgspec

from godrive import __version__
from godrive.backup.contents import Named, lacking, total_bytes
from godrive.backup.copying import Damaged
from godrive.backup.rests import NEVER, Pace, Rests
from godrive.backup.spool import Spool
from godrive.backup.still import Still, standing_still
from godrive.backup.target import Image, Snapshot, Target
from godrive.backup.together import for_each
from godrive.blobs.pages import KeyPage, key_pages
from godrive.drive import GoDrive
from godrive.errors import Conflict, refused
from godrive.lease import Lease
from godrive.messages.backups import MadeBackup, NoteBackup

T = TypeVar("T")

SWEEP = "sweep"
"""The lease of the janitor: while this process holds it, nothing is purged."""

LEASE_TTL = 30.0
"""Seconds after which the janitor goes on if this process is killed.  It ignores a lease that is much longer."""

PATIENCE = 120.0
"""Seconds to wait for a sweep that is under way."""


class Progress(msgspec.Struct):
    """How far a backup is."""

    blobs: int = 0
    bytes: int = 0
    added_blobs: int = 0
    added_bytes: int = 0
    repeated_bytes: int = 0
    """Of versions that share a blob with another one."""

    def compared(self, blobs: int, repeated_bytes: int) -> None:
        """Count blobs that were looked at, and bytes that must not be counted again."""
        self.blobs += blobs
        self.repeated_bytes += repeated_bytes


class Part(NamedTuple):
    """A part of a catalog that the target lacks."""

    digest: bytes
    data: bytes


async def create(
    drive: GoDrive, target: Target, progress: Progress, *, pace: Pace | None = None, rests: Rests = NEVER
) -> Snapshot:
    """Back up the drive.  When this returns, the snapshot is complete and durable.

    *pace* is awaited with the number of bytes before each piece; *rests* are taken in every long step, but not while
    the catalog stands still.  Raises ``Conflict`` if another process sweeps, or if blobs are damaged (all others are
    copied, and the snapshot is not made), ``StoreUnavailable``, ``StorageFull``.
    """
    lease = Lease(SWEEP, LEASE_TTL, drive.clock.monotonic)
    with anyio.move_on_after(PATIENCE) as waiting:  # a sweep that is under way ends soon, or its process is gone
        while not await lease.hold(drive.metadata):  # noqa: ASYNC110 - the other process tells nobody
            await asyncio.sleep(0.5)
    if waiting.cancelled_caught:
        raise Conflict("Another process sweeps or makes a backup.", hint="Try again later.")
    try:
        for left in drive.config.data_dir.glob("backup-*"):  # by a process that was killed
            await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)
        with _notes_in(drive.config.data_dir) as folder:
            keeping = asyncio.ensure_future(_keep(lease, drive))
            creating = asyncio.ensure_future(_create(drive, target, progress, folder, pace=pace, rests=rests))
            try:
                await asyncio.wait([keeping, creating], return_when=asyncio.FIRST_COMPLETED)
                if keeping.done():
                    keeping.result()  # raises
                return creating.result()
            finally:
                for task in (keeping, creating):
                    task.cancel()
                with anyio.CancelScope(shield=True):
                    await asyncio.wait([keeping, creating])
    finally:
        with anyio.CancelScope(shield=True):
            await lease.release(drive.metadata)


@contextmanager
def _notes_in(data_dir: Path) -> Iterator[Path]:
    """Make a folder for what a backup notes until it ends.

    Raises ``StorageFull``, ``StoreUnavailable``, ``ConfigError``.
    """
    try:
        with TemporaryDirectory(dir=data_dir, prefix="backup-") as folder:
            yield Path(folder)
    except OSError as error:
        raise refused(f"What the backup notes cannot be written in {data_dir}", error) from error


async def _keep(lease: Lease, drive: GoDrive) -> None:
    """Renew the lease.  Ends only with an error."""
    while True:
        await asyncio.sleep(LEASE_TTL / 4)
        if not await lease.hold(drive.metadata):
            raise Conflict("The lease of the backup was lost.", hint="The clock or the database stopped; run it again.")


async def _create(
    drive: GoDrive, target: Target, progress: Progress, folder: Path, *, pace: Pace | None, rests: Rests
) -> Snapshot:
    now = drive.clock.now()
    pace = rests.after(pace)
    with (
        Spool(folder / "there", str) as there,
        Spool(folder / "lacking", Named) as blobs,
        Spool(folder / "parts", Part) as parts,
    ):
        known = await _list(target, there, rests)
        async with _still_catalog(drive, folder, rests) as still:
            image = await asyncio.to_thread(_split, still, target, known, parts)
            async for page in lacking(still.connection, _pages(there), progress.compared):
                await asyncio.to_thread(blobs.add, page)
            progress.bytes = await asyncio.to_thread(total_bytes, still.connection) - progress.repeated_bytes

        damaged = Damaged(drive.blobs)

        async def copy(blob: Named) -> None:
            if await damaged.copy(target.store, blob, pace):
                progress.added_blobs += 1
                progress.added_bytes += blob.size_bytes

        async def put(part: Part) -> None:
            await rests.pause()
            await target.put_part(part.digest, part.data)

        with target.filling():
            await for_each(_items(blobs), copy)
            damaged.check("No snapshot was made. godrive fsck --digests shows their files.")
            await for_each(_items(parts), put)
    snapshot_id = await target.new_id(now)
    with target.filling():
        catalog_sha256 = await target.put_image(snapshot_id, image)
    snapshot = Snapshot(
        id=snapshot_id,
        created_at=now,
        godrive=__version__,
        catalog_sha256=catalog_sha256,
        catalog_bytes=image.size,
        blobs=progress.blobs,
        bytes=progress.bytes,
        added_blobs=progress.added_blobs,
        added_bytes=progress.added_bytes,
        keyring=drive.config.secret_path.read_text(encoding="utf-8"),
    )
    with target.filling():
        await target.write(snapshot)
    made = MadeBackup(
        target=target.name, snapshot_id=snapshot.id, made_at=now, blobs=snapshot.blobs, bytes=snapshot.bytes
    )
    await drive.metadata.ask(NoteBackup(made))
    return snapshot


@asynccontextmanager
async def _still_catalog(drive: GoDrive, folder: Path, rests: Rests) -> AsyncIterator[Still]:
    """Hold the catalog as it is now, without delaying its writers."""
    path = drive.config.catalog_path
    if drive.config.catalog.driver == "postgres":
        from godrive.catalog.copy_out import copy_out  # noqa: PLC0415

        path = folder / "catalog.db"
        await copy_out(drive.config.catalog, path, rests.pause)
    async with standing_still(path, folder) as still:
        yield still


async def _list(target: Target, there: Spool[str], rests: Rests) -> set[str]:
    """List what the target has, and return the keys of parts.  The rest may be too long for the memory."""
    own: set[str] = set()
    async for page in key_pages(target.store):
        own.update(target.own(page))
        await asyncio.to_thread(there.add, [*page])
        await rests.pause()
    return own


def _split(still: Still, target: Target, known: set[str], parts: Spool[Part]) -> Image:
    """Digest the catalog, and keep the parts that the target lacks, so that the catalog need not stand still longer."""

    def digests(pieces: Iterator[memoryview]) -> tuple[int, bytes]:
        size, found = 0, bytearray()
        for piece in pieces:
            size += len(piece)
            digest = hashlib.sha256(piece).digest()
            found += digest
            if (key := target.part_key(digest)) not in known:
                known.add(key)
                parts.add([Part(digest, bytes(piece))])
        return size, bytes(found)

    size, file = digests(still.file_parts())
    _, log = digests(still.log_parts())
    return Image(size, file, log)


async def _pages(there: Spool[str]) -> AsyncGenerator[KeyPage, None]:
    pages = there.pages()
    while (page := await asyncio.to_thread(next, pages, None)) is not None:
        yield KeyPage(*page)


async def _items(spool: Spool[T]) -> AsyncIterator[T]:
    for page in spool.pages():
        for item in page:
            yield item
