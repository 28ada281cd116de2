"""The request log, and the logger of this package.

Every request makes one event, so the time to write it counts.
:class:`JsonLines` is for the owner of the process: it makes the same lines as
a configured structlog in a fraction of the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec

from godrive.logger import get_logger

NAME = "godrive.http"

LogRequest = Callable[[str, str, int, float, str], None]
"""Called when a request has been answered: method, path, status, seconds, request id.  It must not block."""


def logger() -> Any:
    """The logger of this package."""
    return get_logger(NAME)


def log_to_logger() -> LogRequest:
    """Requests as events of the logger."""
    info = logger().info

    def log(method: str, path: str, status: int, seconds: float, request_id: str) -> None:
        info("request", method=method, path=path, status=status, seconds=seconds, request_id=request_id)

    return log


class LogFile(Protocol):
    """Where lines go."""

    def write(self, lines: bytes, /) -> object:
        """Take whole lines.  It must not block: requests wait for it."""


class JsonLines:
    """Requests as lines of JSON in *file*, written once per turn of the event loop."""

    def __init__(self, file: LogFile) -> None:
        self._file = file
        self._lines: list[bytes] = []
        self._encode = msgspec.json.Encoder().encode

    def __call__(self, method: str, path: str, status: int, seconds: float, request_id: str) -> None:
        line = self._encode(
            {
                "timestamp": datetime.now(UTC),
                "level": "info",
                "event": "request",
                "method": method,
                "path": path,
                "status": status,
                "seconds": seconds,
                "request_id": request_id,
            }
        )
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._write)
        self._lines.append(line)

    def _write(self) -> None:
        self._lines.append(b"")
        lines = b"\n".join(self._lines)
        self._lines = []
        with suppress(OSError, ValueError):
            self._file.write(lines)
