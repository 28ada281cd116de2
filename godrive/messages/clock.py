"""The messages with which processes tell one another of their clocks."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from godrive.messages.metadata import Metadata
from godrive.model import Value
from godrive.runtime import Ask, Lane


class NotedClock(Value):
    """What was recorded last.

    *at* is what the clock showed, ``None`` before the first sweep.  *doubt* is
    for how many more seconds it was in doubt, and *due_by* the time by which
    things were due then.  *accepted_at* is when an operator confirmed the clock.
    """

    at: datetime | None
    doubt: float
    due_by: datetime | None
    accepted_at: datetime | None


class ReadClock(Ask[Metadata, NotedClock]):
    """Return what the last sweep recorded of its clock."""

    lane: ClassVar[Lane] = Lane.CHORE


class NoteClock(Ask[Metadata, None]):
    """Record what the clock shows, for how many more seconds it is in doubt, and by which time things are due then."""

    lane: ClassVar[Lane] = Lane.CHORE

    at: datetime
    doubt: float = 0.0
    due_by: datetime | None = None


class AcceptClock(Ask[Metadata, None]):
    """Record that the current time is right: an operator confirms it.  Ends the doubt of all processes."""

    lane: ClassVar[Lane] = Lane.CHORE
