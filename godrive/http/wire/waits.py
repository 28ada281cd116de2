"""Requests that wait for changes: limits on their number, and what ends them.

A request that waits takes no slot of a fair queue, only a connection.  So the
number of such requests has limits of its own: for each user, and in total at
most half of the connections, so that other requests can still connect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

from godrive.errors import TooManyRequests
from godrive.http.wire.connection import Connection
from godrive.http.wire.descriptors import most_connections
from godrive.model import UserId
from godrive.principal import Caller
from godrive.watch import ChangeWatch, Watch, Woken

_RETRY_AFTER = 5.0


class Waits:
    """The waiting requests of one application."""

    def __init__(self, changes: ChangeWatch, *, most: int, per_user: int) -> None:
        self._changes = changes
        self._most = min(most, max(1, most_connections() // 2))
        self._per_user = per_user
        self._watches: set[Watch] = set()
        self._by_user: Counter[UserId] = Counter()
        self._is_closing = False

    def __len__(self) -> int:
        """Return the number of waiting requests."""
        return len(self._watches)

    @contextmanager
    def enter(self, request: web.Request, by: Caller) -> Iterator[Watch]:
        """Let a request wait for changes of the drive of *by*.  Raises ``TooManyRequests``."""
        owner_id = by.user_id
        if len(self._watches) >= self._most or self._by_user[owner_id] >= self._per_user:
            raise TooManyRequests("Too many requests wait for changes.", retry_after=_RETRY_AFTER)
        self._by_user[owner_id] += 1
        try:
            with self._changes.watch(by) as watch, _when_left(request, lambda: watch.wake(Woken.LEFT)):
                self._watches.add(watch)
                if self._is_closing:
                    watch.wake(Woken.CLOSING)
                try:
                    yield watch
                finally:
                    self._watches.discard(watch)
        finally:
            self._by_user[owner_id] -= 1
            if not self._by_user[owner_id]:
                del self._by_user[owner_id]

    def close(self) -> None:
        """End every wait, now and from now on.  Idempotent."""
        self._is_closing = True
        for watch in self._watches:
            watch.wake(Woken.CLOSING)


@contextmanager
def _when_left(request: web.Request, callback: Callable[[], None]) -> Iterator[None]:
    """Call *callback* when the client ends its side of the connection or is lost."""
    connection = request.protocol
    if isinstance(connection, Connection):  # another server may run the application
        connection.on_leave = callback
    try:
        yield
    finally:
        if isinstance(connection, Connection):
            connection.on_leave = None
