"""Do something with many items, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

AT_ONCE = 32
"""Items that are worked on at the same time: small blobs that arrive together share a sync."""


async def for_each(items: AsyncIterator[T], act: Callable[[T], Awaitable[None]]) -> None:
    """Await *act* for each item.  The first error cancels the rest, and comes out as itself."""
    running: set[asyncio.Future[None]] = set()
    try:
        async for item in items:
            running.add(asyncio.ensure_future(act(item)))
            if len(running) >= AT_ONCE:
                await _some(running)
        while running:
            await _some(running)
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)  # which looks at their errors, so nobody reports them


async def _some(running: set[asyncio.Future[None]]) -> None:
    """Wait until one has ended, and raise its error."""
    done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for each in done:
        running.remove(each)
        each.result()
