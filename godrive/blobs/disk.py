"""Blobs below one folder: small ones in packs, others as files.

::

    objects/018f2c3a/018f2c3a-...     a blob, under its key
    packs/                            small blobs (see godrive.blobs.packs)
    staging/                          unfinished writes (see godrive.blobs.staging)
    uploads/018f2c3a.018f2c3a-...     a blob that is written in several steps (see godrive.blobs.growing)
    quarantine/018f2c3a.018f2c3a-...  set aside for an operator

The shard of a key increases with time, so blobs that arrive together are in one
folder and share its fsync.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from godrive.blobs import BlobExists, SmallBlob, Staged, split_key
from godrive.blobs.body_check import BodyCheck
from godrive.blobs.disk_appends import DiskAppends
from godrive.blobs.disk_moves import DiskMoves
from godrive.blobs.disk_opening import close_parts, open_parts
from godrive.blobs.disk_takes import DiskTakes
from godrive.blobs.failures import failures, may_pass
from godrive.blobs.objects import Objects
from godrive.blobs.packs import Packs, describe, small_put
from godrive.blobs.packs.index import Location
from godrive.blobs.packs.merging import merged
from godrive.blobs.staged_write import BATCH, StagedWrite, digest_threads, share
from godrive.blobs.staging import StagingFile
from godrive.errors import ConfigError, DriveError, NotFound, StorageFull, StoreUnavailable, UploadFinished
from godrive.memory import MemoryBudget
from godrive.model import BlobInfo, ObjectKey
from godrive.undone import undone_if_cancelled

T = TypeVar("T")

CHUNK = 256 * 1024
"""The largest chunk that ``get`` yields."""

MEMORY = 64 << 20
"""The default budget for bytes that wait for the disk."""

PACK_BELOW = 16_384
"""The size in bytes up to which blobs are packed by default."""

_LISTED_AT_ONCE = 500
_FREE_KEPT = 1.0


class DiskBlobStore(DiskAppends, DiskMoves, DiskTakes):
    """Keeps blobs below *path*, with at most *threads* concurrent disk operations.

    One process at a time may write below *path*; the caller ensures that.  A put that would leave less than
    *min_free_bytes* on the file system, which the catalog may share, raises ``StorageFull`` before it begins.  With
    *named*, staging files always have names.  Bytes that wait for the disk count against *memory*.  Blobs of at most
    *pack_below* bytes are packed; those that were stored otherwise stay where they are.  A *guest* opens it beside a
    server, and leaves the log of the index of packs to it.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        threads: int = 32,
        min_free_bytes: int | None = None,
        named: bool = False,
        memory: MemoryBudget | None = None,
        pack_below: int = PACK_BELOW,
        guest: bool = False,
    ) -> None:
        super().__init__()
        self._path = Path(path)
        self._threads = threads
        self._min_free_bytes = min_free_bytes
        self._named = named
        self._memory = memory or MemoryBudget(MEMORY)
        self.pack_below = pack_below
        self._guest = guest
        self._opened: Objects | None = None
        self._packs: Packs | None = None
        self._publishing: dict[ObjectKey, asyncio.Future[None]] = {}
        self._arriving: dict[ObjectKey, list[StagedWrite]] = {}
        self._leaving: set[asyncio.Task[Any]] = set()
        self._free = (0.0, 0)
        self._claimed = 0

    async def open(self) -> None:
        """Create the folders, and test that files in them can be created and linked.

        If it is cancelled, nothing stays open.  Raises ``ConfigError``, and ``StorageFull`` or ``StoreUnavailable``
        for what may pass.
        """
        self._disk = ThreadPoolExecutor(self._threads, "blobs-disk")
        self._digests = digest_threads()
        try:
            opening = partial(
                open_parts,
                self._path,
                named=self._named,
                pack_below=self.pack_below,
                disk=self._disk,
                guest=self._guest,
            )
            opened = await undone_if_cancelled(None, opening, close_parts)
            self._opened, self._packs = opened
        except (OSError, sqlite3.Error) as error:
            if (passing := may_pass(error)) is not None:
                raise passing from error
            raise ConfigError(
                f"Blobs cannot be kept in {self._path}: {getattr(error, 'strerror', error)}.",
                field="blobs.path",
                hint="It must be a folder that this user can write to, on a file system with hard links.",
            ) from error

    async def close(self) -> None:
        """Wait for the clean-up of failed writes, then close every handle.  Idempotent."""
        await self._kept.close()
        if self._leaving:
            await asyncio.wait(self._leaving)
        packs, self._packs = self._packs, None
        if packs is not None:
            await packs.close()
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
            if self._packs is None:
                return await arrival.publish(objects.shards, key, mime)
            async with self._turn(key):
                return await self._store(self._packs, objects, arrival, key, mime)
        except BaseException:
            await self._to_the_end(arrival.abandon())
            raise
        finally:
            self._memory.report(arrival, 0)
            arriving.remove(arrival)
            if not arriving:
                self._arriving.pop(key, None)

    async def put_each(self, blobs: Sequence[SmallBlob]) -> list[BlobInfo | DriveError]:
        """See :meth:`godrive.blobs.Packing.put_each`."""
        if self._packs is None:
            raise StoreUnavailable("The blob store is closed.")
        for blob in blobs:
            split_key(blob.key)
        await self._claim(sum([len(blob.content) for blob in blobs]))
        async with self._turn(*[blob.key for blob in blobs if not blob.is_new]):
            return await self._packs.put_each([small_put(blob) for blob in blobs])

    async def _store(
        self, packs: Packs, objects: Objects, arrival: StagedWrite, key: ObjectKey, mime: str | None
    ) -> BlobInfo:
        """Make what arrived a packed blob or a file."""
        body = arrival.collected()
        if self.pack_below and body is not None and arrival.received <= self.pack_below:
            return await packs.put(key, body, arrival.check, mime)
        if await packs.find(key) is not None:
            raise BlobExists(await arrival.digest())
        return await arrival.publish(objects.shards, key, mime)

    @asynccontextmanager
    async def _turn(self, *keys: ObjectKey) -> AsyncIterator[None]:
        """Of several puts of a key one publishes at a time, so that it does not become a file and a packed blob."""
        while others := [self._publishing[key] for key in keys if key in self._publishing]:
            await asyncio.wait(others)
        done = asyncio.get_running_loop().create_future()
        self._publishing.update(dict.fromkeys(keys, done))
        try:
            yield
        finally:
            for key in dict.fromkeys(keys):
                del self._publishing[key]
            done.set_result(None)

    async def finish(self, staged: Staged, *, sha256: str | None = None, mime: str | None = None) -> BlobInfo:
        """See :meth:`godrive.blobs.Appendable.finish`."""
        async with self._turn(staged.key):
            if await self._place(staged.key) is not None:
                await self.discard(staged)
                raise UploadFinished
            return await super().finish(staged, sha256=sha256, mime=mime)

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
        blob = await self._packed(key)
        if blob is None:
            try:
                fd = await self._open_file(key)
            except NotFound:
                blob = await self._packed(key)  # it may have been packed meanwhile
                if blob is None:
                    raise
        if blob is not None:
            blob = blob[start:end]
            for offset in range(0, len(blob), CHUNK):
                yield blob[offset : offset + CHUNK]
            return
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

    async def _packed(self, key: ObjectKey) -> bytes | None:
        return None if self._packs is None else await self._packs.read(key)

    async def open_file(self, key: ObjectKey) -> int | None:
        """See :meth:`godrive.blobs.FileBacked.open_file`."""
        if await self._place(key) is not None:
            return None
        try:
            return await self._open_file(key)
        except NotFound:
            if await self._place(key) is None:
                raise
            return None

    async def _open_file(self, key: ObjectKey) -> int:
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
        place = await self._place(key)
        if place is None:
            try:
                return await self._run(self._objects.head, key)
            except NotFound:
                place = await self._place(key)
                if place is None:
                    raise
        return describe(place)

    async def _place(self, key: ObjectKey) -> Location | None:
        return None if self._packs is None else await self._packs.find(key)

    async def delete(self, key: ObjectKey) -> None:
        """See :meth:`godrive.blobs.BlobStore.delete`.  When this returns, the deletion is durable."""
        if self._packs is None:
            await self._run(self._objects.delete, key)
            return
        if await self._packs.find(key) is not None:
            deleted = await self._packs.delete(key)
            if deleted.found and not deleted.has_file:
                return
        if not await self._run(self._objects.delete, key) and await self._packs.find(key) is not None:
            await self._packs.delete(key)  # it has been packed meanwhile

    def list(self, *, after: str = "") -> AsyncIterator[BlobInfo]:
        """See :meth:`godrive.blobs.BlobStore.list`."""
        files = self._list_files(after)
        return files if self._packs is None else merged(files, self._list_packed(self._packs, after))

    async def _list_files(self, after: str) -> AsyncGenerator[BlobInfo, None]:
        for shard in await self._run(self._objects.shards_after, after):
            keys = await self._run(self._objects.keys_after, shard, after)
            for first in range(0, len(keys), _LISTED_AT_ONCE):
                for info in await self._run(self._objects.heads, keys[first : first + _LISTED_AT_ONCE]):
                    yield info

    async def _list_packed(self, packs: Packs, after: str) -> AsyncGenerator[BlobInfo, None]:
        while places := await packs.places_after(after, _LISTED_AT_ONCE):
            for place in places:
                yield describe(place)
            after = places[-1].key

    async def quarantine(self, key: ObjectKey) -> None:
        """See :meth:`godrive.blobs.BlobStore.quarantine`.  Overwrites nothing."""
        blob = None if self._packs is None else await self._packs.salvage(key)
        if blob is not None:
            await self._run(self._objects.set_bytes_aside, key, blob)
            await self.delete(key)
            return
        await self._run(self._objects.set_aside, key)

    async def sweep_staging(self, before: datetime) -> int:
        """See :meth:`godrive.blobs.BlobStore.sweep_staging`."""
        if self._packs is not None:
            await self._packs.release_removed()
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
