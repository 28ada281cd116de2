"""Tell how far long work is, on standard error: in one line on a terminal, and in a line now and then elsewhere."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

ON_TERMINAL, ELSEWHERE = 1.0, 30.0
"""Seconds between two lines."""

_CLEAR = "\r\x1b[K"


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
