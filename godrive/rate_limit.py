"""Limit failed attempts of each key within a sliding window."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import msgspec

from godrive.clock import Clock
from godrive.errors import TooManyRequests

_PENDING_WAIT = 1.0
"""Seconds to wait if running attempts, which may still succeed, exhaust the limit."""


class _Record(msgspec.Struct, eq=False):
    failed_at: list[float] = msgspec.field(default_factory=list)
    pending: int = 0


class RateLimiter:
    """Counts the failed attempts of each key (an address, an account) in the last ``window`` seconds.

    A key may fail ``limit`` times; both may change at any time.

    A running attempt counts as failed until it ends, so concurrent guesses have
    no advantage.  Refused attempts do not count, so a client that waits as long
    as ``Retry-After`` says is admitted.  Only the *capacity* keys with the
    latest attempts are stored, so memory is bounded.
    """

    def __init__(self, limit: int, window: float, clock: Clock, *, capacity: int = 10_000) -> None:
        self.limit = limit
        self.window = window
        self._clock = clock
        self._capacity = capacity
        self._records: OrderedDict[str, _Record] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of stored keys."""
        return len(self._records)

    def wait(self, key: str) -> float:
        """Return the seconds until the key may try again; 0 if it may now."""
        record = self._records.get(key)
        if record is None:
            return 0.0
        now = self._clock.monotonic()
        failed_at = [at for at in record.failed_at if at > now - self.window]
        if len(failed_at) >= self.limit:
            return failed_at[-self.limit] + self.window - now
        return 0.0 if len(failed_at) + record.pending < self.limit else _PENDING_WAIT

    def start(self, key: str) -> _Record:
        """Begin an attempt, even if the key should wait.  Pass the result to :meth:`finish`."""
        record = self._records.pop(key, None) or _Record()
        self._records[key] = record  # the latest attempt comes last
        record.pending += 1
        if len(self._records) > self._capacity:
            self._records.popitem(last=False)
        return record

    def finish(self, key: str, record: _Record, *, failed: bool) -> None:
        """End an attempt.  Count it if it *failed*."""
        now = self._clock.monotonic()
        record.pending -= 1
        record.failed_at = [at for at in record.failed_at if at > now - self.window]
        if failed:
            record.failed_at.append(now)
        elif not record.failed_at and not record.pending and self._records.get(key) is record:
            del self._records[key]


class Limit(msgspec.Struct, frozen=True):
    """A limit that an attempt counts for.  Only an *enforced* limit refuses attempts."""

    limiter: RateLimiter
    key: str
    enforced: bool = True


class Attempt:
    """A running attempt.  It counts for its limits if *counts* is set."""

    def __init__(self) -> None:
        self.counts = False


def attempt(limits: Sequence[Limit]) -> AbstractContextManager[Attempt]:
    """Return a context manager for an attempt that counts for all *limits*.  Enter it at once.

    Raises ``TooManyRequests`` with the time after which all limits allow it.
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
