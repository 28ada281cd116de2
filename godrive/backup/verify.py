"""Read a backup back, and drop snapshots that are not needed any more."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing, closing, contextmanager
from pathlib import Path
from tempfile import gettempdir

from godrive.backup.catalog_file import CatalogFile
from godrive.backup.contents import is_sound, named_in, names_all, opened, speaks_of_disk, usable
from godrive.backup.create import Progress
from godrive.backup.passphrase import drop_old_keys, is_key_object
from godrive.backup.rests import NEVER, Pace, Rests
from godrive.backup.scratch import scratch
from godrive.backup.target import Snapshot, Target
from godrive.blobs import BlobDamaged
from godrive.blobs.key_ranges import KeyRanges, keys_in
from godrive.blobs.pages import AT_ONCE, key_pages
from godrive.checker import READ_AT_ONCE, compare
from godrive.errors import Conflict, DigestMismatch, NotFound
from godrive.in_order import in_order
from godrive.messages.expected import Fault
from godrive.model import ObjectKey

PREFIX = "godrive-backup-"
"""How the names of temporary folders begin."""

_KEEP = "CREATE TABLE kept (object_key TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, sha256 TEXT) WITHOUT ROWID"
_KEYS = KeyRanges("kept", "object_key")


async def verify(
    target: Target, snapshots: Iterable[Snapshot], progress: Progress, *, pace: Pace | None = None
) -> AsyncIterator[str]:
    """Read everything that the snapshots name, each blob once and several at a time, and yield what is wrong.

    First come the catalogs, then the blobs in the order of their keys.
    """

    async def check(row: tuple[str, int, str | None]) -> str | None:
        key, size, sha256 = row
        wrong = await _compare(target, ObjectKey(key), size, sha256, pace)
        progress.blobs += 1
        progress.bytes += size
        return None if wrong is None else f"{wrong[0]}: the blob {key}: {wrong[1]}"

    with scratch(Path(gettempdir()), PREFIX) as folder, _kept(folder) as kept:
        async for problem in _gather(target, snapshots, kept, folder, check=is_sound):
            yield problem
        rows = kept.execute("SELECT object_key, size_bytes, sha256 FROM kept ORDER BY object_key")
        async with aclosing(in_order(rows, check, at_most=READ_AT_ONCE)) as problems:
            async for wrong in problems:
                if wrong is not None:
                    yield wrong


async def _compare(
    target: Target, key: ObjectKey, size: int, sha256: str | None, pace: Pace | None
) -> tuple[Fault, str] | None:
    """Compare a blob with its row, or, if that has no digest, with the one that the target keeps."""
    if sha256 is None:
        try:
            sha256 = (await target.store.head(key)).sha256
        except NotFound:
            return Fault.MISSING, "The backup does not have it."
    return await compare(target.store, key, size, sha256, pace)


async def prune(target: Target, keep: Iterable[Snapshot], rests: Rests = NEVER) -> tuple[int, int]:
    """Delete all other snapshots, and the blobs that none of *keep* names.  Returns how many of each.

    An interrupted run is continued by the next.  In a bucket, what is younger
    than a day stays, because another process may just add a snapshot.  Raises
    ``Conflict`` if a snapshot to keep cannot be read.  *rests* are taken in every long step.
    """
    kept_snapshots = list(keep)
    ids = {snapshot.id for snapshot in kept_snapshots}
    dropped = [snapshot for snapshot in await target.snapshots() if snapshot.id not in ids]
    with scratch(Path(gettempdir()), PREFIX) as folder, _kept(folder) as kept:
        rests.within(kept)
        async for problem in _gather(target, kept_snapshots, kept, folder, check=names_all, rests=rests):
            raise Conflict(f"Nothing was deleted. {problem}")
        own = await target.own_keys(kept_snapshots)
        for snapshot in dropped:
            await target.forget(snapshot)
        await drop_old_keys(target.store)
        unneeded: list[str] = []
        after = ""
        async for page in key_pages(target.store):
            there = {*page.keys} - own
            while after < page.upto:
                after, needed = await asyncio.to_thread(_KEYS.read, kept, after, page.upto, AT_ONCE)
                there.difference_update(keys_in(needed))
            unneeded += sorted(key for key in there if not is_key_object(key))
            await rests.pause()
        blobs = 0
        for key in map(ObjectKey, unneeded):
            if not await target.may_be_new(key):
                await target.store.delete(key)
                blobs += not target.is_own(key)
                await rests.pause()
    return len(dropped), blobs


@contextmanager
def _kept(folder: Path) -> Iterator[sqlite3.Connection]:
    """Open a table for the blobs that snapshots name."""
    path = folder / "kept.db"
    with usable(path), closing(sqlite3.connect(path.as_uri(), uri=True, check_same_thread=False)) as kept:
        kept.execute(_KEEP)
        yield kept


async def _gather(
    target: Target,
    snapshots: Iterable[Snapshot],
    kept: sqlite3.Connection,
    folder: Path,
    *,
    check: Callable[[sqlite3.Connection], str | None],
    rests: Rests = NEVER,
) -> AsyncIterator[str]:
    """Add the blobs of the snapshots to the table ``kept``, and yield what *check* finds wrong with their catalogs."""
    path = folder / "catalog.db"
    catalog = CatalogFile(target, path, rests)
    for snapshot in snapshots:
        try:
            await catalog.load(snapshot)
        except (NotFound, BlobDamaged, DigestMismatch) as error:
            yield f"The catalog of the snapshot {snapshot.id} cannot be read: {error.detail}"
            continue
        with opened(path) as connection:
            rests.within(connection)
            wrong = await asyncio.to_thread(check, connection) or await asyncio.to_thread(_keep, kept, path)
        if wrong is not None:
            yield f"The catalog of the snapshot {snapshot.id} is damaged: {wrong}."


def _keep(kept: sqlite3.Connection, path: Path) -> str | None:
    """Add the blobs that a catalog names.  Returns what is wrong with it, or ``None``."""
    kept.execute("ATTACH ? AS snapshot", (f"{path.absolute().as_uri()}?mode=ro",))
    try:
        with kept:
            kept.execute(f"INSERT OR IGNORE INTO kept {named_in('snapshot')}")
    except sqlite3.DatabaseError as error:
        if speaks_of_disk(error):
            raise
        return str(error)
    finally:
        kept.execute("DETACH snapshot")
    return None


def chosen(snapshots: list[Snapshot], *, daily: int, weekly: int, monthly: int) -> list[Snapshot]:
    """Return the snapshots to keep: the newest of each of the last days, weeks and months that have one.

    The newest of all is always kept.
    """
    keep: dict[str, Snapshot] = {}
    newest_first = sorted(snapshots, key=lambda snapshot: snapshot.id, reverse=True)
    for number, form in ((daily, "%Y-%m-%d"), (weekly, "%G-%V"), (monthly, "%Y-%m")):
        periods: set[str] = set()
        for snapshot in newest_first:
            period = snapshot.created_at.strftime(form)
            if period not in periods and len(periods) < number:
                periods.add(period)
                keep[snapshot.id] = snapshot
    for snapshot in newest_first[:1]:
        keep[snapshot.id] = snapshot
    return sorted(keep.values(), key=lambda snapshot: snapshot.id)
