"""The request log, and the logger of this package.

There is one event for every request, so how long it takes to write counts.
:class:`JsonLines` is for the owner of the process: it makes the same lines as
a configured structlog would in a fraction of the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, BinaryIO

import msgspec

from godrive.logger import get_logger

NAME = "godrive.http"

LogRequest = Callable[[str, str, int, float, str], None]
"""Is told about a request once it is answered: method, path, status, seconds, request id.  It must not block."""


def logger() -> Any:
    """The logger of this package."""
    return get_logger(NAME)


def log_to_logger() -> LogRequest:
    """Requests as events of the logger."""
    info = logger().info

    def log(method: str, path: str, status: int, seconds: float, request_id: str) -> None:
        info("request", method=method, path=path, status=status, seconds=seconds, request_id=request_id)

    return log


class JsonLines:
    """Requests as lines of JSON in *file*, written once in a turn of the event loop for all that were answered in it.

    A file that cannot be written to loses lines; it refuses no request.
    """

    def __init__(self, file: BinaryIO) -> None:
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
            self._file.flush()
