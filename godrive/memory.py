"""One budget for all bytes buffered for clients.

Theory of operation.  The head, body and answer of each request have limits, but
the number of clients has none, so this module bounds the sum.  An object that
buffers bytes for a client is a :class:`Holder` and reports how many.  When the
sum exceeds the limit, holders must shed their bytes: those above the average,
and of these the ones without progress for the longest time first.  An upload
sheds by writing its buffer to disk.  A body that its handler has not taken is
dropped, and its request refused with :func:`no_room`.  An unfinished request head
and an unread answer shed by closing their connection.

Reports may be stale, because not every decrease is reported.  So before any
holder sheds, all are counted again.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from godrive.errors import MailboxFull

LEAST = 16_384
"""The smallest share in bytes, so that an ordinary request is always served."""

_PART = 8
"""A share is at most 1/8 of the free budget, so that each client leaves some for the next."""

_COUNTED_FOR = 0.5
"""Seconds for which a count is recent enough to compute shares."""


def no_room() -> MailboxFull:
    """Return the refusal of a request whose body there is no memory for."""
    return MailboxFull("There is not enough free memory for this body now.")


class Holder(Protocol):
    """An object that buffers bytes for a client."""

    def held_bytes(self) -> int:
        """Return the number of bytes buffered now."""
        ...

    def shed(self) -> None:
        """Release the bytes, now or as soon as they are written elsewhere."""
        ...


class MemoryBudget:
    """A budget of *limit* bytes.  Shares of :data:`LEAST` bytes may exceed it."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self.shed = 0
        """The number of times that a holder had to shed."""
        self.on_shed: Callable[[], None] | None = None
        """Called when holders have to shed."""
        self._holders: OrderedDict[Holder, int] = OrderedDict()
        self._counted_at = 0.0

    def report(self, holder: Holder, size: int) -> None:
        """Record that *holder* now buffers *size* bytes."""
        self.held += size - self._holders.pop(holder, 0)
        if size:
            self._holders[holder] = size
            if self.held > self.limit:
                self._reclaim()

    def share(self, most: int) -> int:
        """Return the number of bytes, at most *most*, that may be buffered for one more client."""
        share = (self.limit - self.held) // _PART
        if share < most and time.monotonic() - self._counted_at > _COUNTED_FOR:
            self._count()
            share = (self.limit - self.held) // _PART
        return min(most, max(share, LEAST))

    def _count(self) -> None:
        """Correct every report.  A holder whose bytes decreased has made progress, so it becomes the last to shed."""
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
        """Let holders shed until a quarter of the limit is free, so that not every packet causes this work."""
        self._count()
        if self.held <= self.limit:
            return
        if self.on_shed is not None:
            self.on_shed()
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
