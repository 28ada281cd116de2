"""Divide the file descriptors of this process.

A connection takes one.  An upload in progress takes one more, for its staging
file; so does a download, for the blob.  That makes two for each connection.  A
large download takes a third, a duplicate of its socket that threads may write
to; there are some for those, and a download that gets none is sent piece by
piece, without it and without keeping its blob open.  The reserve is for the
catalog, the folders, the log and the threads of the disk.
"""

from __future__ import annotations

import resource

MOST = 16_384
"""Connections, however many descriptors there are: memory has an end too."""

RESERVE = 96
"""Descriptors for everything but clients.  A process that has fewer than twice as many keeps half."""

MOST_DUPLICATES = 512


def _for_clients() -> int | None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft - min(RESERVE, soft // 2)


def most_duplicates() -> int:
    """Return how many downloads may duplicate their socket."""
    clients = _for_clients()
    return MOST_DUPLICATES if clients is None else min(clients // 8, MOST_DUPLICATES)


def most_connections() -> int:
    """Return how many connections may each have a file open."""
    clients = _for_clients()
    return MOST if clients is None else max(1, min((clients - most_duplicates()) // 2, MOST))


class Duplicates:
    """The duplicates of sockets that there may be."""

    def __init__(self, most: int) -> None:
        self._free = most

    def take(self) -> bool:
        """Take one, if there is one left."""
        if self._free <= 0:
            return False
        self._free -= 1
        return True

    def give_back(self) -> None:
        """Give one back."""
        self._free += 1
