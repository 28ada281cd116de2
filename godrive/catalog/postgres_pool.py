"""Connections to PostgreSQL: a bounded number, kept open, replaced when the server has been away.

asyncpg has a pool of its own.  It returns each connection in a task, runs a hook
to reset it (our connections leave nothing to reset), and lends any connection to
anyone.  This one costs less for each operation, and keeps connections for
reads, writes and chores apart, so that none of them waits for another.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from enum import Enum, auto
from types import TracebackType
from typing import TypeAlias

import asyncpg

from godrive.catalog.postgres_errors import is_lost
from godrive.errors import AskTimeout, StoreUnavailable

CONNECT_TIMEOUT = 5.0
STATEMENT_TIMEOUT = 30.0
_SETTINGS = {
    "application_name": "godrive",
    # Rules rely on it, and a database or a user may have another default.
    "default_transaction_isolation": "read committed",
    "jit": "off",  # it pays off for reports and not for lookups
    "statement_timeout": "30s",
    # One operation that waits for a lock must not delay the rest of its batch for long.
    "lock_timeout": "100ms",
    "idle_in_transaction_session_timeout": "60s",
}
_DURABLE = "SELECT set_config('synchronous_commit', 'local', false) WHERE current_setting('synchronous_commit') = 'off'"
"""Makes a commit durable before its answer.  Which standbys must have it before that is up to the server."""

Connection: TypeAlias = asyncpg.Connection


async def connect(dsn: str, *, timeout: float | None = STATEMENT_TIMEOUT) -> Connection:
    """A connection with our settings, which prepares each statement once and limits it to *timeout* seconds.

    Raises what asyncpg raises, and OSError.
    """
    connection: Connection = await asyncpg.connect(
        dsn,
        timeout=CONNECT_TIMEOUT,
        command_timeout=timeout,
        statement_cache_size=512,
        max_cached_statement_lifetime=0,
        server_settings=_SETTINGS,
    )
    try:
        await connection.execute(_DURABLE, timeout=CONNECT_TIMEOUT)
    except BaseException:
        connection.terminate()
        raise
    return connection


class Use(Enum):
    """What a connection is used for."""

    READ = auto()
    WRITE = auto()
    CHORE = auto()


def shares(size: int) -> list[tuple[set[Use], int]]:
    """How *size* connections are divided: one for chores, a third for writes but two if possible, the rest for reads.

    With two connections, writes and chores share one; with one, everything does.
    """
    if size == 1:
        return [(set(Use), 1)]
    if size == 2:
        return [({Use.READ}, 1), ({Use.WRITE, Use.CHORE}, 1)]
    writes = max(min(2, size - 2), (size - 1) // 3)
    return [({Use.READ}, size - 1 - writes), ({Use.WRITE}, writes), ({Use.CHORE}, 1)]


class Pool:
    """At most *size* connections, divided by :func:`shares`."""

    def __init__(self, dsn: str, size: int) -> None:
        self._dsn = dsn
        self._shares = [(asyncio.Semaphore(most), most) for _, most in shares(size)]
        self._places = {use: self._shares[n][0] for n, (uses, _) in enumerate(shares(size)) for use in uses}
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self.closed = False

    def hold(self, use: Use) -> _Hold:
        """A connection for the length of an ``async with``, for one operation at a time.

        Raises as :func:`connect`, ``TimeoutError`` if none becomes free, ``StoreUnavailable`` once closed.
        """
        return _Hold(self, self._places[use])

    async def take(self) -> Connection:
        """A connection.  The caller must hold a place."""
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
        """Keep the connection for later use, unless it is *broken*, closed or in a transaction."""
        self._busy.discard(connection)
        if broken or self.closed or connection.is_closed() or connection.is_in_transaction():
            connection.terminate()
        else:
            self._idle.append(connection)

    async def close(self) -> None:
        """Wait a while for operations in progress, then disconnect.  Idempotent."""
        if self.closed:
            return
        self.closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_TIMEOUT):
                for places, most in self._shares:
                    for _ in range(most):
                        await places.acquire()
        for connection in self._busy:
            connection.terminate()
        while self._idle:
            await self._idle.pop().close(timeout=CONNECT_TIMEOUT)


class _Hold:
    __slots__ = ("_connection", "_places", "_pool")

    def __init__(self, pool: Pool, places: asyncio.Semaphore) -> None:
        self._pool = pool
        self._places = places

    async def __aenter__(self) -> Connection:
        if self._places.locked():
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._places.acquire()
        else:
            await self._places.acquire()
        try:
            self._connection = await self._pool.take()
        except BaseException:
            self._places.release()
            raise
        return self._connection

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After a cancellation in the middle of a statement, the connection still waits for the answer.
        cut_off = error is not None and not isinstance(error, Exception)
        lost = error is not None and (isinstance(error, StoreUnavailable | AskTimeout) or is_lost(error))
        self._pool.give_back(self._connection, broken=cut_off or lost)
        self._places.release()
