"""The clock as a dependency, so that tests can control time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

TOLERANCE = 60.0
"""Seconds by which the clocks may diverge between two readings.  NTP corrects by less."""

SETTLE = 86_400.0
"""Seconds without another jump after which the wall clock is trusted again."""

_BOOT_TIME = getattr(time, "CLOCK_BOOTTIME", None)


class Clock(Protocol):
    """A source of time.

    ``now`` returns wall time (aware UTC, with microseconds), for stored instants.
    ``monotonic`` returns seconds that never decrease, for intervals.
    """

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The clocks of the machine."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        # Linux stops CLOCK_MONOTONIC during sleep, so waking up would look like a jump of the wall clock.
        return time.monotonic() if _BOOT_TIME is None else time.clock_gettime(_BOOT_TIME)


class ClockGuard:
    """Detects jumps of the wall clock, so that nothing is deleted because of a wrong time.

    Both clocks run at the same rate, so their difference is constant unless the
    wall clock is set.  A change of the difference by more than *tolerance*
    seconds between two readings is a jump, forwards or backwards.  After a jump,
    the clock is in doubt until it has run for *settle* seconds without another
    one, because either of the two times may be wrong, and rows may contain both.

    ``compared`` is true once the clock was compared with the time that an
    earlier process recorded.
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
        """Put the clock in doubt, because it is *jump* seconds away from the expected time."""
        self._jump = jump
        self._in_doubt_until = self._clock.monotonic() + self._settle

    def inherit(self, seconds: float) -> None:
        """Put the clock in doubt for *seconds*, because an earlier process had not yet trusted it again."""
        self._jump = 0.0
        self._in_doubt_until = self._clock.monotonic() + min(seconds, self._settle)

    @property
    def has_doubted(self) -> bool:
        """Whether the clock has been in doubt since the start of this process."""
        return self._in_doubt_until > float("-inf")

    @property
    def left(self) -> float:
        """Seconds for which the clock remains in doubt."""
        return max(0.0, self._in_doubt_until - self._clock.monotonic())

    def trust(self) -> None:
        """End the doubt, because an operator confirmed the clock."""
        self._difference = self._measure()
        self._in_doubt_until = float("-inf")
        self.compared = True

    def doubt(self) -> str | None:
        """Return why the clock is in doubt, as a sentence for the operator; ``None`` if it is not."""
        before, self._difference = self._difference, self._measure()
        now = self._clock.monotonic()
        if abs(self._difference - before) > self._tolerance:
            self.distrust(self._difference - before)
        if now >= self._in_doubt_until:
            return None
        by = timedelta(seconds=round(abs(self._jump)))
        why = f"jumped {'forwards' if self._jump > 0 else 'backwards'} by {by}, or the server was off"
        if not self._jump:
            why = "jumped before the last start"
        return (
            f"The clock {why}: nothing expires until it has run steadily for another "
            f"{timedelta(seconds=round(self.left))}. If the clock is right, run: godrive sweep --trust-clock"
        )

    def _measure(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()
