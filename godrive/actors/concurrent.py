"""Many items, a few at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import anyio

T = TypeVar("T")


async def for_each(items: Iterable[T], act: Callable[[T], Awaitable[None]], *, at_most: int) -> None:
    """Await ``act(item)`` for every item, at most that many at once.

    An exception of *act* cancels the rest; one that should not, *act* must catch.
    """
    queue = iter(items)

    async def worker() -> None:
        for item in queue:
            await act(item)

    async with anyio.create_task_group() as workers:
        for _ in range(at_most):
            workers.start_soon(worker)
