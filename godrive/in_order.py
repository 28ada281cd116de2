"""Do something with many items, several at a time, and have the results in the order of the items."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def in_order(items: Iterable[T], act: Callable[[T], Awaitable[R]], *, at_most: int) -> AsyncGenerator[R, None]:
    """Yield what *act* returns for each item, in the order of *items*.

    At most *at_most* items are in hand, the one whose result is yielded next included.  The first error in that order
    cancels the rest, and comes out as itself.  So does the end of the generator: close it (``contextlib.aclosing``).
    """
    running: deque[asyncio.Future[R]] = deque()
    try:
        for item in items:
            running.append(asyncio.ensure_future(act(item)))
            if len(running) >= at_most:
                yield await running[0]
                running.popleft()
        while running:
            yield await running[0]
            running.popleft()
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)  # which looks at their errors, so nobody reports them
