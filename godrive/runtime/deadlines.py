"""One timer for many deadlines.

A timer for each ask costs more than the rest of the ask (uvloop starts and
stops a libuv timer for each), and nearly every ask is answered long before its
deadline.  So futures are entered in a dict, and a single timer is set to the
earliest deadline seen.  When it fires, overdue futures expire and the timer is
set again for the rest, most of which did not exist when it was first set.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any


class Deadlines:
    """Sets ``TimeoutError`` on each future whose deadline has passed.  For one event loop's thread."""

    __slots__ = ("_pending", "_timer", "_wakes_at")

    def __init__(self) -> None:
        self._pending: dict[asyncio.Future[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._wakes_at = inf

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, future: asyncio.Future[Any], deadline: float) -> None:
        """Expire *future* at *deadline* (the loop's time).  The caller must discard it when the wait is over."""
        self._pending[future] = deadline
        if deadline < self._wakes_at:
            self._wake_at(deadline)

    def discard(self, future: asyncio.Future[Any]) -> None:
        """Forget *future*, expired or not."""
        del self._pending[future]

    def close(self) -> None:
        """Stop the timer.  Futures that are still pending no longer expire."""
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
            # The loop may call a timer early by up to its resolution, so the deadline it was set for is due.
            if deadline <= now or deadline <= self._wakes_at:
                future.set_exception(TimeoutError())
            elif deadline < left:
                left = deadline
        self._wake_at(left)
