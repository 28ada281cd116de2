"""What a snapshot of a catalog names: read from the SQLite database itself."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from godrive.blobs import BlobStore
from godrive.blobs.pages import size_pages
from godrive.model import ObjectKey

_AT_ONCE = 1000

_BLOBS = (
    "SELECT object_key, MIN(size_bytes), MIN(sha256) FROM versions WHERE next_purge_at IS NULL "
    "AND file_id NOT IN (SELECT id FROM entries WHERE state = 'purging') GROUP BY object_key ORDER BY object_key"
)


class Named(NamedTuple):
    """A blob that a snapshot names."""

    object_key: ObjectKey
    size_bytes: int
    sha256: str | None


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a catalog that nothing writes to."""
    with closing(
        sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
    ) as connection:
        yield connection


def named_blobs(connection: sqlite3.Connection) -> Iterator[Named]:
    """Yield the blobs that are not being purged, in key order."""
    yield from map(Named._make, connection.execute(_BLOBS))


class Pending:
    """Compares what a snapshot names with the keys that a store has, both in order."""

    def __init__(self, named: Iterator[Named]) -> None:
        self._named = named
        self._next = next(named, None)
        self.blobs = 0
        self.bytes = 0

    def missing(self, page: list[ObjectKey] | None) -> list[Named]:
        """Return what is named up to the end of the *page* and not in it; all that is left for ``None``."""
        there, upto = set(page or ()), page[-1] if page else None
        lacking = []
        while (blob := self._next) is not None and (page is None or (upto is not None and blob.object_key <= upto)):
            self.blobs += 1
            self.bytes += blob.size_bytes
            if blob.object_key not in there:
                lacking.append(blob)
                if page is None and len(lacking) == _AT_ONCE:
                    self._next = next(self._named, None)
                    break
            self._next = next(self._named, None)
        return lacking


async def missing(store: BlobStore, named: Iterator[Named], count: Callable[[int, int], None]) -> AsyncIterator[Named]:
    """Yield what is named and the store lacks.  *count* is called with the blobs and bytes compared so far."""
    pending = await asyncio.to_thread(Pending, named)
    async for page in size_pages(store):
        for blob in await asyncio.to_thread(pending.missing, list(page)):
            yield blob
        count(pending.blobs, pending.bytes)
    while lacking := await asyncio.to_thread(pending.missing, None):
        for blob in lacking:
            yield blob
        count(pending.blobs, pending.bytes)
    count(pending.blobs, pending.bytes)


def is_sound(connection: sqlite3.Connection) -> str | None:
    """Return what is wrong with the database, or ``None``."""
    try:
        said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        return str(error)
    return None if said == "ok" else str(said)
