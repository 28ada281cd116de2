"""Long work: how fast it may be, and how far it is.

It is shown on standard error: as one line on a terminal, and as a line now and then elsewhere.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

ON_TERMINAL, ELSEWHERE = 1.0, 30.0
"""Seconds between two lines."""

_CLEAR = "\r\x1b[K"


def pacer(rate: int) -> Callable[[int], Awaitable[None]] | None:
    """Return what waits so that no more than *rate* bytes pass in a second; ``None`` for 0, which is no limit."""
    if not rate:
        return None
    begun, passed = time.monotonic(), 0

    async def pace(length: int) -> None:
        nonlocal passed
        passed += length
        await asyncio.sleep(max(0.0, passed / rate - (time.monotonic() - begun)))

    return pace


@asynccontextmanager
async def telling(describe: Callable[[], str]) -> AsyncIterator[None]:
    """Tell what *describe* returns while the body runs."""
    is_terminal = sys.stderr.isatty()

    async def tell() -> None:
        while True:
            if is_terminal:
                sys.stderr.write(f"{_CLEAR}{describe()}")
                sys.stderr.flush()
            await asyncio.sleep(ON_TERMINAL if is_terminal else ELSEWHERE)
            if not is_terminal:
                sys.stderr.write(f"{describe()}\n")
                sys.stderr.flush()

    telling_task = asyncio.create_task(tell())  # a task group would wrap the error of the body
    try:
        yield
    finally:
        telling_task.cancel()
        if is_terminal:
            sys.stderr.write(_CLEAR)


def clear() -> str:
    """Return what removes a line of progress, so that another line can be written."""
    return _CLEAR if sys.stderr.isatty() and sys.stdout.isatty() else ""
