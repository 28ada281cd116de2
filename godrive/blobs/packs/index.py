"""Where the blobs in packs are: an index in SQLite, which can be made again from the packs.

A commit of the index is not synced, except where its docstring says so, because
what a power failure takes from it is found again in the packs.  SQLite's log
keeps it consistent, and it is synced before a pack is removed.  A *guest* beside
a server leaves the log to it (``wal_lock``).
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from godrive.blobs.key_ranges import KeyRanges
from godrive.paths import has_no_room
from godrive.wal_lock import WalLock

_TIMEOUT = 10.0
"""Seconds that a process waits for a group of another."""

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS blobs (key TEXT PRIMARY KEY, pack INTEGER NOT NULL, start INTEGER NOT NULL, "
    "length INTEGER NOT NULL, size INTEGER NOT NULL, stored_ns INTEGER NOT NULL, sha256 BLOB NOT NULL, "
    "mime TEXT NOT NULL) WITHOUT ROWID",
    # *ended* is how far the index has followed the pack; *live* counts the bytes of the records that it has.
    "CREATE TABLE IF NOT EXISTS packs (number INTEGER PRIMARY KEY, ended INTEGER NOT NULL, live INTEGER NOT NULL, "
    "state TEXT NOT NULL)",
    "PRAGMA user_version = 1",
)
_PLACE = "SELECT key, pack, start, length, size, stored_ns, sha256, mime FROM blobs "
_ADD = "INSERT OR FAIL INTO blobs VALUES "  # what fails is rolled back whole, so SQLite need not copy pages
_ROW = "(?, ?, ?, ?, ?, ?, ?, ?)"
_KEYS = KeyRanges("blobs", "key")


class Location(NamedTuple):
    """Where a blob is, and what is known about it."""

    key: str
    pack: int
    start: int
    length: int
    size: int
    stored_ns: int
    sha256: bytes
    mime: str


class Pack(NamedTuple):
    """A pack in the index.

    Its state is ``open``; ``full`` if it is not continued; ``damaged`` if it
    may have blobs that cannot be read; ``unreadable`` while its file is not a
    pack; ``dropped`` if only its file is left.
    """

    number: int
    ended: int
    live: int
    state: str


class Index:
    """A connection to the index.  One thread at a time may use it."""

    def __init__(self, path: Path, *, read_only: bool = False, guest: bool = False) -> None:
        """Open the file, and create it unless *read_only*.  Raises ``sqlite3.Error``, ``OSError``."""
        self._folder = path.parent
        self._wal_lock = WalLock(path, guest=guest)
        self._connection = sqlite3.connect(
            path, timeout=0 if read_only else _TIMEOUT, isolation_level=None, check_same_thread=False
        )
        try:
            self._execute = self._connection.execute
            self._execute("PRAGMA cache_size = -4000")
            if read_only:
                self._execute("PRAGMA query_only = 1")
            else:
                self._wal_lock.open()
                if guest:
                    self._execute("PRAGMA wal_autocheckpoint = 0")
                self._execute("PRAGMA journal_mode = WAL")
                self._execute("PRAGMA synchronous = NORMAL")
                self._is_synced = False
                for statement in _SCHEMA:
                    self._execute(statement)
        except (OSError, sqlite3.Error) as error:
            self.close()
            self._check_room(error)
            raise

    def close(self) -> None:
        """Close the connection.  Idempotent."""
        self._connection.close()
        self._wal_lock.close()

    @contextmanager
    def transaction(self, *, durable: bool = False) -> Iterator[None]:
        """One transaction, which no other process interrupts.  If *durable*, its commit is synced."""
        if durable is not self._is_synced:
            self._execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._is_synced = durable
        if self._connection.in_transaction:
            self._execute("ROLLBACK")  # the one after an earlier failure has failed too
        try:
            self._execute("BEGIN IMMEDIATE")
            yield
            self._execute("COMMIT")
        except BaseException as error:
            with suppress(sqlite3.Error):  # the database has rolled back already, or the next transaction does
                self._execute("ROLLBACK")
            self._check_room(error)
            raise
        if self._wal_lock.is_long:
            self.checkpoint()

    def _check_room(self, error: BaseException) -> None:
        """Raise what the system would, if SQLite reports a full disk as an I/O error (see ``has_no_room``)."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_IOERR and has_no_room(self._folder):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error

    def turn(self) -> AbstractContextManager[bool]:
        """Yield whether this process may do what would make a server wait, until the end of the block."""
        return self._wal_lock.turn()

    def checkpoint(self) -> None:
        """Copy SQLite's log into the database, so that the next commits use the room of the log again."""
        with self.turn() as may, suppress(sqlite3.Error):  # no room even for that
            if may:
                self._execute("PRAGMA wal_checkpoint(RESTART)")

    def find(self, key: str) -> Location | None:
        """The place of a blob."""
        row = self._execute(_PLACE + "WHERE key = ?", (key,)).fetchone()
        return None if row is None else Location(*row)

    def after(self, key: str, limit: int) -> list[Location]:
        """The next *limit* blobs in key order."""
        rows = self._execute(_PLACE + "WHERE key > ? ORDER BY key LIMIT ?", (key, limit))
        return [Location(*row) for row in rows]

    def sizes_after(self, key: str, limit: int) -> dict[str, int]:
        """The sizes of the next *limit* blobs, in key order."""
        return dict(self._execute("SELECT key, size FROM blobs WHERE key > ? ORDER BY key LIMIT ?", (key, limit)))

    def keys_within(self, after: str, upto: str, limit: int) -> tuple[str, str]:
        """How far the next *limit* keys in a range reach, and these."""
        return _KEYS.read(self._connection, after, upto, limit)

    def add(self, places: list[Location]) -> None:
        """Add blobs, whose records are in the pack."""
        # One statement: each takes the interpreter lock several times, and this thread waits while the loop has it.
        self._execute(_ADD + ", ".join([_ROW] * len(places)), [*chain.from_iterable(places)])

    def move(self, old: Location, new: Location) -> bool:
        """Note that the blob of *old* is at *new* now.  Returns whether it was at *old*."""
        moved = self._execute(
            "UPDATE blobs SET pack = ?, start = ? WHERE key = ? AND pack = ? AND start = ?",
            (new.pack, new.start, old.key, old.pack, old.start),
        )
        return moved.rowcount == 1

    def remove(self, place: Location) -> None:
        """Remove a blob."""
        self._execute("DELETE FROM blobs WHERE key = ?", (place.key,))
        self.count(place.pack, -place.length)

    def packs(self) -> list[Pack]:
        """All packs, the newest last."""
        return [Pack(*row) for row in self._execute("SELECT number, ended, live, state FROM packs ORDER BY number")]

    def newest(self) -> Pack | None:
        """The pack with the highest number."""
        row = self._execute("SELECT number, ended, live, state FROM packs ORDER BY number DESC LIMIT 1").fetchone()
        return None if row is None else Pack(*row)

    def add_pack(self, number: int, ended: int) -> None:
        """Add a pack without blobs."""
        self._execute("INSERT INTO packs VALUES (?, ?, 0, 'open')", (number, ended))

    def extend(self, number: int, ended: int, live: int) -> None:
        """Note that the pack now ends at *ended*, with *live* more bytes of blobs."""
        self._execute("UPDATE packs SET ended = ?, live = live + ? WHERE number = ?", (ended, live, number))

    def count(self, number: int, live: int) -> None:
        """Add *live* bytes of blobs."""
        self._execute("UPDATE packs SET live = live + ? WHERE number = ?", (live, number))

    def mark(self, number: int, state: str) -> None:
        """Set the state of a pack."""
        self._execute("UPDATE packs SET state = ? WHERE number = ?", (state, number))

    def forget_dropped(self) -> None:
        """Remove the packs whose files are gone, except the newest, so that its number is not given again."""
        self._execute("DELETE FROM packs WHERE state = 'dropped' AND number < (SELECT max(number) FROM packs)")

    def total(self) -> int:
        """The number of blobs."""
        (total,) = self._execute("SELECT count(*) FROM blobs").fetchone()
        return int(total)
