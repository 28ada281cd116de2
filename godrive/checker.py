"""Compares the rows of a drive with its blobs: one checker for fsck, the scrub, the sweep and backups.

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
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from datetime import datetime
from typing import Protocol, TypeAlias, TypeVar

import msgspec

from godrive.blobs import BlobDamaged, BlobStore
from godrive.errors import NotFound, StoreUnavailable
from godrive.messages.expected import ExpectedBlob, ExpectedBlobs, Fault, Finding
from godrive.messages.metadata import Metadata
from godrive.messages.storage import CheckStore, HeadBlob, Storage
from godrive.messages.system import KnownKeys
from godrive.model import BlobInfo, ObjectKey
from godrive.runtime import Ref

T = TypeVar("T")

AT_ONCE = 1000
"""Rows and blobs of one page."""

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
) -> AsyncIterator[Finding]:
    """Compare all rows with all blobs, and yield what is wrong, in the order of keys.

    With *digests*, read every blob; *pace* is awaited with the number of bytes
    before each piece.  Blobs without a row count as orphans if they were stored
    before *orphans_before*.  Raises ``StoreUnavailable``.
    """
    async for rows, blobs in _pages(drive):
        checked.blobs += len(rows.keys() & blobs.keys())
        checked.bytes += sum(blob.size_bytes for key, blob in blobs.items() if key in rows)
        strays = set(await orphans(drive.metadata, (blobs[key] for key in blobs.keys() - rows.keys()), orphans_before))
        for key in _suspects(rows, blobs, strays, digests=digests):
            if key in strays:
                yield Finding(
                    fault=Fault.ORPHAN, object_key=key, detail="No file refers to it.", size_bytes=blobs[key].size_bytes
                )
            elif key not in blobs:
                if (finding := await _missing(drive, rows[key])) is not None:
                    yield finding
            elif (finding := await check_blob(drive, rows[key], blobs[key], digests=digests, pace=pace)) is not None:
                yield finding


def _suspects(
    rows: dict[ObjectKey, ExpectedBlob], blobs: dict[ObjectKey, BlobInfo], strays: set[ObjectKey], *, digests: bool
) -> list[ObjectKey]:
    """Return what to look at more closely, in the order of keys."""
    if digests:
        return sorted(rows.keys() | strays)
    wrong = {key for key, row in rows.items() if (blob := blobs.get(key)) is None or blob.size_bytes != row.size_bytes}
    return sorted(wrong | strays)


async def check_blob(
    drive: Stores, row: ExpectedBlob, blob: BlobInfo | None, *, digests: bool, pace: Pace | None = None
) -> Finding | None:
    """Compare a blob with its row: its length, if the *blob* is described, and with *digests* its bytes."""

    if blob is not None and blob.size_bytes != row.size_bytes:
        return _finding(Fault.SIZE, row, f"It has {blob.size_bytes} bytes instead of {row.size_bytes}.")
    if not digests:
        return None
    try:
        wrong = await compare(drive.blobs, row.object_key, row.size_bytes, row.sha256, pace)
    except StoreUnavailable as error:
        await drive.storage.ask(CheckStore())  # raises if the store is down, which is no fault of this blob
        return _finding(Fault.UNREADABLE, row, error.detail)
    if wrong is None:
        return None
    return await _missing(drive, row) if wrong[0] is Fault.MISSING else _finding(wrong[0], row, wrong[1])


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
        return Fault.SIZE, f"It has {length} bytes instead of {size}."
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


def _finding(fault: Fault, row: ExpectedBlob, detail: str) -> Finding:
    return Finding(
        fault=fault, object_key=row.object_key, detail=detail, size_bytes=row.size_bytes, file_id=row.file_id
    )


async def _missing(drive: Stores, row: ExpectedBlob) -> Finding | None:
    """Return the finding if the blob is still missing and still expected."""
    try:
        await drive.storage.ask(HeadBlob(row.object_key))
    except NotFound:
        again = await drive.metadata.ask(ExpectedBlobs(limit=1, only=row.object_key))
        if again:
            return _finding(Fault.MISSING, row, "The store does not have it.")
    return None


async def _pages(
    drive: Stores,
) -> AsyncIterator[tuple[dict[ObjectKey, ExpectedBlob], dict[ObjectKey, BlobInfo]]]:
    """Yield the rows and the blobs of the same range of keys, one range after another."""
    stored = aiter(drive.blobs.list())
    blob, after, is_last = await anext(stored, None), ObjectKey(""), False
    while not is_last:
        page = await drive.metadata.ask(ExpectedBlobs(AT_ONCE, after))
        rows = {row.object_key: row for row in page}
        is_last = len(page) < AT_ONCE
        after = after if is_last else page[-1].object_key
        blobs: dict[ObjectKey, BlobInfo] = {}
        while blob is not None and (is_last or blob.key <= after):
            blobs[blob.key] = blob
            if len(blobs) == 2 * AT_ONCE:  # many without a row
                yield _taken(rows, blob.key), blobs
                blobs = {}
            blob = await anext(stored, None)
        yield rows, blobs


def _taken(found: dict[ObjectKey, T], upto: ObjectKey) -> dict[ObjectKey, T]:
    """Remove what has a key up to *upto*, and return it."""
    taken = {key: value for key, value in found.items() if key <= upto}
    for key in taken:
        del found[key]
    return taken
