"""A limit on the number of connections, so that files can always be opened.

A connection costs a client nothing, but it takes one of this process's file
descriptors, as every blob that is read or written does.  See
:mod:`godrive.http.wire.descriptors` for how descriptors are divided.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from itertools import islice
from typing import Protocol

PATIENCE = 5.0
"""Seconds for which a full server waits for the rest of a request, or for its answer to be taken."""

_EXAMINED = 32


class Evictable(Protocol):
    """A connection, as far as the limit needs to know."""

    def is_idle(self) -> bool:
        """Whether no request is in progress, so that closing it loses nothing and frees its descriptor at once."""
        ...

    def stalled_since(self) -> float | None:
        """Since when the server waits for the client, on ``time.monotonic``; ``None`` while it does not."""
        ...

    def force_close(self) -> None:
        """Close now."""
        ...

    def cut(self) -> None:
        """Close now, whatever has not been sent."""
        ...


class ConnectionLimit:
    """At most *most* connections.

    When full, close the oldest idle connection.  If none of the 32 oldest is
    idle, cut the one of them that has made the server wait for longest, if that
    is :data:`PATIENCE` seconds: requests that are never finished must not keep
    others out.  Else refuse the new one.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._connections: OrderedDict[Evictable, None] = OrderedDict()
        self._on_empty: asyncio.Event | None = None

    async def wait_empty(self) -> None:
        """Wait until there is no connection."""
        self._on_empty = asyncio.Event()
        if self._connections:
            await self._on_empty.wait()

    def __len__(self) -> int:
        return len(self._connections)

    def count_busy(self) -> int:
        """Return the number of connections with a request in progress."""
        return sum(not connection.is_idle() for connection in self._connections)

    def enter(self, connection: Evictable) -> None:
        """Count a new connection; close an idle one, or the new one, if there are too many."""
        if len(self._connections) >= self._most and not self._make_room():
            connection.force_close()
            return
        self._connections[connection] = None

    def leave(self, connection: Evictable) -> None:
        """Stop counting a connection.  Idempotent."""
        self._connections.pop(connection, None)
        if self._on_empty is not None and not self._connections:
            self._on_empty.set()

    def _make_room(self) -> bool:
        longest, stalled = time.monotonic() - PATIENCE, None
        for connection in list(islice(self._connections, _EXAMINED)):  # not all: new ones may come quickly
            if connection.is_idle():
                self.leave(connection)
                connection.force_close()
                return True
            self._connections.move_to_end(connection)
            since = connection.stalled_since()
            if since is not None and since <= longest:
                longest, stalled = since, connection
        if stalled is None:
            return False
        self.leave(stalled)
        stalled.cut()
        return True
