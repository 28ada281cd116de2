"""Load for a server: ``python -m bench.load``, a process of its own so that it does not slow the server.

Reads an order, one line of JSON: ``{"row", "port", "tokens", "connections",
"size"}`` and either ``"seconds"`` or ``"units"``.  Writes ``prepared`` once its
files are there, and waits for a line before it begins.  Writes ``{"units",
"seconds", "p50", "p99", "refused", "status", "reason"}``; status and reason are those of the last refusal.

A row is what a connection repeats.  Bytes are put together and taken apart by
hand, because a client library would be the limit.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, cast

import uvloop

Unit = Generator[bytes, Any, None]
"""Yields requests, and is sent the JSON of each answer."""

LIST = "/v1/files?limit=20"

PREPARED = 2
"""Files that each connection uploads before the row begins, so that there is something to list and to rename."""


@dataclass
class Tally:
    """What all connections have done together."""

    until: float = float("inf")
    units: int = sys.maxsize
    """Units that may still begin."""
    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    status: int = 0
    reason: str = ""


class Client(asyncio.Protocol):
    """One connection of one user."""

    def __init__(self, number: int, token: str, order: dict[str, Any], tally: Tally) -> None:
        self._name = f"{os.getpid()}-{number}"
        self._head = f" HTTP/1.1\r\nHost: 127.0.0.1:{order['port']}\r\n"
        self._token = token
        self._content = os.urandom(order["size"])
        self._tally = tally
        self._count = 0
        self._received = b""
        self._file = ""
        self._row: Callable[[], Unit] = getattr(self, order["row"])
        self._unit = self.prepare()
        self._began = 0.0
        self._measured = False
        self.done = self._new_future()

    @staticmethod
    def _new_future() -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """An authenticated request."""
        lines = f"{method} {path}{self._head}Authorization: Bearer {self._token}\r\n"
        if body is None:
            return f"{lines}\r\n".encode()
        text = json.dumps(body)
        return f"{lines}Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()

    def put(self, intent: dict[str, Any]) -> bytes:
        """The bytes of an upload."""
        headers = {"Content-Length": str(len(self._content))} | intent["headers"]
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"PUT /{intent['upload_url'].split('/', 3)[3]}{self._head}{lines}\r\n".encode() + self._content

    def announce(self) -> bytes:
        """The intent of the next upload."""
        self._count += 1
        name = f"{self._name}-{self._count}.bin"
        size = len(self._content)
        body = {"filename": name, "mime": "application/octet-stream", "size_bytes": size}
        return self.request("POST", "/v1/files/upload-intent", body)

    def prepare(self) -> Unit:
        """Upload files to list and to rename."""
        for _ in range(PREPARED):
            intent = yield self.announce()
            self._file = (yield self.put(intent))["file"]["id"]

    def list(self) -> Unit:
        """A list that has not changed."""
        yield self.request("GET", LIST)

    def rename(self) -> Unit:
        """A change, and the list read anew."""
        self._count += 1
        yield self.request("PATCH", f"/v1/files/{self._file}", {"name": f"{self._name}-{self._count}.txt"})
        yield self.request("GET", LIST)

    def intent(self) -> Unit:
        """The announcement of an upload."""
        yield self.announce()

    def upload(self) -> Unit:
        """An upload: intent and bytes."""
        intent = yield self.announce()
        yield self.put(intent)

    def post(self) -> Unit:
        """An upload in one request."""
        self._count += 1
        lines = f"Authorization: Bearer {self._token}\r\nContent-Length: {len(self._content)}\r\n"
        lines += "Content-Type: application/x-data\r\n"
        yield f"POST /v1/files?name={self._name}-{self._count}.bin{self._head}{lines}\r\n".encode() + self._content

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(next(self._unit))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError("The server closed the connection."))

    def start(self) -> None:
        """Repeat the row until the tally is complete; ``done`` tells."""
        self.done = self._new_future()
        self._measured = True
        self._begin()

    def _begin(self) -> None:
        self._began = time.perf_counter()
        if self._began > self._tally.until or self._tally.units <= 0:
            self.done.set_result(None)
            return
        self._tally.units -= 1
        self._unit = self._row()
        self._transport.write(next(self._unit))

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, gap, rest = self._received.partition(b"\r\n\r\n")
        if not gap:
            return
        head = head.lower()
        if b"transfer-encoding: chunked" in head:
            if not rest.endswith(b"0\r\n\r\n"):
                return
        elif len(rest) < int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0):
            return
        self._received = b""
        if (status := int(head[9:12])) >= 400:
            self._tally.refused += 1
            self._tally.status = status
            self._tally.reason = rest.decode(errors="replace")
            self._end()
            return
        try:
            self._transport.write(self._unit.send(json.loads(rest)))
        except StopIteration:
            if self._measured:
                self._tally.latencies.append(time.perf_counter() - self._began)
            self._end()

    def _end(self) -> None:
        if self._measured:
            self._begin()
        else:
            self.done.set_result(None)


async def run(order: dict[str, Any]) -> dict[str, float | str]:
    """Carry out an order."""
    tally = Tally()
    loop = asyncio.get_running_loop()
    clients = []
    for number in range(order["connections"]):
        client = Client(number, order["tokens"][number % len(order["tokens"])], order, tally)
        await loop.create_connection(lambda client=client: client, "127.0.0.1", order["port"])  # type: ignore[misc]
        clients.append(client)
    await asyncio.gather(*(client.done for client in clients))
    if tally.refused:
        raise RuntimeError(f"{tally.refused} requests were refused: {tally.reason}")
    sys.stdout.write("prepared\n")
    sys.stdout.flush()
    sys.stdin.readline()
    began = time.perf_counter()
    tally.until = began + order["seconds"] if "seconds" in order else float("inf")
    tally.units = order.get("units", sys.maxsize)
    for client in clients:
        client.start()
    await asyncio.gather(*(client.done for client in clients))
    found = sorted(tally.latencies) or [float("nan")]
    return {
        "units": len(tally.latencies),
        "seconds": time.perf_counter() - began,
        "p50": found[len(found) // 2],
        "p99": found[len(found) * 99 // 100],
        "refused": tally.refused,
        "status": tally.status,
        "reason": tally.reason,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(uvloop.run(run(json.loads(sys.stdin.readline())))) + "\n")
