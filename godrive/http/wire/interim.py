"""Interim answers (RFC 9110, section 15.2), which aiohttp does not send."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web
from aiohttp.http import HttpVersion11


async def send_interim(request: web.Request, status: int, reason: str, headers: Mapping[str, str]) -> None:
    """Send an answer before the final one, unless the client speaks HTTP/1.0.

    The values of *headers* must be ours.  Raises ``ConnectionError`` if the client has left.
    """
    if request.version < HttpVersion11:
        return
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    await request.writer.write("\r\n".join(lines).encode("latin-1"))
    request.writer.output_size = 0  # has_begun() must not count the interim answer
