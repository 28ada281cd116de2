"""Interim answers (RFC 9110, section 15.2), which aiohttp does not send."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11

_OF_PROXIES = (hdrs.FORWARDED, hdrs.VIA, hdrs.X_FORWARDED_FOR, hdrs.X_FORWARDED_PROTO)
"""Headers that proxies add."""


async def send_interim(request: web.Request, status: int, reason: str, headers: Mapping[str, str]) -> None:
    """Send an answer before the final one, if the client can be expected to get it.

    That is not so for HTTP/1.0, and behind a proxy: nginx 1.22 takes every
    interim answer but ``100`` for the final one, and waits for its end.  The
    values of *headers* must be ours.  Raises ``ConnectionError`` if the client has left.
    """
    if request.version < HttpVersion11 or any(name in request.headers for name in _OF_PROXIES):
        return
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    await request.writer.write("\r\n".join(lines).encode("latin-1"))
    request.writer.output_size = 0  # has_begun() must not count the interim answer
