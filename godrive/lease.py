"""A lease in the catalog: among several processes, one at a time does a job."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from godrive.errors import DriveError
from godrive.messages.metadata import Metadata
from godrive.messages.system import AcquireLease, ReleaseLease
from godrive.model import new_id
from godrive.runtime import Ref


class Lease:
    """The lease called *name*, for *ttl* seconds at a time as *monotonic* counts them.

    A process that is killed keeps the others from the job for at most *ttl*
    seconds.
    """

    def __init__(self, name: str, ttl: float, monotonic: Callable[[], float]) -> None:
        self._name = name
        self._ttl = ttl
        self._monotonic = monotonic
        self._holder = new_id()
        self._held_until = float("-inf")

    async def hold(self, metadata: Ref[Metadata]) -> bool:
        """Whether this process holds the lease.  Acquires it, and renews it once it is half over."""
        now = self._monotonic()
        if now < self._held_until - self._ttl / 2:
            return True
        if not await metadata.ask(AcquireLease(name=self._name, holder=self._holder, ttl=self._ttl)):
            return False
        self._held_until = now + self._ttl
        return True

    async def release(self, metadata: Ref[Metadata]) -> None:
        """Let another process have the lease.  If that fails, it expires by itself."""
        self._held_until = float("-inf")
        with suppress(DriveError):
            await metadata.ask(ReleaseLease(name=self._name, holder=self._holder))
