"""Share the memory for parts that are being collected, in turns."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from typing import Protocol

from godrive.blobs import OWNER
from godrive.errors import MailboxFull

SLOWEST = 131_072
"""Bytes per second that a body must bring while others wait (1 Mbit/s)."""
SILENT = 10.0
"""Seconds without a byte after which a body gives its slot to one that waits."""
PATIENCE = 120.0
"""Seconds after which a body that waits is refused."""
_STEP = 5.0


class CollectedBody(Protocol):
    """A body that is being collected."""

    waits_since: float | None
    """Since when it waits for its client."""

    def shed(self) -> None:
        """Give up the body."""
        ...


class BodySlots:
    """At most *slots* bodies are collected at once; the others wait, and are not read meanwhile.

    Free slots go to the owners of bodies in turn, so one with many delays no
    other.  If a body waits while another one took longer than :data:`SLOWEST`
    allows for *part* bytes, or is silent, that one is given up.
    """

    def __init__(self, slots: int, part: int) -> None:
        self._free = slots
        self._longest = part / SLOWEST
        self._bodies: OrderedDict[CollectedBody, float] = OrderedDict()
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    async def take(self, body: CollectedBody) -> None:
        """Wait for a slot.  Raises ``MailboxFull`` after :data:`PATIENCE` seconds."""
        if not self._free or self._waiting:
            await self._wait()
        else:
            self._free -= 1
        self._bodies[body] = time.monotonic()

    async def _wait(self) -> None:
        turn, owner = asyncio.get_running_loop().create_future(), OWNER.get()
        self._waiting.setdefault(owner, deque()).append(turn)
        until = time.monotonic() + PATIENCE
        self._hurry()
        try:
            while not turn.done():
                await asyncio.wait([turn], timeout=_STEP)
                self._hurry()
                if not turn.done() and time.monotonic() > until:
                    raise MailboxFull("Too many bodies are on their way to the store.")
        except BaseException:
            if turn.done():
                self._next()
            else:
                self._waiting[owner].remove(turn)
                if not self._waiting[owner]:
                    del self._waiting[owner]
            raise

    def _hurry(self) -> None:
        """Give up the body that has had its slot for longest, if it is too slow or silent; else another silent one."""
        now = time.monotonic()
        for body, since in self._bodies.items() if self._waiting else ():
            if now - since > self._longest or (body.waits_since or now) < now - SILENT:
                body.shed()
                return

    @property
    def contended(self) -> bool:
        """Whether a body waits."""
        return bool(self._waiting)

    async def rotate(self, body: CollectedBody) -> None:
        """Let the next one have the slot of *body*, and wait for another."""
        self.give_back(body)
        await self.take(body)

    def note_progress(self, body: CollectedBody) -> None:
        """The body has brought a part."""
        self._bodies[body] = time.monotonic()
        self._bodies.move_to_end(body)

    def give_back(self, body: CollectedBody) -> None:
        """End the turn of *body*, if it has one.  Idempotent."""
        if self._bodies.pop(body, None) is not None:
            self._next()

    def _next(self) -> None:
        if not self._waiting:
            self._free += 1
            return
        owner, queue = next(iter(self._waiting.items()))
        queue.popleft().set_result(None)
        if queue:
            self._waiting.move_to_end(owner)
        else:
            del self._waiting[owner]
