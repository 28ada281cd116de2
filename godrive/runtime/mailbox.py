"""A bounded mailbox: the messages that wait for an actor, and the senders that wait for room.

It is made of plain futures and a deque and not of a memory stream, because
every request pays for this path several times and a stream costs several times
as much.  All methods must run on the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from typing import Any

import msgspec

from godrive.errors import DriveError
from godrive.runtime.deadlines import Deadlines
from godrive.runtime.message import Message

_STREAK = 64
"""Messages handed out in a row before the event loop runs other tasks."""


class Envelope(msgspec.Struct):
    """A message in transit, with its reply, its deadline, the id of the request and when it was sent.

    Times are those of the event loop.
    """

    message: Message[Any]
    reply: asyncio.Future[Any]
    deadline: float
    request_id: str | None
    sent_at: float

    def expired(self, now: float) -> bool:
        """Whether the deadline has passed.

        The timer may fire slightly early, so an asker that has already been told ``AskTimeout`` counts too.
        """
        return self.deadline <= now or (self.reply.done() and not self.reply.cancelled())

    def answer(self, value: Any) -> None:
        """Send the reply.  A no-op if the asker no longer waits."""
        if not self.reply.done():
            self.reply.set_result(value)

    def fail(self, error: DriveError) -> None:
        """Send an error as the reply.  A no-op if the asker no longer waits."""
        if not self.reply.done():
            self.reply.set_exception(error)


class Mailbox:
    """First in, first out, never more than *capacity* envelopes.

    An envelope stays in the queue until a taker is about to handle it, so
    cancelling a taker loses none.  While paused, ``take`` returns ``None`` at
    once and envelopes queue up to the bound: so the backlog outlives the actor
    that serves it.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a mailbox of capacity {capacity} holds nothing")
        self.capacity = capacity
        self.paused = False
        self.closed = False
        self.deadlines = Deadlines()
        self._queue: deque[Envelope] = deque()
        self.takers: deque[asyncio.Future[None]] = deque()
        """Those that wait for a message."""
        self._putters: dict[asyncio.Future[bool], Envelope] = {}
        self._streak = 0
        self.parked = 0
        """Messages that were taken and wait for another with the same key; they count against the capacity."""

    def __len__(self) -> int:
        return len(self._queue) + self.parked

    def oldest(self) -> float | None:
        """When the first of the messages that wait was sent; ``None`` if none waits."""
        return self._queue[0].sent_at if self._queue else None

    def offer(self, envelope: Envelope) -> bool:
        """Put without waiting.  ``False`` if full or closed."""
        if self.closed or len(self._queue) + self.parked >= self.capacity:
            return False
        self._queue.append(envelope)
        if self.takers:
            self._wake()
        return True

    async def put(self, envelope: Envelope) -> bool:
        """Put, waiting for room until the envelope's deadline, in order of arrival.

        ``False`` if closed.  Raises ``TimeoutError`` if there was no room in time.
        If cancelled before there was room, nothing has been put.
        """
        if self.offer(envelope):
            return True
        if self.closed:
            return False
        room: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._putters[room] = envelope
        self.deadlines.add(room, envelope.deadline)
        try:
            return await room
        finally:
            self._putters.pop(room, None)
            self.deadlines.discard(room)

    async def take(self) -> Envelope | None:
        """The next envelope, or ``None`` once paused."""
        while not self.paused:
            if self._queue:
                if self._streak < _STREAK:
                    self._streak += 1
                    return self._pop()
                # Handlers that never await would otherwise hold the event loop until the mailbox is empty.
                self._streak = 0
                await asyncio.sleep(0)
                continue
            self._streak = 0
            taker: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.takers.append(taker)
            try:
                await taker
            except BaseException:
                if not taker.cancelled():
                    self._wake()  # this taker was woken for a message: wake another one instead
                elif taker in self.takers:
                    self.takers.remove(taker)
                raise
        return None

    def put_back(self, envelopes: Iterable[Envelope]) -> None:
        """Return parked envelopes, in order, before all others."""
        returned = list(envelopes)
        self.parked -= len(returned)
        self._queue.extendleft(reversed(returned))

    def pause(self) -> None:
        """Return ``None`` to every taker, and keep the envelopes."""
        self.paused = True
        while self.takers:
            self._wake()

    def resume(self) -> None:
        """Hand out envelopes again."""
        self.paused = False

    def close(self) -> None:
        """Accept nothing more.  Senders that wait for room return at once."""
        self.closed = True
        for room in self._putters:
            if not room.done():
                room.set_result(False)
        self._putters.clear()

    def drain(self) -> list[Envelope]:
        """Close for good, and return the envelopes that were never handled."""
        self.close()
        self.deadlines.close()
        left = list(self._queue)
        self._queue.clear()
        return left

    def _pop(self) -> Envelope:
        envelope = self._queue.popleft()
        while self._putters:
            room = next(iter(self._putters))
            waiting = self._putters.pop(room)
            if not room.done():
                # Put here, where the room is made, so that no later sender can take it first.
                self._queue.append(waiting)
                room.set_result(True)
                break
        return envelope

    def _wake(self) -> None:
        while self.takers:
            taker = self.takers.popleft()
            if not taker.done():
                taker.set_result(None)
                return
