"""One connection, with the manners that only the owner of the socket can have.

aiohttp answers what is not HTTP by itself, in plain text, and hangs up on a
client that has said all it will.  :class:`Connection` answers both with a
problem; all else is aiohttp's.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestPayloadError, _ErrInfo

from godrive.errors import DriveError
from godrive.http.api.problems import (
    EXPECTATION,
    ExpectationFailed,
    HeadersTooLarge,
    Internal,
    Malformed,
    UrlTooLong,
    of_http_exception,
    problem,
)
from godrive.http.observe.middleware import REQUEST_ID, identify
from godrive.http.observe.request_log import logger
from godrive.http.wire.connection_limit import ConnectionLimit
from godrive.http.wire.sendfile import STALLED

MAX_LINE = 8_190
"""Bytes of a request line."""

MAX_FIELD = 16_380
"""Bytes of one header."""

MAX_HEAD = 65_536
"""Bytes of a request line and headers that may wait for the rest of them."""


class Connection(web.RequestHandler):
    """One connection, in a *room* for so many.

    What is not HTTP, and what stops half-way, gets a problem before it is closed.
    """

    __slots__ = ("_answered", "_body", "_head", "_room", "_wire")

    def __init__(self, manager: web.Server, *, room: ConnectionLimit, **options: Any) -> None:
        super().__init__(manager, **options)
        self._answered = 0
        self._body: StreamReader = EMPTY_PAYLOAD
        self._head = 0
        self._room = room

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client is there."""
        self._wire = cast("asyncio.Transport", transport)  # aiohttp forgets it as soon as it is to be closed
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # the kernel gives up on one that takes nothing of what it asked for
            transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(STALLED * 1000)
            )
        super().connection_made(transport)
        self._room.enter(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client is gone."""
        self._room.leave(self)
        super().connection_lost(exc)

    def is_idle(self) -> bool:
        """Whether every request has been answered, and the client has taken the answers.

        Until it has, closing frees nothing: the socket is kept for what still waits to be sent.
        """
        return self._has_answered() and not self._wire.get_write_buffer_size()

    def _has_answered(self) -> bool:
        return self._answered >= self._request_count

    def data_received(self, data: bytes) -> None:
        """What the client sends."""
        begun, in_head = self._request_count, self._is_in_head()
        self._receive(data)
        if self._messages:
            self._body = self._messages[-1][1]
        if self._request_count > begun or not in_head:
            self._head = 0
            return
        self._head += len(data)
        if self._head > MAX_HEAD and not self._close:
            self._refuse_head()

    def _is_in_head(self) -> bool:
        """Whether what comes next belongs to the head of a request."""
        if self._upgraded:  # aiohttp keeps it, to a limit, until it has refused the upgrade
            return False
        if self._messages:
            return self._messages[-1][1].is_eof()
        if self._current_request is not None:
            return self._current_request.content.is_eof()
        return self._body.is_eof()

    def _refuse_head(self) -> None:
        """Answer it as what cannot be parsed: aiohttp has limits for one header and for their number only."""
        error = HttpProcessingError(message="Too many headers")
        self._messages.append((_ErrInfo(400, error, error.message), EMPTY_PAYLOAD))
        self._request_count += 1
        self._close = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _receive(self, data: bytes) -> None:
        """Have it parsed.

        Once a connection is to be closed, as all are when the server stops,
        aiohttp drops whatever comes: a body that is on its way would never
        end.  The request in hand gets the rest of its body all the same.
        """
        request = self._current_request
        if not (self._close or self._force_close) or request is None or request.content.is_eof():
            super().data_received(data)
            return
        ending = self._close, self._force_close
        self._close = self._force_close = False
        try:
            super().data_received(data)
        finally:
            self._close, self._force_close = ending

    def eof_received(self) -> bool:  # type: ignore[override]  # asyncio lets it say to keep the transport
        """The client will send no more: answer what it has asked, then close.

        By itself asyncio closes at once, so that neither a client that ends
        its side after a request nor one whose body fell short would be told.
        """
        if self._has_answered():
            return False  # there is nothing to answer, or nobody left who waits for the rest of a body
        self.close()
        self._end_body()
        return True

    def _end_body(self) -> None:
        """Tell whoever reads the body of the last request, should it have fallen short."""
        if self._parser is None or (self._request_in_progress and self._current_request is None):
            return  # it was read long ago
        if self._messages:
            body = self._messages[-1][1]
        elif self._current_request is not None:
            body = self._current_request.content
        else:  # the request has been taken up, but its task has not begun
            self._loop.call_soon(self._end_body)
            return
        try:
            self._parser.feed_eof()
        except HttpProcessingError as error:
            body.set_exception(RequestPayloadError(error.message))

    def log_exception(self, *args: Any, **options: Any) -> None:
        """What aiohttp has no answer to; that a client left in the middle of a body is nothing to report."""
        if not isinstance(options.get("exc_info"), RequestPayloadError):
            super().log_exception(*args, **options)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what could not be parsed, and to what failed outside of the application."""
        chosen = identify(request)
        if request.writer.output_size > 0:
            raise ConnectionResetError("An error after the answer had begun")
        if isinstance(exc, UnicodeEncodeError) and hdrs.EXPECT in request.headers:
            # On a path that is not there aiohttp refuses by repeating the expectation: that fails unless it is Unicode.
            error: DriveError = ExpectationFailed(EXPECTATION)
        elif status < 500:
            error = _unreadable(exc)
        else:
            error = Internal("This server made a mistake.")
            logger().error("request_failed", request_id=chosen, exc_info=exc)
        response = problem(error, chosen)
        response.headers[REQUEST_ID] = chosen
        response.headers[hdrs.SERVER] = "godrive"
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send *resp*; what aiohttp refused before the application saw it, as a problem."""
        self._answered += 1
        if getattr(resp, "__http_exception__", False) and isinstance(resp, web.HTTPException) and resp.status >= 400:
            error, headers = of_http_exception(resp)
            resp = problem(error, identify(request))
            resp.headers.update(headers)
        return await super().finish_response(request, resp, start_time)


def _unreadable(error: BaseException | None) -> DriveError:
    if isinstance(error, LineTooLong):
        if error.args[1] == MAX_LINE:
            return UrlTooLong(f"The request line may have at most {MAX_LINE} bytes.")
        return HeadersTooLarge(f"A header may have at most {MAX_FIELD} bytes.")
    message = error.message if isinstance(error, HttpProcessingError) else ""
    if message.startswith("Too many headers"):
        return HeadersTooLarge("The request has too many headers.")
    return Malformed("This is not an HTTP request that can be understood.")
