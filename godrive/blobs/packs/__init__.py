"""Small blobs together in large files, so that many share one sync.

A file for each small blob costs more than its bytes: to create, sync and link it
takes several times the work of appending it to a file that is open, and each
waits for a sync of its own.  ``record`` has the format of a pack, ``writer`` how
blobs become durable, ``reader`` how they are read, ``compaction`` how room is
given back, and ``recovery`` what happens after a crash.

::

    packs/00000001.pack   blobs, one after another
    packs/index.db        where each blob is; made again from the packs if it is not there
    packs/index.db-lock   who may checkpoint its log (see wal_lock)
    packs/hold            made by an operator: no pack is removed while it is there
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from pathlib import Path
from typing import TypeVar

import msgspec

from godrive.blobs import BlobDamaged, SmallBlob
from godrive.blobs.body_check import BodyCheck
from godrive.blobs.failures import failures, full, is_full
from godrive.blobs.packs import compaction, recovery
from godrive.blobs.packs.files import PackFiles
from godrive.blobs.packs.index import Index, Location
from godrive.blobs.packs.reader import PackReader, WouldWait
from godrive.blobs.packs.record import Damaged
from godrive.blobs.packs.writer import Delete, PackWriter, Put
from godrive.blobs.pages import Page
from godrive.errors import DriveError, StoreUnavailable
from godrive.model import BlobInfo, ETag, ObjectKey
from godrive.paths import exists, open_or_create
from godrive.reserve import Reserve

T = TypeVar("T")

INDEX = "index.db"
HOLD = "hold"
"""While there is a file of this name, no pack is removed."""
MOST = 256
"""The most puts and deletions in one group."""

Waiting = tuple[Sequence[Put | Delete], asyncio.Future[Exception | None]]
"""What one caller waits for, in one group."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOVES = 8
"""Attempts to read a blob that is moved meanwhile."""


class PackStatus(msgspec.Struct, frozen=True):
    """The state of the packs, for ``godrive doctor``."""

    blobs: int
    packs: int
    size: int
    live: int
    problems: tuple[str, ...]


class Packs:
    """The packs in the folder *path*, which is created if absent.

    *has_file* says whether a key has a blob outside the packs.  Reads that have
    to wait for the disk run in *disk*.  For *guest* see ``wal_lock``.
    """

    def __init__(
        self, path: Path, *, disk: Executor, has_file: Callable[[ObjectKey], bool], guest: bool = False
    ) -> None:
        """Open the packs, and recover what a crash left behind.  Blocks.  Raises ``OSError``, ``sqlite3.Error``."""
        self._path = path
        self._disk = disk
        with ExitStack() as opened:
            self._files = PackFiles(path)
            opened.callback(self._files.close)
            reserve = Reserve(path / INDEX)
            index = _open_index(path / INDEX, reserve, guest=guest)
            opened.callback(index.close)
            self._writer = PackWriter(self._files, index, has_file, reserve)
            recovery.recover(self._writer)
            self._reader = PackReader(path / INDEX, self._files)
            opened.pop_all()
        self._thread = ThreadPoolExecutor(1, "blobs-packs")
        self._waiting: list[Waiting] = []
        self._ended: asyncio.Future[None] | None = None
        self._group_ended: asyncio.Future[None] | None = None
        self._is_turn_of_groups = True
        self._is_closing = False
        self._may_compact = True
        self._compaction: compaction.Compaction | None = None
        self._failed: dict[int, Exception] = {}
        """The packs that could not be emptied, since when there was last something to empty."""

    async def close(self) -> None:
        """Finish what was begun, then close every file.  Idempotent."""
        self._is_closing, self._may_compact = True, False
        if self._ended is not None:
            await asyncio.wait([self._ended])
        await asyncio.to_thread(self._close)

    def close_unused(self) -> None:
        """Close every file.  Only before anything was asked of the packs."""
        self._close()

    def _close(self) -> None:
        self._thread.shutdown()
        try:
            if not exists(self._path / HOLD):
                compaction.drop_empty(self._writer)
        except (OSError, sqlite3.Error):
            pass  # the next start tries again
        finally:
            self._reader.close()
            self._writer.index.close()
            self._files.close()

    async def put(
        self, key: ObjectKey, chunks: Sequence[bytes | memoryview], check: BodyCheck, mime: str | None
    ) -> BlobInfo:
        """Store a blob.  Raises ``BlobExists``, ``DigestMismatch``, ``StorageFull``, ``StoreUnavailable``.

        If the wait is cancelled before the blob's group has begun, it is not stored.
        """
        return await self.move(Put(key, chunks, check, mime or ""))

    async def move(self, put: Put) -> BlobInfo:
        """Store a blob that may be a file.  Raises as :meth:`put`."""
        (found,) = await self.put_each([put])
        if isinstance(found, DriveError):
            raise found
        return found

    async def put_each(self, puts: Sequence[Put]) -> list[BlobInfo | DriveError]:
        """Store blobs in one group.  Returns for each what describes it, or why it was refused."""
        await self._submit(puts)
        return [put.error or describe(_place_of(put)) for put in puts]

    async def delete(self, key: ObjectKey) -> Delete:
        """Delete a blob durably.  Idempotent."""
        delete = Delete(key)
        await self._submit([delete])
        return delete

    async def find(self, key: ObjectKey) -> Location | None:
        """Where the blob is, if it is packed.  Raises ``StoreUnavailable``."""
        with _failures():
            try:
                return self._reader.find_now(key)
            except WouldWait:
                return await self._run(self._reader.find, key)

    async def read(self, key: ObjectKey) -> bytes | None:
        """The blob, if it is packed.  Raises ``BlobDamaged``, ``StoreUnavailable``."""
        for _ in range(_MOVES):
            place = await self.find(key)
            if place is None:
                return None
            with _failures():
                try:
                    body = self._reader.read_now(place)
                except WouldWait:
                    body = await self._run(self._reader.read, place)
            if body is not None:
                return body
        return None  # it is being deleted

    async def salvage(self, key: ObjectKey) -> bytes | None:
        """The blob, if it is packed, or what is left of one that is damaged.  Raises ``StoreUnavailable``.

        A deletion that was interrupted after its record is finished.
        """
        place = await self.find(key)
        try:
            blob = await self.read(key)
        except BlobDamaged:
            place = await self.find(key)
            with _failures():
                return None if place is None else await self._run(self._reader.salvage, place)
        if blob is None and place is not None:
            await self.delete(key)
        return blob

    async def places_after(self, key: str, limit: int) -> list[Location]:
        """The places of the next *limit* blobs in key order."""
        with _failures():
            return await self._run(self._reader.after, key, limit)

    async def sizes_after(self, key: str, limit: int) -> Page:
        """The sizes of the next *limit* blobs, in key order."""
        with _failures():
            return await self._run(self._reader.sizes_after, key, limit)  # type: ignore[arg-type]

    async def keys_within(self, after: str, upto: str, limit: int) -> tuple[str, str]:
        """See :meth:`godrive.blobs.key_ranges.KeyRanges.read`."""
        with _failures():
            return await self._run(self._reader.keys_within, after, upto, limit)

    async def release_removed(self) -> None:
        """Close packs that another process has removed or replaced, and empty those from which it has deleted."""
        with _failures():
            await self._run(self._files.release_removed)
        self._may_compact_again()
        self._begin()

    async def status(self) -> PackStatus:
        """Counts and problems, for an operator."""

        def read() -> PackStatus:
            index = Index(self._path / INDEX, read_only=True)
            try:
                packs, sizes = index.packs(), self._files.sizes()
                problems = recovery.problems(packs, sizes)
                problems += [f"Pack {number} could not be emptied: {why}" for number, why in [*self._failed.items()]]
                return PackStatus(
                    blobs=index.total(),
                    packs=len(sizes),
                    size=sum(sizes.values()),
                    live=sum(pack.live for pack in packs),
                    problems=tuple(problems),
                )
            finally:
                index.close()

        with _failures():
            return await self._run(read)

    async def _run(self, call: Callable[..., T], *values: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._disk, call, *values)

    async def _submit(self, items: Sequence[Put | Delete]) -> None:
        """Have the items done in a group, and wait for it.  Cancelling the wait takes back what has not begun."""
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Exception | None] = loop.create_future()
        waiting = items, reply
        self._waiting.append(waiting)
        self._begin()
        try:
            error = await reply
        except asyncio.CancelledError:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
            else:
                await asyncio.wait([self._group_ended or reply])
            raise
        if error is not None:
            with _failures():
                raise error

    def _begin(self) -> None:
        if self._ended is None:
            loop = asyncio.get_running_loop()
            self._ended = loop.create_future()
            self._next(loop)

    def _may_compact_again(self) -> None:
        if not self._is_closing and not self._may_compact:
            self._failed, self._may_compact = {}, True

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin the next group, or a step of a compaction, which take turns."""
        if self._may_compact and not self._is_turn_of_groups:
            self._is_turn_of_groups = True
            self._thread.submit(self._compact, loop)
        elif self._waiting:
            self._is_turn_of_groups = False
            most = max(1, bisect_right(list(accumulate(len(items) for items, _ in self._waiting)), MOST))
            group, self._waiting = self._waiting[:most], self._waiting[most:]
            self._group_ended = loop.create_future()
            self._thread.submit(self._commit, loop, group)
        elif self._may_compact:
            self._thread.submit(self._compact, loop)
        elif self._ended is not None:
            self._ended.set_result(None)
            self._ended = None

    def _commit(self, loop: asyncio.AbstractEventLoop, group: list[Waiting]) -> None:
        error: Exception | None = None
        puts = [item for items, _ in group for item in items if isinstance(item, Put)]
        deletes = [item for items, _ in group for item in items if isinstance(item, Delete)]
        try:
            self._writer.commit(puts, deletes)
        except Exception as failure:
            error = failure
        loop.call_soon_threadsafe(self._committed, loop, group, error)

    def _committed(self, loop: asyncio.AbstractEventLoop, group: list[Waiting], error: Exception | None) -> None:
        if self._group_ended is not None:
            self._group_ended.set_result(None)
            self._group_ended = None
        for items, reply in group:
            if not reply.done():  # the caller no longer waits
                reply.set_result(error)
            if any(isinstance(item, Delete) and item.found for item in items):
                self._may_compact_again()
        self._next(loop)

    def _compact(self, loop: asyncio.AbstractEventLoop) -> None:
        is_done = True
        try:
            with self._writer.index.turn() as may:
                if not may or exists(self._path / HOLD):
                    self._compaction = None
                elif self._compaction is None:
                    self._compaction = compaction.candidate(self._writer, but=self._failed)
                if self._compaction is not None:
                    is_done = False  # there may be another one
                    if not compaction.step(self._writer, self._compaction):
                        self._compaction = None
        except (OSError, sqlite3.Error, Damaged) as failure:
            failed, self._compaction = self._compaction, None
            if self._writer.make_room(failure):
                is_done = False
            elif failed is not None:  # the others can be emptied
                self._failed[failed.number] = failure
        loop.call_soon_threadsafe(self._compacted, loop, is_done)

    def _compacted(self, loop: asyncio.AbstractEventLoop, is_done: bool) -> None:
        self._may_compact = not is_done and not self._is_closing
        self._next(loop)


def small_put(blob: SmallBlob) -> Put:
    """Return what stores a small blob."""
    check = BodyCheck(len(blob.content), blob.sha256)
    return Put(blob.key, (blob.content,), check, blob.mime or "", is_new=blob.is_new)


def _place_of(put: Put) -> Location:
    assert put.place is not None  # noqa: S101 - one that was not refused has it
    return put.place


def describe(place: Location) -> BlobInfo:
    """Describe a packed blob.  No two puts have the same instant, so time and size make a strong ETag."""
    return BlobInfo(
        key=ObjectKey(place.key),
        size_bytes=place.size,
        etag=ETag(f"{place.stored_ns:x}-{place.size:x}"),
        modified_at=_EPOCH + timedelta(microseconds=place.stored_ns // 1000),
        sha256=place.sha256.hex(),
        mime=place.mime or None,
    )


def _open_index(path: Path, reserve: Reserve, *, guest: bool) -> Index:
    """Open the index.  One that is no database any more is set aside, because it can be made again."""
    try:
        os.close(open_or_create(path))
        with ExitStack() as opened:
            index = Index(path, guest=guest)
            opened.callback(index.close)
            index.newest()
            opened.pop_all()
        return index
    except (OSError, sqlite3.DatabaseError) as error:
        code = error.sqlite_errorcode if isinstance(error, sqlite3.Error) else 0
        if is_full(error):  # even opening it takes some room
            reserve.release()
            return Index(path, guest=guest)
        if code & 0xFF not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise
    path.replace(path.with_name(f"{INDEX}.damaged"))
    for suffix in ("-wal", "-shm"):
        path.with_name(INDEX + suffix).unlink(missing_ok=True)
    os.close(open_or_create(path))
    return Index(path, guest=guest)


@contextmanager
def _failures() -> Iterator[None]:
    """Translate the errors of the system, of SQLite and of damaged bytes."""
    try:
        with failures():
            yield
    except sqlite3.Error as error:
        if is_full(error):
            raise full() from error
        raise StoreUnavailable(
            f"The index of the packs cannot be used: {error}.",
            hint=f"If it is damaged, stop GoDrive and remove {INDEX} from the folder of the packs. "
            "The next start makes it again.",
        ) from error
    except Damaged as error:
        raise BlobDamaged(f"{error}", hint="`godrive doctor` checks the packs; restore them from a backup.") from error
