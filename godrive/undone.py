"""What opens and closes something, and is not left half done if the caller is cancelled, however often."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


async def undone_if_cancelled(executor: Executor | None, call: Callable[[], T], undo: Callable[[T], None]) -> T:
    """Run *call* in a thread of *executor*, and return its result.

    If the caller is cancelled meanwhile, wait for *call*, and *undo* its result in a thread.  Another cancellation ends
    the wait, and the result is undone all the same.  Raises what *call* raises.
    """
    loop = asyncio.get_running_loop()
    made: Future[T] = Future()

    def make() -> None:
        try:
            made.set_result(call())
        except BaseException as error:
            made.set_exception(error)

    def undo_it() -> None:
        if made.exception() is None:
            undo(made.result())

    calling = loop.run_in_executor(executor, make)
    try:
        await asyncio.wait([calling])
        return made.result()
    except asyncio.CancelledError:
        # At once, not when *call* has ended: by then the caller may have shut the executor down, or the loop be closed.
        undoing = loop.run_in_executor(executor, undo_it)
        with anyio.CancelScope(shield=True):
            await asyncio.wait([undoing])
        raise


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Run *work* to its end, also if the caller is cancelled meanwhile, however often.

    Raises what *work* raises, or then the cancellation.
    """
    working = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):
        while not working.done():
            try:
                await asyncio.wait([working])
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled from working.exception()
    working.result()
