"""Cache the results of costly checks, for routes that anyone may call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Caches the last result of *ask*.

    When the result is *every* seconds old, the next caller starts a new *ask*,
    and all callers share it.  Without an older result they wait until it
    returns.  Otherwise they wait at most *patience* seconds, and then get the
    older result.  *ask* must not raise.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], *, every: float, patience: float) -> None:
        self._ask = ask
        self._every = every
        self._patience = patience
        self._answer: tuple[float, T] | None = None
        self._asking: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """Return the cached result, or a new one."""
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
        """Cancel a running *ask*."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])
