"""Errors as answers, in one shape (RFC 9457).

Actors and the edge raise :class:`DriveError`, whose code decides the status.
Errors that only HTTP can have (a method, a media type, half a body) are here,
with codes of their own.
"""

from __future__ import annotations

import math

import msgspec
from aiohttp import hdrs, web

from godrive.errors import DriveError, Invalid, NotFound, OffsetMismatch, TooLarge, Unauthenticated


class Malformed(Invalid):
    """The request cannot be read: it is not HTTP, not JSON, or incomplete."""

    code = "malformed"
    title = "Malformed request"


class InconsistentLength(Malformed):
    """What a request says of the length of an upload contradicts itself, or earlier requests."""

    code = "inconsistent_length"
    title = "Inconsistent upload length values"


class MethodNotAllowed(DriveError):
    """The path exists, but does not take that method."""

    code = "method_not_allowed"
    title = "Method not allowed"


class UnsupportedMediaType(DriveError):
    """The body is not JSON, or is compressed."""

    code = "unsupported_media_type"
    title = "Unsupported media type"


class RequestTimeout(DriveError):
    """The body arrived too slowly."""

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


EXPECTATION = "The only supported expectation is 100-continue."

_CLOSING = {"malformed", "request_timeout", "url_too_long", "headers_too_large"}
"""After these the start of the next request is unknown, so the connection is closed."""


_REGISTERED = {
    code: f"https://iana.org/assignments/http-problem-types#{name}"
    for code, name in (
        ("offset_mismatch", "mismatching-upload-offset"),
        ("inconsistent_length", "inconsistent-upload-length"),
    )
}
"""The types of errors that a registry has; the others have types of our own."""


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error.  ``code`` is stable, ``field`` names the input at fault, ``error`` repeats ``title``."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    error: str
    request_id: str
    field: str | None = None
    expected_offset: int | None = msgspec.field(default=None, name="expected-offset")
    provided_offset: int | None = msgspec.field(default=None, name="provided-offset")


_encoder = msgspec.json.Encoder()


def describe(error: DriveError, request_id: str) -> Problem:
    """Return the description of *error*."""
    expected, provided = (error.offset, error.provided) if isinstance(error, OffsetMismatch) else (None, None)
    return Problem(
        type=_REGISTERED.get(error.code) or f"urn:godrive:problem:{error.code}",
        title=error.title,
        status=error.status,
        detail=error.detail,
        code=error.code,
        error=error.title,
        request_id=request_id,
        field=error.field and str(error.field),  # header names are istr, which msgspec does not encode
        expected_offset=expected,
        provided_offset=provided,
    )


def problem(error: DriveError, request_id: str) -> web.Response:
    """Return *error* as an answer."""
    headers = {hdrs.CONTENT_TYPE: "application/problem+json", hdrs.CACHE_CONTROL: "no-store"}
    if error.retry_after is not None:
        headers[hdrs.RETRY_AFTER] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        headers[hdrs.WWW_AUTHENTICATE] = 'Bearer realm="godrive"'
    response = web.Response(body=_encoder.encode(describe(error, request_id)), status=error.status, headers=headers)
    if error.code in _CLOSING:
        response.force_close()
    return response


def of_http_exception(exception: web.HTTPException) -> tuple[DriveError, dict[str, str]]:
    """Return the error for a refusal by aiohttp, and the headers that belong to it."""
    match exception.status:
        case 404:
            return NotFound("This path does not exist."), {}
        case 405:
            allow = exception.headers.get(hdrs.ALLOW, "")
            return MethodNotAllowed(f"This path takes {allow or 'another method'}."), {hdrs.ALLOW: allow}
        case 401:
            return Unauthenticated(), {}
        case 413:
            return TooLarge("The request body is too large."), {}
        case 417:
            return ExpectationFailed(EXPECTATION), {}
        case status if 400 <= status < 500:
            return Malformed(exception.reason), {}
        case _:
            return Internal("The server failed."), {}
