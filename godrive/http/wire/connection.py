"""One connection: what aiohttp's protocol does not do.

aiohttp answers malformed requests in plain text, closes as soon as the client
ends its side, and limits each header but not all of them.  :class:`Connection`
answers malformed and incomplete requests with a problem, bounds a request head
as a whole in size and time, and reports its bytes to the ``MemoryBudget``.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any, cast

from aiohttp import hdrs, web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import StreamReader

from godrive.errors import DriveError
from godrive.http.api.problems import EXPECTATION, ExpectationFailed, Internal, of_http_exception, problem
from godrive.http.observe.middleware import REQUEST_ID, identify
from godrive.http.observe.request_log import logger
from godrive.http.wire.aiohttp_internals import (
    EMPTY_PAYLOAD,
    SENT,
    RequestPayloadError,
    drop_unread,
    new_parser,
    parse_error,
    refuse_body,
    take_back,
    unread_bytes,
)
from godrive.http.wire.connection_limit import TRICKLE, ConnectionLimit, client_of
from godrive.http.wire.direct_body import DirectBody
from godrive.http.wire.heads import MAX_HEAD, unreadable
from godrive.http.wire.sendfile import STALLED, UNSENT, WRITE_HIGH_WATER, is_tls, limit_unsent
from godrive.http.wire.trailers import Trailers, any_chunked
from godrive.memory import MemoryBudget, no_room

_PARSED = 2
"""Bytes of memory for each byte of a request head: aiohttp keeps every header as bytes and as text."""

_MANY_UNREAD = 65_536
"""Bytes of a body that wait for their handler, from which they are reported."""

_LARGE_HEAD = 2_048
"""Bytes of a request head from which it is reported: aiohttp keeps the last request of a connection that is idle."""


class Connection(web.RequestHandler):
    """One connection among those of *limit*; what it keeps for the client counts against *memory*.

    A request head has *head_timeout* seconds to arrive.
    """

    __slots__ = (
        "_active_at",
        "_answered",
        "_begun_at",
        "_body",
        "_head",
        "_head_timeout",
        "_head_timer",
        "_heads",
        "_is_last",
        "_limit",
        "_memory",
        "_refused",
        "_trailers",
        "_wire",
        "client",
        "on_leave",
    )

    def __init__(
        self,
        manager: web.Server,
        *,
        limit: ConnectionLimit,
        memory: MemoryBudget,
        head_timeout: float,
        **options: Any,
    ) -> None:
        super().__init__(manager, **options)
        self._active_at = self._begun_at = time.monotonic()
        self._answered = 0
        self._body: StreamReader = EMPTY_PAYLOAD
        self._head = 0
        self._head_timeout = head_timeout
        self._head_timer: asyncio.TimerHandle | None = None
        self._heads = 0
        self._is_last = False
        self._limit = limit
        self._memory = memory
        self._refused: StreamReader | None = None
        self._trailers = Trailers()
        self.on_leave: Callable[[], None] | None = None
        """Called when the client ends its side or is lost, for a handler that waits."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin: the client has connected."""
        self._wire = cast("asyncio.Transport", transport)  # aiohttp drops its reference when it begins to close
        self._wire.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        connected = transport.get_extra_info("socket")
        if hasattr(socket, "TCP_USER_TIMEOUT") and connected.family != socket.AF_UNIX:
            # The kernel gives up on a client that acknowledges nothing.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(STALLED * 1000))
        limit_unsent(connected, UNSENT)
        self.client = client_of(transport.get_extra_info("peername"))
        super().connection_made(transport)
        self._limit.enter(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End: the connection is closed."""
        self._limit.leave(self)
        self._tell_of_leaving()
        self._stop_head_timer()
        self._head = self._heads = 0
        self._body = EMPTY_PAYLOAD
        self._memory.report(self, 0)
        super().connection_lost(exc)
        self._messages.clear()  # the handler of the current request may keep this object for a while

    def is_idle(self) -> bool:
        """Whether every request has been answered and the client has taken the answers.

        Until it has taken them, closing frees nothing: the kernel keeps the socket for what still has to be sent.
        """
        return self._has_answered() and not self._wire.get_write_buffer_size()

    def stalled_since(self, *, whole: bool = False) -> float | None:
        """As :meth:`Evictable.stalled_since`.  A large body that comes past this protocol stalls only as a *whole*."""
        request, protocol = self._current_request, self._wire.get_protocol()
        last: float | None = None
        if isinstance(protocol, DirectBody):
            received = protocol.received
        elif request is not None and not request.content.is_eof() and not unread_bytes(request.content):
            received, last = request.content.total_bytes, self._active_at
        else:
            return self._active_at if self._wire.get_write_buffer_size() else None
        trickles = received < TRICKLE * (time.monotonic() - self._begun_at)
        return self._begun_at if whole and trickles else last

    def close_after_answer(self) -> None:
        """Answer one more request, and say ``Connection: close`` with it."""
        self._is_last = True

    def skip_body(self) -> None:
        """Expect the next request: all of the body of the current one came past the parser."""
        self._active_at = time.monotonic()
        if self._parser is not None:
            self._parser = new_parser(self)

    def _has_answered(self) -> bool:
        return self._answered >= self._request_count

    def held_bytes(self) -> int:
        """Bytes of request heads, of a body that no handler has read, and of answers that the client has not taken.

        An answer counts twice: once in the transport, once in the response that is being sent.
        """
        sent = self._wire.get_write_buffer_size()
        return _PARSED * (self._head + self._heads) + unread_bytes(self._body) + 2 * sent

    def shed(self) -> None:
        """Refuse the request whose body waits; close a connection without one."""
        if unread_bytes(self._body):
            self.refuse(self._body)
        else:
            self.cut()

    def cut(self) -> None:
        """Close the connection at once, to free the memory of everything that it holds."""
        self._wire.abort()

    def refuse(self, body: StreamReader) -> None:
        """Drop all that comes of *body*, for which there is no memory.  Its reader gets ``MailboxFull``."""
        self._refused = body
        self._loop.call_soon(self._drop, body)  # not within a read, after which aiohttp parses on

    def _drop(self, body: StreamReader) -> None:
        if self._has_answered():  # aiohttp reads the rest, which nobody wants
            drop_unread(body)
        elif body is self._refused:
            refuse_body(body, no_room())
        self._report()

    def _report(self) -> None:
        self._memory.report(self, self.held_bytes())

    def pause_writing(self) -> None:
        """The client does not take its answer."""
        super().pause_writing()
        self._report()

    def resume_writing(self) -> None:
        """The client has taken its answer."""
        super().resume_writing()
        self._active_at = time.monotonic()
        self._report()

    def data_received(self, data: bytes) -> None:
        """Parse what the client has sent."""
        self._active_at = time.monotonic()
        begun, in_head, was_waiting = self._request_count, self._is_in_head(), self._waiter is not None
        self._receive(data)
        parsed, most = self._request_count - begun, self._max_msg_queue_size
        if (unwanted := self._trailers.drop_unsafe(self._messages, parsed, data, most=most)) is not None:
            self._request_count -= unwanted
            self._close = True
        if self._messages:
            self._body = self._messages[-1][1]
        unread = 0 if self._body is EMPTY_PAYLOAD else unread_bytes(self._body)
        if unread and self._body is self._refused:
            self.refuse(self._body)
        if self._request_count > begun:
            self._begun_at = self._active_at
            if self._head or self._heads or len(data) - unread > _LARGE_HEAD:
                self._count_heads(self._request_count - begun, len(data), was_waiting=was_waiting)
        elif in_head:
            if data:  # aiohttp passes nothing to have what it kept back parsed
                self._grow_head(len(data))
            return
        if unread > _MANY_UNREAD:
            self._report()

    def _count_heads(self, requests: int, size: int, *, was_waiting: bool) -> None:
        """Count the heads of *requests* that were parsed from at most *size* bytes and those before."""
        message = self._messages[-1][0]
        if requests == 1 and isinstance(message, RawRequestMessage):
            size = sum(len(name) + len(value) for name, value in message.raw_headers)
        self._heads = size if was_waiting else self._heads + size
        if self._heads < _LARGE_HEAD:
            self._heads = 0
        self._head = 0
        self._stop_head_timer()
        self._report()

    def _grow_head(self, size: int) -> None:
        """Count bytes of a request head that is not complete."""
        if not self._head:
            self._head_timer = self._loop.call_later(self._head_timeout, self._expire_head)
        self._head += size
        if self._head > MAX_HEAD and not self._close:
            self._refuse_head()
        else:
            self._report()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _expire_head(self) -> None:
        """Close a connection whose request head did not arrive in time, once what came before it is answered."""
        self._head_timer = None
        if self._has_answered():
            self.force_close()
        else:
            self.close()

    def _is_in_head(self) -> bool:
        """Whether the next byte belongs to the head of a request."""
        if self._upgraded:  # aiohttp keeps it, to a limit, until it has refused the upgrade
            return False
        if self._messages:
            return self._messages[-1][1].is_eof()
        if self._current_request is not None:
            return self._current_request.content.is_eof()
        return self._body.is_eof()

    def _refuse_head(self) -> None:
        """Answer a head that is too large: aiohttp limits each header and their number, but not their sum."""
        self._messages.append(parse_error(HttpProcessingError(message="Too many headers")))
        self._request_count += 1
        self._close = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _receive(self, data: bytes) -> None:
        """Pass *data* to aiohttp, also the rest of a body while the connection is closing.

        aiohttp drops all that arrives once a connection is to be closed, as
        every connection is when the server stops, so that a body on its way
        would never end.
        """
        if self.transport is None:
            return  # a reader of the rest of a body whose connection is lost makes aiohttp parse on
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
        """Answer what the client has asked, then close: it has ended its side.

        asyncio by itself closes at once, so that a client which ends its side after
        a request, or whose body fell short, would get no answer.  With TLS it always does.
        """
        if self._has_answered():
            return False  # there is nothing to answer, or no handler waits for the rest of a body
        self._tell_of_leaving()
        self.close()
        self._end_body()
        return not is_tls(self._wire)

    def _tell_of_leaving(self) -> None:
        if self.on_leave is not None:
            self.on_leave()

    def _end_body(self) -> None:
        """Wake the reader of the last request's body, if the body has fallen short."""
        if self._parser is None or (self._request_in_progress and self._current_request is None):
            return  # the body has been read
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
        """Log requests that aiohttp could not answer, except those whose client disconnected."""
        if not isinstance(options.get("exc_info"), RequestPayloadError | ConnectionError):
            super().log_exception(*args, **options)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that could not be parsed, or that failed outside the application."""
        chosen = identify(request)
        if request.writer.output_size > 0:
            raise ConnectionResetError("An error after the answer had begun")
        if isinstance(exc, ConnectionError):
            raise exc  # the client left while it was asked for its body
        if isinstance(exc, UnicodeEncodeError) and hdrs.EXPECT in request.headers:
            # On a path that is not there aiohttp refuses by repeating the expectation: that fails unless it is Unicode.
            error: DriveError = ExpectationFailed(EXPECTATION)
        elif status < 500:
            error = unreadable(exc)
        else:
            error = Internal("The server failed.")
            logger().error("request_failed", request_id=chosen, exc_info=exc)
        response = problem(error, chosen)
        response.headers[REQUEST_ID] = chosen
        response.headers[hdrs.SERVER] = "godrive"
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send *resp*; send a refusal by aiohttp itself as a problem."""
        self._answered += 1
        if getattr(resp, "__http_exception__", False) and isinstance(resp, web.HTTPException) and resp.status >= 400:
            error, headers = of_http_exception(resp)
            resp = problem(error, identify(request))
            resp.headers.update(headers)
        is_refused = request.content is self._refused
        if self._is_last or self._close or self._force_close or (is_refused and not request.content.is_eof()):
            resp.force_close()  # tells the client, which then sends no other request here
        may_upgrade = self._upgraded
        sent, reset = await super().finish_response(request, resp, start_time)
        if may_upgrade and any_chunked(self._messages):  # parsed now that the upgrade is refused
            self._close = True
        if is_refused:
            self._refused = None
            take_back(request.content)
        if request.content is not EMPTY_PAYLOAD:
            self._forget(request.content)
        return SENT[bool(sent.keep_alive)], reset

    def _forget(self, body: StreamReader) -> None:
        """Drop the rest of a body whose request has been answered; otherwise aiohttp keeps it in memory."""
        if not body.is_eof():
            return
        if unread_bytes(body) and body.exception() is None:
            body.read_nowait()
        if self._body is body:
            self._body = EMPTY_PAYLOAD
