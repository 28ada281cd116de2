"""Events of a supervisor.  The host decides whether to log, count or ignore them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ChildStarted:
    """The child has started and accepts messages."""

    child: str


@dataclass(frozen=True, slots=True)
class ChildCrashed:
    """The child raised an exception that is not a reply: a bug.  ``doing`` is the message in hand, or the hook.

    With several messages in hand, several of these may precede one restart.
    """

    child: str
    error: BaseException
    doing: str | None = None


@dataclass(frozen=True, slots=True)
class ChildStopped:
    """The child ended in order: it neither crashed nor had to be cancelled."""

    child: str


@dataclass(frozen=True, slots=True)
class RestartsExhausted:
    """More than ``intensity`` restarts within ``period`` seconds: the supervisor gives up."""

    child: str
    intensity: int
    period: float


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that no handler will see.

    ``reason`` is ``expired`` (in the mailbox), ``stopped`` (with its actor), or
    the code of the error with which an exposer refused it.
    """

    actor: str
    message: str
    reason: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class SlowMessage:
    """A message took a large part of its timeout: *waited* seconds in the mailbox, *took* seconds in the handler."""

    actor: str
    message: str
    waited: float
    took: float
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class StopTimedOut:
    """The child did not stop within its ``shutdown`` seconds, or the host cut that short, and it was cancelled."""

    child: str


@dataclass(frozen=True, slots=True)
class Ticked:
    """A ticker's message was answered."""

    child: str
    reply: Any


@dataclass(frozen=True, slots=True)
class TickFailed:
    """A ticker's message was answered with an error.  The ticker asks again at the next tick."""

    child: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class ChildWaiting:
    """The child cannot do its work for now, and retries by itself.  Sent once for each run of failures."""

    child: str
    error: BaseException


Event = (
    ChildStarted
    | ChildCrashed
    | ChildStopped
    | ChildWaiting
    | RestartsExhausted
    | DeadLetter
    | SlowMessage
    | StopTimedOut
    | Ticked
    | TickFailed
)
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The default listener: it ignores every event."""


def guarded(on_event: OnEvent) -> OnEvent:
    """Wrap a listener so that an exception it raises goes to the event loop's exception handler and no further."""

    def report(event: Event) -> None:
        try:
            on_event(event)
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"the listener for supervision events failed on {event!r}", "exception": error}
            )

    return report
