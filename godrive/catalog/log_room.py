"""Room at the end of SQLite's write-ahead log, so that few commits make the file longer.

The sync of a file that has become longer waits for the journal of the file
system, and so for what other files of it are to be written: up to 5 ms instead
of 0.3 while large files are stored.  Bytes that are only allocated do not help:
to write them for the first time changes the journal too.  SQLite ignores what
follows the last frame of its log, and uses it again after each checkpoint.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_MOST = 4 << 20
"""Bytes added at a time.  A log that is shorter is doubled."""

_EVERY = 8
"""Transactions for each look at the length: a look gives up the interpreter lock, which costs more than itself."""


class LogRoom:
    """The room in the log of the database at *path*."""

    def __init__(self, path: Path) -> None:
        self._log = path.with_name(f"{path.name}-wal")
        self._size = self._measure()
        self._transactions = 0

    def keep(self) -> None:
        """Add room if the log has become longer.  The commit that follows syncs it.

        The caller has begun a transaction that writes, so that no other process adds to the log.
        """
        self._transactions += 1
        if self._transactions % _EVERY:
            return
        size = self._measure()
        if size > self._size:
            with suppress(OSError):  # the disk is full, for example: then SQLite makes the log longer, or fails
                self._add(size)
            size = self._measure()
        self._size = size

    def _measure(self) -> int:
        try:
            return self._log.stat().st_size
        except FileNotFoundError:
            return 0

    def _add(self, size: int) -> None:
        handle = os.open(self._log, os.O_WRONLY | os.O_CLOEXEC)
        try:
            wanted = min(size, _MOST)
            if os.pwrite(handle, bytes(wanted), size) < wanted:  # the disk is nearly full
                os.ftruncate(handle, size)
        except OSError:
            os.ftruncate(handle, size)
            raise
        finally:
            os.close(handle)
