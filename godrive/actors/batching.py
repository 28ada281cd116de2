"""Combines concurrent look-ups into one read (as a DataLoader does)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from copy import copy
from typing import Generic, TypeVar

from godrive.errors import StoreUnavailable

K = TypeVar("K")
V = TypeVar("V")

_MOST_AT_ONCE = 64
_PATIENCE = 1.0


class Batcher(Generic[K, V]):
    """Looks keys up with *read*, which takes several keys and returns a value for each.

    A round trip costs more than the row it fetches.  So callers that arrive during
    a read wait for the next one, which serves all of them.  A read serves only
    callers that arrived before it began, so each sees every write that had been
    acknowledged.  A read that never suspends (SQLite) runs at once, in the caller.

    After 1 s, a slow read stops delaying new callers.  If a batch fails, each key
    is retried alone, so one bad key cannot fail the others.
    """

    def __init__(self, read: Callable[[list[K]], Awaitable[dict[K, V]]]) -> None:
        self._read = read
        self._until = float("-inf")
        self._waiting: list[tuple[K, asyncio.Future[V | None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def get(self, key: K) -> V:
        """The value of the key."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._until:
            reply: asyncio.Future[V | None] = loop.create_future()
            self._waiting.append((key, reply))
            found = await reply
            if found is not None:
                return found
            return (await self._read([key]))[key]
        self._until = loop.time() + _PATIENCE
        try:
            return (await self._read([key]))[key]
        finally:
            self._until = float("-inf")
            if self._waiting:
                task = loop.create_task(self._read_waiting())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _read_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._waiting[:_MOST_AT_ONCE]
            del self._waiting[:_MOST_AT_ONCE]
            self._until = loop.time() + _PATIENCE
            try:
                found = await self._read(list({key for key, _ in batch}))
            except StoreUnavailable as error:
                for _, reply in batch:
                    if not reply.done():
                        reply.set_exception(copy(error))  # a copy each, because each caller raises it elsewhere
            except Exception:
                for _, reply in batch:  # each key is read again, alone
                    if not reply.done():
                        reply.set_result(None)
            else:
                for key, reply in batch:
                    if not reply.done():
                        reply.set_result(found[key])
            finally:
                self._until = float("-inf")
