"""The request log, and the logger of this package.

Every request writes one event, so writing must be fast.  :class:`JsonLines`
writes the same lines as structlog in a fraction of the time, for a process that
owns its log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
from msgspec.structs import asdict

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

CLIENT_LEFT, CUT = "client_left", "cut"


class Findings(msgspec.Struct):
    """Fields of the request log that only the handler of the request knows."""

    user: str | None = None
    """The id of the user."""
    status: int | None = None
    """The status of a streaming answer."""
    ended: str | None = None
    """The reason for an incomplete answer: :data:`CLIENT_LEFT` or :data:`CUT`."""
    headers: Mapping[str, str] | None = None
    """What the answer has also if it is an error."""


findings: ContextVar[Findings] = ContextVar("findings")
"""The findings of the current request.  A context variable costs less than a key of the request."""


def logger() -> Any:
    """The logger of this package."""
    return get_logger(NAME)


def log_to_logger() -> LogRequest:
    """Return a callback that writes requests to the logger."""
    info = logger().info

    def log(answered: Answered) -> None:
        info("request", **{name: value for name, value in asdict(answered).items() if value is not None})

    return log


class _Line(msgspec.Struct, omit_defaults=True):
    """A line as it is written: the fields of :class:`Answered` after those of every event."""

    timestamp: datetime
    level: str
    event: str
    method: str
    path: str
    status: int
    seconds: float
    request_id: str
    address: str
    user: str | None = None
    ended: str | None = None


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
        line = self._encode(
            _Line(
                datetime.now(UTC),
                "info",
                "request",
                answered.method,
                answered.path,
                answered.status,
                answered.seconds,
                answered.request_id,
                answered.address,
                answered.user,
                answered.ended,
            )
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
