"""Compare the clock with the time recorded in the catalog."""

from __future__ import annotations

from godrive.clock import TOLERANCE, ClockGuard
from godrive.messages.metadata import Metadata
from godrive.messages.system import NoteTime
from godrive.runtime import Ref

MOST_IDLE = 8 * 86_400.0
"""The longest gap between two processes, in seconds.  After a longer one the clock is in doubt."""


async def check_clock(metadata: Ref[Metadata], guard: ClockGuard, *, trust: bool = False) -> None:
    """Record the time in the catalog, so that the next process can compare its clock.

    The first call in a process compares the clock with the recorded time first,
    because a clock that was wrong before the process started does not jump while
    it runs.  With *trust*, an operator confirms that the clock is right.
    """
    if trust:
        guard.trust()
    if guard.doubt() is not None:
        return  # keep the earlier record
    if guard.compared:
        await metadata.ask(NoteTime())
        return
    passed = await metadata.ask(NoteTime(back=TOLERANCE, forward=MOST_IDLE))
    guard.compared = True
    if not -TOLERANCE <= passed <= MOST_IDLE:
        guard.distrust(passed)
