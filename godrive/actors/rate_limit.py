"""Limits on failed attempts: at most so many of each key within a sliding window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from godrive.clock import Clock
from godrive.errors import TooManyRequests

_PENDING_WAIT = 1.0
"""Seconds after which to come back when attempts under way, which may yet succeed, use up the limit."""


@dataclass(eq=False)
class _Record:
    failed_at: list[float] = field(default_factory=list)
    pending: int = 0


class RateLimiter:
    """Counts the failed attempts of each key (an address, an account) in the last *window* seconds.

    An attempt under way counts as failed until it ends, so many guesses at once
    are no more than many in a row.  Refused attempts do not count, so a client
    that comes back when told to is let in.  Remembers the *capacity* keys that
    tried last: memory is bounded however many keys there are.
    """

    def __init__(self, limit: int, window: float, clock: Clock, *, capacity: int = 10_000) -> None:
        self._limit = limit
        self._window = window
        self._clock = clock
        self._capacity = capacity
        self._records: dict[str, _Record] = {}

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._records)

    def wait(self, key: str) -> float:
        """Seconds until the key may try again: 0 when it may now."""
        record = self._records.get(key)
        if record is None:
            return 0.0
        now = self._clock.monotonic()
        failed_at = [at for at in record.failed_at if at > now - self._window]
        if len(failed_at) >= self._limit:
            return failed_at[-self._limit] + self._window - now
        return 0.0 if len(failed_at) + record.pending < self._limit else _PENDING_WAIT

    def start(self, key: str) -> _Record:
        """Begin an attempt, whether or not the key should wait; pass the result to :meth:`finish`."""
        record = self._records.pop(key, None) or _Record()
        self._records[key] = record  # last, because it tried last
        record.pending += 1
        if len(self._records) > self._capacity:
            del self._records[next(iter(self._records))]
        return record

    def finish(self, key: str, record: _Record, *, failed: bool) -> None:
        """End an attempt, and count it if it *failed*."""
        now = self._clock.monotonic()
        record.pending -= 1
        record.failed_at = [at for at in record.failed_at if at > now - self._window]
        if failed:
            record.failed_at.append(now)
        elif not record.failed_at and not record.pending and self._records.get(key) is record:
            del self._records[key]


@dataclass(frozen=True)
class Limit:
    """One limit that an attempt counts for; it is refused for this limit only when *enforced*."""

    limiter: RateLimiter
    key: str
    enforced: bool = True


class Attempt:
    """An attempt under way; it counts for its limits when *counts* is set."""

    def __init__(self) -> None:
        self.counts = False


def attempt(limits: Sequence[Limit]) -> AbstractContextManager[Attempt]:
    """Begin an attempt that counts for all *limits*, as a context manager to enter at once.

    Raises ``TooManyRequests`` with the time after which all of them allow it.
    """
    wait = max((limit.limiter.wait(limit.key) for limit in limits if limit.enforced), default=0.0)
    if wait > 0:
        raise TooManyRequests("Too many attempts.", retry_after=wait)
    return _under_way(limits)


@contextmanager
def _under_way(limits: Sequence[Limit]) -> Iterator[Attempt]:
    records = [(limit, limit.limiter.start(limit.key)) for limit in limits]
    made = Attempt()
    try:
        yield made
    finally:
        for limit, record in records:
            limit.limiter.finish(limit.key, record, failed=made.counts)
