"""Compares the rows of a drive with its blobs: one checker for fsck, the scrub, the sweep and backups.

Theory of operation.  The catalog lists the sizes of the blobs that it names, and
the store of those that it has, both in pages in the order of keys.  A range of
keys that is equal on both sides, which nearly all are, costs one comparison of
two dicts; so one pass over the two finds what differs, in constant memory,
whatever their number.  A server may run meanwhile, so whatever differs is looked
at once more: a file that was purged in between is no loss, and a blob that is
young may not have its row yet.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from datetime import datetime
from typing import Protocol, TypeAlias

import msgspec

from godrive.blobs import BlobDamaged, BlobStore
from godrive.blobs.pages import AT_ONCE, GONE, Page, aligned, size_pages
from godrive.errors import NotFound, StoreUnavailable
from godrive.in_order import in_order
from godrive.messages.expected import BlobFault, ExpectedBlob, ExpectedBlobs, Fault, NamedSizes
from godrive.messages.metadata import Metadata
from godrive.messages.storage import CheckStore, HeadBlob, Storage
from godrive.messages.system import KnownKeys
from godrive.model import BlobInfo, ObjectKey
from godrive.runtime import Ref

READ_AT_ONCE = 16
"""Blobs that are read at the same time, because a store takes longer to find a small one than to send it.

Each is in memory one piece at a time.
"""

LARGE_PIECE = 65_536
"""Pieces of at least this many bytes are hashed in a thread."""

Pace: TypeAlias = Callable[[int], Awaitable[None]]


class Stores(Protocol):
    """What is compared: the rows of ``metadata`` with the ``blobs``, which ``storage`` lists.  A drive is one."""

    @property
    def metadata(self) -> Ref[Metadata]: ...

    @property
    def storage(self) -> Ref[Storage]: ...

    @property
    def blobs(self) -> BlobStore: ...


class Checked(msgspec.Struct):
    """What was compared so far."""

    blobs: int = 0
    bytes: int = 0


async def check_blobs(
    drive: Stores,
    *,
    digests: bool,
    orphans_before: datetime,
    checked: Checked,
    pace: Pace | None = None,
) -> AsyncIterator[BlobFault]:
    """Compare all rows with all blobs, and yield what is wrong, in the order of keys.

    With *digests*, read every blob, :data:`READ_AT_ONCE` at a time; *pace* is awaited
    with the number of bytes before each piece.  Blobs without a row count as orphans if they were stored
    before *orphans_before*.  Raises ``StoreUnavailable``.
    """
    async for rows, blobs in aligned(_named(drive.metadata), size_pages(drive.blobs)):
        if rows == blobs and not digests:
            checked.blobs += len(rows)
            checked.bytes += sum(rows.values())
            continue
        both = rows.keys() & blobs.keys()
        checked.blobs += len(both)
        checked.bytes += sum(max(0, blobs[key]) for key in both)
        strays = set(await unknown(drive.metadata, [*(blobs.keys() - rows.keys())]))
        suspects = set(rows) if digests else {key for key, size in rows.items() if blobs.get(key) != size}
        expected = {row.object_key: row for row in await _expected(drive.metadata, suspects)}

        async def check(
            key: ObjectKey, expected: dict[ObjectKey, ExpectedBlob] = expected, sizes: Page = blobs
        ) -> BlobFault | None:
            if key in expected:
                return await check_blob(drive, expected[key], sizes.get(key), digests=digests, pace=pace)
            return await _orphan(drive.storage, key, orphans_before)

        keys = sorted(strays | expected.keys())
        async with aclosing(in_order(keys, check, at_most=READ_AT_ONCE)) as findings:
            async for finding in findings:
                if finding is not None:
                    yield finding


async def _named(metadata: Ref[Metadata]) -> AsyncGenerator[Page, None]:
    after = ObjectKey("")
    while page := await metadata.ask(NamedSizes(AT_ONCE, after)):
        yield page
        after = next(reversed(page))


async def _expected(metadata: Ref[Metadata], keys: Iterable[ObjectKey]) -> list[ExpectedBlob]:
    """Return those of the blobs that are not being purged."""
    only = sorted(keys)
    return await metadata.ask(ExpectedBlobs(len(only), only=only)) if only else []


async def _orphan(storage: Ref[Storage], key: ObjectKey, before: datetime) -> BlobFault | None:
    """Return the finding if the blob is still there, and was stored before that instant."""
    try:
        blob = await storage.ask(HeadBlob(key))
    except NotFound:
        return None
    if blob.modified_at > before:
        return None
    return BlobFault(fault=Fault.ORPHAN, object_key=key, detail="No file refers to it.", size_bytes=blob.size_bytes)


async def check_blob(
    drive: Stores, row: ExpectedBlob, size: int | None, *, digests: bool, pace: Pace | None = None
) -> BlobFault | None:
    """Compare a blob with its row: its *size* in the store, and with *digests* its bytes.

    *size* is ``None`` if the store has not listed it.
    """
    if digests:
        try:
            wrong = await compare(drive.blobs, row.object_key, row.size_bytes, row.sha256, pace)
        except StoreUnavailable as error:
            await drive.storage.ask(CheckStore())  # raises if the store is down, which is no fault of this blob
            wrong = Fault.UNREADABLE, error.detail
    else:
        wrong = await _compare_size(drive.storage, row, size)
    if wrong is None:
        return None
    if wrong[0] is Fault.MISSING and not await _expected(drive.metadata, [row.object_key]):
        return None  # it has been purged meanwhile
    return BlobFault(
        fault=wrong[0], object_key=row.object_key, detail=wrong[1], size_bytes=row.size_bytes, file_id=row.file_id
    )


async def _compare_size(storage: Ref[Storage], row: ExpectedBlob, size: int | None) -> tuple[Fault, str] | None:
    if size is None:
        try:
            size = (await storage.ask(HeadBlob(row.object_key))).size_bytes  # it may have been moved meanwhile
        except NotFound:
            return Fault.MISSING, "The store does not have it."
    if size == GONE:
        return Fault.UNREADABLE, "The store has lost its bytes."
    return None if size == row.size_bytes else (Fault.SIZE, _other_size(size, row.size_bytes))


def _other_size(size: int, expected: int) -> str:
    return f"It has {size} bytes instead of {expected}."


async def compare(
    store: BlobStore, key: ObjectKey, size: int, sha256: str | None, pace: Pace | None = None
) -> tuple[Fault, str] | None:
    """Read a blob, and return what differs from what was stored.  Without *sha256*, only its length is compared.

    Raises ``StoreUnavailable``.
    """
    digest, length = hashlib.sha256(), 0
    try:
        async for piece in store.get(key):
            if pace is not None:
                await pace(len(piece))
            length += len(piece)
            if len(piece) < LARGE_PIECE:
                digest.update(piece)
            else:
                await asyncio.to_thread(digest.update, piece)
    except NotFound:
        return Fault.MISSING, "The store does not have it."
    except BlobDamaged as error:
        return Fault.UNREADABLE, error.detail
    if length != size:
        return Fault.SIZE, _other_size(length, size)
    if sha256 is not None and digest.hexdigest() != sha256:
        return Fault.DIGEST, f"Its SHA-256 is {digest.hexdigest()} instead of {sha256}."
    return None


async def orphans(metadata: Ref[Metadata], blobs: Iterable[BlobInfo], before: datetime) -> list[ObjectKey]:
    """Return those of the blobs that were stored before that instant, and that no row refers to, in order."""
    return await unknown(metadata, [blob.key for blob in blobs if blob.modified_at <= before])


async def unknown(metadata: Ref[Metadata], keys: list[ObjectKey]) -> list[ObjectKey]:
    """Return those of the keys that no row refers to, in order."""
    known = await metadata.ask(KnownKeys(keys)) if keys else []
    return sorted(set(keys).difference(known))
