"""Compare the clock with the time recorded in the catalog."""

from __future__ import annotations

from godrive.clock import TOLERANCE, ClockGuard
from godrive.messages.clock import NoteDoubt, NoteTime
from godrive.messages.metadata import Metadata
from godrive.runtime import Ref

MOST_IDLE = 8 * 86_400.0
"""The longest gap between two processes, in seconds.  After a longer one the clock is in doubt."""


async def check_clock(metadata: Ref[Metadata], guard: ClockGuard, *, trust: bool = False) -> None:
    """Record the time in the catalog, so that the next process can compare its clock.

    The first call in a process compares the clock with the recorded time first,
    because a clock that was wrong before the process started does not jump while
    it runs.  With *trust*, an operator confirms that the clock is right.

    The doubt is recorded too.  What was written while the clock was wrong may
    look expired once it is right again, and a restart does not change that.
    """
    if trust:
        guard.trust()
    if guard.doubt() is None:
        if guard.compared:
            if (await metadata.ask(NoteTime())).doubt:
                await metadata.ask(NoteDoubt(0.0))
            return
        noted = await metadata.ask(NoteTime(back=TOLERANCE, forward=MOST_IDLE))
        guard.compared = True
        if not -TOLERANCE <= noted.passed <= MOST_IDLE:
            guard.distrust(noted.passed)
        elif noted.doubt and not guard.has_doubted:
            guard.inherit(noted.doubt)
    if guard.left:
        await metadata.ask(NoteDoubt(guard.left))  # keeps the earlier time
