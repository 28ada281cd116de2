"""Writes that wait together, in one commit.

A commit costs more than the statements in it: a round trip to the server, a
flush of the disk.  So writes that arrive while the last batch is being
committed form the next one, and the rate rises with the load.  A batch waits a
moment for those that are likely to come (:mod:`godrive.gathering`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from godrive.catalog import Tx
from godrive.errors import DriveError, StoreUnavailable
from godrive.gathering import PATIENCE, Gathering

T = TypeVar("T")

Operation = Callable[[Tx], Awaitable[Any]]
Outcome = tuple[Any, BaseException | None]
"""The value of an operation, or the error that it raised."""

ALONE: Outcome = (None, None)
"""The outcome, by identity, of an operation of which nothing was done: it must run alone."""

Waiting = tuple[Operation, asyncio.Future[Any], int]
"""An operation, the future of its value, and the number of requests that it answers."""


class GroupCommit:
    """Gathers writes into batches of at most *most*, one batch at a time, each after *patience* seconds at the latest.

    *together* runs a batch in one transaction and returns the outcome of each
    operation.  What has the outcome :data:`ALONE` runs *alone*, beside the batches
    that follow; ``None`` is that outcome for all.  It raises if the outcome of the batch is unknown.
    """

    def __init__(
        self,
        together: Callable[[list[Operation]], Awaitable[list[Outcome] | None]],
        alone: Callable[[Operation], Awaitable[Any]] | None = None,
        *,
        most: int,
        patience: float = PATIENCE,
    ) -> None:
        self._together = together
        self._alone = alone
        self._most = most
        self._waiting: list[Waiting] = []
        self._requests = 0
        """How many requests those answer that wait."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_busy = False
        self._gathering = Gathering(self._begin_next, most=most, patience=patience)

    async def run(self, operation: Callable[[Tx], Awaitable[T]], answers: int = 1) -> T:
        """The operation's value, once it is committed.  Cancelling the wait does not cancel the operation."""
        reply: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((operation, reply, answers))
        self._requests += answers
        self._begin_next()
        return await reply

    async def drain(self) -> None:
        """Wait until every operation that was begun has ended."""
        self._gathering.stop()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _begin_next(self) -> None:
        if not self._is_busy and self._waiting and self._gathering.is_complete(self._requests):
            self._is_busy = True
            self._spawn(self._run_next())

    async def _run_next(self) -> None:
        """Run a batch of those that wait by now."""
        batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
        requests = sum(answers for _, _, answers in batch)
        self._requests -= requests
        try:
            await self._run_batch(batch)
        finally:
            self._is_busy = False
            self._gathering.ended(requests, self._requests)
            self._begin_next()

    async def _run_batch(self, batch: list[Waiting]) -> None:
        outcomes: list[Outcome] | None
        try:
            outcomes = await self._together([operation for operation, _, _ in batch])
        except BaseException as error:
            for _, reply, _ in batch:
                _settle(reply, (None, error))
            if not isinstance(error, Exception):
                raise
            return
        if outcomes is None:
            for operation, reply, _ in batch:
                self._spawn(self._run_alone(operation, reply))
            return
        for (operation, reply, _), outcome in zip(batch, outcomes, strict=True):
            if outcome is ALONE:
                self._spawn(self._run_alone(operation, reply))
            else:
                _settle(reply, outcome)

    async def _run_alone(self, operation: Operation, reply: asyncio.Future[Any]) -> None:
        assert self._alone is not None  # noqa: S101 - without it, *together* never returns None
        try:
            value = await self._alone(operation)
        except BaseException as error:
            _settle(reply, (None, error))
            if not isinstance(error, Exception):
                raise
        else:
            _settle(reply, (value, None))


def _settle(reply: asyncio.Future[Any], outcome: Outcome) -> None:
    """Pass the outcome on.  Each reply gets an error object of its own, because each is raised elsewhere."""
    value, error = outcome
    if reply.done():  # the caller no longer waits
        return
    if error is None:
        reply.set_result(value)
    elif isinstance(error, DriveError):
        reply.set_exception(error.another())
    elif isinstance(error, Exception):
        reply.set_exception(error)
    else:
        reply.set_exception(StoreUnavailable("The catalog was stopped."))
