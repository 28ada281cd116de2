"""Store and read the bytes of files.  Every route, protocol and embedder uses these functions.

Control messages go through the actors' mailboxes.  Bytes go directly between
the caller and the blob store of this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import AbstractAsyncContextManager, nullcontext, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from godrive.arriving import Arriving, Pieces, digest_of
from godrive.blobs import OWNER, BlobExists, BlobTooLarge
from godrive.blobs.admission import check_admission
from godrive.blobs.sniffing import HEAD, sniff
from godrive.errors import (
    DigestMismatch,
    DriveError,
    Gone,
    LengthMismatch,
    NotFound,
    UploadFinished,
)
from godrive.messages.files import OpenContent
from godrive.messages.ingest import CommitUpload
from godrive.messages.storage import DeleteBlob, DigestBlob, HeadBlob
from godrive.messages.uploads import BeginUpload, FailUpload, GetUpload
from godrive.model import (
    BlobInfo,
    Content,
    ETag,
    File,
    OnConflict,
    Spot,
    Upload,
    UploadKind,
    UploadState,
    VersionId,
    Which,
)
from godrive.principal import Principal

if TYPE_CHECKING:
    from godrive.drive import GoDrive


Turn: TypeAlias = AbstractAsyncContextManager[None]
NO_TURN: Turn = nullcontext()

T = TypeVar("T")


async def receive(
    drive: GoDrive,
    by: Principal,
    where: Spot,
    name: str,
    body: Pieces,
    *,
    size: int | None,
    mime: str = "",
    sha256: str | None = None,
    on_conflict: OnConflict = OnConflict.FAIL,
    modified_at: datetime | None = None,
    if_match: ETag | None = None,
) -> File:
    """Store *body* as a file of *size* bytes.  When this function returns, the file is durable.

    ``None`` as *size* means that the length is not known before the end.
    Raises what :func:`reserve` and :func:`receive_once` raise.
    """
    upload = await reserve(
        drive,
        by,
        where,
        name,
        size=size,
        mime=mime,
        sha256=sha256,
        on_conflict=on_conflict,
        modified_at=modified_at,
        if_match=if_match,
    )
    return await receive_once(drive, by, upload, body, grows=size is None)


async def reserve(
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
) -> Upload:
    """Begin an upload whose bytes come through this process.  :func:`receive_once` must follow.

    Without *mime*, the type is determined from the bytes.  With *sha256* (hex),
    bytes with another digest are refused.  *modified_at* is the time of the
    content, by default that of the upload.  Raises ``TooLarge``,
    ``StorageFull``, ``StoreUnavailable``, and what ``BeginUpload`` raises.
    """
    await check_admission(drive.blobs, drive.config.blobs, size or 0)
    return await drive.metadata.ask(
        BeginUpload(
            by, where, name, mime, size or 0, sha256=sha256.lower() if sha256 else None, on_conflict=on_conflict,
            modified_at=modified_at, if_match=if_match, kind=UploadKind.ONCE,
        )
    )  # fmt: skip


async def receive_once(
    drive: GoDrive,
    by: Principal,
    upload: Upload,
    body: Pieces,
    *,
    grows: bool = False,
    sha512: str | None = None,
    turn: Turn = NO_TURN,
) -> File:
    """Store *body* as the bytes of an upload that has just begun and publish it.  If that fails, the upload ends.

    If the body *grows*, its length is unknown; the bytes are reserved as they
    arrive.  *turn* is held while the file is published.  Raises what
    :func:`receive_upload` raises, and ``QuotaExceeded``.
    """
    try:
        arriving = Arriving(drive, by, upload, body, grows=grows, sha512=sha512)
        return await publish(drive, by, upload, _put(drive, upload, arriving), turn)
    except BaseException as error:
        reason = error.detail if isinstance(error, DriveError) else "The request ended before all bytes arrived."
        made = await to_the_end(_give_up(drive, by, upload, reason))
        if made is None or not isinstance(error, DriveError):
            raise
        return made  # an error would make the client send the file a second time


async def once(content: bytes) -> AsyncIterator[bytes]:
    """Yield *content* as a body."""
    yield content


async def receive_upload(drive: GoDrive, by: Principal, upload: Upload, body: Pieces, *, turn: Turn = NO_TURN) -> File:
    """Store *body* as the bytes of a pending upload and publish it, holding *turn* meanwhile.

    If the bytes differ from the declaration, or the store takes none of that length, the upload fails with
    ``LengthMismatch``, ``DigestMismatch`` or ``BlobTooLarge``; after other errors, the bytes can be sent again.
    Raises ``UploadFinished`` or ``Gone`` if the upload has ended, ``StorageFull``, ``StoreUnavailable``,
    ``NameTaken``, and what *body* raises.

    Idempotent: if the upload already has the same bytes, its file is returned,
    because a client that lost the answer sends them again.
    """
    check_open(upload)
    if upload.state is UploadState.COMMITTED:
        return await _answer_again(drive, by, upload, await digest_of(body, at_most=upload.size_bytes))
    return await publish(drive, by, upload, _put(drive, upload, Arriving(drive, by, upload, body)), turn)


async def _put(drive: GoDrive, upload: Upload, arriving: Arriving) -> tuple[BlobInfo, None]:
    """Store the bytes of the upload."""
    owner = OWNER.set(upload.owner_id)
    try:
        mime = None if upload.mime else sniff(await arriving.peek(HEAD), upload.name)
        size, sha256 = arriving.size, upload.sha256
        return await drive.blobs.put(upload.object_key, arriving, size=size, sha256=sha256, mime=mime), None
    finally:
        OWNER.reset(owner)


async def publish(
    drive: GoDrive, by: Principal, upload: Upload, putting: Awaitable[tuple[BlobInfo, File | None]], turn: Turn
) -> File:
    """Publish the upload whose bytes *putting* stores, unless that publishes it too."""
    try:
        blob, file = await putting
    except BlobExists as error:  # another PUT has stored the bytes and is committing them, or was interrupted
        return await _answer_again(drive, by, upload, error.sha256)
    except UploadFinished:
        return await _answer_again(drive, by, upload, None)
    except (LengthMismatch, DigestMismatch, BlobTooLarge) as error:
        await _reject(drive, by, upload, error)
        raise
    try:
        if file is None:
            async with turn:
                file = await commit(drive, by, upload, blob)
    except Gone:
        await remove_unneeded(drive, by, upload)
        raise
    if file.version_id != VersionId(upload.id):
        await remove_unneeded(drive, by, upload)  # the file had the same bytes already
    return file


async def _give_up(drive: GoDrive, by: Principal, upload: Upload, reason: str) -> File | None:
    """End the upload, give back what it reserved, and delete its bytes.  The janitor repeats what fails here.

    If it has become a file all the same, return that.
    """
    with suppress(DriveError):
        ended = await drive.metadata.ask(FailUpload(by, upload.id, reason))
        if ended.state is UploadState.COMMITTED:
            return await drive.ingest.ask(CommitUpload(by, upload.id))
        await drive.storage.ask(DeleteBlob(upload.object_key))
    return None


async def to_the_end(work: Coroutine[Any, Any, T]) -> T:
    """Run *work* to its end, also if the caller is cancelled again, and return its result."""
    running = asyncio.ensure_future(work)
    await asyncio.wait([running])
    return running.result()


async def remove_unneeded(drive: GoDrive, by: Principal, upload: Upload) -> None:
    """Delete the bytes of an upload that ended without them, because they are charged to no quota.

    It was aborted while they arrived, or the file that it replaces has the same
    bytes.  If this fails, the janitor retries it.
    """
    with suppress(DriveError):
        ended = await drive.metadata.ask(GetUpload(by, upload.id))
        is_needed = ended.state is UploadState.PENDING or (ended.state is UploadState.COMMITTED and not ended.reason)
        if not is_needed:
            await drive.storage.ask(DeleteBlob(upload.object_key))


async def commit(drive: GoDrive, by: Principal, upload: Upload, blob: BlobInfo) -> File:
    """Publish the upload whose bytes are *blob*."""
    return await drive.ingest.ask(CommitUpload(by, upload.id, blob=blob, upload=upload))


async def open_content(
    drive: GoDrive, by: Principal, file_id: Which, *, version_id: VersionId | None = None
) -> Content:
    """Return the file, with its object key, if *by* may read it now.  Raises ``NotFound``, ``Forbidden``."""
    return await drive.metadata.ask(OpenContent(by, file_id, version_id))


async def read(
    drive: GoDrive, by: Principal, file_id: Which, *, start: int = 0, end: int | None = None
) -> AsyncIterator[bytes]:
    """Yield the bytes of a file from *start* to before *end*.  Raises ``NotFound``, ``StoreUnavailable``."""
    content = await open_content(drive, by, file_id)
    async for piece in drive.blobs.get(content.object_key, start=start, end=end):
        yield piece


def check_open(upload: Upload) -> None:
    """Raises ``Gone`` if the upload ended without a file."""
    if upload.state not in {UploadState.PENDING, UploadState.COMMITTED}:
        raise Gone(upload.reason or "The upload has ended.")


async def _answer_again(drive: GoDrive, by: Principal, upload: Upload, digest: str | None) -> File:
    """Return the file of an upload that already has its bytes, if their digest is *digest*.

    Commits the upload if that is still pending.  Raises ``UploadFinished`` if the digest differs, and what
    ``CommitUpload`` raises.
    """
    stored = None if digest is None else await _stored_digest(drive, upload)
    refusal = UploadFinished("The upload already has its bytes, and these are not the same.")
    if digest is None or stored not in (None, digest):
        with suppress(DriveError):  # the bytes differ, whatever becomes of the upload
            await drive.ingest.ask(CommitUpload(by, upload.id))
        raise refusal
    file = await drive.ingest.ask(CommitUpload(by, upload.id))
    if stored is None and digest != file.sha256:  # the bytes of the upload were deleted if the file had them already
        raise refusal
    return file


async def _stored_digest(drive: GoDrive, upload: Upload) -> str | None:
    """Return the digest of the stored bytes; ``None`` if they were purged."""
    try:
        blob = await drive.storage.ask(HeadBlob(upload.object_key))
        if blob.sha256 is not None:
            return blob.sha256
        return await drive.storage.ask(DigestBlob(upload.object_key))
    except NotFound:
        return None


async def _reject(drive: GoDrive, by: Principal, upload: Upload, error: DriveError) -> None:
    """Fail the upload, unless another PUT has stored, or is storing, its bytes."""
    with suppress(DriveError):
        if drive.blobs.receiving(upload.object_key) is not None:
            return
        try:
            await drive.blobs.head(upload.object_key)
        except NotFound:
            await drive.metadata.ask(FailUpload(by, upload.id, error.detail))
