"""Where logs go, for the program; a library that is embedded leaves that to its host.

Events with fields, one a line: coloured for a person at a terminal, JSON for
anything else.  What other libraries log through ``logging`` joins them.
"""

from __future__ import annotations

import io
import logging
import sys
from contextlib import suppress
from typing import Any, TextIO, assert_never

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from godrive.config import Log
from godrive.errors import DriveError
from godrive.messages.ingest import Reconciled
from godrive.messages.janitor import Swept
from godrive.runtime import Event, request_id
from godrive.runtime.supervision_events import (
    ChildCrashed,
    ChildStarted,
    ChildStopped,
    ChildWaiting,
    DeadLetter,
    RestartsExhausted,
    StopTimedOut,
    Ticked,
    TickFailed,
)

_encoder = msgspec.json.Encoder(enc_hook=repr)

log = structlog.get_logger("godrive")


def is_human(settings: Log, stream: TextIO) -> bool:
    """Whether *stream* is to be written for a person."""
    return settings.format == "human" or (settings.format == "auto" and stream.isatty())


def has_plain_requests(settings: Log) -> bool:
    """Whether requests are logged, and as lines of JSON."""
    return settings.level in ("debug", "info") and not is_human(settings, sys.stdout)


class Lines(io.FileIO):
    """Where lines go: the file of *stream*.  What it does not take, for its disk is full or its reader gone, is lost.

    Nothing may fail with its log: that the disk is full is told to a log that may lie on the same one.
    There is no buffer, which would keep what it could not write, and fail when the process ends.
    All who write to one stream share these, for a line that was cut off is ended before the next.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream.fileno(), "wb", closefd=False)
        self._is_cut = False

    def write(self, lines: Any) -> int:
        """Write them, or as much as there is room for; how much that was."""
        if self._is_cut:
            lines = b"\n" + lines
        written = 0
        with suppress(OSError):
            while more := super().write(lines[written:]):
                written += more
        if written:
            self._is_cut = lines[written - 1 : written] != b"\n"
        return written


def configure(settings: Log, stream: TextIO = sys.stdout) -> Lines:
    """Log to *stream* from now on, in this process; what else is to be written there goes the same way."""
    level: int = logging.getLevelNamesMapping()[settings.level.upper()]
    lines = Lines(stream)
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _add_request_id,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if is_human(settings, stream):
        colors = stream.isatty()
        plain = structlog.dev.plain_traceback
        shared += [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain), _encode]
    else:
        shared += [structlog.processors.format_exc_info, _render]
    structlog.configure(
        processors=shared,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.BytesLoggerFactory(lines),
        cache_logger_on_first_use=True,
    )
    # Of others only what is wrong: at lower levels some write down what they sign requests with.
    logging.basicConfig(handlers=[_Relay()], level=max(level, logging.WARNING), force=True)
    logging.captureWarnings(True)
    return lines


def on_event(event: Event) -> None:
    """Log what a supervisor reports."""
    match event:
        case ChildStarted(child):
            log.debug("child_started", child=child)
        case ChildStopped(child):
            log.debug("child_stopped", child=child)
        case ChildCrashed(child, error, doing):
            log.error("child_crashed", child=child, doing=doing, exc_info=error)
        case RestartsExhausted(child, intensity, period):
            log.critical("restarts_exhausted", child=child, intensity=intensity, period=period)
        case DeadLetter(actor, message, reason, chosen):
            log.warning("dead_letter", actor=actor, message=message, reason=reason, request_id=chosen)
        case StopTimedOut(child):
            log.warning("stop_timed_out", child=child)
        case ChildWaiting(child, error):
            log.warning("child_waiting", child=child, **_told(error))
        case Ticked(child, Swept(failed=failed, held=held, problem=problem)) if problem:
            log.warning("sweep_incomplete", child=child, failed=failed, held=held, problem=problem)
        case Ticked(child, Reconciled(failed=failed, postponed=postponed, problem=problem)) if problem:
            log.warning("reconcile_incomplete", child=child, failed=failed, postponed=postponed, problem=problem)
        case Ticked():
            pass  # as it should be
        case TickFailed(child, error):
            log.warning("tick_failed", child=child, **_told(error))
        case _:
            assert_never(event)


def _told(error: BaseException) -> dict[str, str]:
    """An error that needs no trace, with what an operator can do about it."""
    hint = error.hint if isinstance(error, DriveError) else None
    return {"error": repr(error)} | ({"hint": hint} if hint else {})


def _add_request_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if (chosen := request_id.get()) is not None:
        event.setdefault("request_id", chosen)
    return event


def _encode(_logger: WrappedLogger, _method: str, text: Any) -> bytes:
    return str(text).encode(errors="backslashreplace")


def _render(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    first = {name: event.pop(name) for name in ("timestamp", "level", "event")}
    return _encoder.encode(first | dict(event))


class _Relay(logging.Handler):
    """Passes records of the standard library's ``logging`` on."""

    def emit(self, record: logging.LogRecord) -> None:
        log.log(record.levelno, record.getMessage(), logger=record.name, exc_info=record.exc_info)
