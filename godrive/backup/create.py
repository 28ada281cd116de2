"""Make a snapshot, and copy the blobs that the backup lacks."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
import msgspec

from godrive import __version__
from godrive.backup.contents import Named, missing, named_blobs, opened
from godrive.backup.target import Snapshot, Target, catalog_key, new_id, pieces
from godrive.backup.together import for_each
from godrive.blobs import BlobDamaged, BlobStore
from godrive.catalog import sqlite_file
from godrive.drive import GoDrive
from godrive.errors import Conflict, DigestMismatch, LengthMismatch, NotFound, UploadFinished
from godrive.lease import Lease
from godrive.messages.backups import MadeBackup, NoteBackup

SWEEP = "sweep"
"""The lease of the janitor: while this process holds it, nothing is purged."""

LEASE_TTL = 30.0
"""Seconds after which the janitor goes on if this process is killed.  It ignores a lease that is much longer."""

PATIENCE = 120.0
"""Seconds to wait for a sweep that is under way."""

Pace = Callable[[int], Awaitable[None]]


class Progress(msgspec.Struct):
    """How far a backup is."""

    blobs: int = 0
    bytes: int = 0
    added_blobs: int = 0
    added_bytes: int = 0


async def create(drive: GoDrive, target: Target, progress: Progress, *, pace: Pace | None = None) -> Snapshot:
    """Back up the drive.  When this returns, the snapshot is complete and durable.

    *pace* is awaited with the number of bytes before each piece.  Raises
    ``Conflict`` if another process sweeps, or if a blob is damaged (the
    snapshot is not made; run fsck), ``StoreUnavailable``, ``StorageFull``.
    """
    lease = Lease(SWEEP, LEASE_TTL, drive.clock.monotonic)
    with anyio.move_on_after(PATIENCE) as waiting:  # a sweep that is under way ends soon, or its process is gone
        while not await lease.hold(drive.metadata):  # noqa: ASYNC110 - the other process tells nobody
            await asyncio.sleep(0.5)
    if waiting.cancelled_caught:
        raise Conflict("Another process sweeps or makes a backup.", hint="Try again later.")
    for left in drive.config.data_dir.glob("backup-*"):  # by a process that was killed
        await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)
    keeping = asyncio.ensure_future(_keep(lease, drive))
    with TemporaryDirectory(dir=drive.config.data_dir, prefix="backup-") as folder:
        creating = asyncio.ensure_future(_create(drive, target, progress, Path(folder) / "catalog.db", pace))
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
                await lease.release(drive.metadata)


async def _keep(lease: Lease, drive: GoDrive) -> None:
    """Renew the lease.  Ends only with an error."""
    while True:
        await asyncio.sleep(LEASE_TTL / 4)
        if not await lease.hold(drive.metadata):
            raise Conflict("The lease of the backup was lost.", hint="The clock or the database stopped; run it again.")


async def _create(drive: GoDrive, target: Target, progress: Progress, path: Path, pace: Pace | None) -> Snapshot:
    now = drive.clock.now()
    await snapshot_catalog(drive, path)
    with opened(path) as catalog:
        await _copy_missing(drive.blobs, target, named_blobs(catalog), progress, pace)
    snapshot_id, size = new_id(now), await asyncio.to_thread(os.path.getsize, path)
    stored = await target.store.put(catalog_key(snapshot_id), pieces(path), size=size)
    snapshot = Snapshot(
        id=snapshot_id,
        created_at=now,
        godrive=__version__,
        catalog_sha256=stored.sha256 or "",
        catalog_bytes=size,
        blobs=progress.blobs,
        bytes=progress.bytes,
        added_blobs=progress.added_blobs,
        added_bytes=progress.added_bytes,
        keyring=drive.config.secret_path.read_text(encoding="utf-8"),
    )
    await target.write(snapshot)
    made = MadeBackup(
        target=target.name, snapshot_id=snapshot.id, made_at=now, blobs=snapshot.blobs, bytes=snapshot.bytes
    )
    await drive.metadata.ask(NoteBackup(made))
    return snapshot


async def snapshot_catalog(drive: GoDrive, path: Path) -> None:
    """Write a consistent copy of the catalog to *path*, without delaying its writers."""
    if drive.config.catalog.driver == "postgres":
        from godrive.catalog.copy_out import copy_out  # noqa: PLC0415

        await copy_out(drive.config.catalog, path)
    else:
        await asyncio.to_thread(sqlite_file.copy, drive.config.catalog_path, path)


async def _copy_missing(
    source: BlobStore, target: Target, named: Iterator[Named], progress: Progress, pace: Pace | None
) -> None:
    async def copy(blob: Named) -> None:
        await copy_blob(source, target.store, blob, pace)
        progress.added_blobs += 1
        progress.added_bytes += blob.size_bytes

    def count(blobs: int, size: int) -> None:
        progress.blobs, progress.bytes = blobs, size

    await for_each(missing(target.store, named, count), copy)


async def copy_blob(source: BlobStore, target: BlobStore, blob: Named, pace: Pace | None = None) -> None:
    """Copy one blob, and check that it is what was stored.  Raises ``Conflict``."""
    try:
        body = paced(source.get(blob.object_key), pace)
        await target.put(blob.object_key, body, size=blob.size_bytes, sha256=blob.sha256)
    except UploadFinished:
        return  # an earlier run has copied it
    except (NotFound, LengthMismatch, DigestMismatch, BlobDamaged) as error:
        raise Conflict(
            f"The blob {blob.object_key} cannot be copied: {error.detail}", hint="godrive fsck --digests shows all."
        ) from error


async def paced(body: AsyncIterator[bytes], pace: Pace | None) -> AsyncIterator[bytes]:
    """Yield the pieces of *body*, each after *pace* was awaited with its length."""
    async for piece in body:
        if pace is not None:
            await pace(len(piece))
        yield piece
