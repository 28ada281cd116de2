"""The request log, and the logger of this package.

Every request writes one event, so writing must be fast.  :class:`JsonLines`
writes the same lines as structlog in a fraction of the time, for a process that
owns its log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
from aiohttp import web

from godrive.logger import get_logger

NAME = "godrive.http"


class Answered(msgspec.Struct, kw_only=True):
    """One line of the request log.

    ``address`` is the client's address, as reported by trusted proxies.
    ``user`` is absent for requests without a user.  ``ended`` is absent if the
    answer is complete; otherwise it is ``client_left`` or ``cut``.
    """

    method: str
    path: str
    status: int
    seconds: float
    request_id: str
    address: str
    user: str | None = None
    ended: str | None = None


LogRequest = Callable[[Answered], None]
"""Called after a request was answered or its connection was lost.  Must not block."""

USER: web.RequestKey[str] = web.RequestKey("user", str)
"""The id of the user of the request, once it is known."""

STATUS: web.RequestKey[int] = web.RequestKey("status", int)
"""The status of a streaming answer."""

ENDED: web.RequestKey[str] = web.RequestKey("ended", str)
"""The reason for an incomplete answer: :data:`CLIENT_LEFT` or :data:`CUT`."""

CLIENT_LEFT, CUT = "client_left", "cut"


def logger() -> Any:
    """The logger of this package."""
    return get_logger(NAME)


def log_to_logger() -> LogRequest:
    """Return a callback that writes requests to the logger."""
    info = logger().info

    def log(answered: Answered) -> None:
        info("request", **_fields(answered))

    return log


def _fields(answered: Answered) -> dict[str, object]:
    fields: dict[str, object] = {
        "method": answered.method,
        "path": answered.path,
        "status": answered.status,
        "seconds": answered.seconds,
        "request_id": answered.request_id,
        "address": answered.address,
    }
    if answered.user is not None:
        fields["user"] = answered.user
    if answered.ended is not None:
        fields["ended"] = answered.ended
    return fields


class LogFile(Protocol):
    """The destination of log lines."""

    def write(self, lines: bytes, /) -> object:
        """Write complete lines.  Must not block, because requests wait for it."""


class JsonLines:
    """Writes requests to *file* as lines of JSON, once per iteration of the event loop."""

    def __init__(self, file: LogFile) -> None:
        self._file = file
        self._lines: list[bytes] = []
        self._encode = msgspec.json.Encoder().encode

    def __call__(self, answered: Answered) -> None:
        line = self._encode({"timestamp": datetime.now(UTC), "level": "info", "event": "request", **_fields(answered)})
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._write)
        self._lines.append(line)

    def _write(self) -> None:
        self._lines.append(b"")
        lines = b"\n".join(self._lines)
        self._lines = []
        with suppress(OSError, ValueError):
            self._file.write(lines)
