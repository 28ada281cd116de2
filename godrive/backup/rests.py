"""Rests between slices of work, so that a backup leaves the machine to a server beside it.

A low priority is not enough: processors share caches, memory and disks, so a
busy one slows the other, whatever the priorities are.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable

SLICE = 0.015
"""Seconds of work between two rests."""

LONGEST = 1.0
"""Seconds of work that count at most: what stopped for longer did not work."""

_STEPS = 10_000
"""Steps of SQLite's virtual machine between two looks whether it is time to rest."""

BACKGROUND = 0.5
"""The share of the time for work in the background.  Some of it waits for the disk, so it takes less of a processor."""

Pace = Callable[[int], Awaitable[None]]


class Rests:
    """Makes work take *share* of the time at most; without one, there are no rests.  To wait for the disk is work."""

    def __init__(self, share: float = 1.0, *, now: Callable[[], float] = time.monotonic) -> None:
        self._rest = 1 / share - 1
        self._now = now
        self._begun = now()
        self._turn = asyncio.Lock()

    def due(self) -> float:
        """Return the seconds to rest now; 0 before the end of a slice."""
        worked = self._now() - self._begun
        return min(worked, LONGEST) * self._rest if worked >= SLICE else 0.0

    def rest(self) -> None:
        """Rest if it is time.  For threads."""
        if due := self.due():
            time.sleep(due)
            self._begun = self._now()

    def within(self, connection: sqlite3.Connection) -> None:
        """Let all statements of the connection rest in the middle."""
        if self._rest:
            connection.set_progress_handler(self.rest, _STEPS)

    async def pause(self) -> None:
        """Rest if it is time.  Others who call this meanwhile rest too."""
        if not self._rest:
            return
        async with self._turn:
            if due := self.due():
                await asyncio.sleep(due)
                self._begun = self._now()

    def after(self, pace: Pace | None) -> Pace:
        """Return a pace that is *pace*, which is no work, and these rests."""

        async def both(length: int) -> None:
            if pace is not None:
                start = self._now()
                await pace(length)
                self._begun = min(self._begun + self._now() - start, self._now())
            await self.pause()

        return both


NEVER = Rests()
"""For work that does not rest."""
