"""A file beside a SQLite database that keeps room for what frees room.

On a full disk even a deletion needs space: it is written to SQLite's
write-ahead log first.  So a few megabytes are set aside while there is room.
When the disk is full the file is removed, and most of its space goes to the
log at once, before another program can take it.  Only operations that do not
add data may use it: people can still log in, delete files and empty the trash,
and the bytes of small files can be deleted.  When there is room again the file
is made again.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from godrive.paths import open_or_create

SIZE = 4 * 1024 * 1024
"""Bytes set aside."""

LOG = 3 * 1024 * 1024
"""Bytes of them for the log, which are used again after each checkpoint; the rest is for the database to grow."""

_MARGIN = 1024 * 1024
_FULL = {errno.ENOSPC, errno.EDQUOT}


class Reserve:
    """The reserve of the database at *path*."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f"{path.name}-reserve")
        self._log = path.with_name(f"{path.name}-wal")

    def make(self) -> bool:
        """Set the space aside; whether there was room for it.

        A file system that cannot set space aside counts as one with room.
        """
        try:
            handle = open_or_create(self.path)
        except OSError as error:
            return error.errno not in _FULL
        try:
            if os.fstat(handle).st_size == SIZE:
                return True
            _allocate(handle, SIZE)
            if self._free() >= _MARGIN:
                return True
            self.release()
        except OSError as error:
            self.release()
            return error.errno not in _FULL
        finally:
            os.close(handle)
        return False

    def release(self) -> None:
        """Give the space back.  Idempotent."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)

    def give_to_log(self) -> None:
        """Let the log have its part.  SQLite ignores what follows the last frame of its log."""
        with suppress(OSError):
            handle = os.open(self._log, os.O_RDWR | os.O_CLOEXEC)
            try:
                _allocate(handle, LOG)
            finally:
                os.close(handle)

    def has_room(self) -> bool:
        """Whether :meth:`make` would succeed."""
        try:
            return self._free() >= SIZE + _MARGIN
        except OSError:
            return False

    def _free(self) -> int:
        status = os.statvfs(self.path.parent)
        return status.f_bavail * status.f_frsize


def _allocate(handle: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
    elif (present := os.fstat(handle).st_size) < size:
        os.pwrite(handle, bytes(size - present), present)
        os.fsync(handle)
