"""Time as a dependency, so that tests can set it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

TOLERANCE = 60.0
"""Seconds by which the wall clock may leave the monotonic clock between two readings; NTP corrects by less."""

SETTLE = 86_400.0
"""Seconds without another jump after which a wall clock that jumped is trusted again."""

_BOOT_TIME = getattr(time, "CLOCK_BOOTTIME", None)


class Clock(Protocol):
    """Where the time comes from.

    ``now`` is wall time (aware, UTC, microseconds), for instants that are stored.
    ``monotonic`` is seconds that never go back, for intervals.
    """

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The clocks of the machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        # Linux stops CLOCK_MONOTONIC while the machine sleeps, and a laptop that wakes up has not had its clock set.
        return time.monotonic() if _BOOT_TIME is None else time.clock_gettime(_BOOT_TIME)


class ClockGuard:
    """Tells whether the wall clock may decide about what cannot be undone.

    The two clocks run at the same pace, so their difference is constant unless
    someone sets the wall clock.  A difference that changes by more than
    *tolerance* seconds between two readings is a jump, forwards or backwards.
    After a jump, the clock is in doubt until it has run for *settle* seconds
    without another one: there is no telling which of the two times was wrong,
    and what was written meanwhile may carry either.

    ``compared`` says whether someone has compared the clock with the time that
    an earlier process recorded.
    """

    def __init__(self, clock: Clock, *, tolerance: float = TOLERANCE, settle: float = SETTLE) -> None:
        self._clock = clock
        self._tolerance = tolerance
        self._settle = settle
        self._difference = self._measure()
        self._jump = 0.0
        self._in_doubt_until = float("-inf")
        self.compared = False

    def distrust(self, jump: float) -> None:
        """Put the clock in doubt, because it is *jump* seconds from where it should be."""
        self._jump = jump
        self._in_doubt_until = self._clock.monotonic() + self._settle

    def trust(self) -> None:
        """End the doubt, because an operator says that the clock is right."""
        self._difference = self._measure()
        self._in_doubt_until = float("-inf")
        self.compared = True

    def doubt(self) -> str | None:
        """Why the clock is in doubt, for an operator to read; ``None`` when it is not."""
        before, self._difference = self._difference, self._measure()
        now = self._clock.monotonic()
        if abs(self._difference - before) > self._tolerance:
            self.distrust(self._difference - before)
        if now >= self._in_doubt_until:
            return None
        direction = "forwards" if self._jump > 0 else "backwards"
        by = timedelta(seconds=round(abs(self._jump)))
        left = timedelta(seconds=round(self._in_doubt_until - now))
        return (
            f"The clock jumped {direction} by {by}, or the server was off: nothing expires until it has run steadily "
            f"for another {left}. If the clock is right, run: godrive sweep --trust-clock"
        )

    def _measure(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()
