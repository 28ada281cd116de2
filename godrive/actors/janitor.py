"""The janitor: removes what has outlived its use.

Theory of operation.  A sweep is a row of chores, each in bounded batches.
Whoever asks the catalog for work gets each item once and then not again for
a while, so a chore ends when the catalog has no more; an item that fails is
counted and comes back by itself, and never holds up the others.  Bytes go
first and rows last: a crash in between is repaired by the next sweep.  Two
sweeps do not hurt each other, but with several processes a lease lets one
do the work.

Orphans (blobs that no row refers to) cannot come to be as long as all goes
well, for the row of an upload precedes its bytes.  They mean a lost or
restored catalog, so one is only set aside, and only when it is old and two
sweeps have asked the catalog and found it unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TypeVar

from msgspec.structs import asdict

from godrive.actors.concurrent import for_each
from godrive.clock import Clock
from godrive.config import Config
from godrive.errors import DriveError
from godrive.messages.janitor import Janitor, Sweep, Swept
from godrive.messages.metadata import (
    AcquireLease,
    ClaimPurges,
    DueCleanups,
    FinishCleanup,
    FinishPurge,
    KnownKeys,
    Metadata,
    Prune,
    ReleaseLease,
)
from godrive.messages.storage import DeleteBlob, ListBlobs, QuarantineBlob, Storage, SweepStaging
from godrive.model import Cleanup, ObjectKey, Purge, new_id
from godrive.runtime import Actor, Ask, Ref

T = TypeVar("T")

AT_ONCE = 8
"""Items that a chore works on at the same time; low, for people come first."""

LEASE = "sweep"
LEASE_TTL = 30.0
"""Seconds without a sign of life after which another process may sweep: for so long a killed one delays the next."""

ORPHAN_PAGES = 10
"""Batches of blobs that one sweep looks at; the next goes on where it stopped."""


class _LeaseLost(Exception):
    """Another process sweeps now."""


class _Count(Counter[str]):
    """What a sweep did, and why the first that failed did so."""

    problem = ""

    def fail(self, error: DriveError) -> None:
        self["failed"] += 1
        self.problem = self.problem or f"{error.code}: {error.detail}"


class JanitorActor(Actor[Janitor]):
    """Sweeps."""

    def __init__(self, metadata: Ref[Metadata], storage: Ref[Storage], config: Config, clock: Clock) -> None:
        self._metadata = metadata
        self._storage = storage
        self._config = config
        self._clock = clock
        self._batch = config.janitor.batch
        self._holder = new_id()
        self._held_until = float("-inf")
        self._cursor = ""
        self._suspects: list[list[ObjectKey]] = []

    @Sweep.handler
    async def sweep(self, ask: Sweep) -> Swept:
        count = _Count()
        with suppress(_LeaseLost):
            async with self._lease():
                for chore in (self._purge, self._clean, self._sweep_staging, self._find_orphans, self._prune):
                    try:
                        await chore(count)
                    except DriveError as error:
                        count.fail(error)
        return Swept(**count, problem=count.problem)

    async def _purge(self, count: _Count) -> None:
        async def purge(item: Purge) -> None:
            for key in item.object_keys:
                await self._storage.ask(DeleteBlob(key))
            await self._metadata.ask(FinishPurge(item.file_id))

        await self._until_none(ClaimPurges(self._batch), purge, "purged", count)

    async def _clean(self, count: _Count) -> None:
        async def clean(item: Cleanup) -> None:
            await self._storage.ask(DeleteBlob(item.object_key))
            await self._metadata.ask(FinishCleanup(item.upload_id))

        await self._until_none(DueCleanups(self._batch), clean, "cleaned", count)

    async def _sweep_staging(self, count: _Count) -> None:
        count["staging"] += await self._storage.ask(SweepStaging(self._config.blobs.upload_ttl))

    async def _find_orphans(self, count: _Count) -> None:
        async def quarantine(key: ObjectKey) -> None:
            await self._storage.ask(QuarantineBlob(key))

        suspects, self._suspects = self._suspects, []
        for keys in suspects:
            await self._each(await self._unknown(keys), quarantine, "orphans", count)
        oldest = self._clock.now() - timedelta(seconds=self._config.janitor.orphan_age)
        for _ in range(ORPHAN_PAGES):
            page = await self._storage.ask(ListBlobs(self._batch, self._cursor))
            self._suspects.append(await self._unknown([b.key for b in page.items if b.modified_at <= oldest]))
            self._cursor = page.next_page or ""
            if not self._cursor:
                return

    async def _unknown(self, keys: list[ObjectKey]) -> list[ObjectKey]:
        known = await self._metadata.ask(KnownKeys(keys)) if keys else []
        return sorted(set(keys).difference(known))

    async def _prune(self, count: _Count) -> None:
        full = True
        while full:
            await self._keep_lease()
            pruned = await self._metadata.ask(Prune(self._batch))
            count.update(asdict(pruned))
            full = max(asdict(pruned).values()) >= self._batch

    async def _until_none(
        self, due: Ask[Metadata, list[T]], act: Callable[[T], Awaitable[None]], name: str, count: _Count
    ) -> None:
        """Do every item that *due* returns, a batch at a time."""
        while items := await self._metadata.ask(due):
            await self._each(items, act, name, count)
            if len(items) < self._batch:
                return

    async def _each(self, items: list[T], act: Callable[[T], Awaitable[None]], name: str, count: _Count) -> None:
        """Do one batch.  An item that cannot be done now is counted, and is due again later."""

        async def attempt(item: T) -> None:
            try:
                await act(item)
            except DriveError as error:
                count.fail(error)
            else:
                count[name] += 1

        await self._keep_lease()
        await for_each(items, attempt, at_most=AT_ONCE)

    @asynccontextmanager
    async def _lease(self) -> AsyncIterator[None]:
        """Be the one process that sweeps.  Raises ``_LeaseLost``."""
        await self._keep_lease()
        try:
            yield
        finally:
            self._held_until = float("-inf")
            with suppress(DriveError):  # then it runs out by itself
                await self._metadata.ask(ReleaseLease(LEASE, self._holder))

    async def _keep_lease(self) -> None:
        now = self._clock.monotonic()
        if now < self._held_until - LEASE_TTL / 2:
            return
        if not await self._metadata.ask(AcquireLease(LEASE, self._holder, LEASE_TTL)):
            raise _LeaseLost
        self._held_until = now + LEASE_TTL
