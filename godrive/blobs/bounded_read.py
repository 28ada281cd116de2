"""Read an HTTP body up to a limit."""

from __future__ import annotations

import aiohttp

MOST = 1_000_000


async def read_bounded(content: aiohttp.StreamReader, at_most: int = MOST) -> bytes:
    """The first *at_most* bytes of *content*, or all of it.

    ``content.read(n)`` is not enough: it returns what has arrived so far.
    """
    received = bytearray()
    async for chunk in content.iter_any():
        received += chunk
        if len(received) >= at_most:
            break
    return bytes(received[:at_most])
