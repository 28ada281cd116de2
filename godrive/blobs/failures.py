"""Translates errors of the operating system into ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from godrive.errors import StorageFull, StoreUnavailable

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def failures() -> Iterator[None]:
    """Raise ``StorageFull`` for a full disk and ``StoreUnavailable`` for any other ``OSError``."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull("The disk of the blobs is full.", hint="Free space on it.") from error
        raise StoreUnavailable(
            f"The blob store failed: {error.strerror}.", hint="The kernel's log has the reason."
        ) from error
