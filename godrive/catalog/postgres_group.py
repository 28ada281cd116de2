"""Writes that wait together, in one transaction.

A round trip to the server costs more than the statement it carries.  So the
writes that came while the last were being committed share one ``BEGIN`` and one
``COMMIT``: half the round trips of a small write, and one flush for all.

They run without savepoints, which would cost what is saved.  Where one raises, all
are rolled back and each is run again by itself, so nobody pays for another's error
with more than time.  Nor may one that waits for a row hold up the rest: in
company a lock is waited for but briefly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from godrive.catalog import Tx
from godrive.errors import DriveError, StoreUnavailable

T = TypeVar("T")

Operation = Callable[[Tx], Awaitable[Any]]

_MOST_AT_ONCE = 64


class GroupCommit:
    """Gathers writes.

    *together* runs several in one transaction: their values, or ``None`` when
    nothing was done and each is to be run *alone*.  It raises when nobody can
    tell whether they were committed.
    """

    def __init__(
        self,
        together: Callable[[list[Operation]], Awaitable[list[Any] | None]],
        alone: Callable[[Operation], Awaitable[Any]],
    ) -> None:
        self._together = together
        self._alone = alone
        self._waiting: list[tuple[Operation, asyncio.Future[Any]]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._running = False

    async def run(self, operation: Callable[[Tx], Awaitable[T]]) -> T:
        """The operation's value, once it is committed.  Whoever stops waiting does not stop it."""
        reply: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((operation, reply))
        if not self._running:
            self._running = True
            self._spawn(self._run_all())
        return await reply

    async def drain(self) -> None:
        """Wait until all that were begun have ended."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_all(self) -> None:
        try:
            while self._waiting:
                batch = self._waiting[:_MOST_AT_ONCE]
                del self._waiting[:_MOST_AT_ONCE]
                await self._run_batch(batch)
        finally:
            self._running = False

    async def _run_batch(self, batch: list[tuple[Operation, asyncio.Future[Any]]]) -> None:
        try:
            values = await self._together([operation for operation, _ in batch])
        except BaseException as error:
            for _, reply in batch:
                _fail(reply, error)
            if not isinstance(error, Exception):
                raise
            return
        if values is None:
            for operation, reply in batch:
                self._spawn(self._run_alone(operation, reply))
            return
        for (_, reply), value in zip(batch, values, strict=True):
            if not reply.done():
                reply.set_result(value)

    async def _run_alone(self, operation: Operation, reply: asyncio.Future[Any]) -> None:
        try:
            value = await self._alone(operation)
        except BaseException as error:
            _fail(reply, error)
            if not isinstance(error, Exception):
                raise
        else:
            if not reply.done():
                reply.set_result(value)


def _fail(reply: asyncio.Future[Any], error: BaseException) -> None:
    """Pass the error on; each who waits has one of their own, since each raises it elsewhere."""
    if reply.done():
        return
    if isinstance(error, DriveError):
        reply.set_exception(
            type(error)(error.detail, field=error.field, hint=error.hint, retry_after=error.retry_after)
        )
    elif isinstance(error, Exception):
        reply.set_exception(error)
    else:
        reply.set_exception(StoreUnavailable("The catalog was stopped."))
