"""Uploads whose bytes come in several requests.  Every protocol for them uses these functions.

Theory of operation.  The row of the upload has the offset: all bytes before it are durable.  An append first claims
the row, then passes its body to the blob store, and each time that the store has more bytes durably, it moves the
offset by compare-and-set.  Of two appends, in whatever process, only the one that claimed last can move it.  So a
kill at any time loses only bytes after the offset, and the client sends those again.  An append whose last move is
known leaves its claim to the next one in the same process, which need not write a row before it reads bytes, and
within a moment need not read it either.

In one process, a new request for an upload first ends the one before it: that body ends where it is, what came of it
is made durable, and the new request sees the offset after it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias

from msgspec.structs import replace

from godrive import append_turns
from godrive.append_turns import FORBEARANCE
from godrive.appended import AppendedBody, Checksum
from godrive.arriving import Pieces
from godrive.blobs import OWNER, Appendable, BlobTooLarge, Staged, staged_of
from godrive.blobs.admission import check_admission
from godrive.errors import (
    Conflict,
    DeliveryError,
    DigestMismatch,
    DriveError,
    Gone,
    MailboxFull,
    OffsetMismatch,
    UploadFinished,
    UploadTakenOver,
)
from godrive.messages.ingest import CommitUpload
from godrive.messages.resumable import AdvanceUpload, ClaimUpload, DeclareLength, Joined, JoinUploads
from godrive.messages.storage import DeleteBlob, DigestBlob, DiscardStaged, HeadBlob, SniffBlob
from godrive.messages.uploads import AbortUpload, BeginUpload, FailUpload, GetUpload
from godrive.model import ETag, OnConflict, Spot, Upload, UploadId, UploadKind, UploadState, VersionId, new_id
from godrive.principal import HostUser, Principal, UserSession
from godrive.transfer import NO_TURN, Turn, check_open, remove_unneeded

if TYPE_CHECKING:
    from godrive.drive import GoDrive

__all__ = ["Checksum", "abort", "append", "begin", "concatenate", "declare", "offset"]

Progress: TypeAlias = Callable[[int], None]

_ADVANCES = 3
"""Attempts to move the offset, whose answers may be lost."""


async def begin(
    drive: GoDrive,
    by: Principal,
    where: Spot,
    name: str,
    *,
    size: int | None,
    mime: str = "",
    sha256: str | None = None,
    on_conflict: OnConflict = OnConflict.FAIL,
    modified_at: datetime | None = None,
    if_match: ETag | None = None,
    part: bool = False,
    note: str = "",
    turn: Turn = NO_TURN,
) -> Upload:
    """Begin an upload of *size* bytes.  An empty one is a file at once.

    ``None`` as *size* means that the length is declared later; the bytes are then reserved as they come.  A *part*
    takes no name and never becomes a file by itself.  *note* is kept with the upload; *turn* is held while actors are
    asked.  Raises ``TooLarge``, ``StorageFull``, ``StoreUnavailable``, and what ``BeginUpload`` raises.
    """
    _store(drive)
    await check_admission(drive.blobs, drive.config.blobs, size or 0)
    async with turn:
        upload = await drive.metadata.ask(
            BeginUpload(
                by,
                where,
                name,
                mime,
                size or 0,
                sha256=sha256.lower() if sha256 else None,
                on_conflict=OnConflict.RENAME if part else on_conflict,
                modified_at=modified_at,
                if_match=if_match,
                kind=UploadKind.PART if part else UploadKind.RESUMABLE,
                deferred=size is None,
                note=note,
            )
        )
    return await _finish_if_complete(drive, by, upload, turn)


async def append(
    drive: GoDrive,
    by: Principal,
    upload_id: UploadId,
    offset: int,
    body: Pieces,
    *,
    size: int | None = None,
    length: int | None = None,
    checksum: Checksum | None = None,
    progress: Progress | None = None,
    turn: Turn = NO_TURN,
) -> Upload:
    """Append *body*, whose first byte is that at *offset*.  When this returns, its bytes are durable.

    An append to the same upload that still runs ends first.  *size* is the
    length of *body* if it is known: one that is too long is not read.  *length* declares
    a deferred length.  What came of a body that breaks off stays, and counts.
    A body with a *checksum* counts as a whole or not at all.  With the last
    byte, the upload becomes a file.  Idempotent at the end of a file.
    *progress* is told the offset when it has moved and the body goes on.

    Raises ``OffsetMismatch`` (nothing was read), ``UploadTakenOver`` (another
    request goes on), ``ChecksumMismatch``, ``LengthMismatch`` (a byte too
    many), ``Gone`` (the upload has ended without a file), ``QuotaExceeded``,
    ``StorageFull``, ``BlobTooLarge`` (the upload ends), ``StoreUnavailable``, what publishing a file raises, and
    what *body* raises.
    """
    async with _claim(drive, by, upload_id) as claim:
        appending = _Append(drive, by, upload_id, AppendedBody(drive, by, body, checksum, size=size), turn)
        appending.progress = progress
        work = asyncio.create_task(appending.run(offset, length))
        claim.when_wanted(lambda: _end_soon(work, appending.body))
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError:
            _end_soon(work, appending.body)
            await asyncio.wait([work])
            raise
        if work.cancelled():  # the store did not take in time what had arrived, or had no memory for it
            raise UploadTakenOver if claim.wanted else MailboxFull("There is not enough free memory for this body now.")
        return work.result()


async def offset(drive: GoDrive, by: Principal, upload_id: UploadId, *, turn: Turn = NO_TURN) -> Upload:
    """Return the upload with the offset at which the next append must begin.

    An append that still runs ends, because otherwise the offset would move.  An
    upload that has all of its bytes becomes a file.  Raises ``NotFound``,
    ``StoreUnavailable``, and what publishing a file raises.
    """
    async with turn:
        upload = await drive.metadata.ask(GetUpload(by, upload_id))
    if upload.state is UploadState.PENDING and (upload.writer or drive.append_turns.is_taken(upload_id)):
        async with drive.append_turns.take(upload_id):
            upload = await _claimed(drive, by, upload_id)
            drive.append_turns.keep_claim(upload_id, upload.writer)
    return await _finish_if_complete(drive, by, upload, turn)


async def declare(drive: GoDrive, by: Principal, upload_id: UploadId, size: int, *, turn: Turn = NO_TURN) -> Upload:
    """Declare the length of an upload that was begun without.  Idempotent.

    If it has all of its bytes, it becomes a file.  Raises ``TooLarge``, what
    ``DeclareLength`` raises, and what publishing a file raises.
    """
    await check_admission(drive.blobs, drive.config.blobs, size, 0)
    async with turn:
        upload = await drive.metadata.ask(DeclareLength(by, upload_id, size))
    return await _finish_if_complete(drive, by, upload, turn)


async def concatenate(
    drive: GoDrive,
    by: Principal,
    parts: Sequence[UploadId],
    where: Spot,
    name: str,
    *,
    mime: str = "",
    sha256: str | None = None,
    on_conflict: OnConflict = OnConflict.FAIL,
    modified_at: datetime | None = None,
    if_match: ETag | None = None,
    note: str = "",
    check: Callable[[Upload], None] | None = None,
    turn: Turn = NO_TURN,
) -> Upload:
    """Make a file of the bytes of *parts*, one after another.  Idempotent.

    *check* gets the upload before any byte is joined: it may have been begun with other parts, or in another order.
    Raises what ``JoinUploads`` and *check* raise, ``StorageFull``, ``StoreUnavailable`` (the parts stay), and what
    publishing a file raises.
    """
    async with turn:
        joined = await drive.metadata.ask(
            JoinUploads(
                by,
                list(parts),
                where,
                name,
                mime,
                sha256=sha256.lower() if sha256 else None,
                on_conflict=on_conflict,
                modified_at=modified_at,
                if_match=if_match,
                note=note,
            )
        )
    if check is not None:
        check(joined.upload)
    async with drive.append_turns.take(joined.upload.id):
        upload = await _join(drive, by, joined)
        upload = await _finish_if_complete(drive, by, upload, turn, is_claimed=True)
    with suppress(DriveError):  # the janitor repeats it
        for part in joined.parts:
            await drive.storage.ask(DiscardStaged(part.object_key, part.staging))
            await drive.storage.ask(DeleteBlob(part.object_key))
    return upload


async def _join(drive: GoDrive, by: Principal, joined: Joined) -> Upload:
    """Give the upload the bytes of its parts, unless it has them already."""
    upload = await drive.metadata.ask(ClaimUpload(by, joined.upload.id, new_id(), 0))
    if upload.state is not UploadState.PENDING or upload.received_bytes == upload.length:
        return upload
    await check_admission(drive.blobs, drive.config.blobs, upload.size_bytes)  # the parts stay until it is a file
    try:
        staged = await _store(drive).join(upload.object_key, [staged_of(part) for part in joined.parts])
    except (Gone, BlobTooLarge) as error:
        raise await _fail(drive, by, upload, error) from None
    return await _move(drive, by, upload, staged)


async def abort(drive: GoDrive, by: Principal, upload_id: UploadId) -> Upload:
    """Abort the upload and delete its bytes.  Idempotent.  Raises ``NotFound``, ``UploadFinished``."""
    upload = await drive.metadata.ask(AbortUpload(by, upload_id))
    drive.known_uploads.take(upload_id, upload.owner_id)
    with suppress(DriveError):  # the janitor repeats it
        async with drive.append_turns.take(upload_id):
            await _store(drive).discard(staged_of(upload))
    return upload


def _store(drive: GoDrive) -> Appendable:
    if drive.appendable is None:
        raise Conflict("This blob store cannot append.")
    return drive.appendable


def _end_soon(work: asyncio.Task[Upload], body: AppendedBody) -> None:
    """End the body, and with it the append.  Cancel that if the store does not take in time what arrived."""
    body.end()
    asyncio.get_running_loop().call_later(FORBEARANCE, work.cancel)


@asynccontextmanager
async def _claim(drive: GoDrive, by: Principal, upload_id: UploadId) -> AsyncIterator[append_turns.AppendTurn]:
    if drive.append_turns.is_taken(upload_id):
        await drive.metadata.ask(GetUpload(by, upload_id))  # raises unless *by* may end the other append
    async with drive.append_turns.take(upload_id) as claim:
        yield claim


class _Append:
    """One append."""

    def __init__(self, drive: GoDrive, by: Principal, upload_id: UploadId, body: AppendedBody, turn: Turn) -> None:
        self.body = body
        self.progress: Progress | None = None
        self._drive = drive
        self._by = by
        self._upload_id = upload_id
        self._turn = turn

    async def run(self, offset: int, length: int | None) -> Upload:
        drive, by = self._drive, self._by
        if length is not None:
            await check_admission(drive.blobs, drive.config.blobs, length, 0)
        async with self._turn:
            upload = await _claimed(drive, by, self._upload_id, offset, length)
        check_open(upload)
        if upload.received_bytes != offset:
            durable = upload.received_bytes
            raise OffsetMismatch(f"The upload has {durable} bytes.", offset=durable, provided=offset)
        if upload.received_bytes == upload.length:
            await self.body.refuse(upload)
        else:
            upload = await self._store(upload)
        return await _finish_if_complete(drive, by, upload, self._turn, is_claimed=True)

    async def _store(self, upload: Upload) -> Upload:
        body = self.body
        body.begin(upload)
        owner = OWNER.set(upload.owner_id)
        try:
            steps = _store(self._drive).append(
                staged_of(upload), body, size=upload.length, mime=upload.mime, whole=body.counts_as_whole
            )
            async with aclosing(steps):
                async for staged in steps:
                    upload = await self._advance(upload, staged)
        except (Gone, BlobTooLarge) as error:
            raise await _fail(self._drive, self._by, upload, error) from None
        finally:
            OWNER.reset(owner)
        return upload

    async def _advance(self, upload: Upload, staged: Staged) -> Upload:
        is_last = self.body.ended
        upload = await _move(self._drive, self._by, upload, staged)
        if is_last:
            self._drive.append_turns.keep_claim(upload.id, upload.writer)
            if upload.length is not None and upload.received_bytes < upload.length:
                self._drive.known_uploads.keep(upload)
        elif self.progress is not None:
            self.progress(upload.received_bytes)
        return upload


async def _claimed(
    drive: GoDrive, by: Principal, upload_id: UploadId, offset: int | None = None, length: int | None = None
) -> Upload:
    """Return the upload, claimed by its ``writer`` if it is pending and at *offset*; by default, wherever it is.

    The caller has the turn.
    """
    kept = drive.append_turns.take_claim(upload_id)
    if kept and length is None and isinstance(by, UserSession | HostUser):
        known = drive.known_uploads.take(upload_id, by.user_id)
        if known is not None and (known.writer, known.received_bytes) == (kept, offset):
            return known  # what has ended it meanwhile, the next move of the offset finds out
    while True:
        if offset is None or (kept and length is None):
            upload = await drive.metadata.ask(GetUpload(by, upload_id))
            if upload.state is not UploadState.PENDING:
                return upload
            if kept and upload.writer == kept:
                return upload
        # A process that was killed, or another one, may have the upload: from now on it cannot move the offset.
        at = upload.received_bytes if offset is None else offset
        upload = await drive.metadata.ask(ClaimUpload(by, upload_id, new_id(), at, length))
        if offset is not None or upload.received_bytes == at:
            return upload


async def _move(drive: GoDrive, by: Principal, upload: Upload, staged: Staged) -> Upload:
    """Move the offset of an upload that is claimed."""
    message = AdvanceUpload(by, upload.id, upload.writer, upload.received_bytes, staged.offset, staged.state)
    for _ in range(_ADVANCES - 1):
        with suppress(DeliveryError):  # it may have been carried out; then this repeats it
            return await drive.metadata.ask(message)
    return await drive.metadata.ask(message)


async def _finish_if_complete(
    drive: GoDrive, by: Principal, upload: Upload, turn: Turn, *, is_claimed: bool = False
) -> Upload:
    """Make a file of an upload that has all of its bytes, unless it is a part."""
    is_complete = upload.state is UploadState.PENDING and upload.received_bytes == upload.length
    if not is_complete or upload.kind is not UploadKind.RESUMABLE:
        return upload
    if is_claimed:
        return await _finish(drive, by, upload, turn)
    async with drive.append_turns.take(upload.id):
        return await _finish(drive, by, upload, turn)


async def _finish(drive: GoDrive, by: Principal, upload: Upload, turn: Turn) -> Upload:
    key = upload.object_key
    try:
        blob = await _store(drive).finish(staged_of(upload), sha256=upload.sha256, mime=upload.mime or None)
    except UploadFinished:  # an earlier attempt, or another process, has made the blob
        blob = await drive.storage.ask(HeadBlob(key))
    except (DigestMismatch, Gone) as error:
        raise await _fail(drive, by, upload, error) from None
    if blob.sha256 is None:  # another process had its first bytes
        blob = replace(blob, sha256=await drive.storage.ask(DigestBlob(key)))
    if not upload.mime and blob.mime is None:
        blob = replace(blob, mime=await drive.storage.ask(SniffBlob(key, upload.name)))
    async with turn:
        file = await drive.ingest.ask(CommitUpload(by, upload.id, blob=blob, upload=upload))
        committed = await drive.metadata.ask(GetUpload(by, upload.id))
    if file.version_id != VersionId(upload.id):
        await remove_unneeded(drive, by, upload)  # the file had the same bytes already
    return committed


async def _fail(drive: GoDrive, by: Principal, upload: Upload, error: DriveError) -> DriveError:
    """End an upload that cannot become a file, and discard its bytes.  Return the error that the caller must raise."""
    with suppress(DriveError):  # it then ends at its deadline
        ended = await drive.metadata.ask(FailUpload(by, upload.id, error.detail, writer=upload.writer))
        if ended.state in {UploadState.PENDING, UploadState.COMMITTED}:
            return UploadTakenOver()  # by another process, which has replaced what was staged
        await _store(drive).discard(staged_of(upload))
    return error
