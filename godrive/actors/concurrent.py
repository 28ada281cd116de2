"""Run an action for many items with limited concurrency."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

import anyio

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
