"""The catalog in a PostgreSQL database, which several gateways may share.

Theory of operation.  The rules take the owner's row before they rely on what
they have read (``Tx.lock``), and leave to the indices who has a name; so what
they check holds until they commit, whichever gateway another writer came
through.  The isolation is READ COMMITTED: a statement sees what was committed
when it began.

A read is its statements with no transaction around them, for that would cost two
round trips more than the one it needs.  Writes that wait together share a
transaction (``postgres_group``).

What another transaction, a restart of the server or a failover spoils is run
again from the start, for a few seconds; then the caller gets
``StoreUnavailable``.  The one thing never repeated is a ``COMMIT`` whose answer
was lost, for it may have happened: that is ``StoreUnavailable`` at once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar, cast

from godrive import config
from godrive.catalog import Row, Tx, migrations
from godrive.catalog.postgres_errors import is_lost, is_raced, refused, translate, unavailable
from godrive.catalog.postgres_group import GroupCommit, Operation
from godrive.catalog.postgres_pool import Connection, Pool
from godrive.errors import DriveError, StoreUnavailable
from godrive.model import UserId

T = TypeVar("T")

WORDS = {
    "text": 'TEXT COLLATE "C"',
    "serial": "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
    "clustered": "",
    "nonce": "replace(gen_random_uuid()::text, '-', '')",
}
_BEGIN_TOGETHER = "BEGIN; SET LOCAL lock_timeout = '100ms'"
_COLUMNS = (
    "SELECT attname FROM pg_attribute WHERE attrelid = 'schema_versions'::regclass AND attnum > 0 AND NOT attisdropped"
)
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

    async def run_each(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        await self._connection.executemany(sql, rows)

    async def lock(self, *user_ids: UserId) -> None:
        # In order of id: two that take several do not wait for one another.
        await self._connection.execute("SELECT 1 FROM users WHERE id = ANY($1) ORDER BY id FOR UPDATE", user_ids)


class PostgresCatalog:
    """A catalog in the database of ``catalog.dsn``, with at most ``catalog.pool_size`` connections.

    *outbox* has every change of a file leave an event in the same transaction.
    """

    def __init__(self, settings: config.Catalog, *, outbox: bool = False) -> None:
        self._outbox = outbox
        self._pool = Pool(settings.dsn, settings.pool_size)
        self._open = False
        self._group = GroupCommit(self._together, self._alone)

    async def open(self) -> None:
        try:
            await self._persist(self._migrate)
        except BaseException:
            await self.close()
            raise
        self._open = True

    async def close(self) -> None:
        self._open = False
        await self._group.drain()
        await self._pool.close()

    async def read(self, operation: Callable[[Tx], Awaitable[T]]) -> T:
        self._check_open()

        async def attempt() -> T:
            async with self._pool.hold(to_read=True) as connection:
                return await operation(PostgresTx(connection, outbox=self._outbox))

        return await self._persist(attempt)

    async def write(self, operation: Callable[[Tx], Awaitable[T]]) -> T:
        self._check_open()
        return await self._group.run(operation)

    async def _together(self, operations: list[Operation]) -> list[Any] | None:
        try:
            return await self._transact(operations, _BEGIN_TOGETHER)
        except DriveError as error:
            if len(operations) == 1 or isinstance(error, StoreUnavailable):
                raise
        except Exception:  # noqa: S110 - what it was will be seen again when each is run alone
            pass
        return None

    async def _alone(self, operation: Operation) -> Any:
        (value,) = await self._persist(lambda: self._transact([operation], "BEGIN"))
        return value

    async def _transact(self, operations: list[Operation], begin: str) -> list[Any]:
        async with self._pool.hold() as connection:
            await connection.execute(begin)
            try:
                tx = PostgresTx(connection, outbox=self._outbox)
                values = [await operation(tx) for operation in operations]
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
            return values

    async def _migrate(self) -> None:
        async with self._pool.hold() as connection, connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
            await connection.execute(migrations.NOTE_TABLE)
            migrations.check_table({row[0] for row in await connection.fetch(_COLUMNS)})
            applied = {row[0]: row[1] for row in await connection.fetch(migrations.APPLIED)}
            for step in migrations.missing(applied):
                for statement in step.statements(WORDS):
                    await connection.execute(statement)
                await connection.execute(migrations.NOTE, step.version, step.name, step.digest)

    def _check_open(self) -> None:
        if not self._open:
            raise StoreUnavailable("The catalog is closed.")

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Make attempts until one succeeds, none can, or patience is at an end."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE
        delay = _SHORTEST_DELAY
        while True:
            try:
                return await attempt()
            except DriveError:
                raise
            except Exception as error:
                if not (is_raced(error) or is_lost(error)):
                    answer = translate(error) if self._open else refused(error) or translate(error)
                    raise answer or error from error
                if self._pool.closed or loop.time() + delay >= deadline:
                    raise unavailable(error) from error
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, _LONGEST_DELAY)
