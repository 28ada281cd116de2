"""Bring a drive back from a snapshot: all of it, or the files of one user."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import anyio

from godrive.backup.catalog_file import CatalogFile
from godrive.backup.contents import Named, describe, lacking, opened, total_bytes, usable
from godrive.backup.copying import Damaged
from godrive.backup.create import Progress
from godrive.backup.rests import Pace
from godrive.backup.target import Snapshot, Target
from godrive.backup.together import for_each
from godrive.blobs import BlobStore
from godrive.blobs.pages import GONE, key_pages, size_pages
from godrive.clock import Clock
from godrive.config import Config
from godrive.errors import ConfigError, refused
from godrive.opening import open_data_folder
from godrive.paths import create_file, exists, sync_folder

_AS_ANOTHER = (
    "UPDATE catalog SET time_noted_at = 1, clock_due_by = NULL, clock_latest = 0, nonce = lower(hex(randomblob(16)))"
)
"""Make the restored catalog one whose time is in doubt, and whose cursors and tags are new."""
_FORGET = (
    "DELETE FROM leases",
    "DELETE FROM damage",
    "UPDATE scrub SET begun_at = NULL, ended_at = NULL, after_key = '', blobs = 0, bytes = 0",
)
"""What the copy has of the processes and of the blobs of the drive that it was made of."""


_DEFER = (
    "UPDATE entries SET purge_at = purge_at + :passed, next_purge_at = next_purge_at + :passed WHERE state = 'trashed'",
    "UPDATE versions SET review_at = review_at + :passed WHERE review_at IS NOT NULL",
)
"""The time since the snapshot does not count for what is kept for a while: the trash, and earlier versions."""


async def restore(
    config: Config,
    blobs: BlobStore,
    target: Target,
    snapshot: Snapshot,
    progress: Progress,
    *,
    clock: Clock,
    pace: Pace | None = None,
    damaged: Damaged | None = None,
) -> Path | None:
    """Put the blobs of the snapshot into the store, and then its catalog and its keys into the data folder.

    The store may have some of the blobs already, for example from an interrupted
    run; those whose size differs are set aside and restored.  With PostgreSQL, return
    the path of the catalog, which the caller copies into the database and deletes.
    For a day the restored drive expires nothing, because its time is in doubt, and
    then the trash and earlier versions have as much time left as when the snapshot
    was made: what the operator has got back is not purged at once.  Raises
    ``ConfigError`` if there is a drive already, ``StorageFull``, ``StoreUnavailable``,
    and ``Conflict`` if the backup has damaged blobs, unless *damaged* is to count them.
    """
    open_data_folder(config)
    is_sqlite = config.catalog.driver == "sqlite"
    path = config.catalog_path if is_sqlite else config.data_dir / "restored.db"
    if is_sqlite and exists(path):
        raise ConfigError(f"There is a drive in {config.data_dir}.", hint="Restore into an empty folder.")
    if exists(config.secret_path) and config.secret_path.read_text(encoding="utf-8") != snapshot.keyring:
        hint = "Move the file away: the restore writes the keys of the snapshot."
        raise ConfigError(f"{config.secret_path} has other keys than the snapshot.", hint=hint)
    partial = path.with_name(f"{path.name}.restoring")
    await CatalogFile(target, partial).load(snapshot)
    found = damaged or Damaged(target.store)
    await _put_blobs(blobs, found, partial, progress, pace)
    if damaged is None:
        found.check("Only blobs were restored. Try another --snapshot, or go on without them: --despite-damage")
    with usable(partial), closing(sqlite3.connect(partial)) as catalog, catalog:
        catalog.execute(_AS_ANOTHER)
        passed = max(0, round((clock.now() - snapshot.created_at).total_seconds() * 1_000_000))
        for statement in _DEFER:
            catalog.execute(statement, {"passed": passed})
        for statement in _FORGET:
            catalog.execute(statement)
    try:
        if not exists(config.secret_path):
            create_file(config.secret_path, snapshot.keyring.encode(), mode=0o600)
        partial.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise refused(f"The restored catalog and its keys cannot be written in {config.data_dir}", error) from error
    return None if is_sqlite else path


async def _set_aside_damaged(blobs: BlobStore, connection: sqlite3.Connection) -> None:
    """Set aside what the store has of blobs whose size is not that in the catalog, so that it lacks them.

    The index of the packs has the keys of a pack that was lost, and nothing is left of these blobs.
    """
    async for page in size_pages(blobs):
        for named in await asyncio.to_thread(describe, connection, [*page]):
            left = page[named.object_key]
            if left == GONE:
                await blobs.delete(named.object_key)
            elif left != named.size_bytes:
                await blobs.quarantine(named.object_key)


async def _put_blobs(blobs: BlobStore, damaged: Damaged, catalog: Path, progress: Progress, pace: Pace | None) -> None:
    """Put the blobs that the store lacks, but for those that are *damaged*."""

    async def put(named: Named) -> None:
        if await damaged.copy(blobs, named, pace):
            progress.added_blobs += 1
            progress.added_bytes += named.size_bytes

    with opened(catalog) as connection:
        await _set_aside_damaged(blobs, connection)

        async def needed() -> AsyncIterator[Named]:
            async for page in lacking(connection, key_pages(blobs), progress.compared):
                for named in page:
                    yield named

        await for_each(needed(), put)
        progress.bytes = await anyio.to_thread.run_sync(total_bytes, connection) - progress.repeated_bytes
