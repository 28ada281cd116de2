"""A body, divided into parts as it arrives: counted and hashed, never held whole."""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from godrive.blobs.body_check import BodyCheck
from godrive.blobs.s3.slots import BodySlots
from godrive.errors import MailboxFull, TooLarge
from godrive.memory import LEAST, MemoryBudget

MIB = 1024 * 1024
MAX_PARTS = 10_000
"""The most parts of one multipart upload (Amazon S3 user guide, "multipart upload limits")."""

PART_SIZE = 8 * MIB
"""Bytes of a part, unless that makes too many parts."""

_SMALL = 256 * 1024
"""Bytes of a body that needs no slot."""
_DOUBLE_EVERY = MAX_PARTS // 4


class PartReader:
    """Reads *chunks* in parts and checks them against the declared *size* and *sha256*.

    The part that is being collected and the one before it, which is being sent,
    count against *memory*.  A body that is not small needs one of *slots*, so
    that many bodies wait instead of filling the memory.  Reading raises
    ``MailboxFull`` if the wait is too long, or memory is short nevertheless.
    A body that is not *digested* has no ``sha256``.  If the memory is wanted while
    the body waits for its client, *end* may end it instead: it returns whether it does.
    """

    def __init__(
        self,
        chunks: AsyncIterable[bytes | memoryview],
        *,
        size: int | None,
        sha256: str | None,
        memory: MemoryBudget | None = None,
        slots: BodySlots | None = None,
        digested: bool = True,
        end: Callable[[], bool] | None = None,
    ) -> None:
        self._chunks = chunks
        self._slots = slots or BodySlots(1, sys.maxsize)
        self._has_slot = False
        self._memory = memory or MemoryBudget(sys.maxsize)
        self._held = bytearray()
        self._sent = 0
        self._ahead = 0
        self._was_sent = asyncio.Event()
        self.ended = False
        """Whether the part that was yielded is the last one."""
        self._limit = asyncio.timeout(None)
        self._check = BodyCheck(size, sha256)
        self._digest = hashlib.sha256()
        self._digested = digested
        self._end = end
        self.waits_since: float | None = None
        """Since when the body waits for its client."""

    @property
    def received(self) -> int:
        """Bytes received so far."""
        return self._check.received

    @property
    def sha256(self) -> str:
        """The digest of what was received so far, in hexadecimal."""
        return self._digest.hexdigest()

    def note_sent(self, _: object = None) -> None:
        """The part that was yielded has been sent, so its memory is free."""
        self._sent = 0
        self._was_sent.set()

    def held_bytes(self) -> int:
        """Bytes of the part that is being collected, of the one that was yielded last, and of what waits for a slot."""
        return len(self._held) + self._sent + self._ahead

    def shed(self) -> None:
        """Give up the body: the client may send it again."""
        if self._end is not None and self.waits_since is not None and self._end():
            return
        with suppress(RuntimeError):  # it has ended
            self._limit.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def receiving(self) -> AsyncIterator[None]:
        """Hold memory for the body.  Everything that reads it must run within.  Raises ``MailboxFull``."""
        try:
            async with self._limit:
                yield
        except TimeoutError:
            if not self._limit.expired():
                raise
            raise MailboxFull("There is not enough free memory for this body now.") from None
        finally:
            self._slots.give_back(self)
            self._memory.report(self, 0)

    async def parts(self, length: Callable[[int], int]) -> AsyncGenerator[bytes]:
        """Parts of *length(number)* bytes, the last one shorter.  An empty body is one empty part.

        Raises ``LengthMismatch`` at the first byte too many.  Raises
        ``LengthMismatch`` or ``DigestMismatch`` before it yields the last part.
        """
        number = 1
        wanted = length(number)
        held = self._held
        chunks = aiter(self._chunks)
        while (chunk := await self._next(chunks)) is not None:
            self._check.count(len(chunk))
            if self._digested:
                self._digest.update(chunk)
            held += chunk
            if len(held) > LEAST:
                self._memory.report(self, self.held_bytes())
            if len(held) > _SMALL and not self._has_slot:
                await self.take_slot()
            while len(held) > wanted:  # a part of exactly *wanted* bytes may be the last, so it waits for more
                self._sent = wanted
                self._was_sent.clear()
                with memoryview(held) as view:
                    part = bytes(view[:wanted])
                del held[:wanted]
                yield part
                del part
                if self._slots.contended:
                    await self._was_sent.wait()
                    await self._slots.rotate(self)
                elif self._has_slot:
                    self._slots.note_progress(self)
                number += 1
                wanted = length(number)
        self._check.end()
        self._check.compare(self.sha256)
        self.ended = True
        last = bytes(held)
        self._sent = len(last)
        held.clear()
        yield last

    async def _next(self, chunks: AsyncIterator[bytes | memoryview]) -> bytes | memoryview | None:
        self.waits_since = time.monotonic()
        try:
            return await anext(chunks, None)
        finally:
            self.waits_since = None

    async def expect(self, size: int) -> None:
        """Wait for a slot now if a body of *size* bytes needs one, and not while a connection holds its beginning."""
        if size > _SMALL:
            await self.take_slot()

    async def take_slot(self, ahead: int = 0) -> None:
        """Wait for a slot, while the source of the chunks has *ahead* bytes in hand.

        Idempotent.  Raises ``MailboxFull`` after a while.
        """
        if not self._has_slot:
            self._ahead = ahead
            self._memory.report(self, self.held_bytes())
            try:
                await self._slots.take(self)
            finally:
                self._ahead = 0
            self._has_slot = True
            if self.waits_since is not None:  # that it waited for the slot is not the fault of its client
                self.waits_since = time.monotonic()


def part_size(number: int, size: int | None, *, smallest: int = PART_SIZE) -> int:
    """Bytes of part *number* (from 1) of a body of *size* bytes.

    If the size is unknown, parts double after every quarter of the allowed
    number, so that small bodies need little memory and large ones still fit.
    """
    if number > MAX_PARTS:
        raise TooLarge("The body has more parts than a store accepts.")
    if size is None:
        return int(smallest << ((number - 1) // _DOUBLE_EVERY))
    planned = -(-size // MAX_PARTS)
    return max(smallest, -(-planned // MIB) * MIB)
