"""Translates errors of the operating system into ours."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from godrive.blobs import BlobTooLarge
from godrive.errors import PASSING, StorageFull, StoreUnavailable

_FULL = {errno.ENOSPC, errno.EDQUOT}


def is_full(error: BaseException) -> bool:
    """Whether the error, of the system or of SQLite, says that the disk has no room."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return isinstance(error, OSError) and error.errno in _FULL


def full() -> StorageFull:
    """Return the error for callers while the disk has no room."""
    return StorageFull("The disk of the blobs is full.", hint="Free space on it.")


def _too_large() -> BlobTooLarge:
    return BlobTooLarge(
        "The disk of the blobs takes no file of that size.",
        hint="It is a limit of the file system, or of the process: `ulimit -f`, or LimitFSIZE= in a unit of systemd.",
    )


def _failed(error: OSError) -> StoreUnavailable:
    return StoreUnavailable(f"The blob store failed: {error.strerror}.", hint="The kernel's log has the reason.")


def may_pass(error: OSError | sqlite3.Error) -> StorageFull | StoreUnavailable | None:
    """Return the error for a failure that may pass; ``None`` if only the operator can correct it."""
    if is_full(error):
        return full()
    return _failed(error) if isinstance(error, OSError) and error.errno in PASSING else None


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
