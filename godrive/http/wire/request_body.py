"""Request bodies as they come in: JSON as a whole, the bytes of an upload in pieces."""

from __future__ import annotations

import asyncio

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from godrive.errors import TooLarge
from godrive.http.api.problems import Malformed, RequestTimeout
from godrive.http.app_keys import DIRECT_BODIES, DRIVE
from godrive.http.observe.middleware import meet_expectation
from godrive.http.wire.aiohttp_internals import RequestPayloadError, take_unread, take_whole, unread_bytes
from godrive.http.wire.connection import Connection
from godrive.http.wire.direct_body import DirectBody
from godrive.memory import MemoryBudget, no_room

LARGE = 4 << 20
"""Bytes still to come from which they are taken straight from the transport."""

READ_BUFFER = 262_144
"""Bytes of an upload that may wait to be read before the client is held back."""

_CHUNKED = "chunked"
_STEP = 1.0
_INTERRUPTIONS = (RequestPayloadError, HttpProcessingError, ConnectionError, EOFError)
"""What aiohttp raises for a body that will not be whole."""
_BOM = b"\xef\xbb\xbf"
"""Editors and some clients add it (RFC 8259, section 8.1)."""


async def read_body(request: web.Request, *, limit: int, timeout: float) -> bytes:
    """The whole body of text, at most *limit* bytes, in at most *timeout* seconds, without a byte order mark.

    Raises ``TooLarge``, ``RequestTimeout``, ``Malformed`` (it stopped half-way),
    and ``MailboxFull`` where other clients leave no memory for so large a body.
    """
    declared = request.content_length
    if declared is not None and declared > limit:
        raise TooLarge(f"The body may have at most {limit} bytes.")
    content = request.content
    try:
        if content.is_eof():  # it came in one packet with the headers, as most do
            body = take_whole(content)
            if len(body) > limit:
                raise TooLarge(f"The body may have at most {limit} bytes.")
        else:
            async with asyncio.timeout(timeout):
                body = await _Collected(request).read(limit)
    except TimeoutError:
        raise RequestTimeout(f"The body did not arrive within {timeout:g} seconds.") from None
    except _INTERRUPTIONS:
        raise _interrupted() from None
    return body.removeprefix(_BOM)


class _Collected:
    """A partly received body.  The parts are joined once it is complete."""

    def __init__(self, request: web.Request) -> None:
        self._content = request.content
        self._connection = request.protocol
        self._memory: MemoryBudget = request.app[DRIVE].memory
        self._pieces: list[bytes] = []
        self._held = 0
        self._is_shed = False

    def held_bytes(self) -> int:
        """Bytes that have come."""
        return self._held

    def shed(self) -> None:
        """Drop all, and refuse the request."""
        self._is_shed = True
        self._pieces.clear()
        if isinstance(self._connection, Connection):
            self._connection.refuse(self._content)

    async def read(self, limit: int) -> bytes:
        """Collect all.  Raises ``TooLarge``, ``MailboxFull``."""
        try:
            while not self._content.at_eof() or self._content.exception() is not None:
                self._pieces.append(await self._content.readany())
                self._held += len(self._pieces[-1])
                if self._held > limit:
                    raise TooLarge(f"The body may have at most {limit} bytes.")
                self._memory.report(self, self._held)
                if self._is_shed or self._held > self._memory.share(limit):
                    raise no_room()
            return b"".join(self._pieces)
        finally:
            self._memory.report(self, 0)


class RequestBody:
    """The body of a request, in pieces as they arrive.  ``close`` it, whatever happens.

    If the client waits for ``100 Continue``, it is sent when the first byte is
    needed.  *timeout* seconds without a byte raise ``RequestTimeout``, an end
    half-way ``Malformed``, after all that has come.  Raises ``Malformed`` for a
    transfer coding other than chunked, whose bytes would be taken for the content.
    """

    def __init__(self, request: web.Request, *, timeout: float) -> None:
        if request.headers.get(hdrs.TRANSFER_ENCODING, _CHUNKED).strip().lower() != _CHUNKED:
            raise Malformed("The only transfer coding is chunked.", field=hdrs.TRANSFER_ENCODING)
        self._request = request
        self._content = request.content
        self._timeout = timeout
        self._direct: DirectBody | None = None
        self._is_awaited = hdrs.EXPECT in request.headers
        self._is_closed = False
        self.received = 0
        self._content.set_read_chunk_size(READ_BUFFER)

    def close(self) -> None:
        """Give the connection back.  Idempotent.  After a part of a large body, it ends with the answer."""
        if self._direct is None or self._is_closed:
            return
        self._is_closed = True
        connection = self._request.protocol
        if self._direct.has_come:
            self._content.feed_eof()  # otherwise aiohttp would wait for the rest of the body
        if self._direct.has_come and isinstance(connection, Connection):
            connection.skip_body()
        else:
            connection.close()  # its parser has not seen the body
        self._direct.end()

    def arrived(self, at_most: int) -> bytes | None:
        """The whole body, if all of it has come with the request and it has *at_most* so many bytes."""
        content = self._content
        if self._is_awaited or not content.is_eof() or unread_bytes(content) > at_most:
            return None
        try:
            whole = take_whole(content)
        except _INTERRUPTIONS:
            raise _interrupted() from None
        self.received = len(whole)
        return whole

    def take_arrived(self) -> bytes | memoryview:
        """Return what has come and was not read, or a part of it, without waiting; empty if there is nothing."""
        chunk = self._buffered() if self._direct is None else self._direct.take_arrived()
        self.received += len(chunk)
        return chunk

    def __aiter__(self) -> RequestBody:
        return self

    async def __anext__(self) -> bytes | memoryview:
        chunk = await self._next()
        self.received += len(chunk)
        return chunk

    async def _next(self) -> bytes | memoryview:
        chunk: bytes | memoryview = b""
        while not chunk:
            if self._direct is not None:
                if self._direct.exhausted:
                    raise StopAsyncIteration
                chunk = await self._take(self._direct)
            elif self._content.at_eof() and self._content.exception() is None:
                raise StopAsyncIteration
            elif self._is_awaited:
                await self._ask()
            elif not self._take_over() and not (chunk := self._buffered()):
                chunk = await self._read()
        return chunk

    async def _ask(self) -> None:
        """Tell a client that waits for ``100 Continue`` to send the body (RFC 9110, section 10.1.1)."""
        self._is_awaited = False
        try:
            await meet_expectation(self._request)
        except _INTERRUPTIONS:
            raise _interrupted() from None

    def _buffered(self) -> bytes:
        """Return the bytes received so far.  Reading them may let aiohttp parse more."""
        try:
            return self._content.read_nowait()
        except _INTERRUPTIONS:
            if unread_bytes(self._content):
                return take_unread(self._content)
            raise _interrupted() from None

    def _take_over(self) -> bool:
        """Take the rest straight from the transport, if it is much."""
        length, content = self._request.content_length or 0, self._content
        transport = self._request.transport
        if length - content.total_bytes < LARGE or transport is None or transport.is_closing():
            return False
        arrived = []
        while some := self._buffered():
            arrived.append(some)
        bodies = self._request.app[DIRECT_BODIES]
        self._direct = bodies.begin(transport, self._request.protocol, length, self.received, b"".join(arrived))
        return True

    async def _take(self, body: DirectBody) -> bytes | memoryview:
        waited, step = 0.0, min(_STEP, self._timeout)
        try:
            while not (piece := await body.take(step)):
                waited += step
                if waited >= self._timeout:
                    raise self._silence()
                step = min(2 * step, self._timeout - waited)
        except _INTERRUPTIONS:
            raise _interrupted() from None
        return piece

    async def _read(self) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._content.readany()
        except TimeoutError:
            raise self._silence() from None
        except _INTERRUPTIONS:
            raise _interrupted() from None

    def _silence(self) -> RequestTimeout:
        return RequestTimeout(f"No byte of the body came for {self._timeout:g} seconds.")


def _interrupted() -> Malformed:
    return Malformed("The body is incomplete, or its HTTP framing is invalid.")
