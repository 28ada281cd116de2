"""A circuit breaker in front of a store that is down."""

from __future__ import annotations

from godrive.clock import Clock
from godrive.errors import StoreUnavailable

FAILURES_TO_OPEN = 3
OPEN_FOR = 1.0


class Breaker:
    """Refuses requests at once after :data:`FAILURES_TO_OPEN` failures in a row.

    Then it lets one request through every :data:`OPEN_FOR` seconds.  The first
    success closes it.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._next_try = 0.0

    def check(self) -> None:
        """Raises ``StoreUnavailable`` while the breaker is open."""
        if self._failures < FAILURES_TO_OPEN:
            return
        now = self._clock.monotonic()
        if now < self._next_try:
            raise StoreUnavailable("The store does not answer.", retry_after=max(1.0, self._next_try - now))
        self._next_try = now + OPEN_FOR

    def succeeded(self) -> None:
        self._failures = 0

    def failed(self) -> None:
        self._failures += 1
        self._next_try = self._clock.monotonic() + OPEN_FOR
