"""Where the operating system's errors become ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from godrive.errors import StorageFull, StoreUnavailable

_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextmanager
def failures() -> Iterator[None]:
    """A full disk is ``StorageFull``; everything else the system says is ``StoreUnavailable``."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFull("There is no room left for blobs.", hint="Make room on the disk.") from error
        raise StoreUnavailable(
            f"The blob store failed: {error.strerror}.", hint="See the kernel's log for the disk's own words."
        ) from error
