"""The scrub: reads every blob again within a while, so that damage is found while a backup still has the bytes.

Theory of operation.  A pass goes through the rows that name blobs, in the order
of keys, and compares the bytes of each with their SHA-256.  After every page it
records in the catalog how far it is and what it found, so a restart continues
there.  The next pass begins ``scrub.every`` seconds after this one began.  In
between, the blobs that are known to be damaged are read again every hour, so
one that was restored from a backup is soon known to be well.

The scrub reads at ``scrub.rate`` at most, and nothing else: to repair is up to
an operator.  One process at a time scrubs, by a lease.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime

import msgspec

from godrive.blobs import BlobStore
from godrive.checker import check_blob
from godrive.clock import Clock
from godrive.config import Config, Scrub
from godrive.errors import DriveError
from godrive.lease import Lease
from godrive.messages.expected import (
    BeginScrub,
    BlobFault,
    ExpectedBlob,
    ExpectedBlobs,
    ForgetDamage,
    ListDamage,
    NoteScrub,
    ReadScrub,
    ScrubState,
)
from godrive.messages.metadata import Metadata
from godrive.messages.storage import Storage
from godrive.model import ObjectKey
from godrive.runtime import Ref

CHILD = "scrub"

LEASE, LEASE_TTL = "scrub", 60.0

START_AFTER = 60.0
"""Seconds from the start of a process to its first look."""

LOOK_EVERY = 3600.0
"""Seconds between two looks whether a pass is due, and at what is known to be damaged."""

RETRY_AFTER = 60.0
"""Seconds after an error."""

PAGE = 100
"""Blobs between two records of the progress."""

LEAST = 65_536
"""Bytes that a blob counts as at least, because to find it takes about as long."""

KNOWN = 1000
"""Damaged blobs that are read again each hour, at most."""


class Scrubbed(msgspec.Struct, frozen=True):
    """What one step of the scrub did: how many blobs it read, what it *found*, and the state afterwards."""

    blobs: int = 0
    bytes: int = 0
    found: list[BlobFault] = []
    state: ScrubState | None = None


def is_scrubbed(config: Config) -> bool:
    """Whether the blobs of this process are scrubbed."""
    return config.scrub.every > 0 and config.blobs.driver in (("disk", "s3") if config.scrub.bucket else ("disk",))


class Scrubber:
    """The child that scrubs.  It ends only when cancelled."""

    def __init__(
        self,
        settings: Scrub,
        clock: Clock,
        metadata: Ref[Metadata],
        storage: Ref[Storage],
        blobs: BlobStore,
        *,
        on_step: Callable[[Scrubbed], None],
        on_error: Callable[[DriveError], None],
    ) -> None:
        self._settings = settings
        self._clock = clock
        self.metadata = metadata
        self.storage = storage
        self.blobs = blobs
        self._on_step = on_step
        self._on_error = on_error
        self._lease = Lease(LEASE, LEASE_TTL, clock.monotonic)

    async def run(self) -> None:
        """Scrub forever."""
        await asyncio.sleep(START_AFTER)
        while True:
            try:
                wait = await self.step()
            except DriveError as error:
                self._on_error(error)
                wait = RETRY_AFTER
            if wait:
                await self._lease.release(self.metadata)
                await asyncio.sleep(wait)

    async def step(self) -> float:
        """Read one page, and return how many seconds to wait until the next step.  Raises ``DriveError``."""
        if not await self._lease.hold(self.metadata):
            return LOOK_EVERY
        state = await self.metadata.ask(ReadScrub())
        if not state.after:
            if not self._is_due(state.begun_at):
                await self._look_again()
                return LOOK_EVERY
            await self.metadata.ask(BeginScrub())
        page = await self.metadata.ask(ExpectedBlobs(PAGE, state.after))
        found = [finding for row in page if (finding := await self._check(row)) is not None]
        is_last = len(page) < PAGE
        size = sum(row.size_bytes for row in page)
        upto = ObjectKey("") if is_last else page[-1].object_key
        await self.metadata.ask(NoteScrub(state.after, upto, len(page), size, found))
        after = await self.metadata.ask(ReadScrub())
        self._on_step(Scrubbed(len(page), size, found, after))
        return 0.0

    def _is_due(self, begun_at: datetime | None) -> bool:
        if begun_at is None:
            return True
        passed = (self._clock.now() - begun_at).total_seconds()
        return not 0 <= passed < self._settings.every

    async def _look_again(self) -> None:
        """Read what is known to be damaged again, and forget what is well."""
        known = await self.metadata.ask(ListDamage(KNOWN))
        well = []
        for each in known:
            key = each.finding.object_key
            expected = await self.metadata.ask(ExpectedBlobs(1, only=[key]))
            if not expected or await self._check(expected[0]) is None:
                well.append(key)
        if well:
            await self.metadata.ask(ForgetDamage(well))
        state = await self.metadata.ask(ReadScrub())
        self._on_step(Scrubbed(state=state))

    async def _check(self, row: ExpectedBlob) -> BlobFault | None:
        read = 0

        async def pace(length: int) -> None:
            nonlocal read
            read += length
            await self._pause(length)

        finding = await check_blob(self, row, None, digests=True, pace=pace)
        await self._pause(LEAST - read)
        return finding

    async def _pause(self, length: int) -> None:
        """Wait until *length* more bytes may be read, and keep the lease meanwhile."""
        if length <= 0:
            return
        await asyncio.sleep(length / self._settings.rate)
        await self._lease.hold(self.metadata)  # if it is lost, the catalog refuses what this process notes
