"""The catalog in a PostgreSQL database, which several gateways may share.

Theory of operation.  The isolation level is READ COMMITTED: a statement sees
what was committed when it began.  So a rule locks the owner's row before it
relies on what it has read (``Tx.lock``), and leaves it to the indices to keep
names unique.  Then what it checks holds until it commits, also against writers
of other gateways.

A read is its statements without a transaction around them, which would cost
two more round trips.  So is a write of one statement: those that wait together
are sent and committed in one round trip (``postgres_group``).  Other writes that
wait together share a transaction (``group_commit``), without savepoints, which
would cost what is saved.  If one of them raises, all are rolled back and each
runs again alone.  Reads, writes and chores have connections of their own
(``postgres_pool``), so a writer that waits for a lock delays no reader.

An operation that fails because of another transaction, a restart of the server
or a failover is run again from the start for a few seconds; then the caller
gets ``StoreUnavailable``.  A ``COMMIT`` whose answer was lost is never repeated,
because it may have happened: that is ``AskTimeout`` at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import count
from typing import Any, TypeVar, cast

from godrive import config
from godrive.backoff import Backoff
from godrive.catalog import NO_SINKS, Final, Row, Sinks, Tx, ancestors, migrations, name_search
from godrive.catalog.group_commit import ALONE, GroupCommit, Operation, Outcome
from godrive.catalog.postgres_channel import PostgresChannel
from godrive.catalog.postgres_errors import is_lost, is_raced, is_unknown, refused, translate, unavailable, unknown
from godrive.catalog.postgres_group import Started, run_finals
from godrive.catalog.postgres_pool import Connection, Pool, Use
from godrive.errors import AskTimeout, ConfigError, DriveError, StorageFull, StoreUnavailable
from godrive.model import UserId

T = TypeVar("T")

WORDS = {
    "text": 'TEXT COLLATE "C"',
    "clustered": "",
    "nonce": "replace(gen_random_uuid()::text, '-', '')",
    "number": "BIGINT",
    **name_search.POSTGRES_WORDS,
    **ancestors.POSTGRES_WORDS,
}
_BEGIN_TOGETHER = "BEGIN"
_BEGIN_ALONE = "BEGIN; SET LOCAL lock_timeout = '10s'"
_COLUMNS = (
    "SELECT attname FROM pg_attribute WHERE attrelid = 'schema_versions'::regclass AND attnum > 0 AND NOT attisdropped"
)
_MIGRATION_LOCK = int.from_bytes(b"godrive")
_MOST_WRITES = 64
_PATIENCE = 5.0
_BACKOFF = Backoff(0.01, 0.5)


class PostgresTx:
    """A transaction; for a read, only a connection."""

    names = name_search.POSTGRES
    joins = True

    def __init__(self, connection: Connection, *, sinks: Sinks) -> None:
        self._connection = connection
        self.sinks = sinks
        self.changed: set[UserId] = set()

    async def one(self, sql: str, *values: Any) -> Row | None:
        return cast("Row | None", await self._connection.fetchrow(sql, *values))

    async def final(self, final: Final, sql: str, *values: Any) -> Row | None:
        return await self.one(sql, *values)

    async def all(self, sql: str, *values: Any) -> list[Row]:
        return cast("list[Row]", await self._connection.fetch(sql, *values))

    async def one_each(self, sql: str, rows: Sequence[Sequence[Any]]) -> list[Row]:
        return cast("list[Row]", await self._connection.fetchmany(sql, rows))

    async def run(self, sql: str, *values: Any) -> int:
        status = await self._connection.execute(sql, *values)
        return int(status.rpartition(" ")[2])

    async def run_each(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        await self._connection.executemany(sql, rows)

    async def grow(self) -> None:
        """A no-op: the server refuses what does not fit."""

    async def attempt(self, operation: Callable[[], Awaitable[T]]) -> T:
        await self._connection.execute("SAVEPOINT attempt")
        try:
            value = await operation()
        except DriveError:
            await self._connection.execute("ROLLBACK TO attempt; RELEASE attempt")
            raise
        await self._connection.execute("RELEASE attempt")
        return value

    async def lock(self, *user_ids: UserId) -> None:
        if len(user_ids) == 1:  # the plan for several is made anew each time
            await self._connection.execute("SELECT 1 FROM users WHERE id = $1 FOR UPDATE", *user_ids)
            return
        # In the order of ids, so that two transactions that lock several users cannot deadlock.
        await self._connection.execute("SELECT 1 FROM users WHERE id = ANY($1) ORDER BY id FOR UPDATE", user_ids)


class PostgresCatalog:
    """A catalog in the database of ``catalog.dsn``, with at most ``catalog.pool_size`` connections.

    It keeps changes for *sinks*.
    """

    def __init__(self, settings: config.Catalog, *, sinks: Sinks = NO_SINKS, guest: bool = False) -> None:
        self._sinks = sinks
        self._guest = guest
        self._dsn = settings.dsn
        self._pool = Pool(settings.dsn, settings.pool_size)
        self._open = False
        self.problem: DriveError | None = None
        self._writes = self._group(Use.WRITE)
        self._chores = self._group(Use.CHORE)

    def _group(self, use: Use) -> GroupCommit:
        # The statements run in another process: while they do, the loop prepares the other half of the writes.
        return GroupCommit(partial(self._together, use), partial(self._alone, use), most=_MOST_WRITES, patience=0)

    async def open(self) -> None:
        try:
            await self._persist(self._migrate)
        except BaseException:
            await self.close()
            raise
        self._open = True

    async def close(self) -> None:
        self._open = False
        await self._writes.drain()
        await self._chores.drain()
        await self._pool.close()

    async def read(self, operation: Callable[[Tx], Awaitable[T]], *, chore: bool = False, large: bool = False) -> T:
        self._check_open()
        use = Use.CHORE if chore else Use.READ

        async def attempt() -> T:
            async with self._pool.hold(use) as connection:
                return await operation(PostgresTx(connection, sinks=self._sinks))

        return await self._persist(attempt)

    async def write(self, operation: Callable[[Tx], Awaitable[T]], *, chore: bool = False, answers: int = 1) -> T:
        self._check_open()
        try:
            value = await (self._chores if chore else self._writes).run(operation)
        except (StorageFull, StoreUnavailable, AskTimeout) as error:
            self.problem = error
            raise
        self.problem = None
        return value

    async def check_writable(self) -> None:
        """As ``MayBeReadOnly`` says.  A write that writes nothing succeeds on a standby too, and so proves nothing."""
        row = await self.read(lambda tx: tx.one("SELECT current_setting('transaction_read_only')"))
        if row is not None and row[0] == "on":
            raise StoreUnavailable(
                "The database takes no writes.",
                hint="It is a standby, or default_transaction_read_only is on: check where catalog.dsn leads to.",
            )

    def channel(self) -> PostgresChannel:
        """As ``HasChannel`` says."""
        return PostgresChannel(self._dsn)

    async def _together(self, use: Use, operations: list[Operation]) -> list[Outcome]:
        started = [Started(operation, sinks=self._sinks) for operation in operations]
        await self._run_finals(use, [each for each in started if each.statement is not None])
        rest = [each for each in started if each.outcome is None]
        if rest:
            outcomes = await self._in_one_transaction(use, [each.operation for each in rest])
            for each, outcome in zip(rest, outcomes, strict=True):
                each.outcome = outcome
        return [each.outcome or ALONE for each in started]

    async def _run_finals(self, use: Use, started: list[Started]) -> None:
        """Run final statements.  If that fails, those operations run alone, or fail if they may be committed."""
        if not started:
            return
        is_sent = False
        try:
            async with self._pool.hold(use) as connection:
                is_sent = True
                await run_finals(connection, started)
        except Exception as error:
            for each in started:
                if each.outcome is None:
                    each.drop()
                    if is_sent and is_unknown(error):
                        each.outcome = (None, unknown(error))

    async def _in_one_transaction(self, use: Use, operations: list[Operation]) -> list[Outcome]:
        try:
            return [(value, None) for value in await self._transact(use, operations, _BEGIN_TOGETHER)]
        except DriveError as error:
            if len(operations) == 1 or isinstance(error, StoreUnavailable | AskTimeout):
                return [(None, error)] * len(operations)
        except Exception:  # noqa: S110 - raised again when the operation that failed runs alone
            pass
        return [ALONE] * len(operations)

    async def _alone(self, use: Use, operation: Operation) -> Any:
        (value,) = await self._persist(lambda: self._transact(use, [operation], _BEGIN_ALONE))
        return value

    async def _transact(self, use: Use, operations: list[Operation], begin: str) -> list[Any]:
        async with self._pool.hold(use) as connection:
            await connection.execute(begin)
            try:
                tx = PostgresTx(connection, sinks=self._sinks)
                values = [await operation(tx) for operation in operations]
            except Exception:
                if not connection.is_closed():
                    await connection.execute("ROLLBACK")
                raise
            try:
                await connection.execute("COMMIT")
            except Exception as error:
                if is_lost(error):
                    raise unknown(error) from error
                raise
            return values

    async def _migrate(self) -> None:
        async with self._pool.hold(Use.WRITE) as connection, connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '10s'")
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATION_LOCK)
            await connection.execute(migrations.NOTE_TABLE)
            migrations.check_table({row[0] for row in await connection.fetch(_COLUMNS)})
            applied = {row[0]: row[1] for row in await connection.fetch(migrations.APPLIED)}
            if not applied:
                _check_encoding(connection.get_settings().server_encoding)
            for step in migrations.missing(applied, guest=self._guest):
                for statement in step.statements(WORDS):
                    await connection.execute(statement)
                await connection.execute(migrations.NOTE, step.version, step.name, step.digest)

    def _check_open(self) -> None:
        if not self._open:
            raise StoreUnavailable("The catalog is closed.")

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Repeat the attempt until it succeeds, cannot succeed, or ``_PATIENCE`` seconds have passed."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _PATIENCE
        for failures in count(1):
            try:
                return await attempt()
            except DriveError:
                raise
            except Exception as error:
                if not (is_raced(error) or is_lost(error)):
                    answer = translate(error) if self._open else refused(error) or translate(error)
                    raise answer or error from error
                if self._pool.closed or loop.time() + _BACKOFF.after(failures) >= deadline:
                    raise unavailable(error) from error
            await asyncio.sleep(_BACKOFF.jittered(failures))
        raise AssertionError("unreachable")


def _check_encoding(encoding: str) -> None:
    """Raises ``ConfigError`` unless the database can store every name, and knows its letters."""
    if encoding != "UTF8":
        raise ConfigError(
            f"The database has the encoding {encoding}, in which names cannot be stored or searched.",
            field="catalog.dsn",
            hint="Make another: CREATE DATABASE godrive TEMPLATE template0 ENCODING 'UTF8'",
        )
