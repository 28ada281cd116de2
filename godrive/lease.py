"""A lease in the catalog, so that only one of several processes does a job at a time."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import anyio

from godrive.errors import DriveError
from godrive.messages.metadata import Metadata
from godrive.messages.system import AcquireLease, ReleaseLease
from godrive.model import new_id
from godrive.runtime import Ref

_LEAVE = 1.0
"""Seconds that the release may take at the end of a process."""


class Lease:
    """The lease *name*, valid for *ttl* seconds of the clock *monotonic* after each renewal.

    A killed process blocks the others for at most *ttl* seconds.
    """

    def __init__(self, name: str, ttl: float, monotonic: Callable[[], float]) -> None:
        self._name = name
        self._ttl = ttl
        self._monotonic = monotonic
        self._holder = new_id()
        self._held_until = float("-inf")

    async def hold(self, metadata: Ref[Metadata]) -> bool:
        """Acquire the lease, or renew it after half its time.  Returns whether this process holds it."""
        now = self._monotonic()
        if now < self._held_until - self._ttl / 2:
            return True
        if not await metadata.ask(AcquireLease(name=self._name, holder=self._holder, ttl=self._ttl)):
            return False
        self._held_until = now + self._ttl
        return True

    async def release(self, metadata: Ref[Metadata]) -> None:
        """Release the lease.  If that fails, it expires after its time."""
        self._held_until = float("-inf")
        with suppress(DriveError):
            await metadata.ask(ReleaseLease(name=self._name, holder=self._holder))

    async def leave(self, metadata: Ref[Metadata]) -> None:
        """Release the lease while the process stops, so that the next one need not wait until it expires.

        Takes at most a second, also if the caller is cancelled.
        """
        with anyio.move_on_after(_LEAVE, shield=True):
            await self.release(metadata)
