"""When the next group of requests begins: once those have come that may be expected.

A group costs much the same whatever its size: turns of threads, a sync, and pages of the database that its members
share.  Clients that are answered together send their next requests one after another.  If the first of these began a
group, the others would form the next one, and the two halves would take turns from then on.  So a group waits a moment
until it is as large as the last one and what came beside it.  Clients whose requests go through several groups, as an
intent and its bytes do, fall into step the same way.

Clients that come at random gain nothing and would wait for nothing.  So a wait is no longer than two groups take: in
that time, those that are answered together are back.  Small groups do not wait.  After a group that has waited in vain,
the next ones do not: two of them, twice as many each time that this happens again, and half as many after each success.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PATIENCE = 0.008
"""Seconds that a group waits at most, and no longer than twice what the last one took."""

FEWEST = 8
"""Members of the smallest group that waits."""

FEWEST_RESTS, MOST_RESTS = 2, 128
"""How many groups do not wait after one that has waited in vain."""


class Gathering:
    """Tells when a group may begin.  Calls *begin* when one that was not complete has waited long enough.

    A group has at most *most* members.  It waits for *patience* seconds at most.
    """

    def __init__(self, begin: Callable[[], None], *, most: int, patience: float = PATIENCE) -> None:
        self._begin = begin
        self._most = most if patience else 0
        self._patience = patience
        self._expected = 0
        self._had = 0
        """How many were there when the wait could begin."""
        self._has = 0
        self._rests = 0
        self._next_rests = FEWEST_RESTS
        self._timer: asyncio.TimerHandle | None = None
        self._began_at = 0.0
        self._took = 0.0
        """Seconds that the last group took."""

    def is_complete(self, waiting: int) -> bool:
        """Whether a group may begin now, while *waiting* requests wait.  If not, *begin* is called later."""
        self._has = waiting
        loop = asyncio.get_running_loop()
        if waiting >= self._expected:
            if self._timer is not None:
                self._cancel()
                self._succeed()
            self._began_at = loop.time()
            return True
        if self._timer is None:
            self._timer = loop.call_later(min(2 * self._took, self._patience), self._give_up)
        return False

    def ended(self, members: int, waiting: int) -> None:
        """Note that a group has ended, while *waiting* requests wait that its members may join again."""
        self._had = waiting
        self._took = asyncio.get_running_loop().time() - self._began_at
        self._rests = max(0, self._rests - 1)
        expected = min(members + waiting, self._most)
        self._expected = 0 if self._rests or expected < FEWEST else expected

    def stop(self) -> None:
        """Let each group begin at once from now on, also one that is waiting."""
        self._most = self._expected = 0
        if self._timer is not None:
            self._cancel()
            self._begin()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if (self._has - self._had) * 2 < self._expected - self._had:
            self._rests = self._next_rests
            self._next_rests = min(self._next_rests * 2, MOST_RESTS)
        else:
            self._succeed()
        self._expected = 0
        self._begin()

    def _succeed(self) -> None:
        self._next_rests = max(self._next_rests // 2, FEWEST_RESTS)
