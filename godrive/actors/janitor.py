"""The janitor: deletes what has expired.

Theory of operation.  A sweep is a sequence of chores, each in bounded batches.
The catalog hands out each item that is due once and then not again for a
while, so a chore ends when the catalog has no more.  An item that fails is
counted, becomes due again by itself, and does not delay the others.  Bytes are
deleted first and rows last, so the next sweep repairs a crash in between.  Two
sweeps at once are safe, but with several processes a lease lets one of them do
the work.

The row of an upload precedes its bytes, so a blob that no row refers to (an
orphan) means a lost or restored catalog.  The janitor therefore moves an orphan
to quarantine instead of deleting it, and only when it is old and two sweeps
have found it unknown to the catalog.

After a jump of the clock, what looks expired may not be.  Until the clock has
run steadily for a while, the janitor only deletes what was due by the clock
before the jump too, and the bytes of uploads that have ended already.  It
counts the chores that it limits so as ``held``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TypeVar

from msgspec.structs import asdict

from godrive.actors.clock_check import check_clock
from godrive.actors.concurrent import for_each
from godrive.checker import orphans, unknown
from godrive.clock import Clock, ClockGuard
from godrive.config import Config
from godrive.errors import DriveError
from godrive.lease import Lease
from godrive.messages.janitor import Janitor, Sweep, Swept
from godrive.messages.metadata import Metadata
from godrive.messages.pending import PendingUploads
from godrive.messages.storage import (
    AbortParts,
    DeleteBlob,
    DiscardStaged,
    ListAbandoned,
    ListBlobs,
    QuarantineBlob,
    Storage,
    SweepStaging,
)
from godrive.messages.system import (
    ClaimPurges,
    ClaimVersions,
    Cleanup,
    ClearCopies,
    DueCleanups,
    FinishCleanup,
    FinishPurge,
    FinishVersion,
    Prune,
    PruneLog,
    Purge,
    ReviewVersions,
    VersionPurge,
)
from godrive.model import (
    ObjectKey,
    UserId,
)
from godrive.runtime import Actor, Ref

T = TypeVar("T")

AT_ONCE = 8
"""Items that a chore processes concurrently; few, because client requests have priority."""

LEASE = "sweep"
LEASE_TTL = 30.0
"""Seconds without a renewal after which another process may sweep.  A killed process delays the next by this long."""

ORPHAN_PAGES = 10
"""Batches of blobs that one sweep examines; the next sweep continues from there."""


LOG_PAGES = 100
"""Groups of owners whose log of changes one sweep examines; the next sweep continues from there."""


class _LeaseLost(Exception):
    """Another process holds the lease."""


class _ClockInDoubt(Exception):
    """The clock jumped, so the chore ends early."""


class _Count(Counter[str]):
    """Results of one sweep, and its first problem."""

    problem = ""

    def fail(self, error: DriveError) -> None:
        self["failed"] += 1
        self.problem = self.problem or f"{error.code}: {error.detail}"


class JanitorActor(Actor[Janitor]):
    """Runs the chores of a sweep."""

    def __init__(
        self, metadata: Ref[Metadata], storage: Ref[Storage], config: Config, clock: Clock, guard: ClockGuard
    ) -> None:
        self._metadata = metadata
        self._storage = storage
        self._config = config
        self._clock = clock
        self._guard = guard
        self._batch = config.janitor.batch
        self._lease = Lease(LEASE, LEASE_TTL, clock.monotonic)
        self._cursor = ""
        self._suspects: list[list[ObjectKey]] = []
        self._log_of = UserId("")
        self._chores = (
            self._purge,
            self._purge_versions,
            self._clean,
            self._sweep_staging,
            self._find_orphans,
            self._prune,
            self._prune_log,
        )

    @Sweep.handler
    async def sweep(self, ask: Sweep) -> Swept:
        count = _Count()
        with suppress(_LeaseLost):
            async with self._alone():
                await check_clock(self._metadata, self._guard, self._clock, trust=ask.trust_clock)
                for chore in self._chores:
                    try:
                        await chore(count)
                    except _ClockInDoubt:
                        pass
                    except DriveError as error:
                        count.fail(error)
                    if chore != self._clean and (doubt := self._guard.doubt()) is not None:
                        count["held"] += 1
                        count.problem = count.problem or doubt
        return Swept(**count, problem=count.problem)

    async def _purge(self, count: _Count) -> None:
        async def purge(item: Purge) -> None:
            for key in item.object_keys:
                await self._storage.ask(DeleteBlob(key))
            await self._metadata.ask(FinishPurge(item.file_id, item.revision))

        async def claim() -> list[Purge]:
            return await self._metadata.ask(ClaimPurges(self._batch, self._guard.due_by()))

        while self._guard.doubt() is None and await self._metadata.ask(ClearCopies()):
            await self._keep_lease()
        await self._until_none(claim, purge, "purged", count)

    async def _purge_versions(self, count: _Count) -> None:
        async def purge(item: VersionPurge) -> None:
            if item.object_key is not None:
                await self._storage.ask(DeleteBlob(item.object_key))
            await self._metadata.ask(FinishVersion(item.version_id))

        async def claim() -> list[VersionPurge]:
            return await self._metadata.ask(ClaimVersions(self._batch))

        reviewed = self._batch
        while reviewed >= self._batch:
            await self._keep_lease()
            reviewed = await self._metadata.ask(ReviewVersions(self._batch, self._guard.due_by()))
        await self._until_none(claim, purge, "versions", count)

    async def _clean(self, count: _Count) -> None:
        async def clean(item: Cleanup) -> None:
            if item.staging is not None:
                await self._storage.ask(DiscardStaged(item.object_key, item.staging))
            if item.multipart:
                await self._storage.ask(AbortParts(item.object_key, item.multipart))
            await self._storage.ask(DeleteBlob(item.object_key))
            await self._metadata.ask(FinishCleanup(item.upload_id))

        await self._until_none(lambda: self._metadata.ask(DueCleanups(self._batch)), clean, "cleaned", count)

    async def _sweep_staging(self, count: _Count) -> None:
        self._need_steady_clock()
        age = self._config.blobs.upload_ttl
        count["staging"] += await self._storage.ask(SweepStaging(age))

        async def discard(key: ObjectKey) -> None:
            await self._storage.ask(DiscardStaged(key))

        # The bytes of an upload that ended are cleaned up with its row.  These are what a crash has left.
        after = ""
        while True:
            self._need_steady_clock()
            page = await self._storage.ask(ListAbandoned(age, self._batch, after))
            if page.items:
                pending = await self._metadata.ask(PendingUploads(page.items))
                await self._each(sorted(set(page.items).difference(pending)), discard, "staging", count)
            if page.next_page is None:
                return
            after = page.next_page

    async def _find_orphans(self, count: _Count) -> None:
        self._need_steady_clock()

        async def quarantine(key: ObjectKey) -> None:
            await self._storage.ask(QuarantineBlob(key))

        suspects, self._suspects = self._suspects, []
        for keys in suspects:
            await self._each(await unknown(self._metadata, keys), quarantine, "orphans", count)
        oldest = self._clock.now() - timedelta(seconds=self._config.janitor.orphan_age)
        for _ in range(ORPHAN_PAGES):
            page = await self._storage.ask(ListBlobs(self._batch, self._cursor))
            self._suspects.append(await orphans(self._metadata, page.items, oldest))
            self._cursor = page.next_page or ""
            if not self._cursor:
                return

    async def _prune(self, count: _Count) -> None:
        full = True
        while full:
            await self._keep_lease()
            pruned = await self._metadata.ask(Prune(self._batch, self._guard.due_by()))
            count.update(asdict(pruned))
            full = max(asdict(pruned).values()) >= self._batch

    async def _prune_log(self, count: _Count) -> None:
        for _ in range(LOG_PAGES):
            await self._keep_lease()
            pruned = await self._metadata.ask(PruneLog(self._log_of, self._batch, self._guard.due_by()))
            count["changes"] += pruned.changes
            self._log_of = pruned.after or UserId("")
            if pruned.after is None:
                return

    async def _until_none(
        self, due: Callable[[], Awaitable[list[T]]], act: Callable[[T], Awaitable[None]], name: str, count: _Count
    ) -> None:
        """Process every item that *due* returns, a batch at a time."""
        while items := await due():
            await self._each(items, act, name, count)

    async def _each(self, items: list[T], act: Callable[[T], Awaitable[None]], name: str, count: _Count) -> None:
        """Process one batch.  An item that fails is counted, and becomes due again later."""

        async def attempt(item: T) -> None:
            try:
                await act(item)
            except DriveError as error:
                count.fail(error)
            else:
                count[name] += 1

        await self._keep_lease()
        await for_each(items, attempt, at_most=AT_ONCE)

    def _need_steady_clock(self) -> None:
        """Raises ``_ClockInDoubt``."""
        if self._guard.doubt() is not None:
            raise _ClockInDoubt

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Hold the lease, so that this is the only process that sweeps.  Raises ``_LeaseLost``."""
        await self._keep_lease()
        try:
            yield
        finally:
            await self._lease.release(self._metadata)

    async def _keep_lease(self) -> None:
        if not await self._lease.hold(self._metadata):
            raise _LeaseLost
