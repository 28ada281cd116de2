"""A small HTTP server of the simulated network, for models of servers that are not ours."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

_REASONS = {200: "OK", 204: "No Content", 206: "Partial Content"}


@dataclass(slots=True)
class Request:
    """A request.  Names of headers are in lower case."""

    method: str
    path: str
    """As it was sent, without the query."""
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""

    @property
    def place(self) -> str:
        """The decoded path."""
        return unquote(self.path)


@dataclass(slots=True)
class Reply:
    """An answer.  *size* is the length that an answer to HEAD announces."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    size: int | None = None


Handler = Callable[[Request], Awaitable[Reply | None]]
"""Answers a request; ``None`` closes the connection without an answer."""


class ServerProtocol(asyncio.Protocol):
    """One connection: requests one after the other."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._transport: Any = None
        self._buffer = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._task is None or self._task.done():
            self._next()

    def _next(self) -> None:
        request = self._parse()
        if request is not None:
            self._task = asyncio.get_running_loop().create_task(self._answer(request))

    def _parse(self) -> Request | None:
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ", 2)
        headers = {}
        for line in lines:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        size = int(headers.get("content-length", "0"))
        if len(rest) < size:
            if headers.get("expect", "").lower() == "100-continue" and not rest:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return None
        self._buffer = rest[size:]
        path, _, search = target.partition("?")
        return Request(method, path, dict(parse_qsl(search, keep_blank_values=True)), headers, rest[:size])

    async def _answer(self, request: Request) -> None:
        reply = await self._handler(request)
        if reply is None:
            self._transport.abort()
            return
        size = len(reply.body) if reply.size is None else reply.size
        lines = [f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, 'Refused')}"]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        if reply.status != 204:
            lines.append(f"Content-Length: {size}")
        body = b"" if request.method == "HEAD" else reply.body
        self._transport.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        self._task = None
        if self._buffer:
            self._next()
