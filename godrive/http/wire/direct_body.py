"""A large body, read straight from the transport.

aiohttp's parser and reader copy each byte three times on its way to the
handler.  A body of known length needs no parsing, so while a large one is
received the transport has another protocol: the kernel writes into the buffers
that the store reads, at the alignment that direct writes need.  No byte behind
the body is read.  Then aiohttp gets its connection back.
"""

from __future__ import annotations

import asyncio
import mmap
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from godrive.blobs.staged_write import share
from godrive.http.wire.sendfile import is_tls
from godrive.memory import MemoryBudget, no_room

PIECE = 2 << 20
"""Bytes of one buffer, at most."""
AHEAD = 2
"""Full buffers that may wait before the client is held back."""

_PAGE = mmap.PAGESIZE
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
"""A mapping that is shared, as by default, has no memory where it grows beyond its first size."""
_SMALL = 256 << 10
"""Bytes of a buffer up to which only one full one may wait, because there are many bodies."""
_SPARE = AHEAD + 7
"""Buffers that are kept between two bodies: those of a chunk of 8 MiB that fill up, and as many that are digested."""


class DirectBodies:
    """The direct bodies of one application.  The more there are, the smaller are the buffers of the next."""

    def __init__(self, memory: MemoryBudget) -> None:
        self._open = 0
        self._memory = memory
        self._spare: list[mmap.mmap] = []

    def begin(
        self, transport: asyncio.Transport, behind: asyncio.Protocol, length: int, seen: int, arrived: bytes = b""
    ) -> DirectBody:
        """Take over a connection for the rest of a body of *length* bytes.

        *seen* of them were taken before; those that have *arrived* since come first.  More must be to come.
        """
        self._open += 1
        spare, self._spare = self._spare, []
        return DirectBody(
            transport,
            behind,
            length,
            seen,
            arrived,
            piece=self._piece,
            memory=self._memory,
            buffers=spare,
            ended=self._ended,
        )

    def _piece(self) -> int:
        return min(share(PIECE, self._open, halved=6), self._memory.share(PIECE) & -_PAGE)

    def _ended(self, buffers: list[mmap.mmap]) -> None:
        """Keep the buffers of a body for the next one, because new memory is slower: the kernel clears it."""
        self._open -= 1
        self._spare = buffers[:_SPARE]


class DirectBody(asyncio.BufferedProtocol):
    """The rest of a body of *length* bytes, after *seen* taken bytes, in pieces as they fill up.

    It takes over in ``__init__``; ``end`` must be called, whatever happens.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        behind: asyncio.Protocol,
        length: int,
        seen: int,
        arrived: bytes,
        *,
        piece: Callable[[], int],
        memory: MemoryBudget,
        buffers: list[mmap.mmap],
        ended: Callable[[list[mmap.mmap]], None],
    ) -> None:
        self._transport = transport
        self._behind = behind
        self._piece = piece
        self._memory = memory
        self._ended: Callable[[list[mmap.mmap]], None] | None = ended
        self._length = length
        self._left = length - seen - len(arrived)
        self._buffers = buffers
        self._ready: deque[memoryview] = deque()
        buffer = self._new_buffer()
        if len(arrived) >= len(buffer) - _PAGE:
            self._ready.append(memoryview(arrived))
            seen, arrived = seen + len(arrived), b""
        self._buffer = buffer[seen % _PAGE :]  # file and memory are in step
        self._buffer[: len(arrived)] = arrived
        self._filled = len(arrived)
        self._waiter: asyncio.Future[None] | None = None
        self._broken = False
        self._is_shed = False
        self._paused = False
        transport.pause_reading()
        transport.set_protocol(self)
        transport.resume_reading()

    def held_bytes(self) -> int:
        """Bytes that have come and were not taken."""
        return self._filled + sum(map(len, self._ready))

    def shed(self) -> None:
        """Drop all bytes that have arrived.  The reader of the body gets an error, and the client can send again."""
        self._is_shed = True
        self._drop()
        self._buffers.clear()
        if not self._transport.is_closing():
            self._transport.pause_reading()
        self._wake()

    @property
    def received(self) -> int:
        """The bytes of the body that have come."""
        return self._length - self._left

    @property
    def has_come(self) -> bool:
        """Whether all has come."""
        return not self._left

    @property
    def exhausted(self) -> bool:
        """Whether all has come and been taken."""
        return not self._left and not self._ready and not self._is_shed

    async def take(self, wait: float) -> memoryview | bytes:
        """The next piece; after *wait* seconds all that has come, which may be nothing.

        Raises ``EOFError`` when the body will not be whole and all that has come was taken,
        and ``MailboxFull`` when there was no memory for it.
        """
        if not self._ready and not self._broken and not self._is_shed:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(wait, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        if self._is_shed:
            raise no_room()
        if self._broken and not self._ready and not self._filled:
            raise EOFError
        return self.take_arrived()

    def take_arrived(self) -> memoryview | bytes:
        """The next piece, or else all that has come, which may be nothing."""
        if not self._ready:
            return self._take_partial()
        piece = self._ready.popleft()
        self._memory.report(self, self.held_bytes())
        self._flow()
        return piece

    def _take_partial(self) -> bytes:
        """Copy what there is, and go on in a new mapping: a client that pauses holds no memory here."""
        if not self._filled:
            return b""
        some = bytes(self._buffer[: self._filled])
        offset = (self._filled - len(self._buffer)) % _PAGE  # the end of the buffer is the end of a page
        self._buffers.clear()
        self._buffer = self._new_buffer()[offset:]
        self._filled = 0
        self._memory.report(self, self.held_bytes())
        return some

    def end(self) -> None:
        """Give the connection back.  Idempotent."""
        if self._ended is None:
            return
        self._drop()
        self._ended(self._buffers)
        self._ended = None
        self._memory.report(self, 0)
        if not self._transport.is_closing():
            self._transport.set_protocol(self._behind)
            self._transport.resume_reading()

    def _drop(self) -> None:
        self._ready.clear()
        self._buffer = memoryview(b"")
        self._filled = 0

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer[self._filled : self._filled + self._left]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        self._left -= nbytes
        self._memory.report(self, self.held_bytes())
        if self._is_shed:
            return
        if self._filled == len(self._buffer) or not self._left:
            self._ready.append(self._buffer[: self._filled])
            self._buffer = self._new_buffer() if self._left else memoryview(b"")
            self._filled = 0
            self._flow()
            self._wake()

    def eof_received(self) -> bool:
        self._break()
        return not is_tls(self._transport)  # the answer can still be sent, except with TLS

    def connection_lost(self, exc: Exception | None) -> None:
        self._break()
        self._behind.connection_lost(exc)

    def pause_writing(self) -> None:
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        self._behind.resume_writing()

    def _new_buffer(self) -> memoryview:
        """A buffer without views, or a new one.  A mapping cannot be resized while there are views of it."""
        size = self._piece()
        for buffer in self._buffers:
            with suppress(BufferError, OSError, SystemError, ValueError):
                known = len(buffer)
                buffer.resize(size)
                return _advised(buffer, known)
        self._buffers.append(mmap.mmap(-1, size, flags=_PRIVATE))
        return _advised(self._buffers[-1], 0)

    def _break(self) -> None:
        self._broken = bool(self._left)
        self._wake()

    def _flow(self) -> None:
        full = len(self._ready) >= (AHEAD if len(self._buffer) > _SMALL else 1) or not self._left
        if full != self._paused and not self._transport.is_closing():
            self._paused = full
            if full:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _advised(buffer: mmap.mmap, known: int) -> memoryview:
    """All of *buffer*, which had *known* bytes before.  A large one is of huge pages, if the kernel has any.

    The disk takes those in far fewer pieces: 8 MiB in 2.9 ms and not in 4.8.
    """
    if known < PIECE <= len(buffer) and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):
            buffer.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(buffer)
