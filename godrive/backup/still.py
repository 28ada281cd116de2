"""A database of SQLite, read as it is at one instant, beside its writers.

Theory of operation.  To copy a large database page by page costs more than
anything else in a backup of few changes, so its files are read as they are.  For
that they must not change in a way that matters:

- While nobody can commit, a read transaction begins, and the log is opened and measured.
- While that transaction lasts, SQLite copies nothing into the file of the
  database that was committed after it began, and what it copies of the time
  before is in the log too (https://sqlite.org/walformat.html#wal_locks).
- Nor does it begin the log anew, unless all of it was in the file of the database
  when the transaction began, which then reads only that file.  So the log is copied
  afterwards; if it has another salt then, none of it is needed.

So the file and the copy of the log together are what SQLite would find if the
machine had stopped at that instant, and it recovers from them.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from bisect import bisect_left
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path

from godrive.catalog import sqlite_file

PART = 1 << 18
"""The bytes of a part.  A page that changed makes its whole part another one."""

_PATIENCE = 60.0
"""Seconds to wait for the writers of other processes."""

_LOG_HEAD, _FRAME_HEAD = 32, 24

_kept: dict[tuple[int, int], int] = {}
"""Descriptors by device and inode.  Closing any descriptor of a database releases all locks that SQLite has on it in
this process, so these stay open."""


class Still:
    """The file of a database and the copy of its *log*, and a *connection* that reads the same state of it."""

    def __init__(self, path: Path, log: Path, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._path = path
        self._log = log

    def file_parts(self) -> Iterator[memoryview]:
        """Yield the file of the database in parts.  Each is valid until the next."""
        yield from _parts(_descriptor(self._path))

    def log_parts(self) -> Iterator[memoryview]:
        """Yield the log in parts."""
        with self._log.open("rb") as log:
            yield from _parts(log.fileno())


@asynccontextmanager
async def standing_still(path: Path, folder: Path) -> AsyncIterator[Still]:
    """Hold the database as it is now, while others go on; *folder* is for the copy of the log.

    The log of the database grows meanwhile, and to sync a file that grows takes longer.  So nothing should rest here.
    Raises ``sqlite3.OperationalError`` if other processes write without a pause for a minute.
    """
    with closing(sqlite_file.connect(path, timeout=_PATIENCE, read_only=True, guest=True)) as reader:
        log = folder / "log"
        await asyncio.to_thread(_begin, reader, path, log)
        yield Still(path, log, reader)


def _begin(reader: sqlite3.Connection, path: Path, log: Path) -> None:
    with ExitStack() as stack:
        with closing(sqlite_file.connect(path, timeout=_PATIENCE, guest=True)) as writer:
            writer.execute("BEGIN IMMEDIATE")
            reader.execute("BEGIN")
            reader.execute("SELECT 1 FROM sqlite_schema").fetchone()  # only a read begins the transaction
            source = stack.enter_context(path.with_name(f"{path.name}-wal").open("rb"))
            head, end = os.pread(source.fileno(), _LOG_HEAD, 0), _log_end(source.fileno())
            writer.execute("ROLLBACK")
        with log.open("wb") as copy:
            for piece in _parts(source.fileno(), end):
                copy.write(piece)
            if os.pread(source.fileno(), _LOG_HEAD, 0) != head:
                copy.truncate(0)


def _descriptor(path: Path) -> int:
    status = path.stat()
    known = status.st_dev, status.st_ino
    if known not in _kept:
        _kept[known] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return _kept[known]


def _parts(fd: int, end: int | None = None) -> Iterator[memoryview]:
    buffer, at = memoryview(bytearray(PART)), 0
    while length := os.preadv(fd, [buffer if end is None else buffer[: max(0, end - at)]], at):
        yield buffer[:length]
        at += length


def _log_end(fd: int) -> int:
    """Return where the last commit in the log ends.  What was written since it was begun comes first, with its salt."""
    head = os.pread(fd, _LOG_HEAD, 0)
    if len(head) < _LOG_HEAD:
        return 0
    step = _FRAME_HEAD + int.from_bytes(head[8:12], "big")

    def frame(number: int) -> bytes:
        return os.pread(fd, _FRAME_HEAD, _LOG_HEAD + number * step)

    total = (os.fstat(fd).st_size - _LOG_HEAD) // step
    count = bisect_left(range(total), True, key=lambda number: frame(number)[8:16] != head[16:24])
    while count and frame(count - 1)[4:8] == bytes(4):  # of a transaction that was rolled back
        count -= 1
    return _LOG_HEAD + count * step
