"""Compare the clock with the time recorded in the catalog."""

from __future__ import annotations

from godrive.clock import Clock, ClockGuard
from godrive.messages.clock import AcceptClock, NoteClock, ReadClock
from godrive.messages.metadata import Metadata
from godrive.runtime import Ref


async def check_clock(metadata: Ref[Metadata], guard: ClockGuard, clock: Clock, *, trust: bool = False) -> None:
    """Compare the clock with what the catalog has, and record the time for the next process.

    A clock that was wrong before the process started does not jump while it
    runs, so the first call in a process compares it with the recorded time.
    Later calls notice that an operator has accepted the clock.  With *trust*,
    the caller accepts it.

    The doubt is recorded too.  What was written while the clock was wrong may
    look expired once it is right again, and a restart does not change that.
    """
    if trust:
        await metadata.ask(AcceptClock())
        guard.trust()
    noted = await metadata.ask(ReadClock())
    guard.learn(noted.at, noted.doubt, noted.due_by, noted.accepted_at)
    due_by = guard.due_by()  # looks for a jump, after which the clock is in doubt
    await metadata.ask(NoteClock(clock.now(), guard.left, due_by))
