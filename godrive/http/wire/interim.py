"""Interim answers (RFC 9110, section 15.2), which aiohttp does not send."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11

_OF_PROXIES = (hdrs.FORWARDED, hdrs.VIA, hdrs.X_FORWARDED_FOR, hdrs.X_FORWARDED_PROTO)
"""Headers that proxies add."""


def send_interim(request: web.Request, status: int, reason: str, headers: Mapping[str, str]) -> None:
    """Send an answer before the final one, if the client can be expected to get it and has taken those before.

    It cannot be expected of HTTP/1.0, and behind a proxy: nginx 1.22 takes every
    interim answer but ``100`` for the final one, and waits for its end.  The
    values of *headers* must be ours.
    """
    transport = request.transport
    if request.version < HttpVersion11 or any(name in request.headers for name in _OF_PROXIES):
        return
    if transport is None or transport.is_closing() or transport.get_write_buffer_size():
        return
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    transport.write("\r\n".join(lines).encode("latin-1"))
