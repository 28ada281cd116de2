"""Events of a supervisor.  The host decides whether to log, count or ignore them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec


class ChildStarted(msgspec.Struct, frozen=True):
    """The child has started and accepts messages."""

    child: str


class ChildCrashed(msgspec.Struct, frozen=True):
    """The child raised an exception that is not a reply: a bug.  ``doing`` is the message in hand, or the hook.

    With several messages in hand, several of these may precede one restart.
    """

    child: str
    error: BaseException
    doing: str | None = None


class ChildStopped(msgspec.Struct, frozen=True):
    """The child ended in order: it neither crashed nor had to be cancelled."""

    child: str


class RestartsExhausted(msgspec.Struct, frozen=True):
    """More than ``intensity`` restarts within ``period`` seconds: the supervisor gives up."""

    child: str
    intensity: int
    period: float


class DeadLetter(msgspec.Struct, frozen=True):
    """A message that no handler will see.

    ``reason`` is ``expired`` (in the mailbox), ``stopped`` (with its actor), or
    the code of the error with which an exposer refused it.
    """

    actor: str
    message: str
    reason: str
    request_id: str | None = None


class SlowMessage(msgspec.Struct, frozen=True):
    """A message took a large part of its timeout: *waited* seconds in the mailbox, *took* seconds in the handler."""

    actor: str
    message: str
    waited: float
    took: float
    request_id: str | None = None


class StopTimedOut(msgspec.Struct, frozen=True):
    """The child did not stop within its ``shutdown`` seconds, or the host cut that short, and it was cancelled."""

    child: str


class Ticked(msgspec.Struct, frozen=True):
    """A ticker's message was answered."""

    child: str
    reply: Any


class TickFailed(msgspec.Struct, frozen=True):
    """A ticker's message was answered with an error.  The ticker asks again at the next tick."""

    child: str
    error: BaseException


class ChildWaiting(msgspec.Struct, frozen=True):
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
