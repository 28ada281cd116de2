"""An HTTP client of the simulated network: small, so that a run spends its time on the server."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec

from godrive.simulation.network import Address, Network

_SIZE = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_IS_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.IGNORECASE)
_CLOSES = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Lost(Exception):
    """There is no answer, so nobody knows whether the request was carried out."""


class Unsent(Lost):
    """No connection could be made: the request was certainly not carried out."""


@dataclass
class Answer:
    """What a server answered."""

    status: int
    head: str
    """As it was received."""
    body: bytes

    @cached_property
    def headers(self) -> dict[str, str]:
        """By their names in lower case."""
        pairs = (line.partition(":") for line in self.head.split("\r\n")[1:])
        return {name.lower(): value.strip() for name, _, value in pairs}

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        """The code of a problem; "" if the answer is none."""
        if self.status < 400 or not self.body:
            return ""
        try:
            return str(self.json.get("code", ""))
        except msgspec.DecodeError:
            return "unreadable"


class _Wire(asyncio.Protocol):
    """One connection, with at most one request in progress."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.reply: asyncio.Future[Answer] | None = None
        self.is_head = False
        self.is_open = True
        self._buffer = b""
        self._can_continue: asyncio.Event | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._parse(ended=False)

    def eof_received(self) -> bool:
        self.is_open = False
        self._parse(ended=True)
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if exc is None:
            self._parse(ended=True)
        if self.reply is not None and not self.reply.done():
            self.reply.set_exception(Lost("the connection was lost"))

    def _parse(self, *, ended: bool) -> None:
        if self.reply is None or self.reply.done():
            return
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        status = int(head[9:12])
        if status < 200:
            self._buffer = rest
            self._parse(ended=ended)
            return
        body: bytes | None
        if self.is_head or status in (204, 304):
            body = b""
        elif (size := _SIZE.search(head)) is not None:
            length = int(size[1])
            body, rest = (rest[:length], rest[length:]) if len(rest) >= length else (None, rest)
        elif _IS_CHUNKED.search(head) is not None:
            body, rest = _unchunk(rest)
        else:
            body, rest = (rest, b"") if ended else (None, rest)
        if body is None:
            return
        self._buffer = rest
        if _CLOSES.search(head) is not None:
            self.is_open = False
            self.transport.close()
        self.reply.set_result(Answer(status, head.decode("latin-1"), body))


def _unchunk(data: bytes) -> tuple[bytes | None, bytes]:
    """The content of a chunked body and what follows it; ``None`` if it is not complete."""
    content: list[bytes] = []
    rest = data
    while True:
        size, found, rest = rest.partition(b"\r\n")
        if not found:
            return None, data
        length = int(size.partition(b";")[0], 16)
        if not length:
            return (b"".join(content), rest[2:]) if len(rest) >= 2 else (None, data)
        if len(rest) < length + 2:
            return None, data
        content.append(rest[:length])
        rest = rest[length + 2 :]


class Client:
    """One client of one server."""

    def __init__(self, network: Network, address: Address) -> None:
        self._network = network
        self.address = address
        self._wire: _Wire | None = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        patience: float = 30.0,
        pieces: int = 1,
        cut_after: float | None = None,
    ) -> Answer:
        """Send a request and wait for its answer, at most *patience* seconds.  Raises :class:`Lost`.

        The body goes out in *pieces*.  With *cut_after*, hang up that many
        seconds after the request began, whatever has arrived by then.
        """
        wire = await self._connect()
        reply: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        wire.reply = reply
        wire.is_head = method == "HEAD"
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.address[0]}:{self.address[1]}"]
        if body or method in ("POST", "PUT", "PATCH"):
            lines.append(f"Content-Length: {len(body)}")
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode()
        patience = patience if cut_after is None else min(cut_after, patience)
        try:
            async with asyncio.timeout(patience):
                if pieces > 1 and body:
                    wire.transport.write(head)
                    step = -(-len(body) // pieces)
                    for start in range(0, len(body), step):
                        if reply.done():
                            break
                        wire.transport.write(body[start : start + step])
                        await asyncio.sleep(0.01)
                else:
                    wire.transport.write(head + body)
                return await reply
        except TimeoutError:
            raise Lost("no answer in time") from None
        finally:
            wire.reply = None  # nobody would hear how it ends
            if not reply.done() or reply.cancelled() or reply.exception() is not None:
                self.hang_up()

    def hang_up(self) -> None:
        """Drop the connection."""
        if self._wire is not None:
            self._wire.is_open = False
            self._wire.transport.abort()
            self._wire = None

    async def _connect(self) -> _Wire:
        if self._wire is not None and self._wire.is_open:
            return self._wire
        try:
            _, protocol = await self._network.connect(_Wire, *self.address)
        except OSError as error:
            raise Unsent(str(error)) from None
        assert isinstance(protocol, _Wire)  # noqa: S101
        self._wire = protocol
        return protocol
