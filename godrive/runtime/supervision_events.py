"""What a supervisor reports; the host decides whether to log, count or ignore it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ChildStarted:
    """The child is up and takes messages."""

    child: str


@dataclass(frozen=True, slots=True)
class ChildCrashed:
    """The child raised something that is not an answer: a bug.  ``doing`` is the message in hand, or the hook.

    With several messages in hand there may be several of these for one restart.
    """

    child: str
    error: BaseException
    doing: str | None = None


@dataclass(frozen=True, slots=True)
class ChildStopped:
    """The child ended in good order.  One that crashed or had to be cancelled did not."""

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

    ``reason``: ``expired`` in the mailbox, ``stopped`` with its actor, or
    refused on its way in: ``unknown``, ``malformed``, ``oversize``.
    """

    actor: str
    message: str
    reason: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class StopTimedOut:
    """The child did not stop within its ``shutdown`` seconds, or as long as the host let it, and was cancelled."""

    child: str


@dataclass(frozen=True, slots=True)
class Ticked:
    """A ticker's message was answered."""

    child: str
    reply: Any


@dataclass(frozen=True, slots=True)
class TickFailed:
    """A ticker's message was answered with an error; it asks again at the next tick."""

    child: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class ChildWaiting:
    """The child cannot do its work for now, and tries again by itself; told once for each stretch."""

    child: str
    error: BaseException


Event = (
    ChildStarted
    | ChildCrashed
    | ChildStopped
    | ChildWaiting
    | RestartsExhausted
    | DeadLetter
    | StopTimedOut
    | Ticked
    | TickFailed
)
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener of a host that does not listen."""


def guarded(on_event: OnEvent) -> OnEvent:
    """A listener that fails takes nothing down with it: the event loop's exception handler is told."""

    def report(event: Event) -> None:
        try:
            on_event(event)
        except Exception as error:
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"the listener for supervision events failed on {event!r}", "exception": error}
            )

    return report
