"""The limits of a request head, and what is answered to one that cannot be read."""

from __future__ import annotations

from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from godrive.errors import DriveError
from godrive.http.api.problems import HeadersTooLarge, Malformed, UrlTooLong

MAX_LINE = 8_190
"""Bytes of a request line."""

MAX_FIELD = 16_380
"""Bytes of one header."""

MAX_HEAD = 65_536
"""Bytes of an incomplete request line and headers."""


def unreadable(error: BaseException | None) -> DriveError:
    """Return the answer to what aiohttp could not parse because of *error*."""
    if isinstance(error, LineTooLong):
        if error.args[1] == MAX_LINE:
            return UrlTooLong(f"The request line may have at most {MAX_LINE} bytes.")
        return HeadersTooLarge(f"A header may have at most {MAX_FIELD} bytes.")
    message = error.message if isinstance(error, HttpProcessingError) else ""
    if message.startswith("Too many headers"):
        return HeadersTooLarge("The request has too many headers.")
    return Malformed("This is not an HTTP request that can be understood.")
