"""Answers from memory to questions that cost something, for routes that anyone may call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """What *ask* returned last.

    It is asked again when that is *every* seconds old, once for all who want to
    know.  They wait for it, but if there is an older answer for *patience*
    seconds only; then they get the older one.  *ask* must not fail.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], *, every: float, patience: float) -> None:
        self._ask = ask
        self._every = every
        self._patience = patience
        self._answer: tuple[float, T] | None = None
        self._asking: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """The answer."""
        known = self._answer
        if known is not None and time.monotonic() - known[0] < self._every:
            return known[1]
        if self._asking is None:
            self._asking = asyncio.create_task(self._refresh())
        asking = self._asking
        await asyncio.wait([asking], timeout=None if known is None else self._patience)
        return asking.result() if known is None or asking.done() else known[1]

    async def _refresh(self) -> T:
        try:
            answer = await self._ask()
            self._answer = time.monotonic(), answer
            return answer
        finally:
            self._asking = None

    async def close(self) -> None:
        """Stop asking."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
