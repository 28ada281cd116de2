"""The messages with which processes tell one another of their clocks."""

from __future__ import annotations

from typing import ClassVar

from godrive.messages.metadata import Metadata
from godrive.model import Value
from godrive.runtime import Ask, Lane


class NotedTime(Value):
    """The seconds since the recorded time, and those for which a process was still in doubt of its clock.

    *passed* is negative if the clock was set back, and 0 if no time was recorded.
    """

    passed: float
    doubt: float


class NoteTime(Ask[Metadata, NotedTime]):
    """Record the current time, and return what was recorded before.

    Records nothing if the time is more than *back* seconds before or *forward*
    seconds after the recorded time.
    """

    lane: ClassVar[Lane] = Lane.CHORE

    back: float = 1e12
    forward: float = 1e12


class NoteDoubt(Ask[Metadata, None]):
    """Record that the clock is in doubt for *seconds* of steady running, for processes that start later."""

    lane: ClassVar[Lane] = Lane.CHORE

    seconds: float
