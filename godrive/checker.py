"""Compares the rows of a drive with its blobs: one checker for ``godrive fsck`` and whatever verifies a copy.

Theory of operation.  The catalog lists the blobs that it expects, and the store
those that it has, both in the order of keys, so one pass over the two finds what
is missing on either side, in constant memory, whatever their number.  A server
may run meanwhile, so whatever looks wrong is looked at once more: a file that
was purged in between is no loss, and a blob that is young may not have its row
yet.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from godrive.errors import NotFound, StoreUnavailable
from godrive.messages.expected import ExpectedBlob, ExpectedBlobs
from godrive.messages.storage import CheckStore, HeadBlob, ListBlobs
from godrive.messages.system import KnownKeys
from godrive.model import BlobInfo, ObjectKey

if TYPE_CHECKING:
    from godrive.drive import GoDrive

AT_ONCE = 1000
"""Rows and blobs of one page."""

LARGE_PIECE = 65_536
"""Pieces of at least this many bytes are hashed in a thread."""


class Fault(StrEnum):
    """What is wrong with a blob."""

    MISSING = "missing"
    """A file refers to it, and the store does not have it."""
    SIZE = "size"
    """It has another length than its row."""
    DIGEST = "digest"
    """Its bytes are not those that were stored: their SHA-256 is another one."""
    UNREADABLE = "unreadable"
    """The store has it and cannot read it."""
    ORPHAN = "orphan"
    """No file refers to it."""


class Finding(msgspec.Struct, frozen=True):
    """One fault.  *file_id* is a file that refers to the blob; there may be more that share it."""

    fault: Fault
    object_key: ObjectKey
    detail: str
    size_bytes: int = 0
    file_id: str | None = None


class Checked(msgspec.Struct):
    """What was compared so far."""

    blobs: int = 0
    bytes: int = 0


async def check_blobs(
    drive: GoDrive,
    *,
    digests: bool,
    orphans_before: datetime,
    checked: Checked,
    pace: Callable[[int], Awaitable[None]] | None = None,
) -> AsyncIterator[Finding]:
    """Compare all rows with all blobs, and yield what is wrong, in the order of keys.

    With *digests*, read every blob; *pace* is awaited with the number of bytes
    before each piece.  Blobs without a row count as orphans if they were stored
    before *orphans_before*.  Raises ``StoreUnavailable``.
    """
    expected, stored = _expected(drive), _stored(drive)
    row, blob = await anext(expected, None), await anext(stored, None)
    while row is not None or blob is not None:
        if blob is None or (row is not None and row.object_key < blob.key):
            assert row is not None  # noqa: S101 - one of the two is there
            if (finding := await _missing(drive, row)) is not None:
                yield finding
            row = await anext(expected, None)
        elif row is None or blob.key < row.object_key:
            if (finding := await _orphan(drive, blob, orphans_before)) is not None:
                yield finding
            blob = await anext(stored, None)
        else:
            checked.blobs += 1
            checked.bytes += blob.size_bytes
            if (finding := await check_blob(drive, row, blob, digests=digests, pace=pace)) is not None:
                yield finding
            row, blob = await anext(expected, None), await anext(stored, None)


async def check_blob(
    drive: GoDrive,
    row: ExpectedBlob,
    blob: BlobInfo,
    *,
    digests: bool,
    pace: Callable[[int], Awaitable[None]] | None = None,
) -> Finding | None:
    """Compare a blob with its row: its length, and with *digests* its bytes."""

    def found(fault: Fault, detail: str) -> Finding:
        return Finding(fault, row.object_key, detail, row.size_bytes, row.file_id)

    if blob.size_bytes != row.size_bytes:
        return found(Fault.SIZE, f"It has {blob.size_bytes} bytes instead of {row.size_bytes}.")
    if not digests or row.sha256 is None:
        return None
    try:
        digest, length = await _digest(drive, row.object_key, pace)
    except NotFound:
        return await _missing(drive, row)
    except StoreUnavailable as error:
        await drive.storage.ask(CheckStore())  # raises if the store is down, which is no fault of this blob
        return found(Fault.UNREADABLE, error.detail)
    if length != row.size_bytes:
        return found(Fault.SIZE, f"It has {length} bytes instead of {row.size_bytes}.")
    return None if digest == row.sha256 else found(Fault.DIGEST, f"Its SHA-256 is {digest} instead of {row.sha256}.")


async def _digest(
    drive: GoDrive, object_key: ObjectKey, pace: Callable[[int], Awaitable[None]] | None
) -> tuple[str, int]:
    digest, length = hashlib.sha256(), 0
    async for piece in drive.blobs.get(object_key):
        if pace is not None:
            await pace(len(piece))
        length += len(piece)
        if len(piece) < LARGE_PIECE:
            digest.update(piece)
        else:
            await asyncio.to_thread(digest.update, piece)
    return digest.hexdigest(), length


async def _missing(drive: GoDrive, row: ExpectedBlob) -> Finding | None:
    """Return the finding if the blob is still missing and still expected."""
    try:
        await drive.storage.ask(HeadBlob(row.object_key))
    except NotFound:
        again = await drive.metadata.ask(ExpectedBlobs(limit=1, only=row.object_key))
        if again:
            return Finding(Fault.MISSING, row.object_key, "The store does not have it.", row.size_bytes, row.file_id)
    return None


async def _orphan(drive: GoDrive, blob: BlobInfo, before: datetime) -> Finding | None:
    known: list[ObjectKey] = await drive.metadata.ask(KnownKeys([blob.key]))
    if known or blob.modified_at >= before:
        return None
    return Finding(Fault.ORPHAN, blob.key, "No file refers to it.", blob.size_bytes)


async def _expected(drive: GoDrive) -> AsyncIterator[ExpectedBlob]:
    after = ObjectKey("")
    while page := await drive.metadata.ask(ExpectedBlobs(AT_ONCE, after)):
        for row in page:
            yield row
        after = page[-1].object_key


async def _stored(drive: GoDrive) -> AsyncIterator[BlobInfo]:
    after: str | None = ""
    while after is not None:
        page = await drive.storage.ask(ListBlobs(AT_ONCE, after))
        for blob in page.items:
            yield blob
        after = page.next_page
