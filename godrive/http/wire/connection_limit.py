"""A limit on the number of connections, so that files can always be opened.

A connection costs a client nothing, but it takes one of this process's file
descriptors, as every blob that is read or written does.  See
:mod:`godrive.http.wire.descriptors` for how descriptors are divided.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from itertools import islice
from typing import Protocol

_EXAMINED = 32


class Evictable(Protocol):
    """A connection, as far as the limit needs to know."""

    def is_idle(self) -> bool:
        """Whether no request is in progress, so that closing it loses nothing and frees its descriptor at once."""
        ...

    def force_close(self) -> None:
        """Close now."""
        ...


class ConnectionLimit:
    """At most *most* connections.

    When full, close the oldest idle connection.  If none of the 32 oldest is
    idle, refuse the new one.
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
        """How many connections have a request in progress."""
        return sum(not connection.is_idle() for connection in self._connections)

    def enter(self, connection: Evictable) -> None:
        """Count a new connection; close an idle one, or the new one, if there are too many."""
        if len(self._connections) >= self._most:
            idle = self._find_idle()
            if idle is None:
                connection.force_close()
                return
            self.leave(idle)
            idle.force_close()
        self._connections[connection] = None

    def leave(self, connection: Evictable) -> None:
        """Count a connection no more.  Idempotent."""
        self._connections.pop(connection, None)
        if self._on_empty is not None and not self._connections:
            self._on_empty.set()

    def _find_idle(self) -> Evictable | None:
        for connection in list(islice(self._connections, _EXAMINED)):  # not all: new ones may come quickly
            if connection.is_idle():
                return connection
            self._connections.move_to_end(connection)
        return None
