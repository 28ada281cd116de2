"""Many small uploads: ``python -m bench.uploader``, a process of its own so that it does not slow the server.

Reads ``{"port", "tokens", "connections", "seconds", "size"}`` from standard
input and writes ``{"uploads", "seconds", "p50", "p99", "refused"}``.  Bytes
are put together and taken apart by hand: a client library would be the limit.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import Any, cast

import uvloop


@dataclass
class Tally:
    """What all connections have done together."""

    until: float
    latencies: list[float] = field(default_factory=list)
    refused: int = 0


class Uploader(asyncio.Protocol):
    """One connection: intent, PUT, and again."""

    def __init__(self, number: int, token: str, host: str, content: bytes, tally: Tally) -> None:
        self._number = number
        self._head = (
            f"POST /v1/files/upload-intent HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: application/json\r\n"
        )
        self._host = host
        self._content = content
        self._tally = tally
        self._count = 0
        self._received = b""
        self._sending = False
        self._began = 0.0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._announce()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)

    def _announce(self) -> None:
        self._began = time.perf_counter()
        if self._began > self._tally.until:
            self._transport.close()
            return
        self._count += 1
        name = f"{os.getpid()}-{self._number}-{self._count}.bin"
        body = f'{{"filename":"{name}","mime":"application/octet-stream","size_bytes":{len(self._content)}}}'
        self._transport.write(f"{self._head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        self._sending = False

    def _send(self, intent: dict[str, Any]) -> None:
        target = "/" + intent["upload_url"].split("/", 3)[3]
        headers = {"Content-Length": str(len(self._content))} | intent["headers"]
        lines = [f"PUT {target} HTTP/1.1", f"Host: {self._host}", *(f"{k}: {v}" for k, v in headers.items())]
        self._transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + self._content)
        self._sending = True

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, gap, rest = self._received.partition(b"\r\n\r\n")
        if not gap:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
        if len(rest) < length:
            return
        self._received = b""
        status = int(head[9:12])
        if status >= 300:
            self._tally.refused += 1
            self._announce()
        elif self._sending:
            self._tally.latencies.append(time.perf_counter() - self._began)
            self._announce()
        else:
            self._send(json.loads(rest))


async def run(order: dict[str, Any]) -> dict[str, float]:
    """Upload until the time is over."""
    began = time.perf_counter()
    tally = Tally(began + order["seconds"])
    loop = asyncio.get_running_loop()
    host, tokens = f"127.0.0.1:{order['port']}", order["tokens"]
    waiting = []
    for number in range(order["connections"]):
        uploader = Uploader(number, tokens[number % len(tokens)], host, os.urandom(order["size"]), tally)
        await loop.create_connection(lambda uploader=uploader: uploader, "127.0.0.1", order["port"])  # type: ignore[misc]
        waiting.append(uploader.done)
    await asyncio.gather(*waiting)
    found = sorted(tally.latencies) or [float("nan")]
    return {
        "uploads": len(tally.latencies),
        "seconds": time.perf_counter() - began,
        "p50": found[len(found) // 2],
        "p99": found[len(found) * 99 // 100],
        "refused": tally.refused,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(uvloop.run(run(json.load(sys.stdin)))))
