"""Fair queueing of requests.

Theory of operation.  The mailbox of an actor is first come, first served, so a
client with many requests would delay all others.  Therefore requests queue
here, before any mailbox, and at most *slots* of them run concurrently.  Each
key (a user, or the address of an unauthenticated client) has its own queue, and
free slots go to the queues in turn.  One key never has more than half of the
slots, so that a new client finds a free one.

Reads, large reads, writes, batches, log-ins and reports have separate slots (:class:`Lanes`), so
a slow disk delays no read, many log-ins delay no user, and small requests
overtake large ones.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable

from godrive.errors import MailboxFull

READS, LARGE_READS, WRITES, BATCHES, LOGINS, REPORTS = 64, 2, 256, 4, 64, 2
"""Concurrent requests, or pieces of batches.  Two large reads, or two reports of the server's state, fill the event
loop; a few pieces fill a commit; many writes are cheap, because they share commits."""

MOST_WAITING = 512
"""The most queued requests of one key."""

PATIENCE = 10.0
"""Seconds after which a queued request is refused."""


class FairQueue:
    """Admits at most *slots* requests at once, and queues the others by key."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._most = max(1, slots // 2)
        self._taken: dict[Hashable, int] = {}
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """The number of queued requests."""
        return sum(map(len, self._waiting.values()))

    def enter(self, key: Hashable) -> bool:
        """Take a free slot.  Returns false if the caller must :meth:`wait`."""
        taken = self._taken.get(key, 0)
        if self._free and taken < self._most and key not in self._waiting:
            self._free -= 1
            self._taken[key] = taken + 1
            return True
        return False

    async def wait(self, key: Hashable) -> None:
        """Wait for a slot.  Raises ``MailboxFull`` after :data:`PATIENCE` seconds, or if the queue is full."""
        if len(self._waiting.get(key, ())) >= MOST_WAITING:
            raise MailboxFull("Too many of your requests are queued.")
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        try:
            await asyncio.wait([turn], timeout=PATIENCE)
        except BaseException:
            self._give_up(key, turn)
            raise
        if not turn.done():
            self._give_up(key, turn)
            raise MailboxFull(f"The request was queued for {PATIENCE:g} seconds without being served.")

    def leave(self, key: Hashable) -> None:
        """End a turn, and begin that of the next in line."""
        self._free += 1
        taken = self._taken[key] - 1
        if taken:
            self._taken[key] = taken
        else:
            del self._taken[key]
        if self._waiting:
            self._begin_next()

    def _begin_next(self) -> None:
        for key in list(self._waiting):
            if not self._free:
                return
            taken = self._taken.get(key, 0)
            if taken >= self._most:
                continue
            queue = self._waiting[key]
            queue.popleft().set_result(None)
            self._free -= 1
            self._taken[key] = taken + 1
            if queue:
                self._waiting.move_to_end(key)
            else:
                del self._waiting[key]

    def _give_up(self, key: Hashable, turn: asyncio.Future[None]) -> None:
        if turn.done():  # the turn had come
            self.leave(key)
            return
        queue = self._waiting[key]
        queue.remove(turn)
        if not queue:
            del self._waiting[key]


class Lanes:
    """The queues of one application."""

    def __init__(self) -> None:
        self.reads = FairQueue(READS)
        self.large_reads = FairQueue(LARGE_READS)
        self.writes = FairQueue(WRITES)
        self.batches = FairQueue(BATCHES)
        self.logins = FairQueue(LOGINS)
        self.reports = FairQueue(REPORTS)
