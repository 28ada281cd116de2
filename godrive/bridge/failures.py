"""A run of consecutive failures of a child: reported once, retried ever more slowly."""

from __future__ import annotations

from godrive.backoff import Backoff
from godrive.runtime import OnEvent
from godrive.runtime.supervision_events import ChildWaiting


class Failures:
    """Counts the consecutive failures of *child*."""

    def __init__(self, child: str, on_event: OnEvent, backoff: Backoff) -> None:
        self._child = child
        self._on_event = on_event
        self._backoff = backoff
        self._count = 0

    def note(self, error: Exception) -> float:
        """Report the first failure of a run.  Returns the seconds to wait before the next attempt."""
        self._count += 1
        if self._count == 1:
            self._on_event(ChildWaiting(self._child, error))
        return self._backoff.after(self._count)

    def clear(self) -> None:
        """End the run: it works again."""
        self._count = 0
