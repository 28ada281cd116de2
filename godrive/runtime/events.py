"""What a supervisor reports; the host decides whether to log, count or ignore it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ChildStarted:
    """The child is up and takes messages."""

    child: str


@dataclass(frozen=True, slots=True)
class ChildCrashed:
    """The child raised something that is not an answer: a bug.  ``doing`` is the message in hand."""

    child: str
    error: BaseException
    doing: str | None = None


@dataclass(frozen=True, slots=True)
class ChildStopped:
    """The child ended in good order."""

    child: str


@dataclass(frozen=True, slots=True)
class RestartsExhausted:
    """More than ``intensity`` restarts within ``period`` seconds: the supervisor gives up."""

    child: str
    intensity: int
    period: float


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that no handler will see: ``expired`` in the mailbox, or ``stopped`` with its actor."""

    actor: str
    message: str
    reason: str
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class StopTimedOut:
    """The child did not stop within its ``shutdown`` seconds and was cancelled."""

    child: str


Event = ChildStarted | ChildCrashed | ChildStopped | RestartsExhausted | DeadLetter | StopTimedOut
OnEvent = Callable[[Event], None]


def ignore(event: Event) -> None:
    """The listener of a host that does not listen."""
