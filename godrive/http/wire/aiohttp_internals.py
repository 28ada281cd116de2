"""The parts of aiohttp that we use and that it does not document.

``tests/http/wire/test_aiohttp_internals.py`` fails when a module of ours uses
another private attribute, when aiohttp no longer has one of these, and when
the installed minor version is not in :data:`CHECKED`.  Before adding a version:
read the differences in ``web_app.py``, ``web_protocol.py``, ``base_protocol.py``,
``web_response.py``, ``streams.py`` and ``_http_parser.pyx``, run the tests, and raise the limit in pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import cast

from aiohttp import web
from aiohttp.http import HttpRequestParser
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_app import _cached_build_middleware
from aiohttp.web_protocol import RequestHandler, RequestPayloadError, _ErrInfo

__all__ = [
    "CHECKED",
    "EMPTY_PAYLOAD",
    "HANDLER",
    "PROTOCOL",
    "READER",
    "REQUEST",
    "RESPONSE",
    "SENT",
    "RequestPayloadError",
    "drop_unread",
    "forget_handlers",
    "new_parser",
    "parse_error",
    "prepare_hook",
    "refuse_body",
    "take_back",
    "take_unread",
    "take_whole",
    "unread_bytes",
]

CHECKED = ("3.14",)
"""The minor versions of aiohttp that were read and tested."""

HANDLER = {
    "_close": "no request is read after the current one",
    "_current_request": "the request whose handler runs",
    "_force_close": "the connection ends now",
    "_loop": "the event loop",
    "_max_msg_queue_size": "how many parsed requests may wait before the parser keeps back what follows",
    "_messages": "parsed requests (message, body) that no handler has taken yet",
    "_parser": "the HTTP parser; None once the connection is lost",
    "_request_count": "how many requests have been parsed",
    "_request_in_progress": "a handler runs, or its answer is being sent",
    "_upgraded": "an upgrade was asked for; bytes are kept and not parsed",
    "_waiter": "the future that start() waits on for the next request",
}
"""Attributes of ``RequestHandler`` that :class:`~godrive.http.wire.connection.Connection` reads or sets."""

READER = {
    "_buffer": "the pieces that were received and not read",
    "_cursor": "bytes that were read",
    "_protocol": "the connection",
    "_exception": "why the body will not be whole; nothing is read after it is set",
    "_size": "bytes that were received and not read",
}
"""Attributes of ``StreamReader``."""

PROTOCOL = {"_reading_paused": "a body is too much to keep, and nothing more is read or parsed"}
"""Attributes of the connection of a ``StreamReader``."""


class _Sent:
    """What aiohttp is given in place of a response that has been sent: it would keep that one, and its body."""

    def __init__(self, *, keep_alive: bool) -> None:
        self.keep_alive = keep_alive


SENT = {keep_alive: cast("web.StreamResponse", _Sent(keep_alive=keep_alive)) for keep_alive in (True, False)}
"""By whether the connection is kept."""


REQUEST = {"_prepare_hook": "runs the signals on_response_prepare of the applications of the request"}
"""Attributes of ``BaseRequest``."""

RESPONSE = {
    "_cookies": "cookies to be set",
    "_eof_sent": "the response has been sent, so aiohttp does not send it again",
    "_keep_alive": "whether the connection stays open; None before that is known",
}
"""Attributes of ``Response`` that :class:`~godrive.http.wire.bytes_response.BytesResponse` reads or sets."""


def new_parser(handler: RequestHandler) -> HttpRequestParser:
    """Return a parser as that of *handler*, which begins with a request line.  Bodies are left compressed."""
    return HttpRequestParser(
        handler,
        handler._loop,
        handler._read_bufsize,
        max_line_size=handler.max_line_size,
        max_field_size=handler.max_field_size,
        max_headers=handler.max_headers,
        payload_exception=RequestPayloadError,
        auto_decompress=False,
        max_msg_queue_size=handler._max_msg_queue_size,
    )


def unread_bytes(body: StreamReader) -> int:
    """Bytes of a body that were received and that no handler has read."""
    return 0 if body is EMPTY_PAYLOAD else body._size


def take_whole(body: StreamReader) -> bytes:
    """Return all bytes of a body that has come whole.

    aiohttp by itself parses on then, as if it had stopped because the body was too much to keep.
    Raises why the body is not whole after all.
    """
    if body is EMPTY_PAYLOAD or body._cursor or body._protocol._reading_paused or body._exception is not None:
        return body.read_nowait()
    whole = body._buffer[0] if len(body._buffer) == 1 else b"".join(body._buffer)
    body._buffer.clear()
    body._size = 0
    body._cursor += len(whole)
    return whole


def take_unread(body: StreamReader) -> bytes:
    """Return the bytes of a body that will not be whole, received before that was known."""
    reason, body._exception = body._exception, None
    try:
        return body.read_nowait()
    finally:
        body._exception = reason


def refuse_body(body: StreamReader, reason: Exception) -> None:
    """Drop what has come of a body.  Who reads it gets the first *reason*; :func:`take_back` ends that."""
    if body._exception is None:
        body.set_exception(reason)
    drop_unread(body)


def drop_unread(body: StreamReader) -> None:
    """Drop what has come of a body."""
    while unread_bytes(body):  # aiohttp may parse on
        take_unread(body)


def take_back(body: StreamReader) -> None:
    """Let aiohttp read, and drop, the rest of a body that was refused."""
    body._exception = None


def parse_error(error: HttpProcessingError) -> tuple[_ErrInfo, StreamReader]:
    """An entry of ``_messages`` that has aiohttp answer *error*."""
    return _ErrInfo(400, error, error.message), EMPTY_PAYLOAD


def prepare_hook(request: web.BaseRequest, response: web.StreamResponse) -> Awaitable[None]:
    """Let the applications of the request change the headers of the response."""
    return request._prepare_hook(response)


async def forget_handlers(_app: web.Application) -> None:
    """Empty the cache of all applications of the process, a handler of an application that has ended among them.

    aiohttp remembers the last 1024 handlers with their middlewares, and with
    a handler its application and drive.  What another application still needs it makes again.
    """
    _cached_build_middleware.cache_clear()
