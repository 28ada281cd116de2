"""Logging for the program.  An embedding application sets up its own.

Each event is one line with fields: coloured text on a terminal, JSON elsewhere.
Warnings and errors that other libraries log through ``logging`` are included.
Logging never blocks and never fails: see :mod:`godrive.log_writer`.
"""

from __future__ import annotations

import atexit
import logging
import sys
from datetime import UTC, datetime
from typing import Any, TextIO, assert_never

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from godrive.backup_schedule import Look
from godrive.config import Log
from godrive.errors import DriveError
from godrive.log_writer import LogWriter
from godrive.messages.backups import MadeBackup
from godrive.messages.ingest import Reconciled
from godrive.messages.janitor import Swept
from godrive.messages.system import Drift
from godrive.runtime import Event, request_id
from godrive.runtime.supervision_events import (
    ChildCrashed,
    ChildStarted,
    ChildStopped,
    ChildWaiting,
    DeadLetter,
    RestartsExhausted,
    SlowMessage,
    StopTimedOut,
    Ticked,
    TickFailed,
)
from godrive.scrub import Scrubbed

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


def _encodable(value: object) -> str:
    """What is written for a value that JSON has no form for.  The id of a traced request is text, and stays so."""
    return str(value) if isinstance(value, str) else repr(value)


_encoder = msgspec.json.Encoder(enc_hook=_encodable)

log = structlog.get_logger("godrive")


def level_number(name: str) -> int:
    """Return the number of a level in ``logging``."""
    return logging.getLevelNamesMapping()[name.upper()]


class ProcessLog:
    """The log of this process, set up by :func:`configure`: its writer, its format, and its level, which may change."""

    def __init__(self, settings: Log, stream: TextIO) -> None:
        self.is_human = settings.format == "human" or (settings.format == "auto" and stream.isatty())
        self.writer = LogWriter(stream.fileno(), notice=_human_notice if self.is_human else _json_notice)
        self.set_level(settings.level)

    def set_level(self, name: str) -> None:
        """Log events of this level and above from now on."""
        self.level = level_number(name)
        # Other libraries: warnings and errors only, because at lower levels some log signing secrets.
        logging.getLogger().setLevel(max(self.level, logging.WARNING))

    def enables(self, level: int) -> bool:
        """Whether events of that level are logged."""
        return level >= self.level


def configure(settings: Log, stream: TextIO = sys.stdout) -> ProcessLog:
    """Log to *stream* from now on.  When the process exits, it writes the rest of the buffer."""
    process_log = ProcessLog(settings, stream)

    def drop_below_level(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        # structlog's own filter is part of a logger's class, so it cannot change once loggers are cached.
        if process_log.enables(_LEVELS[method]):
            return event
        raise structlog.DropEvent

    processors: list[structlog.typing.Processor] = [
        drop_below_level,
        structlog.contextvars.merge_contextvars,
        _add_request_id,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if process_log.is_human:
        plain = structlog.dev.plain_traceback
        processors += [structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain), _encode]
    else:
        processors += [structlog.processors.format_exc_info, _render]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
        logger_factory=structlog.BytesLoggerFactory(process_log.writer),  # type: ignore[arg-type]  # needs only write and flush
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(handlers=[_Relay()], level=logging.getLogger().level, force=True)
    logging.captureWarnings(True)
    atexit.register(process_log.writer.drain)
    return process_log


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
        case SlowMessage(actor, message, waited, took, chosen):
            times = {"waited": round(waited, 3), "took": round(took, 3)}
            log.warning("slow_message", actor=actor, message=message, **times, request_id=chosen)
        case StopTimedOut(child):
            log.warning("stop_timed_out", child=child)
        case ChildWaiting(child, error):
            log.warning("child_waiting", child=child, **_told(error))
        case Ticked(child, Swept(failed=failed, held=held, problem=problem)) if problem:
            log.warning("sweep_incomplete", child=child, failed=failed, held=held, problem=problem)
        case Ticked(child, Reconciled(failed=failed, postponed=postponed, problem=problem)) if problem:
            log.warning("reconcile_incomplete", child=child, failed=failed, postponed=postponed, problem=problem)
        case Ticked(child, Scrubbed(found=found)) if found:
            for each in found:
                named = {"object_key": each.object_key, "file_id": each.file_id, "kind": each.fault.value}
                log.error("blob_damaged", child=child, **named, detail=each.detail)
        case Ticked(child, Look(last=MadeBackup() as made, is_new=True)):
            log.info("backed_up", child=child, snapshot=made.snapshot_id, blobs=made.blobs, bytes=made.bytes)
        case Ticked(child, Drift() as drift) if drift:
            log.error("usage_drift", child=child, bytes=drift.bytes, rows=drift.rows, hint="Run godrive recount.")
        case Ticked():
            pass  # nothing to report
        case TickFailed(child, error):
            log.warning("tick_failed", child=child, **_told(error))
        case _:
            assert_never(event)


def _told(error: BaseException) -> dict[str, str]:
    """An expected error without its trace, and with its hint for the operator."""
    hint = error.hint if isinstance(error, DriveError) else None
    return {"error": repr(error)} | ({"hint": hint} if hint else {})


def _add_request_id(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    if (chosen := request_id.get()) is not None:
        event.setdefault("request_id", chosen)
    return event


def _json_notice(lost: int) -> bytes:
    fields = {"timestamp": datetime.now(UTC), "level": "warning", "event": "log_lines_lost", "lines": lost}
    return _encoder.encode(fields) + b"\n"


def _human_notice(lost: int) -> bytes:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ} [warning  ] log_lines_lost lines={lost}\n".encode()


def _encode(_logger: WrappedLogger, _method: str, text: Any) -> bytes:
    return str(text).encode(errors="backslashreplace")


def _render(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    fields = {name: event.pop(name) for name in ("timestamp", "level", "event")} | dict(event)
    try:
        return _encoder.encode(fields)
    except Exception:  # half a surrogate pair, an integer over 64 bits, a __repr__ that fails
        return _encoder.encode({_ascii(name): _ascii(value) for name, value in fields.items()})


def _ascii(value: object) -> str:
    try:
        return ascii(value).strip("'")
    except Exception:
        return f"<{type(value).__name__}>"


class _Relay(logging.Handler):
    """Pass records of the standard library's ``logging`` on to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception as error:  # arguments that do not fit the message
            message = f"{record.msg!r} ({error})"
        level = max(level for level in _LEVELS.values() if level <= max(record.levelno, logging.DEBUG))
        log.log(level, message, logger=record.name, exc_info=record.exc_info)
