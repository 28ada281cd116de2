"""Read a backup back, and drop snapshots that are not needed any more."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import anyio

from godrive.backup.contents import is_sound, named_blobs, opened
from godrive.backup.create import Pace, Progress
from godrive.backup.passphrase import drop_old_keys, is_key_object
from godrive.backup.target import Snapshot, Target
from godrive.blobs import BlobDamaged
from godrive.checker import compare
from godrive.errors import Conflict, NotFound
from godrive.messages.expected import Fault
from godrive.model import ObjectKey

_KEEP = "CREATE TABLE kept (object_key TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, sha256 TEXT) WITHOUT ROWID"


async def verify(
    target: Target, snapshots: Iterable[Snapshot], progress: Progress, *, pace: Pace | None = None
) -> AsyncIterator[str]:
    """Read everything that the snapshots name, each blob once, and yield what is wrong."""
    with TemporaryDirectory(prefix="godrive-") as folder, closing(sqlite3.connect(Path(folder) / "kept.db")) as kept:
        async for problem in _gather(target, snapshots, kept, Path(folder)):
            yield problem
        for key, size, sha256 in kept.execute("SELECT object_key, size_bytes, sha256 FROM kept ORDER BY object_key"):
            progress.blobs += 1
            progress.bytes += size
            wrong = await _compare(target, ObjectKey(key), size, sha256, pace)
            if wrong is not None:
                fault, detail = wrong
                yield f"{fault}: the blob {key}: {detail}"


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


async def prune(target: Target, keep: Iterable[Snapshot]) -> tuple[int, int]:
    """Delete all other snapshots, and the blobs that none of *keep* names.  Returns how many of each.

    An interrupted run is continued by the next.  Raises ``Conflict`` if a
    snapshot to keep cannot be read.
    """
    kept_snapshots = list(keep)
    ids = {snapshot.id for snapshot in kept_snapshots}
    dropped = [snapshot for snapshot in await target.snapshots() if snapshot.id not in ids]
    with TemporaryDirectory(prefix="godrive-") as folder, closing(sqlite3.connect(Path(folder) / "kept.db")) as kept:
        async for problem in _gather(target, kept_snapshots, kept, Path(folder)):
            raise Conflict(f"Nothing was deleted. {problem}")
        for snapshot in dropped:
            await target.forget(snapshot)
        await drop_old_keys(target.store)
        blobs = 0
        unneeded: list[ObjectKey] = []
        async for blob in target.store.list():
            if is_key_object(blob.key):
                continue
            if target.is_own(blob.key):
                needed = target.id_of(blob.key) in ids
            else:
                needed = kept.execute("SELECT 1 FROM kept WHERE object_key = ?", (blob.key,)).fetchone() is not None
            if not needed:
                unneeded.append(blob.key)
        for key in unneeded:
            await target.store.delete(key)
            blobs += not target.is_own(key)
    return len(dropped), blobs


async def _gather(
    target: Target, snapshots: Iterable[Snapshot], kept: sqlite3.Connection, folder: Path
) -> AsyncIterator[str]:
    """Fill the table ``kept`` with the blobs of the snapshots, and yield what is wrong with their catalogs."""
    kept.execute(_KEEP)
    for snapshot in snapshots:
        path = folder / "catalog.db"
        try:
            await target.catalog(snapshot, path)
        except (NotFound, BlobDamaged) as error:
            yield f"The catalog of the snapshot {snapshot.id} cannot be read: {error.detail}"
            path.unlink(missing_ok=True)
            continue
        with path.open("rb") as file:
            digest = await anyio.to_thread.run_sync(hashlib.file_digest, file, "sha256")
        if digest.hexdigest() != snapshot.catalog_sha256:
            yield f"The catalog of the snapshot {snapshot.id} has another SHA-256 than when it was made."
        else:
            with opened(path) as catalog:
                if (wrong := await anyio.to_thread.run_sync(is_sound, catalog)) is not None:
                    yield f"The catalog of the snapshot {snapshot.id} is damaged: {wrong}."
                else:
                    kept.executemany("INSERT OR IGNORE INTO kept VALUES (?, ?, ?)", named_blobs(catalog))
        path.unlink()


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
