"""What stands between callers and a store that is down."""

from __future__ import annotations

from godrive.clock import Clock
from godrive.errors import StoreUnavailable

FAILURES_TO_OPEN = 3
OPEN_FOR = 1.0


class Breaker:
    """Keeps requests from piling up in front of a store that is down.

    After a few failures in a row it answers for the store at once, and lets
    one request through every :data:`OPEN_FOR` seconds; the first that succeeds
    lets all through again.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures = 0
        self._next_try = 0.0

    def check(self) -> None:
        """Raises ``StoreUnavailable`` when there is no point in trying now."""
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
