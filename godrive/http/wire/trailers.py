"""What may follow a chunked body on its connection.

aiohttp's parser takes the last field of a trailer section for the first header
of the next request.  A proxy sends the requests of many clients over one
connection, so one client could add a header to the request of another, such as
a credential.  So a connection ends with the answer to a request with trailers,
and nothing that follows on it is carried out.  It also ends if something follows
a chunked body so closely that the parser may have taken a trailer for a header.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from aiohttp.streams import StreamReader

_END = b"\r\n0\r\n\r\n"
"""The end of a chunked body without trailers, as clients write it."""


class Trailers:
    """Watches the chunked bodies of one connection."""

    __slots__ = ("_body", "_last")

    def __init__(self) -> None:
        self._body: StreamReader | None = None
        self._last = b""

    def drop_unsafe(
        self, requests: deque[tuple[Any, StreamReader]], parsed: int, data: bytes, *, most: int
    ) -> int | None:
        """Drop those of the last *parsed* requests of which nobody knows whether a trailer is in their head.

        They were parsed when *data* came.  If there are *most* requests, the parser may have kept some of it.  Returns
        how many were dropped, or ``None`` if the connection may go on.
        """
        self._last = data[-len(_END) :] if len(data) >= len(_END) else (self._last + data)[-len(_END) :]
        if self._body is None and (not parsed or (parsed == 1 and not is_chunked(requests[-1][0]))):
            return None  # as it is with almost every request
        last = [*requests][len(requests) - parsed :]
        bodies = [self._body, *[body if is_chunked(message) else None for message, body in last]]
        self._body = None
        for number, body in enumerate(bodies, 1):
            if body is not None and not body.is_eof():
                self._body = body  # it is the last one
            elif body is not None and (number < len(bodies) or len(requests) >= most or self._last != _END):
                for _ in bodies[number:]:
                    requests.pop()
                return len(bodies) - number
        return None


def any_chunked(requests: deque[tuple[Any, StreamReader]]) -> bool:
    """Whether the body of one of the requests is chunked."""
    return any(is_chunked(message) for message, _ in requests)


def is_chunked(message: Any) -> bool:
    """Whether the body is chunked.  *message* may be an error too."""
    return bool(getattr(message, "chunked", False))
