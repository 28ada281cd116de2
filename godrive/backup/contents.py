"""What a snapshot of a catalog names: read from the SQLite database itself."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from godrive.model import ObjectKey

_BLOBS = (
    "SELECT v.object_key, MIN(v.size_bytes), MIN(v.sha256) FROM versions v JOIN entries e ON e.id = v.file_id "
    "WHERE v.next_purge_at IS NULL AND e.state <> 'purging' GROUP BY v.object_key ORDER BY v.object_key"
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


def is_sound(connection: sqlite3.Connection) -> str | None:
    """Return what is wrong with the database, or ``None``."""
    try:
        said = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        return str(error)
    return None if said == "ok" else str(said)
