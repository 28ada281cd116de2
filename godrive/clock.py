"""The clock as a dependency, so that tests can control time."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

TOLERANCE = 60.0
"""Seconds by which the clocks may diverge between two readings.  NTP corrects by less."""

STEP = 86_400.0
"""Seconds by which the time may differ from that of the last process, by default."""

SETTLE = 86_400.0
"""Seconds without another jump after which the wall clock is trusted again."""

_ACCEPTED_FOR = 3600.0
"""Seconds within which a process follows an operator who accepts the clock: sweeps are less than that apart."""

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
    seconds between two readings is a jump, forwards or backwards.  Between two
    processes only the wall clock counts, so there a jump is a *step* of more
    seconds forwards, or of more than the tolerance backwards.

    After a jump, the clock is in doubt until it has run for *settle* seconds
    without another one, because either of the two times may be wrong, and rows
    may contain both.  Until then, only what is due by every time that the clock
    has shown since, and before, is due.
    """

    def __init__(
        self, clock: Clock, *, tolerance: float = TOLERANCE, step: float = STEP, settle: float = SETTLE
    ) -> None:
        self._clock = clock
        self._tolerance = min(tolerance, step)
        self._step = step
        self._settle = settle
        self._difference = self._least = self._measure()
        self._jump = 0.0
        self._in_doubt_until = float("-inf")
        self._accepted_at: datetime | None = None
        self.compared = False
        """Whether the clock was compared with the time that an earlier process recorded."""

    def learn(
        self, noted_at: datetime | None, doubt: float, due_by: datetime | None, accepted_at: datetime | None
    ) -> None:
        """Compare the clock with what the catalog has recorded (see ``NotedClock``).

        The first call in a process looks for a jump.  Later ones, for an operator who has accepted the clock.
        """
        is_new, self._accepted_at = accepted_at != self._accepted_at, accepted_at
        if self.compared:
            if accepted_at is not None and is_new and abs(self._since(accepted_at)) <= _ACCEPTED_FOR:
                self.trust()
            return
        self.compared = True
        if noted_at is None:
            return
        passed, due_by = self._since(noted_at), due_by or noted_at
        if not -self._tolerance <= passed <= self._step:
            self._distrust(passed, self._difference - self._since(due_by))
        elif doubt and self._in_doubt_until == float("-inf"):
            ahead = (noted_at - due_by).total_seconds()
            self._distrust(0.0, self._difference - ahead, settle=min(doubt, self._settle))

    def _distrust(self, jump: float, expected: float, *, settle: float | None = None) -> None:
        """Put the clock in doubt.  It is *jump* seconds away from the difference that was *expected*."""
        is_first = self._clock.monotonic() >= self._in_doubt_until
        self._least = min(self._difference, expected, self._difference if is_first else self._least)
        self._jump = jump
        self._in_doubt_until = self._clock.monotonic() + (self._settle if settle is None else settle)

    @property
    def left(self) -> float:
        """Seconds for which the clock remains in doubt."""
        return max(0.0, self._in_doubt_until - self._clock.monotonic())

    def trust(self) -> None:
        """End the doubt, because an operator confirmed the clock."""
        self._difference = self._measure()
        self._in_doubt_until = float("-inf")
        self.compared = True

    def due_by(self) -> datetime | None:
        """Return the time by which things are due while the clock is in doubt; ``None`` if it is not."""
        if self.doubt() is None:
            return None
        return datetime.fromtimestamp(self._clock.monotonic() + self._least, UTC)

    def doubt(self) -> str | None:
        """Return why the clock is in doubt, as a sentence for the operator; ``None`` if it is not."""
        before, self._difference = self._difference, self._measure()
        now = self._clock.monotonic()
        if abs(self._difference - before) > self._tolerance:
            self._distrust(self._difference - before, before)
        if now >= self._in_doubt_until:
            return None
        self._least = min(self._least, self._difference)
        by = timedelta(seconds=round(abs(self._jump)))
        why = f"jumped {'forwards' if self._jump > 0 else 'backwards'} by {by}, or the server was off"
        if not self._jump:
            why = "jumped before the last start"
        return (
            f"The clock {why}: only what was due before expires, until it has run steadily for another "
            f"{timedelta(seconds=round(self.left))}. If the clock is right, run: godrive doctor --accept-clock"
        )

    def _since(self, instant: datetime) -> float:
        return (self._clock.now() - instant).total_seconds()

    def _measure(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()
