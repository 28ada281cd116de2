"""The catalog in a PostgreSQL database, which several gateways may share.

Theory of operation.  Each operation has a connection of a small pool to
itself.  The rules take the owner's row first (``Tx.lock``), so what they check
holds until they commit, whichever gateway the other writer came through.  The
isolation is READ COMMITTED: a statement sees what was committed when it began.
Commits that come together are flushed together by the server, so nothing is
gathered here.

A read is its statements with no transaction around them, for that would cost two
round trips more than the one it needs.

What another transaction, a restart of the server or a failover spoils is run
again from the start, for a few seconds; then the caller gets
``StoreUnavailable``.  The one thing never repeated is a ``COMMIT`` whose answer
was lost, for it may have happened: that is ``StoreUnavailable`` at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from godrive import config
from godrive.catalog import Row, Tx, migrations
from godrive.catalog.postgres_errors import is_lost, is_raced, refused, translate, unavailable
from godrive.catalog.postgres_pool import Connection, Pool
from godrive.errors import DriveError, StoreUnavailable
from godrive.model import UserId

T = TypeVar("T")

WORDS = {
    "text": 'TEXT COLLATE "C"',
    "serial": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "clustered": "",
}
_MIGRATION_LOCK = int.from_bytes(b"godrive")
_PATIENCE = 5.0
_SHORTEST_DELAY = 0.01
_LONGEST_DELAY = 0.5


class PostgresTx:
    """A transaction, or for a read just a connection."""

    def __init__(self, connection: Connection, *, outbox: bool) -> None:
        self._connection = connection
        self.outbox = outbox

    async def one(self, sql: str, *values: Any) -> Row | None:
        return cast("Row | None", await self._connection.fetchrow(sql, *values))

    async def all(self, sql: str, *values: Any) -> list[Row]:
        return cast("list[Row]", await self._connection.fetch(sql, *values))

    async def run(self, sql: str, *values: Any) -> int:
        status = await self._connection.execute(sql, *values)
        return int(status.rpartition(" ")[2])

    async def lock(self, user_id: UserId) -> None:
        await self._connection.fetchrow("SELECT 1 FROM users WHERE id = $1 FOR UPDATE", user_id)


class PostgresCatalog:
    """A catalog in the database of ``catalog.dsn``, with at most ``catalog.pool_size`` connections.

    *outbox* has every change of a file leave an event in the same transaction.
    """

    def __init__(self, settings: config.Catalog, *, outbox: bool = False) -> None:
        self._dsn = settings.dsn
        self._size = settings.pool_size
        self._outbox = outbox
        self._pool: Pool | None = None

    async def open(self) -> None:
        self._pool = Pool(self._dsn, self._size)
        try:
            await self._persist(self._migrate)
        except BaseException as error:
            await self.close()
            raise refused(error) or error from None

    async def close(self) -> None:
        if self._pool is not None:
            await self._pool.close()

    async def read(self, operation: Callable[[Tx], Awaitable[T]]) -> T:
        async def attempt(pool: Pool) -> T:
            async with pool.hold() as connection:
                return await operation(PostgresTx(connection, outbox=self._outbox))

        return await self._persist(attempt)

    async def write(self, operation: Callable[[Tx], Awaitable[T]]) -> T:
        async def attempt(pool: Pool) -> T:
            async with pool.hold() as connection:
                await connection.execute("BEGIN")
                try:
                    value = await operation(PostgresTx(connection, outbox=self._outbox))
                except Exception:
                    if not connection.is_closed():
                        await connection.execute("ROLLBACK")
                    raise
                try:
                    await connection.execute("COMMIT")
                except Exception as error:
                    if is_lost(error):
                        raise unavailable(error) from error
                    raise
                return value

        return await self._persist(attempt)

    async def _migrate(self, pool: Pool) -> None:
        async with pool.hold() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
            await connection.execute(migrations.NOTE_TABLE)
            applied = {row[0] for row in await connection.fetch(migrations.APPLIED)}
            for step in migrations.missing(applied):
                for statement in step.statements(WORDS):
                    await connection.execute(statement)
                await connection.execute(migrations.NOTE, step.version, step.name)

    async def _persist(self, attempt: Callable[[Pool], Awaitable[T]]) -> T:
        """Make attempts until one succeeds, none can, or patience is at an end."""
        pool = self._pool
        if pool is None or pool.closed:
            raise StoreUnavailable("The catalog is closed.")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE
        delay = _SHORTEST_DELAY
        while True:
            try:
                return await attempt(pool)
            except DriveError:
                raise
            except Exception as error:
                if not (is_raced(error) or is_lost(error)):
                    raise translate(error) or error from error
                if pool.closed or loop.time() + delay >= deadline:
                    raise unavailable(error) from error
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, _LONGEST_DELAY)
