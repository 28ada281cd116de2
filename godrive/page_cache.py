"""Whether a read came from the page cache, so that the event loop does not wait for a disk."""

from __future__ import annotations

import resource


def disk_reads() -> int:
    """How much this thread has ever read from a disk, without what came from the page cache."""
    return resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)).ru_inblock
