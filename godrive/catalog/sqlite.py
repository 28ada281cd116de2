"""The catalog in one SQLite file.

Theory of operation.  What costs time here is not SQLite but the way to it:
a hop to a thread and back, and the GIL, which the ``sqlite3`` module lets go
of and takes again at every row.  So both paths avoid hops.

*Writes* go to one thread and one connection.  All that wait are taken over in
one hop: ``BEGIN IMMEDIATE``, a savepoint for each operation, one ``COMMIT``,
and only then the replies.  While that syncs, the next batch gathers, so the
rate rises with the load (32 writers at once: 9000 upload intents a second,
half of a commit's time being the disk's).  An operation that raises is rolled
back alone; when the database itself fails, all of the batch fail.

*Reads* run where they are asked, on the loop's own thread, over a connection of
their own that sees every acknowledged write and never waits for one.  With 32
readers at once, pages of 20 files a second: 6400 here; 3900 by way of threads,
and no more when a thread takes all that wait at once, since then the loop and the
thread pass the GIL to and fro.  A key lookup takes about 15 microseconds, a page of
20 files 100, which is less than parsing the request for it.

What could hold up the loop is a read that is not small: a search through names,
a sum over all rows, a page of a thousand; or pages that are not in memory, on
a slow disk.  SQLite asks us every few hundred instructions whether to go on,
and a read that has used up its steps, or its milliseconds by waiting for the
disk, is broken off and begun again over aiosqlite, whose connections each have a
thread (operations have no effect but through their transaction, so that is safe).
When it was the disk, for a while every read goes there.  So the loop stands still
for a few milliseconds in every quarter of a second at worst.

The writer is not aiosqlite's, which hops to its thread for every statement: a
batch of 32 intents would be some 200 hops instead of one.
"""

from __future__ import annotations

import asyncio
import re
import resource
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import aiosqlite

from godrive.catalog import Row, Tx, sqlite_file
from godrive.errors import Invalid, StoreUnavailable
from godrive.model import UserId

T = TypeVar("T")

Operation = Callable[[Tx], Awaitable[Any]]
Outcome = tuple[Any, BaseException | None]

_MOST_AT_ONCE = 256
_MOST_FAR = 4
_CHUNK = 64

_STEP = 200
"""Instructions of SQLite's machine between two looks at a read on the loop; a row of a list takes about 16."""
_MOST_STEPS = 100
_PATIENCE = 0.005
_REST = 0.25


@cache
def _numbered(sql: str) -> str:
    """``$1`` as SQLite's ``?1``: there a dollar begins a name, not a number."""
    return re.sub(r"\$(\d+)", r"?\1", sql)


def disk_reads() -> int:
    """How much this thread has read from a disk, and not just from the page cache, in its life."""
    return resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF)).ru_inblock


class SqliteTx:
    """A transaction on a connection of this process: its statements never suspend."""

    def __init__(self, connection: sqlite3.Connection, *, outbox: bool) -> None:
        self.connection = connection
        self.outbox = outbox

    def _execute(self, sql: str, values: Sequence[Any]) -> sqlite3.Cursor:
        try:
            return self.connection.execute(_numbered(sql), values)
        except (UnicodeEncodeError, OverflowError):
            raise _unstorable() from None

    async def one(self, sql: str, *values: Any) -> Row | None:
        return cast("Row | None", self._execute(sql, values).fetchone())

    async def all(self, sql: str, *values: Any) -> list[Row]:
        return self._execute(sql, values).fetchall()

    async def run(self, sql: str, *values: Any) -> int:
        return self._execute(sql, values).rowcount

    async def run_each(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        for values in rows:
            self._execute(sql, values)

    async def lock(self, *user_ids: UserId) -> None:
        """There is one writer."""

    def perform(self, operation: Operation) -> Any:
        """Run an operation from beginning to end, here and now."""
        steps = cast("Coroutine[Any, Any, Any]", operation(self))
        try:
            steps.send(None)
        except StopIteration as end:
            return end.value
        steps.close()
        raise RuntimeError("An operation of the catalog may wait for nothing but its transaction.")

    def end(self) -> None:
        """Undo what has not been committed."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")


class _NearTx(SqliteTx):
    """The transaction of reads on the loop's thread: small ones only."""

    def __init__(self, connection: sqlite3.Connection, *, outbox: bool) -> None:
        super().__init__(connection, outbox=outbox)
        self._steps = 0
        self._until = 0.0
        self._limited = False
        self._rest_until = 0.0
        self._disk_reads = disk_reads()
        connection.set_progress_handler(self._look, _STEP)

    def _look(self) -> bool:
        self._steps += 1
        return self._limited and (self._steps > _MOST_STEPS or self._is_late())

    def _is_late(self) -> bool:
        """Whether the disk keeps this read waiting.  A busy processor does not count: a thread waits for it too."""
        now = time.perf_counter()
        if now <= self._until:
            return False
        before, self._disk_reads = self._disk_reads, disk_reads()
        if self._disk_reads == before:
            self._until = now + _PATIENCE
            return False
        self._rest_until = now + _REST
        return True

    def try_read(self, operation: Operation) -> Outcome | None:
        """The value, or ``None`` when the read has to be made elsewhere."""
        now = time.perf_counter()
        if now < self._rest_until:
            return None
        self._steps, self._until, self._limited = 0, now + _PATIENCE, True
        try:
            self.connection.execute("BEGIN")
            try:
                return self.perform(operation), None
            finally:
                self.end()
        except sqlite3.OperationalError as error:
            if sqlite_file.primary_code(error) not in (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_BUSY):
                raise
            return None
        finally:
            self._is_late()

    def end(self) -> None:
        self._limited = False
        super().end()


class _FarTx:
    """The transaction of reads that are not small: every statement runs in aiosqlite's thread."""

    def __init__(self, connection: aiosqlite.Connection, *, outbox: bool) -> None:
        self._connection = connection
        self.outbox = outbox

    async def one(self, sql: str, *values: Any) -> Row | None:
        return next(iter(await self.all(sql, *values)), None)

    async def all(self, sql: str, *values: Any) -> list[Row]:
        try:
            return list(await self._connection.execute_fetchall(_numbered(sql), values))
        except (UnicodeEncodeError, OverflowError):
            raise _unstorable() from None

    async def run(self, sql: str, *values: Any) -> int:
        await self.all(sql, *values)
        return 0  # a read changes nothing

    async def run_each(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        for values in rows:
            await self.all(sql, *values)

    async def lock(self, *user_ids: UserId) -> None:
        """A snapshot does not change."""


def _unstorable() -> Invalid:
    return Invalid("A text or number in the request cannot be stored.")


class SqliteCatalog:
    """A catalog in the file *path*, made when absent.

    *outbox* has every change of a file leave an event in the same transaction.
    """

    def __init__(self, path: Path, *, allow_network_fs: bool = False, outbox: bool = False) -> None:
        self._path = path
        self._allow_network_fs = allow_network_fs
        self._outbox = outbox
        self._open = False
        self._waiting: list[tuple[Operation, asyncio.Future[Any]]] = []
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._writer: SqliteTx | None = None
        self._far: list[aiosqlite.Connection] = []
        self._returns: set[asyncio.Task[None]] = set()
        self._room_far = asyncio.Semaphore(_MOST_FAR)
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="godrive-catalog-write")

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        try:
            near = await self._loop.run_in_executor(self._write_thread, self._connect)
        except BaseException:
            self._write_thread.shutdown(wait=False)
            raise
        self._near = _NearTx(near, outbox=self._outbox)
        self._open = True

    def _connect(self) -> sqlite3.Connection:
        sqlite_file.prepare(self._path, allow_network_fs=self._allow_network_fs)
        self._writer = self._connect_writer()
        return sqlite_file.connect(self._path, timeout=0, cache_kib=16000, read_only=True)

    def _connect_writer(self) -> SqliteTx:
        return SqliteTx(sqlite_file.connect(self._path, cache_kib=8000), outbox=self._outbox)

    async def close(self) -> None:
        if self._open:
            self._open = False
            await self._quiet.wait()
            for _ in range(_MOST_FAR):
                await self._room_far.acquire()
            for connection in self._far:
                await connection.close()
            await asyncio.to_thread(self._disconnect)

    def _disconnect(self) -> None:
        self._write_thread.shutdown()
        for tx in (self._near, self._writer):
            if tx is not None:
                tx.connection.close()

    async def read(self, operation: Callable[[Tx], Awaitable[T]]) -> T:
        self._check_open()
        try:
            outcome = self._near.try_read(operation)
        except sqlite3.Error as error:
            raise self._translated(error) from error
        return cast("T", await self._read_far(operation) if outcome is None else outcome[0])

    async def _read_far(self, operation: Operation) -> Any:
        await self._room_far.acquire()
        lent = self._loop.create_task(self._lend())
        try:
            connection = await asyncio.shield(lent)
            await connection.execute_fetchall("BEGIN")
            return await operation(_FarTx(connection, outbox=self._outbox))
        except sqlite3.Error as error:
            raise self._translated(error) from error
        finally:
            self._returns.add(task := self._loop.create_task(self._give_back(lent)))
            task.add_done_callback(self._returns.discard)

    async def _lend(self) -> aiosqlite.Connection:
        self._check_open()
        return self._far.pop() if self._far else await aiosqlite.Connection(self._connect_far, _CHUNK)

    def _connect_far(self) -> sqlite3.Connection:
        return sqlite_file.connect(self._path, read_only=True)

    async def _give_back(self, lent: asyncio.Task[aiosqlite.Connection]) -> None:
        """Keep the connection for others once its thread is done, however often whoever used it was cancelled."""
        try:
            await asyncio.wait([lent])
            if lent.exception() is None:
                await self._keep(lent.result())
        finally:
            self._room_far.release()

    async def _keep(self, connection: aiosqlite.Connection) -> None:
        try:
            await connection.rollback()
        except sqlite3.Error:
            await connection.close()
        else:
            self._far.append(connection)

    def _check_open(self) -> None:
        if not self._open:
            raise StoreUnavailable("The catalog is closed.")

    def _translated(self, error: sqlite3.Error) -> Exception:
        return sqlite_file.translate(error, self._path) or error

    async def write(self, operation: Callable[[Tx], Awaitable[T]]) -> T:
        self._check_open()
        reply: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append((operation, reply))
        if self._quiet.is_set():
            self._quiet.clear()
            self._loop.call_soon(self._hand_over)
        return await reply

    def _hand_over(self) -> None:
        batch = self._waiting[:_MOST_AT_ONCE]
        del self._waiting[:_MOST_AT_ONCE]
        self._write_thread.submit(self._write, batch)

    def _write(self, batch: list[tuple[Operation, asyncio.Future[Any]]]) -> None:
        outcomes = self._commit([operation for operation, _ in batch])
        self._loop.call_soon_threadsafe(self._reply, batch, outcomes)

    def _reply(self, batch: list[tuple[Operation, asyncio.Future[Any]]], outcomes: list[Outcome]) -> None:
        for (_, reply), (value, error) in zip(batch, outcomes, strict=True):
            if reply.done():  # whoever asked has left
                continue
            if error is None:
                reply.set_result(value)
            else:
                reply.set_exception(error)
        if self._waiting:
            self._hand_over()
        else:
            self._quiet.set()

    def _commit(self, operations: list[Operation]) -> list[Outcome]:
        """Run the operations in one transaction: what each returned, or why it failed."""
        outcomes: list[Outcome] = []
        try:
            if self._writer is None:
                self._writer = self._connect_writer()
            execute = self._writer.connection.execute
            execute("BEGIN IMMEDIATE")
            for operation in operations:
                execute("SAVEPOINT operation")
                try:
                    outcomes.append((self._writer.perform(operation), None))
                except Exception as error:
                    if isinstance(error, sqlite3.Error) and sqlite_file.translate(error, self._path):
                        raise
                    outcomes.append((None, error))
                    execute("ROLLBACK TO operation")
                execute("RELEASE operation")
            execute("COMMIT")
        except BaseException as error:
            self._undo()
            failures = [own or self._failure(error) for _, own in outcomes]
            failures += [self._failure(error) for _ in operations[len(outcomes) :]]
            return [(None, failure) for failure in failures]
        return outcomes

    def _failure(self, error: BaseException) -> BaseException:
        """Why one operation failed with its batch: an error of its own, since each is raised elsewhere."""
        return (sqlite_file.translate(error, self._path) if isinstance(error, sqlite3.Error) else None) or error

    def _undo(self) -> None:
        """Roll back.  A connection that cannot do even that is dropped; the next batch makes another."""
        if self._writer is None:
            return
        try:
            self._writer.end()
        except sqlite3.Error:
            self._writer.connection.close()
            self._writer = None
