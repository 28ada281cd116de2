"""How much room users had when the catalog was last asked, less what this process has stored since.

Before a small body is stored, somebody must know that the quota covers it; an
ask costs as much as storing it.  So the answer counts for a moment.  The rule
that makes the file decides, and if the room has gone meanwhile, the bytes are
deleted.
"""

from __future__ import annotations

from godrive.clock import Clock
from godrive.model import UserId

RECENT = 1.0
"""Seconds for which an answer counts."""

_CAPACITY = 4096


class KnownRoom:
    """Room by user, and by whether a file is replaced."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: dict[tuple[UserId, bool], tuple[float, int, int]] = {}

    def take(self, user_id: UserId, size: int, *, replaces: bool) -> bool:
        """Take room for a file of *size* bytes.  Returns ``False`` if the catalog must be asked."""
        until, left, rows = self._known.get((user_id, replaces), (0.0, 0, 0))
        if size > left or not rows or until <= self._clock.monotonic():
            return False
        self._known[user_id, replaces] = until, left - size, rows - 1
        return True

    def keep(self, user_id: UserId, left: int, rows: int, *, replaces: bool) -> None:
        """Note what is left, after the next file is taken from an answer of the catalog."""
        if len(self._known) >= _CAPACITY:
            self._known.clear()
        until = self._clock.monotonic() + RECENT
        self._known[user_id, replaces] = until, left, rows

    def forget(self, user_id: UserId) -> None:
        """Ask again: there was less room than was known."""
        for replaces in (False, True):
            self._known.pop((user_id, replaces), None)
