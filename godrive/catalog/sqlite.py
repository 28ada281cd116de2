"""The catalog in one SQLite file.

Writes go to one thread.  All that wait are taken over in one hop: ``BEGIN
IMMEDIATE``, a savepoint for each operation, one ``COMMIT``, and only then the
replies; while it syncs, the next batch gathers.

Reads run where they are asked: on the loop's own thread.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

from godrive.catalog import Row, Tx, sqlite_file
from godrive.errors import Invalid, StoreUnavailable
from godrive.model import UserId

T = TypeVar("T")

Operation = Callable[[Tx], Awaitable[Any]]

_MOST_AT_ONCE = 256
_READ_THREADS = 4
_STEPS = 1000
_MOST_STEPS = 20
_PATIENCE = 0.002
_REST = 1.0


@cache
def _numbered(sql: str) -> str:
    """``$1`` as SQLite's ``?1``: there a dollar begins a name, not a number."""
    return re.sub(r"\$(\d+)", r"?\1", sql)


class _Tx:
    """A transaction on a connection of this process: no statement ever suspends."""

    def __init__(self, connection: sqlite3.Connection, outbox: bool) -> None:
        self.connection = connection
        self.outbox = outbox

    def execute(self, sql: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        try:
            return self.connection.execute(_numbered(sql), values)
        except (UnicodeEncodeError, OverflowError):
            raise Invalid("A text or number in the request cannot be stored.") from None

    async def one(self, sql: str, *values: Any) -> Row | None:
        return cast("Row | None", self.execute(sql, values).fetchone())

    async def all(self, sql: str, *values: Any) -> list[Row]:
        return self.execute(sql, values).fetchall()

    async def run(self, sql: str, *values: Any) -> int:
        return self.execute(sql, values).rowcount

    async def lock(self, user_id: UserId) -> None:
        """There is one writer."""


def _drive(operation: Operation, tx: Tx) -> Any:
    """Run an operation to its end, here and now."""
    steps = cast("Coroutine[Any, Any, Any]", operation(tx))
    try:
        steps.send(None)
    except StopIteration as end:
        return end.value
    steps.close()
    raise RuntimeError("An operation of the catalog may wait for nothing but its transaction.")


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
        self._writing = False
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._idle: list[_Tx] = []
        self._steps = 0
        self._until = 0.0
        self._rest_until = 0.0

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._threads = ThreadPoolExecutor(_READ_THREADS, thread_name_prefix="godrive-catalog-read")
        self._writer_thread = ThreadPoolExecutor(1, thread_name_prefix="godrive-catalog-write")
        await loop.run_in_executor(self._writer_thread, self._connect)
        self._loop = loop
        self._open = True

    def _connect(self) -> None:
        sqlite_file.prepare(self._path, allow_network_fs=self._allow_network_fs)
        self._writer = _Tx(sqlite_file.connect(self._path, cache_kib=8000), self._outbox)
        self._near = _Tx(sqlite_file.connect(self._path, timeout=0, cache_kib=16000, read_only=True), self._outbox)
        self._near.connection.set_progress_handler(self._count, _STEPS)

    async def close(self) -> None:
        if not self._open:
            return
        self._open = False
        await self._quiet.wait()
        self._threads.shutdown()
        self._writer_thread.shutdown()
        for tx in (*self._idle, self._near, self._writer):
            tx.connection.close()

    def _count(self) -> int:
        self._steps += 1
        return self._steps > _MOST_STEPS or time.perf_counter() > self._until

    async def read(self, operation: Callable[[Tx], Awaitable[T]]) -> T:
        if not self._open:
            raise StoreUnavailable("The catalog is closed.")
        now = time.perf_counter()
        if now >= self._rest_until:
            self._steps = 0
            self._until = now + _PATIENCE
            try:
                return cast("T", self._read(operation, self._near))
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_BUSY):
                    raise self._translated(error) from error
            if self._steps <= _MOST_STEPS:
                self._rest_until = time.perf_counter() + _REST
        return cast("T", await self._loop.run_in_executor(self._threads, self._read_far, operation))

    def _read(self, operation: Operation, tx: _Tx) -> Any:
        tx.connection.execute("BEGIN")
        try:
            return _drive(operation, tx)
        finally:
            if tx.connection.in_transaction:
                tx.connection.execute("ROLLBACK")

    def _read_far(self, operation: Operation) -> Any:
        try:
            tx = self._idle.pop()
        except IndexError:
            tx = _Tx(sqlite_file.connect(self._path, read_only=True), self._outbox)
        try:
            return self._read(operation, tx)
        except sqlite3.Error as error:
            raise self._translated(error) from error
        finally:
            self._idle.append(tx)

    def _translated(self, error: sqlite3.Error) -> Exception:
        return sqlite_file.translate(error, self._path) or error

    async def write(self, operation: Callable[[Tx], Awaitable[T]]) -> T:
        if not self._open:
            raise StoreUnavailable("The catalog is closed.")
        reply: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append((operation, reply))
        if not self._writing:
            self._writing = True
            self._quiet.clear()
            self._loop.call_soon(self._hand_over)
        return await reply

    def _hand_over(self) -> None:
        batch = self._waiting[:_MOST_AT_ONCE]
        del self._waiting[:_MOST_AT_ONCE]
        self._writer_thread.submit(self._write, batch)

    def _write(self, batch: list[tuple[Operation, asyncio.Future[Any]]]) -> None:
        outcomes = self._commit([operation for operation, _ in batch])
        self._loop.call_soon_threadsafe(self._reply, batch, outcomes)

    def _reply(
        self, batch: list[tuple[Operation, asyncio.Future[Any]]], outcomes: list[tuple[Any, Exception | None]]
    ) -> None:
        for (_, reply), (value, error) in zip(batch, outcomes, strict=True):
            if reply.done():
                continue
            if error is None:
                reply.set_result(value)
            else:
                reply.set_exception(error)
        if self._waiting:
            self._hand_over()
        else:
            self._writing = False
            self._quiet.set()

    def _commit(self, operations: list[Operation]) -> list[tuple[Any, Exception | None]]:
        """Run the operations in one transaction: what each returned, or why it failed."""
        connection = self._writer.connection
        outcomes: list[tuple[Any, Exception | None]] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            for operation in operations:
                connection.execute("SAVEPOINT operation")
                try:
                    outcomes.append((_drive(operation, self._writer), None))
                except Exception as error:
                    if isinstance(error, sqlite3.Error) and sqlite_file.translate(error, self._path):
                        raise
                    outcomes.append((None, error))
                    connection.execute("ROLLBACK TO operation")
                connection.execute("RELEASE operation")
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            failed = [own for _, own in outcomes] + [None] * (len(operations) - len(outcomes))
            return [(None, own or self._translated(error)) for own in failed]
        return outcomes
