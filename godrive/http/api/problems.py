"""Errors as answers, in one shape (RFC 9457).

Actors and the edge raise :class:`DriveError`, whose code decides the status.
Errors that only HTTP can have (a method, a media type, half a body) are here,
with codes of their own.
"""

from __future__ import annotations

import math

import msgspec
from aiohttp import hdrs, web

from godrive.errors import DriveError, Invalid, NotFound, TooLarge, Unauthenticated


class Malformed(Invalid):
    """The request cannot be read: not HTTP, not JSON, or not all of it came."""

    code = "malformed"
    title = "Malformed request"


class MethodNotAllowed(DriveError):
    """The path is known, but not with that method."""

    code = "method_not_allowed"
    title = "Method not allowed"


class UnsupportedMediaType(DriveError):
    """The body is not JSON, or is compressed."""

    code = "unsupported_media_type"
    title = "Unsupported media type"


class RequestTimeout(DriveError):
    """The body came too slowly."""

    code = "request_timeout"
    title = "Request timed out"


class ExpectationFailed(DriveError):
    """An ``Expect`` other than ``100-continue``."""

    code = "expectation_failed"
    title = "Expectation failed"


class UrlTooLong(DriveError):
    """The request line is over the limit."""

    code = "url_too_long"
    title = "URL too long"


class HeadersTooLarge(DriveError):
    """A header, or all of them, are over the limit."""

    code = "headers_too_large"
    title = "Headers too large"


class Internal(DriveError):
    """A bug of this server."""

    code = "internal"
    title = "Internal error"


EXPECTATION = "The only expectation that can be met is 100-continue."

_CLOSING = {"malformed", "request_timeout", "url_too_long", "headers_too_large"}
"""After these nobody knows where the next request begins, so the connection ends."""


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error.  ``code`` is stable; ``field`` names the input at fault; ``error`` is ``title`` again."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    error: str
    request_id: str
    field: str | None = None


_encoder = msgspec.json.Encoder()


def problem(error: DriveError, request_id: str) -> web.Response:
    """The answer that *error* is."""
    body = Problem(
        type=f"urn:godrive:problem:{error.code}",
        title=error.title,
        status=error.status,
        detail=error.detail,
        code=error.code,
        error=error.title,
        request_id=request_id,
        field=error.field and str(error.field),  # the names of headers are of a subclass that has no JSON form
    )
    headers = {hdrs.CONTENT_TYPE: "application/problem+json", hdrs.CACHE_CONTROL: "no-store"}
    if error.retry_after is not None:
        headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="godrive"'
    response = web.Response(body=_encoder.encode(body), status=error.status, headers=headers)
    if error.code in _CLOSING:
        response.force_close()
    return response


def of_http_exception(exception: web.HTTPException) -> tuple[DriveError, dict[str, str]]:
    """What aiohttp itself refuses, as an error of ours and the headers that go with it."""
    match exception.status:
        case 404:
            return NotFound("There is nothing at this path."), {}
        case 405:
            allow = exception.headers.get(hdrs.ALLOW, "")
            return MethodNotAllowed(f"This path takes {allow or 'no such method'}."), {hdrs.ALLOW: allow}
        case 401:
            return Unauthenticated(), {}
        case 413:
            return TooLarge("The request body is too large."), {}
        case 417:
            return ExpectationFailed(EXPECTATION), {}
        case status if 400 <= status < 500:
            return Malformed(exception.reason), {}
        case _:
            return Internal("This server made a mistake."), {}
