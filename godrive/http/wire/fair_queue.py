"""Turns at the drive, shared fairly among those who want them.

Theory of operation.  An actor's mailbox is first come, first served: whoever
sends most would be served most, and everybody else would wait behind.  So
requests queue here, before any mailbox, and at most *slots* of them are under
way at once.  Each key (a user, or the address of a stranger) has a queue of
its own; free slots go to the queues in turn.  One key never has more than half
of the slots, so that a newcomer finds one free.

Reads, large reads, writes and log-ins have slots of their own
(:class:`Lanes`): a slow disk delays no read, a storm of log-ins delays no
user, and small requests overtake large ones.
"""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Hashable

from godrive.errors import MailboxFull

READS, LARGE_READS, WRITES, LOGINS = 64, 2, 256, 64
"""Requests under way at once.  Two large reads fill the event loop; writes are committed in groups, so many are few."""

MOST_WAITING = 512
"""Requests of one key that may wait."""

PATIENCE = 10.0
"""Seconds that a request waits for its turn before it is refused."""


class FairQueue:
    """At most *slots* turns at once; those who wait take turns by key."""

    def __init__(self, slots: int) -> None:
        self._free = slots
        self._most = max(1, slots // 2)
        self._taken: Counter[Hashable] = Counter()
        self._waiting: OrderedDict[Hashable, deque[asyncio.Future[None]]] = OrderedDict()

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return sum(map(len, self._waiting.values()))

    def enter(self, key: Hashable) -> bool:
        """Take a turn if there is a free one; else :meth:`wait`."""
        if self._free and self._taken[key] < self._most and key not in self._waiting:
            self._free -= 1
            self._taken[key] += 1
            return True
        return False

    async def wait(self, key: Hashable) -> None:
        """Take a turn when it comes.  Raises ``MailboxFull`` after :data:`PATIENCE` seconds, or if too many wait."""
        if len(self._waiting.get(key, ())) >= MOST_WAITING:
            raise MailboxFull("Too many requests of yours wait already.")
        turn = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, deque()).append(turn)
        try:
            await asyncio.wait([turn], timeout=PATIENCE)
        except BaseException:
            self._give_up(key, turn)
            raise
        if not turn.done():
            self._give_up(key, turn)
            raise MailboxFull(f"No turn came within {PATIENCE:g} seconds.")

    def leave(self, key: Hashable) -> None:
        """End a turn, and begin that of the next in line."""
        self._free += 1
        self._taken[key] -= 1
        if not self._taken[key]:
            del self._taken[key]
        if self._waiting:
            self._begin_next()

    def _begin_next(self) -> None:
        for key in list(self._waiting):
            if not self._free:
                return
            if self._taken[key] >= self._most:
                continue
            queue = self._waiting[key]
            queue.popleft().set_result(None)
            self._free -= 1
            self._taken[key] += 1
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
        self.logins = FairQueue(LOGINS)
