"""Transactions on SQLite: on a connection of this thread, or over aiosqlite on one of its own."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import cache
from operator import itemgetter
from typing import Any, TypeVar, cast

import aiosqlite

from godrive.catalog import Final, Row, Sinks, Tx, name_search
from godrive.errors import DriveError, Invalid, StorageFull
from godrive.model import UserId

T = TypeVar("T")

Operation = Callable[[Tx], Awaitable[Any]]


@cache
def positional(sql: str) -> tuple[str, Callable[[Sequence[Any]], tuple[Any, ...]]]:
    """The statement with ``?`` for ``$1``, and a function that puts its values in the order of the marks.

    To SQLite, ``$1`` and ``?1`` are names, and Python 3.12 deprecates a sequence of values for names.
    """
    order = [int(number) - 1 for number in re.findall(r"\$(\d+)", sql)]
    arrange = tuple if order == list(range(len(order))) else itemgetter(*order)
    return re.sub(r"\$\d+", "?", sql), arrange


def _unstorable() -> Invalid:
    return Invalid("A text or number in the request cannot be stored.")


class SqliteTx:
    """A transaction on a connection that this thread uses.  Its statements never suspend."""

    names = name_search.SQLITE
    joins = False

    def __init__(self, connection: sqlite3.Connection, *, sinks: Sinks) -> None:
        self.connection = connection
        self.sinks = sinks
        self.changed: set[UserId] = set()
        self.full: StorageFull | None = None
        """Why nothing may be added, if so."""
        self._cursor = connection.cursor()  # for statements that are run to their end: a new one costs a microsecond

    def _execute(self, cursor: sqlite3.Connection | sqlite3.Cursor, sql: str, values: Sequence[Any]) -> sqlite3.Cursor:
        statement, arrange = positional(sql)
        try:
            return cursor.execute(statement, arrange(values))
        except (UnicodeEncodeError, OverflowError):
            raise _unstorable() from None

    async def one(self, sql: str, *values: Any) -> Row | None:
        row: Row | None = self._execute(self.connection, sql, values).fetchone()
        return row

    async def final(self, final: Final, sql: str, *values: Any) -> Row | None:
        return await self.one(sql, *values)

    async def all(self, sql: str, *values: Any) -> list[Row]:
        return self._execute(self._cursor, sql, values).fetchall()

    async def one_each(self, sql: str, rows: Sequence[Sequence[Any]]) -> list[Row]:
        return [self._execute(self.connection, sql, values).fetchone() for values in rows]

    async def run(self, sql: str, *values: Any) -> int:
        return self._execute(self._cursor, sql, values).rowcount

    async def run_each(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        statement, arrange = positional(sql)
        try:
            self._cursor.executemany(statement, map(arrange, rows))
        except (UnicodeEncodeError, OverflowError):
            raise _unstorable() from None

    async def grow(self) -> None:
        if self.full is not None:
            raise StorageFull(self.full.detail, hint=self.full.hint)

    async def attempt(self, operation: Callable[[], Awaitable[T]]) -> T:
        execute = self.connection.execute
        execute("SAVEPOINT attempt")
        try:
            return await operation()
        except DriveError:
            execute("ROLLBACK TO attempt")
            raise
        finally:
            if self.connection.in_transaction:  # a full disk has ended it
                execute("RELEASE attempt")

    async def lock(self, *user_ids: UserId) -> None:
        """A no-op: there is only one writer."""

    def perform(self, operation: Operation) -> Any:
        """Run an operation from beginning to end without suspending."""
        steps = cast("Coroutine[Any, Any, Any]", operation(self))
        try:
            steps.send(None)
        except StopIteration as end:
            return end.value
        steps.close()
        raise RuntimeError("An operation of the catalog may await nothing but its transaction.")

    def end(self) -> None:
        """Roll back what has not been committed."""
        if self.connection.in_transaction:
            self.connection.execute("ROLLBACK")


class ThreadTx:
    """A transaction whose statements run in the thread of an aiosqlite connection.  For reads only."""

    names = name_search.SQLITE
    joins = False

    def __init__(self, connection: aiosqlite.Connection, *, sinks: Sinks) -> None:
        self._connection = connection
        self.sinks = sinks
        self.changed: set[UserId] = set()

    async def one(self, sql: str, *values: Any) -> Row | None:
        return next(iter(await self.all(sql, *values)), None)

    async def final(self, final: Final, sql: str, *values: Any) -> Row | None:
        return await self.one(sql, *values)

    async def all(self, sql: str, *values: Any) -> list[Row]:
        statement, arrange = positional(sql)
        try:
            return list(await self._connection.execute_fetchall(statement, arrange(values)))
        except (UnicodeEncodeError, OverflowError):
            raise _unstorable() from None

    async def one_each(self, sql: str, rows: Sequence[Sequence[Any]]) -> list[Row]:
        return [(await self.all(sql, *values))[0] for values in rows]

    async def run(self, sql: str, *values: Any) -> int:
        await self.all(sql, *values)
        return 0  # a read changes nothing

    async def run_each(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        for values in rows:
            await self.all(sql, *values)

    async def grow(self) -> None:
        """A no-op: a read adds nothing."""

    async def attempt(self, operation: Callable[[], Awaitable[T]]) -> T:
        return await operation()  # a read has nothing to undo

    async def lock(self, *user_ids: UserId) -> None:
        """A no-op: a snapshot does not change."""
