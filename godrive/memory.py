"""One budget for all bytes that are held for clients.

Theory of operation.  Each client by itself is bounded: a head, a body, an
answer have limits of their own.  Their number is not, so the sum is bounded
here.  Whatever keeps bytes for a client is a :class:`Holder` and reports how
many.  When the sum passes the limit, holders are told to shed what they hold:
first those above the average, of them those without progress for longest.  An
upload sheds by writing to disk what it has collected; an unfinished request
head and an answer that is not read shed by ending their connection.

A report may be stale, because not every decrease is seen.  So the sum only
triggers the work; before anything is shed every holder is counted again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Protocol

LEAST = 16_384
"""Bytes that a share never goes below, so that an ordinary request is served however many others there are."""

_PART = 8
"""A share is at most this part of what is free, so that one client leaves room for the next."""

_COUNTED_FOR = 0.5
"""Seconds for which a count is good enough to tell a share."""


class Holder(Protocol):
    """Something that keeps bytes for a client."""

    def held_bytes(self) -> int:
        """The bytes that it keeps now."""
        ...

    def shed(self) -> None:
        """Give them up, now or as soon as they are written somewhere else."""
        ...


class MemoryBudget:
    """At most *limit* bytes, but for the shares of :data:`LEAST` bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self.shed = 0
        """How many times a holder had to give up its bytes."""
        self._holders: OrderedDict[Holder, int] = OrderedDict()
        self._counted_at = 0.0

    def report(self, holder: Holder, size: int) -> None:
        """*holder* keeps *size* bytes from now on."""
        self.held += size - self._holders.pop(holder, 0)
        if size:
            self._holders[holder] = size
            if self.held > self.limit:
                self._reclaim()

    def share(self, most: int) -> int:
        """How many bytes one more client may have kept for it, of the *most* that it may need."""
        share = (self.limit - self.held) // _PART
        if share < most and time.monotonic() - self._counted_at > _COUNTED_FOR:
            self._count()
            share = (self.limit - self.held) // _PART
        return min(most, max(share, LEAST))

    def _count(self) -> None:
        """Correct every report.  A holder that keeps less than before has made progress, so it comes last in line."""
        self._counted_at = time.monotonic()
        for holder, reported in list(self._holders.items()):
            size = holder.held_bytes()
            if size == reported:
                continue
            self.held += size - reported
            if not size:
                del self._holders[holder]
                continue
            self._holders[holder] = size
            if size < reported:
                self._holders.move_to_end(holder)

    def _reclaim(self) -> None:
        """Have holders shed until a quarter of the limit is free, so that this is not done for every packet."""
        self._count()
        if self.held <= self.limit:
            return
        enough = self.limit * 3 // 4
        while self.held > enough:
            average = self.held / len(self._holders)
            for holder, size in list(self._holders.items()):
                if size < average:
                    continue
                self.held -= self._holders.pop(holder, 0)
                self.shed += 1
                holder.shed()
                if self.held <= enough:
                    return
