"""A limit on the number of connections, so that files can always be opened.

A connection costs a client nothing, but it takes one of this process's file
descriptors, as every blob that is read or written does.  See
:mod:`godrive.http.wire.descriptors` for how descriptors are divided.

Theory of operation.  A full server closes a connection for each new one.  What
one client may do to the others then depends on how many connections it has, so
that a client which opens all of them, and sends a byte a second on each, keeps
nobody else out: its new connections displace its own, and those of the others
displace its.  A client is an IPv4 address or an IPv6 /64.  All connections of a
proxy are those of one client, to which none of this makes a difference.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from itertools import islice
from typing import Any, Protocol

from godrive.rules.networks import network

PATIENCE = 5.0
"""Seconds for which a full server waits for the rest of a request, or for its answer to be taken."""

TRICKLE = 8192
"""Bytes a second: a body that is slower on average does not arrive, where it must arrive as a whole."""

_EXAMINED = 32


def client_of(peer: Any) -> str:
    """Return whose the connection to *peer*, an address of a socket, is.  All on a Unix socket are of one client."""
    return network(peer[0]) if isinstance(peer, tuple) else ""


class Evictable(Protocol):
    """A connection, as far as the limit needs to know."""

    client: str
    """Whose it is, as :func:`client_of` says."""

    def is_idle(self) -> bool:
        """Whether no request is in progress, so that closing it loses nothing and frees its descriptor at once."""
        ...

    def stalled_since(self, *, whole: bool = False) -> float | None:
        """Since when the server waits for the client, on ``time.monotonic``; ``None`` while it does not.

        The server waits since the last byte of an unfinished request; if it must come as a *whole*, since its first,
        unless its body is faster than :data:`TRICKLE`.
        """
        ...

    def force_close(self) -> None:
        """Close now."""
        ...

    def cut(self) -> None:
        """Close now, whatever has not been sent."""
        ...


class ConnectionLimit:
    """At most *most* connections.

    When full, close one of the 32 oldest: an idle one, else the one that has
    made the server wait for longest, if that is :data:`PATIENCE` seconds:
    requests that are never finished must not keep others out.  Else refuse the
    new one.

    A client displaces no connections of one that has fewer, except idle ones,
    and not even those if it has more than half of all.  A client that has more
    than a quarter of all, and more than twice as many as the one of the new
    connection, loses first what has not arrived as a whole in :data:`PATIENCE`
    seconds, and trickles.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._connections: OrderedDict[Evictable, None] = OrderedDict()
        self._counts: Counter[str] = Counter()
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
        """Count a new connection; close another, or the new one, if there are too many."""
        if len(self._connections) >= self._most and not self._make_room(connection.client):
            connection.force_close()
            return
        self._connections[connection] = None
        self._counts[connection.client] += 1

    def leave(self, connection: Evictable) -> None:
        """Stop counting a connection.  Idempotent."""
        if connection in self._connections:
            del self._connections[connection]
            self._counts[connection.client] -= 1
            if not self._counts[connection.client]:
                del self._counts[connection.client]
        if self._on_empty is not None and not self._connections:
            self._on_empty.set()

    def _make_room(self, client: str) -> bool:
        """Close a connection, so that *client* can have one.  Returns false if there is none to close."""
        own = self._counts[client] + 1
        latest = time.monotonic() - PATIENCE
        idle: Evictable | None = None
        kept: Evictable | None = None
        stalled: Evictable | None = None
        most_stalled = (0, 0.0)
        for connection in list(islice(self._connections, _EXAMINED)):  # not all: new ones may come quickly
            theirs, is_own = self._counts[connection.client], connection.client == client
            self._connections.move_to_end(connection)
            if connection.is_idle():
                if theirs >= own:
                    return self._end(connection)
                if is_own:
                    idle = idle or connection
                else:
                    kept = kept or connection
            elif theirs >= own or is_own:
                since = connection.stalled_since(whole=theirs > 2 * own and 4 * theirs > self._most)
                if since is not None and since <= latest and (stalled is None or (theirs, -since) > most_stalled):
                    stalled, most_stalled = connection, (theirs, -since)
        if idle is None and 2 * own <= self._most:
            idle = kept
        if idle is not None:
            return self._end(idle)
        if stalled is not None:
            self.leave(stalled)
            stalled.cut()
        return stalled is not None

    def _end(self, connection: Evictable) -> bool:
        self.leave(connection)
        connection.force_close()
        return True
