"""Blobs as files below one folder.

::

    objects/018f2c3a/018f2c3a-...     a blob, under its key
    staging/                          unfinished writes (see godrive.blobs.staging)
    uploads/018f2c3a.018f2c3a-...     a blob that is written in several steps (see godrive.blobs.growing)
    quarantine/018f2c3a.018f2c3a-...  set aside for an operator

The shard of a key increases with time, so blobs that arrive together are in one
folder and share its fsync.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from godrive.blobs import split_key
from godrive.blobs.body_check import BodyCheck
from godrive.blobs.disk_appends import DiskAppends
from godrive.blobs.failures import failures
from godrive.blobs.objects import Objects
from godrive.blobs.staged_write import BATCH, StagedWrite, share
from godrive.blobs.staging import StagingFile
from godrive.errors import ConfigError, StorageFull, StoreUnavailable
from godrive.memory import MemoryBudget
from godrive.model import BlobInfo, ObjectKey

T = TypeVar("T")

CHUNK = 256 * 1024
"""The largest chunk that ``get`` yields."""

MEMORY = 64 << 20
"""The default budget for bytes that wait for the disk."""

_LISTED_AT_ONCE = 500
_FREE_KEPT = 1.0


class DiskBlobStore(DiskAppends):
    """Keeps blobs below *path*, with at most *threads* concurrent disk operations.

    One process at a time may write below *path*; the caller ensures that.  A
    put that would leave less than *min_free_bytes* on the file system, which the
    catalog may share, raises ``StorageFull`` before it begins.  With *named*,
    staging files always have names.  Bytes that wait for the disk count against
    *memory*.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        threads: int = 32,
        min_free_bytes: int | None = None,
        named: bool = False,
        memory: MemoryBudget | None = None,
    ) -> None:
        super().__init__()
        self._path = Path(path)
        self._threads = threads
        self._min_free_bytes = min_free_bytes
        self._named = named
        self._memory = memory or MemoryBudget(MEMORY)
        self._opened: Objects | None = None
        self._arriving: dict[ObjectKey, list[StagedWrite]] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._free = (0.0, 0)
        self._claimed = 0

    async def open(self) -> None:
        """Create the folders, and test that files in them can be created and linked.  Raises ``ConfigError``."""
        try:
            self._opened = await asyncio.to_thread(Objects, self._path, named=self._named)
        except OSError as error:
            raise ConfigError(
                f"Blobs cannot be kept in {self._path}: {error.strerror}.",
                field="blobs.path",
                hint="It must be a folder that this user can write to, on a file system with hard links.",
            ) from error
        self._disk = ThreadPoolExecutor(self._threads, "blobs-disk")
        self._digests = ThreadPoolExecutor(os.cpu_count(), "blobs-sha256")

    async def close(self) -> None:
        """Wait for the clean-up of failed writes, then close every handle.  Idempotent."""
        if self._leaving:
            await asyncio.wait(self._leaving)
        opened, self._opened = self._opened, None
        if opened is not None:
            await asyncio.to_thread(self._disk.shutdown)
            await asyncio.to_thread(self._digests.shutdown)
            opened.close()

    @property
    def _objects(self) -> Objects:
        if self._opened is None:
            raise StoreUnavailable("The blob store is closed.")
        return self._opened

    async def put(
        self,
        key: ObjectKey,
        body: AsyncIterable[bytes | memoryview],
        *,
        size: int | None = None,
        sha256: str | None = None,
        mime: str | None = None,
    ) -> BlobInfo:
        """See :meth:`godrive.blobs.BlobStore.put`."""
        split_key(key)
        objects = self._objects
        await self._claim(size or 0)
        batch = share(BATCH, sum(map(len, self._arriving.values())) if size is None or size > BATCH else 0)
        arrival = StagedWrite(
            StagingFile(objects.staging),
            BodyCheck(size, sha256),
            batch=batch,
            disk=self._disk,
            digests=self._digests,
            memory=self._memory,
        )
        arriving = self._arriving.setdefault(key, [])
        arriving.append(arrival)
        try:
            await arrival.receive(body)
            return await arrival.publish(objects.shards, key, mime)
        except BaseException:
            await self._to_the_end(arrival.abandon())
            raise
        finally:
            self._memory.report(arrival, 0)
            arriving.remove(arrival)
            if not arriving:
                self._arriving.pop(key, None)

    async def _claim(self, size: int) -> None:
        """Reserve *size* bytes of free space.  The caller must register in ``_arriving`` before its next await."""
        if self._min_free_bytes is None:
            return
        most = size + self._min_free_bytes
        if await self.free_bytes() < most and await self._measure() < most:
            raise StorageFull("The disk has no room for that many bytes.", hint="Free space on it.")
        measured_at, free = self._free
        self._free = measured_at, free - size
        self._claimed += size

    async def _to_the_end(self, work: Coroutine[Any, Any, None]) -> None:
        """Clean up, to the end even if the caller is cancelled again."""

        async def clean_up() -> None:
            with suppress(OSError):  # the next sweep removes what stays
                await work

        leaving = asyncio.create_task(clean_up())
        self._leaving.add(leaving)
        leaving.add_done_callback(self._leaving.discard)
        await asyncio.wait([leaving])

    async def get(self, key: ObjectKey, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """See :meth:`godrive.blobs.BlobStore.get`."""
        fd = await self.open_file(key)
        try:
            while end is None or start < end:
                wanted = CHUNK if end is None else min(CHUNK, end - start)
                piece = await self._run(os.pread, fd, wanted, start)
                if not piece:
                    return
                start += len(piece)
                yield piece
        finally:
            os.close(fd)

    async def open_file(self, key: ObjectKey) -> int:
        """See :meth:`godrive.blobs.FileBacked.open_file`."""
        opening = asyncio.get_running_loop().run_in_executor(self._disk, self._objects.open_file, key)
        try:
            with failures():
                await asyncio.wait([opening])
                return opening.result()
        except asyncio.CancelledError:
            opening.add_done_callback(_close_opened)
            raise

    async def head(self, key: ObjectKey) -> BlobInfo:
        """See :meth:`godrive.blobs.BlobStore.head`.  Has the digest if the file system kept it."""
        return await self._run(self._objects.head, key)

    async def delete(self, key: ObjectKey) -> None:
        """See :meth:`godrive.blobs.BlobStore.delete`.  When this returns, the deletion is durable."""
        await self._run(self._objects.delete, key)

    async def list(self, *, after: str = "") -> AsyncIterator[BlobInfo]:
        """See :meth:`godrive.blobs.BlobStore.list`."""
        for shard in await self._run(self._objects.shards_after, after):
            keys = await self._run(self._objects.keys_after, shard, after)
            for first in range(0, len(keys), _LISTED_AT_ONCE):
                for info in await self._run(self._objects.heads, keys[first : first + _LISTED_AT_ONCE]):
                    yield info

    async def quarantine(self, key: ObjectKey) -> None:
        """See :meth:`godrive.blobs.BlobStore.quarantine`.  Overwrites nothing."""
        await self._run(self._objects.set_aside, key)

    async def sweep_staging(self, before: datetime) -> int:
        """See :meth:`godrive.blobs.BlobStore.sweep_staging`."""
        arriving = {arrival.staged.name for arrivals in self._arriving.values() for arrival in arrivals}
        return await self._run(self._objects.sweep, before.timestamp(), arriving)

    async def free_bytes(self) -> int:
        """Free space, minus what current puts have still to write.  At most a second old."""
        measured_at, free = self._free
        if not measured_at or time.monotonic() - measured_at > _FREE_KEPT:
            return await self._measure()
        return free

    async def _measure(self) -> int:
        """Measure free space.  Bytes written or claimed meanwhile may count twice, never not at all."""
        missing, claimed = sum(arrival.missing for each in self._arriving.values() for arrival in each), self._claimed
        free = await self._run(self._objects.free_bytes)
        free -= missing + self._claimed - claimed
        self._free = time.monotonic(), free
        return free

    def receiving(self, key: ObjectKey) -> int | None:
        """See :meth:`godrive.blobs.BlobStore.receiving`."""
        arriving = self._arriving.get(key)
        return max(arrival.received for arrival in arriving) if arriving else None

    async def _run(self, call: Callable[..., T], *values: object) -> T:
        with failures():
            return await asyncio.get_running_loop().run_in_executor(self._disk, call, *values)


def _close_opened(opening: asyncio.Future[int]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        os.close(opening.result())
