"""Who may checkpoint the write-ahead log of a database: the catalog, or the index of the packs.

A *server* owns the log: it holds the lock, shared, as long as it has the
database open, and SQLite checkpoints in its commits.  A *guest*, such as a
command, never checkpoints beside a server: it takes the lock for the time of a
checkpoint, alone, and does without if it cannot.  So two processes never
checkpoint at once, which some releases of SQLite do not survive
(https://sqlite.org/wal.html#walresetbug), and a command never makes the server
wait for a checkpoint.  When a connection of a guest closes, SQLite checkpoints
only if no other process has the database open.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from godrive.paths import open_or_create

GUEST_LOG = 16 * 1024 * 1024
"""Bytes of the log from which a guest that is alone checkpoints."""


class WalLock:
    """The lock beside the database at *path*."""

    def __init__(self, path: Path, *, guest: bool) -> None:
        self._path = path.with_name(f"{path.name}-lock")
        self._log = path.with_name(f"{path.name}-wal")
        self._guest = guest
        self._fd: int | None = None

    def open(self) -> None:
        """Prepare the lock.  A server waits until a guest has ended its checkpoint.  Raises ``OSError``."""
        self._fd = open_or_create(self._path)
        if not self._guest:
            fcntl.flock(self._fd, fcntl.LOCK_SH)

    def close(self) -> None:
        """Release the lock.  Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Yield whether this process may checkpoint until the end of the block."""
        if not self._guest:
            yield True
            return
        if self._fd is None:
            yield False
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    @property
    def is_long(self) -> bool:
        """Whether a guest should try to checkpoint."""
        try:
            return self._guest and self._log.stat().st_size > GUEST_LOG
        except OSError:
            return False
