"""A call in a thread that opens something, and that nobody waits for if the caller is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

import anyio

T = TypeVar("T")


async def undone_if_cancelled(executor: Executor | None, call: Callable[[], T], undo: Callable[[T], None]) -> T:
    """Run *call* in a thread of *executor*, and return its result.

    If the caller is cancelled meanwhile, wait for *call*, and *undo* its result in a thread.  Another cancellation ends
    the wait, and the result is undone all the same.  Raises what *call* raises.
    """
    loop = asyncio.get_running_loop()
    calling = loop.run_in_executor(executor, call)

    async def undo_it() -> None:
        await asyncio.wait([calling])
        if calling.exception() is None:
            await loop.run_in_executor(executor, undo, calling.result())

    try:
        await asyncio.wait([calling])
        return calling.result()
    except asyncio.CancelledError:
        undoing = asyncio.ensure_future(undo_it())
        with anyio.CancelScope(shield=True):
            await asyncio.wait([undoing])
        raise
