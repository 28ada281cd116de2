"""A bounded mailbox: what waits for an actor, and who waits for room in it.

Plain futures and a deque instead of a memory stream: every request pays for
this path twice or more, and a stream costs several times as much.  All
methods must run on the event loop's thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from godrive.errors import DriveError
from godrive.runtime.message import Message


class Envelope:
    """A message on its way: where its reply goes, until when, and for which request."""

    __slots__ = ("deadline", "message", "reply", "request_id")

    def __init__(
        self,
        message: Message[Any],
        reply: asyncio.Future[Any] | None,
        deadline: float,
        request_id: str | None,
    ) -> None:
        self.message = message
        self.reply = reply
        self.deadline = deadline
        self.request_id = request_id

    def answer(self, value: Any) -> None:
        """Give the reply, unless the asker has left."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_result(value)

    def fail(self, error: DriveError) -> None:
        """Give an error as the reply, unless the asker has left."""
        if self.reply is not None and not self.reply.done():
            self.reply.set_exception(error)


class Mailbox:
    """First in, first out, at most *capacity* envelopes.

    While paused, ``take`` returns ``None`` at once and envelopes pile up (to
    the bound): that is how a backlog outlives the actor that serves it.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.paused = False
        self.closed = False
        self._queue: deque[Envelope] = deque()
        self._takers: deque[asyncio.Future[Envelope | None]] = deque()
        self._putters: deque[asyncio.Future[bool]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def idle(self) -> bool:
        """Whether somebody waits for a message."""
        return bool(self._takers)

    def offer(self, envelope: Envelope) -> bool:
        """Put without waiting; ``False`` when full or closed, or when others wait for room."""
        if self.closed:
            return False
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(envelope)
                return True
        if len(self._queue) >= self.capacity or self._putters:
            return False
        self._queue.append(envelope)
        return True

    async def put(self, envelope: Envelope) -> bool:
        """Put, waiting for room until the envelope's deadline.  ``False`` when closed.

        Raises TimeoutError when there was no room in time.
        """
        loop = asyncio.get_running_loop()
        while not self.offer(envelope):
            if self.closed:
                return False
            room = loop.create_future()
            self._putters.append(room)
            timer = loop.call_at(envelope.deadline, _expire, room)
            try:
                await room
            except BaseException:
                self._pass_on(room)
                raise
            finally:
                timer.cancel()
            # Room was made for this envelope alone, so it does not queue behind the others again.
            if not self.closed:
                self._deliver(envelope)
                return True
        return True

    async def take(self) -> Envelope | None:
        """The next envelope, or ``None`` once paused."""
        if self.paused:
            return None
        if self._queue:
            return self._pop()
        taker: asyncio.Future[Envelope | None] = asyncio.get_running_loop().create_future()
        self._takers.append(taker)
        try:
            return await taker
        except asyncio.CancelledError:
            if taker.done() and not taker.cancelled() and (envelope := taker.result()) is not None:
                self._queue.appendleft(envelope)
            raise

    def pause(self) -> None:
        """Let every taker go with ``None``; envelopes wait."""
        self.paused = True
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)

    def resume(self) -> None:
        """Hand out envelopes again."""
        self.paused = False

    def close(self) -> None:
        """Take in nothing more; whoever waits for room is told at once."""
        self.closed = True
        while self._putters:
            room = self._putters.popleft()
            if not room.done():
                room.set_result(False)

    def drain(self) -> list[Envelope]:
        """Close, and give back what was never handled."""
        self.close()
        left = list(self._queue)
        self._queue.clear()
        return left

    def _pop(self) -> Envelope:
        envelope = self._queue.popleft()
        self._make_room()
        return envelope

    def _make_room(self) -> None:
        while self._putters:
            room = self._putters.popleft()
            if not room.done():
                room.set_result(True)
                return

    def _deliver(self, envelope: Envelope) -> None:
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(envelope)
                return
        self._queue.append(envelope)

    def _pass_on(self, room: asyncio.Future[bool]) -> None:
        """The one who waited for *room* left: if it was already given, the next in line gets it."""
        if room.done() and not room.cancelled() and room.exception() is None:
            self._make_room()


def _expire(room: asyncio.Future[bool]) -> None:
    if not room.done():
        room.set_exception(TimeoutError())
