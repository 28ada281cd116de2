"""Operations of one statement, sent and committed together in one round trip.

Most writes under load end with their first statement (``Tx.final``).  Such
statements of several operations need no ``BEGIN`` and no ``COMMIT``: they are
sent one behind the other, and PostgreSQL executes them as one implicit
transaction when it has received them all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeVar, cast

from godrive.catalog import Final, Row, Sinks, Tx, name_search
from godrive.catalog.group_commit import ALONE, Operation, Outcome
from godrive.catalog.postgres_pool import Connection
from godrive.model import UserId

T = TypeVar("T")


class Statement:
    """The final statement of an operation.  An operation that awaits it is continued with the row."""

    __slots__ = ("key", "owner_id", "sql", "values")

    def __init__(self, final: Final, sql: str, values: tuple[Any, ...]) -> None:
        self.key, self.owner_id = final.key, final.owner_id
        self.sql = sql
        self.values = values

    def __await__(self) -> Generator[Statement, Row | None, Row | None]:
        return (yield self)


class _Other:
    """Any other statement: the operation needs a transaction of the usual kind."""

    def __await__(self) -> Generator[_Other, None, None]:
        yield self


class FirstStatement:
    """A transaction in which an operation runs up to its first statement."""

    names = name_search.POSTGRES
    joins = True

    def __init__(self, *, sinks: Sinks) -> None:
        self.sinks = sinks
        self.changed: set[UserId] = set()

    async def final(self, final: Final, sql: str, *values: Any) -> Row | None:
        return await Statement(final, sql, values)

    async def one(self, sql: str, *values: Any) -> Row | None:
        await _Other()
        return None

    async def all(self, sql: str, *values: Any) -> list[Row]:
        await _Other()
        return []

    async def one_each(self, sql: str, rows: Any) -> list[Row]:
        await _Other()
        return []

    async def run(self, sql: str, *values: Any) -> int:
        await _Other()
        return 0

    async def run_each(self, sql: str, rows: Any) -> None:
        await _Other()

    async def attempt(self, operation: Callable[[], Awaitable[T]]) -> T:
        await _Other()
        return await operation()

    async def lock(self, *user_ids: UserId) -> None:
        await _Other()

    async def grow(self) -> None:
        """A no-op: the server refuses what does not fit."""


class Started:
    """An operation that was run up to its first statement."""

    def __init__(self, operation: Operation, *, sinks: Sinks) -> None:
        self.operation = operation
        self.outcome: Outcome | None = None
        self.statement: Statement | None = None
        tx: Tx = FirstStatement(sinks=sinks)
        self._steps = cast("Coroutine[Statement | _Other, Row | None, Any]", operation(tx))
        self._continue(None)

    def _continue(self, row: Row | None) -> None:
        try:
            reached = self._steps.send(row)
        except StopIteration as end:
            self.outcome = (end.value, None)
        except Exception as error:
            self.outcome = (None, error)
        else:
            if isinstance(reached, Statement) and self.statement is None:
                self.statement = reached
            else:
                self._steps.close()
                self.outcome = ALONE if self.statement else None

    def finish(self, row: Row | None) -> None:
        """Continue after the final statement.  If it was not the last one after all, the outcome is ``ALONE``."""
        self._continue(row)

    def drop(self) -> None:
        """Forget what was begun."""
        self._steps.close()
        self.outcome = ALONE


async def run_finals(connection: Connection, started: list[Started]) -> None:
    """Run the final statements of the operations, those of one text in one round trip.

    They lock users in the order of ids, so batches of two gateways cannot deadlock.
    Raises whatever fails.  Operations whose statements were committed before have their outcome then.
    """
    texts: dict[str, list[tuple[Statement, Started]]] = {}
    for each in started:
        assert each.statement is not None  # noqa: S101 - the caller has chosen those that have one
        texts.setdefault(each.statement.sql, []).append((each.statement, each))
    for sql, group in texts.items():
        group.sort(key=lambda pair: pair[0].owner_id)
        rows = await connection.fetchmany(sql, [statement.values for statement, _ in group])
        by_key = {row[0]: row for row in rows}
        for statement, each in group:
            each.finish(by_key.pop(statement.key, None))
