"""Time as a dependency, so that tests turn the clock by hand."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Where the time comes from.

    ``now`` is wall time (aware, UTC, microseconds): what is written down.
    ``monotonic`` is seconds that never go back: what intervals are measured with.
    """

    def now(self) -> datetime: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()
