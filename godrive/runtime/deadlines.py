"""One timer for all who wait.

A timer of its own for every ask costs more than the rest of the ask (uvloop
starts and stops a libuv timer for each), and nearly every ask is answered long
before its deadline.  So futures are entered in a dict, and the only timer is
set to the earliest deadline seen; when it fires, what is due expires and the
timer moves on to what is left, most of which did not exist when it was set.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any


class Deadlines:
    """Gives a ``TimeoutError`` to each future whose time has come.  For one event loop's thread."""

    __slots__ = ("_pending", "_timer", "_wakes_at")

    def __init__(self) -> None:
        self._pending: dict[asyncio.Future[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = inf

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, future: asyncio.Future[Any], deadline: float) -> None:
        """Let *future* wait until *deadline* (the loop's time).  Whoever adds it must discard it."""
        self._pending[future] = deadline
        if deadline < self._wakes_at:
            self._wake_at(deadline)

    def discard(self, future: asyncio.Future[Any]) -> None:
        """The wait is over, one way or another."""
        del self._pending[future]

    def close(self) -> None:
        """Stop the timer; what is still pending waits without a deadline."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._wakes_at = inf

    def _wake_at(self, deadline: float) -> None:
        self.close()
        if deadline < inf:
            self._timer = asyncio.get_running_loop().call_at(deadline, self._expire)
            self._wakes_at = deadline

    def _expire(self) -> None:
        now = asyncio.get_running_loop().time()
        left = inf
        for future, deadline in self._pending.items():
            if future.done():
                continue
            # The loop calls a timer up to its resolution early: what it was set for is due.
            if deadline <= now or deadline <= self._wakes_at:
                future.set_exception(TimeoutError())
            elif deadline < left:
                left = deadline
        self._wake_at(left)
