"""Run an action for many items with limited concurrency, and leave slow ones behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Coroutine, Hashable
from typing import Any, Generic, TypeVar

import anyio

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


async def for_each(items: Collection[T], act: Callable[[T], Awaitable[None]], *, at_most: int) -> None:
    """Await ``act(item)`` for every item, at most *at_most* at a time.

    An exception from *act* cancels the remaining items and is raised in an exception group.
    """
    queue = iter(items)

    async def worker() -> None:
        for item in queue:
            await act(item)

    async with anyio.create_task_group() as workers:
        for _ in range(min(at_most, len(items))):
            workers.start_soon(worker)


class Patient(Generic[K, T]):
    """Waits some seconds for each piece of work.  Work that takes longer goes on, and its result is collected later.

    At most *most* are left behind; when there are as many, the wait for another one has no end.
    """

    def __init__(self, patience: float, most: int) -> None:
        self._patience = patience
        self._most = most
        self._begun: dict[K, asyncio.Task[T]] = {}
        self._left: set[K] = set()

    async def run(self, key: K, work: Callable[[], Coroutine[Any, Any, T]]) -> T | None:
        """Do the work and return its result; ``None`` if it goes on, or other work of this *key* does."""
        if key in self._begun:
            return None
        task = self._begun[key] = asyncio.create_task(work())
        try:
            await asyncio.wait([task], timeout=self._patience)
            if not task.done() and len(self._left) >= self._most:
                await asyncio.wait([task])
        finally:
            self._left.add(key)  # also if this call is cancelled: otherwise the key would be taken for ever
        if not task.done():
            return None
        self._left.discard(key)
        del self._begun[key]
        return task.result()

    def collect(self) -> list[T]:
        """Return the results of what was left behind and has ended.  Raises what the work raised."""
        ended = [key for key in self._left if self._begun[key].done()]
        self._left.difference_update(ended)
        return [task.result() for task in [self._begun.pop(key) for key in ended]]

    async def stop(self) -> None:
        """Cancel what goes on, and wait until it has ended."""
        for task in self._begun.values():
            task.cancel()
        await asyncio.gather(*self._begun.values(), return_exceptions=True)
