"""Connections to PostgreSQL: a few, kept open, made again when the server was away.

asyncpg has a pool of its own, which asks the server to reset a connection each
time it is given back: a round trip that every operation would pay for.  Ours
leave nothing to reset.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import TypeAlias

import asyncpg

from godrive.catalog.postgres_errors import is_lost
from godrive.errors import StoreUnavailable

CONNECT_TIMEOUT = 5.0
STATEMENT_TIMEOUT = 30.0
_SETTINGS = {
    "application_name": "godrive",
    "jit": "off",  # it pays for reports, not for lookups
    "statement_timeout": "30s",
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
}

Connection: TypeAlias = asyncpg.Connection


async def connect(dsn: str, *, timeout: float | None = STATEMENT_TIMEOUT) -> Connection:
    """A connection with our settings, each statement prepared once and answered within *timeout* seconds.

    Raises what asyncpg does, and OSError.
    """
    connection: Connection = await asyncpg.connect(
        dsn,
        timeout=CONNECT_TIMEOUT,
        command_timeout=timeout,
        statement_cache_size=512,
        max_cached_statement_lifetime=0,
        server_settings=_SETTINGS,
    )
    return connection


class Pool:
    """At most *size* connections, of which one is never lent to those who only read (where there is more than one)."""

    def __init__(self, dsn: str, size: int) -> None:
        self._dsn = dsn
        self._size = size
        self._places = asyncio.Semaphore(size)
        self._reading_places = asyncio.Semaphore(max(1, size - 1))
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self.closed = False

    def hold(self, *, to_read: bool = False) -> _Hold:
        """A connection for the length of an ``async with``, for one operation at a time.

        Raises as :func:`connect`, ``TimeoutError`` when none gets free, ``StoreUnavailable`` once closed.
        """
        return _Hold(self, (self._reading_places, self._places) if to_read else (self._places,))

    async def take(self) -> Connection:
        """A connection, for whoever has a place."""
        if self.closed:
            raise StoreUnavailable("The catalog is closed.")
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                break
        else:
            connection = await connect(self._dsn)
        self._busy.add(connection)
        return connection

    def give_back(self, connection: Connection, *, broken: bool) -> None:
        """Keep it for the next, unless it is *broken*, closed or in the middle of something."""
        self._busy.discard(connection)
        if broken or self.closed or connection.is_closed() or connection.is_in_transaction():
            connection.terminate()
        else:
            self._idle.append(connection)

    async def close(self) -> None:
        """Let what is under way finish, for a while, and disconnect; again is harmless."""
        if self.closed:
            return
        self.closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_TIMEOUT):
                for _ in range(self._size):
                    await self._places.acquire()
        for connection in self._busy:
            connection.terminate()
        while self._idle:
            await self._idle.pop().close(timeout=CONNECT_TIMEOUT)


class _Hold:
    __slots__ = ("_connection", "_entered", "_places", "_pool")

    def __init__(self, pool: Pool, places: Sequence[asyncio.Semaphore]) -> None:
        self._pool = pool
        self._places = places
        self._entered = 0

    async def __aenter__(self) -> Connection:
        try:
            for place in self._places:
                if place.locked():
                    async with asyncio.timeout(CONNECT_TIMEOUT):
                        await place.acquire()
                else:
                    await place.acquire()
                self._entered += 1
            self._connection = await self._pool.take()
        except BaseException:
            self._leave()
            raise
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Cancelled in the middle of a statement, a connection still waits for its answer.
        cut_off = error is not None and not isinstance(error, Exception)
        lost = error is not None and (isinstance(error, StoreUnavailable) or is_lost(error))
        self._pool.give_back(self._connection, broken=cut_off or lost)
        self._leave()

    def _leave(self) -> None:
        for place in self._places[: self._entered]:
            place.release()
