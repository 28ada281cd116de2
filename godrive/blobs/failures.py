"""Translates errors of the operating system into ours."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from godrive.blobs import BlobTooLarge
from godrive.errors import PASSING, StorageFull, StoreUnavailable

_FULL = {errno.ENOSPC, errno.EDQUOT}
_PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
}
"""What SQLite says when a restart may help: for example, another process has the lock, or the disk failed."""


def is_full(error: BaseException) -> bool:
    """Whether the error, of the system or of SQLite, says that the disk has no room."""
    if isinstance(error, sqlite3.Error):
        return _code(error) == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in _FULL


def _code(error: sqlite3.Error) -> int:
    """Return the primary result code of SQLite; 0 if there is none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def full() -> StorageFull:
    """Return the error for callers while the disk has no room."""
    return StorageFull("The disk of the blobs is full.", hint="Free space on it.")


def _too_large() -> BlobTooLarge:
    return BlobTooLarge(
        "The disk of the blobs takes no file of that size.",
        hint="It is a limit of the file system, or of the process: `ulimit -f`, or LimitFSIZE= in a unit of systemd.",
    )


def _failed(error: OSError | sqlite3.Error) -> StoreUnavailable:
    if isinstance(error, OSError):
        return StoreUnavailable(f"The blob store failed: {error.strerror}.", hint="The kernel's log has the reason.")
    return StoreUnavailable(
        f"The index of the packs cannot be used: {error}.", hint="Another process may hold it, or the disk fails."
    )


def may_pass(error: OSError | sqlite3.Error) -> StorageFull | StoreUnavailable | None:
    """Return the error for a failure that may pass; ``None`` if only the operator can correct it."""
    if is_full(error):
        return full()
    passes = error.errno in PASSING if isinstance(error, OSError) else _code(error) in _PASSING
    return _failed(error) if passes else None


@contextmanager
def failures() -> Iterator[None]:
    """For an ``OSError``, raise ``StorageFull``, ``BlobTooLarge`` (no file may be so large), ``StoreUnavailable``."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise full() from error
        if error.errno == errno.EFBIG:
            raise _too_large() from error
        raise _failed(error) from error
