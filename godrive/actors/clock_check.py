"""Compare the clock with what the catalog remembers of it."""

from __future__ import annotations

from godrive.clock import TOLERANCE, ClockGuard
from godrive.messages.metadata import Metadata
from godrive.messages.system import NoteTime
from godrive.runtime import Ref

MOST_IDLE = 8 * 86_400.0
"""Seconds from one process to the next after which the clock is in doubt: it is wrong, or the server was off."""


async def check_clock(metadata: Ref[Metadata], guard: ClockGuard, *, trust: bool = False) -> None:
    """Record the time in the catalog, for the next process to compare with.

    The first time in a process, compare it with what was recorded last: a clock
    that was wrong before the process started does not jump while it runs.  With
    *trust*, an operator vouches for the clock.
    """
    if trust:
        guard.trust()
    if guard.doubt() is not None:
        return  # keep what was recorded before
    if guard.compared:
        await metadata.ask(NoteTime())
        return
    passed = await metadata.ask(NoteTime(back=TOLERANCE, forward=MOST_IDLE))
    guard.compared = True
    if not -TOLERANCE <= passed <= MOST_IDLE:
        guard.distrust(passed)
