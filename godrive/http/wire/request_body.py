"""The bytes of an upload as they come in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestPayloadError

from godrive.http.api.problems import Malformed, RequestTimeout
from godrive.http.app_keys import DIRECT_BODIES
from godrive.http.wire.direct_body import DirectBody

LARGE = 4 << 20
"""Bytes still to come from which they are taken straight from the transport."""

_STEP = 1.0


class RequestBody:
    """The body of a request, in pieces as they arrive.  ``close`` it, whatever happens.

    *timeout* seconds without a byte raise ``RequestTimeout``, an end half-way ``Malformed``.
    """

    def __init__(self, request: web.Request, *, timeout: float) -> None:
        self._request = request
        self._content = request.content
        self._timeout = timeout
        self._intake: DirectBody | None = None
        self.received = 0

    def close(self) -> None:
        """Give the connection back; again is harmless."""
        if self._intake is not None:
            self._intake.end()

    @property
    def last(self) -> bool:
        """Whether the connection ends with the answer."""
        return self._intake is not None

    def __aiter__(self) -> RequestBody:
        return self

    async def __anext__(self) -> bytes | memoryview:
        chunk = await self._next()
        self.received += len(chunk)
        return chunk

    async def _next(self) -> bytes | memoryview:
        chunk: bytes | memoryview = b""
        while not chunk:
            if self._intake is not None:
                if self._intake.exhausted:
                    raise StopAsyncIteration
                chunk = await self._take(self._intake)
            elif self._content.at_eof():
                raise StopAsyncIteration
            elif not (chunk := self._buffered()) and not self._take_over():
                chunk = await self._read()
        return chunk

    def _buffered(self) -> bytes:
        """What has come already.  Reading it may let aiohttp parse on, so there may be more after it."""
        with _interruptions():
            return self._content.read_nowait()

    def _take_over(self) -> bool:
        """Take the rest straight from the transport, if it is much."""
        length, transport = self._request.content_length or 0, self._request.transport
        if length - self._content.total_bytes < LARGE or transport is None or transport.is_closing():
            return False
        intakes = self._request.app[DIRECT_BODIES]
        self._intake = intakes.begin(transport, self._request.protocol, length, self._content.total_bytes)
        return True

    async def _take(self, intake: DirectBody) -> bytes | memoryview:
        waited, step = 0.0, min(_STEP, self._timeout)
        with _interruptions():
            while not (piece := await intake.take(step)):
                waited += step
                if waited >= self._timeout:
                    raise self._silence()
        return piece

    async def _read(self) -> bytes:
        try:
            with _interruptions():
                async with asyncio.timeout(self._timeout):
                    return await self._content.readany()
        except TimeoutError:
            raise self._silence() from None

    def _silence(self) -> RequestTimeout:
        return RequestTimeout(f"No byte of the body came for {self._timeout:g} seconds.")


@contextmanager
def _interruptions() -> Iterator[None]:
    try:
        yield
    except (RequestPayloadError, HttpProcessingError, ConnectionError, EOFError):
        raise Malformed("The body stopped half-way, or is not framed as HTTP says.") from None
