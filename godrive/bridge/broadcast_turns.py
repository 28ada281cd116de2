"""Whose changes the webhook for all users gets next: users take turns, however many changes each has.

To find all users who wait takes a look at every change that waits.  So one look
begins a round, and users with more changes come again in it for a while.
"""

from __future__ import annotations

from collections import Counter, deque

from godrive.clock import Clock
from godrive.messages.broadcasts import BroadcastChange, DueBroadcast, UsersToBroadcast, UserToBroadcast
from godrive.messages.metadata import Metadata
from godrive.runtime import Ref

ROUND = 10.0
"""Seconds after which a round takes in no more turns, and so how long a user waits who comes during it."""

USERS = 500
"""The most users of one round.  The next round begins with those after them."""


class BroadcastTurns:
    """Gives out at most *at_once* changes at a time."""

    def __init__(self, clock: Clock, *, at_once: int) -> None:
        self._clock = clock
        self._at_once = at_once
        self._waiting: deque[UserToBroadcast] = deque()
        self._after = self._begun_after = ""
        self._ends = 0.0

    @property
    def are_more(self) -> bool:
        """Whether users of this round wait."""
        return bool(self._waiting)

    async def next(self, metadata: Ref[Metadata]) -> list[BroadcastChange]:
        """Return the next changes of the next users; those of one user in order.

        Ask again only once they are marked as delivered, or after :meth:`begin_again`.
        """
        if not self._waiting:
            await self._begin(metadata)
        users = [self._waiting.popleft() for _ in range(min(self._at_once, len(self._waiting)))]
        if not users:
            return []
        each = max(1, self._at_once // len(users))
        due = await metadata.ask(DueBroadcast(users, each))
        if self._clock.monotonic() < self._ends:
            numbers, found = {change.owner_id: change.number for change in due}, Counter(c.owner_id for c in due)
            self._waiting.extend(
                UserToBroadcast(user_id=user_id, number=numbers[user_id] + 1)
                for user_id, number in found.items()
                if number == each
            )
        return due

    def begin_again(self) -> None:
        """Forget the round, of which something was not delivered."""
        self._waiting.clear()
        self._after = self._begun_after

    async def _begin(self, metadata: Ref[Metadata]) -> None:
        self._begun_after = self._after
        users = await metadata.ask(UsersToBroadcast(USERS, self._after))
        if not users and self._after:
            self._begun_after = ""
            users = await metadata.ask(UsersToBroadcast(USERS))
        self._waiting.extend(users)
        self._after = users[-1].user_id if len(users) == USERS else ""
        self._ends = self._clock.monotonic() + ROUND
