"""The bytes of an upload as they come in."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from godrive.errors import DeliveryError, StoreUnavailable
from godrive.http.problems import Malformed, RequestTimeout
from godrive.messages.metadata import TouchUpload
from godrive.model import Upload

if TYPE_CHECKING:
    from godrive.drive import GoDrive

BUFFER = 1 << 20
"""Bytes that may wait to be stored before the client is held back (aiohttp doubles it)."""

TOUCH_EVERY = 10.0
"""Seconds after which the upload's row learns that bytes are still coming."""


class Incoming:
    """The body of a request, in pieces as they arrive.

    A silence of ``server.body_timeout`` seconds raises ``RequestTimeout``, an
    end half-way ``Malformed``; when the upload has ended meanwhile (aborted,
    or finished by another PUT), its ``Gone`` or ``UploadFinished`` comes out.
    """

    def __init__(self, request: web.Request, drive: GoDrive, upload: Upload) -> None:
        self._content = request.content
        self._content.set_read_chunk_size(BUFFER)
        self._drive = drive
        self._upload = upload
        self._timeout = drive.config.server.body_timeout
        self._touched_at = drive.clock.monotonic()
        self._peeked = b""
        self.received = 0

    async def peek(self, size: int) -> bytes:
        """The first *size* bytes, or all there are; they are still to come when iterated."""
        while len(self._peeked) < size and not self._content.at_eof():
            self._peeked += await self._read()
        return self._peeked[:size]

    def __aiter__(self) -> Incoming:
        return self

    async def __anext__(self) -> bytes:
        chunk, self._peeked = self._peeked, b""
        while not chunk:
            if self._content.at_eof():
                raise StopAsyncIteration
            chunk = await self._read()
        self.received += len(chunk)
        now = self._drive.clock.monotonic()
        if now - self._touched_at >= TOUCH_EVERY:
            self._touched_at = now
            with suppress(DeliveryError, StoreUnavailable):  # there are other times
                await self._drive.metadata.ask(TouchUpload(self._upload.id, self.received))
        return chunk

    async def _read(self) -> bytes:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._content.readany()
        except TimeoutError:
            raise RequestTimeout(f"No byte of the body came for {self._timeout:g} seconds.") from None
        except (RequestPayloadError, HttpProcessingError, ConnectionError, EOFError):
            raise Malformed("The body stopped half-way, or is not framed as HTTP says.") from None
