"""HTTP by hand, for clients that misbehave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

_CHUNK = 100_000


class Wire:
    """One connection, on which a request is sent piece by piece."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str) -> AsyncIterator[Wire]:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            yield cls(reader, writer)
        finally:
            writer.transport.abort()

    async def put(self, url: str, headers: Mapping[str, str], length: int | None) -> None:
        """Send the head of a PUT of *length* bytes; ``None`` announces chunks."""
        parts = urlsplit(url)
        lines = [f"PUT {parts.path}?{parts.query} HTTP/1.1", f"Host: {parts.netloc}"]
        lines += [f"{name}: {value}" for name, value in headers.items() if name.lower() != "content-length"]
        lines += ["Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"]
        await self.send("\r\n".join(lines).encode() + b"\r\n\r\n")

    async def send(self, content: bytes) -> None:
        self.writer.write(content)
        await self.writer.drain()

    async def exchange(
        self, url: str, headers: Mapping[str, str], content: bytes, *, chunked: bool = False
    ) -> dict[str, Any]:
        """PUT *content*; the JSON of a 2xx answer.  Any other end is a ``ConnectionError``."""
        await self.put(url, headers, None if chunked else len(content))
        if chunked:
            for start in range(0, len(content), _CHUNK):
                piece = content[start : start + _CHUNK]
                await self.send(b"%x\r\n%s\r\n" % (len(piece), piece))
            await self.send(b"0\r\n\r\n")
        else:
            await self.send(content)
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        body = await self.reader.readexactly(length)
        if not head.startswith(b"HTTP/1.1 2"):
            raise ConnectionError(head + body)
        answer: dict[str, Any] = json.loads(body or b"{}")
        return answer

    async def status(self) -> int | None:
        """The status of the answer, ``None`` when the connection ends without one."""
        try:
            line = await self.reader.readline()
        except ConnectionError:
            return None
        return int(line.split()[1]) if line else None
