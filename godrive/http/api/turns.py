"""Turns for work in small pieces, each of which waits in a lane like a request of its own."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TypeVar

from godrive.http.wire.fair_queue import FairQueue
from godrive.messages.metadata import Metadata
from godrive.runtime import Ask, Ref

R = TypeVar("R")


class InTurn:
    """A ref to the metadata actor.  Each ask waits for a turn of *key* in *lane*."""

    def __init__(self, ref: Ref[Metadata], lane: FairQueue, key: Hashable) -> None:
        self._ref = ref
        self._lane = lane
        self._key = key

    async def ask(self, message: Ask[Metadata, R], *, timeout: float | None = None) -> R:
        """As the ref does.  Raises ``MailboxFull`` also if the turn does not come."""
        if not self._lane.enter(self._key):
            await self._lane.wait(self._key)
        try:
            return await self._ref.ask(message, timeout=timeout)
        finally:
            self._lane.leave(self._key)
