"""What a snapshot of a catalog names: read from the SQLite database itself."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from godrive.blobs.key_ranges import KeyRanges, keys_in
from godrive.blobs.pages import AT_ONCE, KeyPage
from godrive.catalog.sqlite_file import primary_code, translate
from godrive.model import ObjectKey

_KEYS_AT_ONCE = 50

_KEYS = KeyRanges("versions", "object_key")
_BLOBS = (
    "SELECT {what} FROM {source}versions WHERE {where}next_purge_at IS NULL AND NOT "
    "EXISTS (SELECT 1 FROM {source}entries e WHERE e.id = file_id AND e.state = 'purging') "
    "GROUP BY object_key ORDER BY object_key"
)
_DESCRIBED = "object_key, MIN(size_bytes), MIN(sha256)"
_REPEATED = "MIN(size_bytes) * (COUNT(*) - 1)"
_AMONG = f"object_key IN ({', '.join('?' * _KEYS_AT_ONCE)}) AND "

_BYTES = "SELECT COALESCE(SUM(live_bytes + trash_bytes + version_bytes), 0) FROM users"


class Named(NamedTuple):
    """A blob that a snapshot names."""

    object_key: ObjectKey
    size_bytes: int
    sha256: str | None


def speaks_of_disk(error: sqlite3.Error) -> bool:
    """Whether SQLite could not use a file, for example because the disk is full.  That is no damage of the file."""
    return primary_code(error) in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


@contextmanager
def usable(path: Path) -> Iterator[None]:
    """Raise ``StorageFull`` or ``StoreUnavailable`` for what SQLite says of the catalog at *path*."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, path) or error from error


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a catalog that nothing writes to.  Its log, if there is one, stays beside it.

    Raises as :func:`usable` does.
    """
    with (
        usable(path),
        closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)
        ) as connection,
    ):
        yield connection


def named_in(source: str) -> str:
    """Return the statement that selects the blobs which the attached database *source* names, in key order.

    Those that are being purged are left out: their bytes may be gone.
    """
    return _BLOBS.format(what=_DESCRIBED, source=f"{source}.", where="")


async def lacking(
    connection: sqlite3.Connection, there: AsyncGenerator[KeyPage, None], count: Callable[[int, int], None]
) -> AsyncIterator[list[Named]]:
    """Yield what a snapshot names and a store lacks, which has *there*.

    *count* is called with how many blobs were compared, and with the bytes by which the versions that share
    one of them exceed it.  The work is in proportion to what is lacking, but for a glance at each key.
    """
    after = ""
    async with aclosing(there):
        async for page in there:
            while after < page.upto:
                after, text = await asyncio.to_thread(_KEYS.read, connection, after, page.upto, AT_ONCE)
                if text == page.text:  # as nearly always
                    count(text.count(" ") + bool(text), 0)
                elif versions := Counter(keys_in(text)):  # several may share a blob
                    if lacks := versions.keys() - page.keys:
                        yield await asyncio.to_thread(describe, connection, sorted(lacks))
                    shared = [key for key, number in versions.items() if number > 1]
                    count(len(versions), await asyncio.to_thread(_repeated, connection, shared) if shared else 0)


def describe(connection: sqlite3.Connection, keys: list[str]) -> list[Named]:
    """Return those of the blobs that a snapshot names and that are not being purged."""
    return [Named._make(row) for row in _rows(connection, _DESCRIBED, keys)]


def _repeated(connection: sqlite3.Connection, keys: list[str]) -> int:
    """Return by how many bytes the versions that share the blobs exceed them."""
    return sum(row[0] for row in _rows(connection, _REPEATED, keys))


def _rows(connection: sqlite3.Connection, what: str, keys: list[str]) -> Iterator[Any]:
    """Yield a row for each of the blobs that is not being purged."""
    statement = _BLOBS.format(what=what, source="", where=_AMONG)
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = keys[start : start + _KEYS_AT_ONCE]
        yield from connection.execute(statement, some + some[-1:] * (_KEYS_AT_ONCE - len(some)))


def total_bytes(connection: sqlite3.Connection) -> int:
    """Return the sizes of all versions, which are counted for each user, also of those that share a blob."""
    return int(connection.execute(_BYTES).fetchone()[0])


def is_sound(connection: sqlite3.Connection) -> str | None:
    """Return what is wrong with the database, or ``None``."""
    return _checked(connection, "1")


def names_all(connection: sqlite3.Connection) -> str | None:
    """Return why the database may not name all of its blobs, or ``None``.

    That takes no more than the rows of ``versions``: an entry that is lost leaves its blobs named.
    """
    return _checked(connection, "versions")


def _checked(connection: sqlite3.Connection, what: str) -> str | None:
    try:
        said = connection.execute(f"PRAGMA quick_check({what})").fetchone()[0]
    except sqlite3.Error as error:
        if speaks_of_disk(error):
            raise
        return str(error)
    return None if said == "ok" else str(said)
