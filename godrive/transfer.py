"""Store and read the bytes of files.  Every route, protocol and embedder uses these functions.

Control messages go through the actors' mailboxes.  Bytes go directly between
the caller and the blob store of this process.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from godrive.blobs import BlobExists
from godrive.blobs.sniffing import HEAD, sniff
from godrive.errors import (
    DeliveryError,
    DigestMismatch,
    DriveError,
    Gone,
    LengthMismatch,
    NotFound,
    StoreUnavailable,
    UploadFinished,
)
from godrive.messages.files import OpenContent
from godrive.messages.ingest import CommitUpload
from godrive.messages.storage import Admit, DeleteBlob, DigestBlob, HeadBlob
from godrive.messages.uploads import BeginUpload, FailUpload, GetUpload, TouchUpload
from godrive.model import BlobInfo, Content, ETag, File, FileId, OnConflict, Spot, Upload, UploadState, VersionId
from godrive.principal import Principal

if TYPE_CHECKING:
    from godrive.drive import GoDrive

Pieces = AsyncIterable[bytes | memoryview]
"""A body in pieces.  A piece must not change until the next one is requested."""

_LARGE_PIECE = 16_384
"""Pieces of at least this many bytes are hashed in a thread."""

TOUCH_EVERY = 10.0
"""The longest interval, in seconds, between updates of the upload's row while bytes arrive."""
TOUCH_BYTES = 32 << 20
"""The most bytes between updates.  An aborted upload receives at most this many uncharged bytes more."""


async def receive(
    drive: GoDrive,
    by: Principal,
    where: Spot,
    name: str,
    body: Pieces,
    *,
    size: int,
    mime: str = "",
    sha256: str | None = None,
    on_conflict: OnConflict = OnConflict.FAIL,
    modified_at: datetime | None = None,
    if_match: ETag | None = None,
) -> File:
    """Store *body* as a file of *size* bytes.  When this function returns, the file is durable.

    Without *mime*, the type is determined from the bytes.  With *sha256* (hex),
    bytes with another digest are refused.  *modified_at* is the time of the content,
    by default that of the upload.  Raises what ``Admit``, ``BeginUpload``
    and :func:`receive_upload` raise.
    """
    in_transit = await drive.storage.ask(Admit(size))
    upload = await drive.metadata.ask(
        BeginUpload(
            by, where, name, mime, size, sha256=sha256.lower() if sha256 else None, on_conflict=on_conflict,
            in_transit=in_transit, modified_at=modified_at, if_match=if_match,
        )
    )  # fmt: skip
    return await receive_upload(drive, by, upload, body)


async def receive_upload(drive: GoDrive, by: Principal, upload: Upload, body: Pieces) -> File:
    """Store *body* as the bytes of a pending upload and publish it.

    While bytes arrive, the row of the upload is updated every
    :data:`TOUCH_EVERY` seconds and :data:`TOUCH_BYTES` bytes, so a running
    upload does not expire and an aborted one stops.  If the bytes differ from
    the declaration, the upload fails with ``LengthMismatch`` or
    ``DigestMismatch``.  Raises ``UploadFinished`` or ``Gone`` if the upload has
    ended, ``StorageFull``, ``StoreUnavailable``, ``NameTaken``, and what *body*
    raises.

    Idempotent: if the upload already has the same bytes, its file is returned,
    because a client that lost the answer sends them again.
    """
    check_open(upload)
    if upload.state is UploadState.COMMITTED:
        return await _answer_again(drive, by, upload, await _digest(body, at_most=upload.size_bytes))
    arriving = _Arriving(drive, by, upload, body)
    try:
        mime = None if upload.mime else sniff(await arriving.peek(HEAD), upload.name)
        blob = await drive.blobs.put(
            upload.object_key, arriving, size=upload.size_bytes, sha256=upload.sha256, mime=mime
        )
    except BlobExists as error:  # another PUT has stored the bytes and is committing them, or was interrupted
        return await _answer_again(drive, by, upload, error.sha256)
    except UploadFinished:
        return await _answer_again(drive, by, upload, None)
    except (LengthMismatch, DigestMismatch) as error:
        await _reject(drive, by, upload, error)
        raise
    try:
        return await commit(drive, by, upload, blob)
    except Gone:
        await _remove(drive, by, upload)
        raise


async def _remove(drive: GoDrive, by: Principal, upload: Upload) -> None:
    """Delete the bytes of an upload that ended while they arrived, because they are charged to no quota.

    If this fails, the janitor retries it.
    """
    with suppress(DriveError):
        ended = await drive.metadata.ask(GetUpload(by, upload.id))
        if ended.state not in {UploadState.PENDING, UploadState.COMMITTED}:
            await drive.storage.ask(DeleteBlob(upload.object_key))


async def commit(drive: GoDrive, by: Principal, upload: Upload, blob: BlobInfo) -> File:
    """Publish the upload whose bytes are *blob*."""
    return await drive.ingest.ask(CommitUpload(by, upload.id, blob=blob))


async def open_content(
    drive: GoDrive, by: Principal, file_id: FileId, *, version_id: VersionId | None = None
) -> Content:
    """Return the file, with its object key, if *by* may read it now.  Raises ``NotFound``, ``Forbidden``."""
    return await drive.metadata.ask(OpenContent(by, file_id, version_id))


async def read(
    drive: GoDrive, by: Principal, file_id: FileId, *, start: int = 0, end: int | None = None
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

    Commits the upload if that is still pending.  Raises ``UploadFinished`` if the digest differs.
    """
    if digest is not None and digest == await _stored_digest(drive, upload):
        return await drive.ingest.ask(CommitUpload(by, upload.id))
    with suppress(DriveError):
        await drive.ingest.ask(CommitUpload(by, upload.id))
    raise UploadFinished("The upload already has its bytes, and these are not the same.")


async def _stored_digest(drive: GoDrive, upload: Upload) -> str | None:
    """Return the digest of the stored bytes; ``None`` if they were purged."""
    try:
        blob = await drive.storage.ask(HeadBlob(upload.object_key))
        if blob.sha256 is not None:
            return blob.sha256
        return await drive.storage.ask(DigestBlob(upload.object_key))
    except NotFound:
        return None


async def _digest(body: Pieces, *, at_most: int) -> str | None:
    """Return the digest of the whole body; ``None`` if it is longer than *at_most* bytes."""
    digest, received = hashlib.sha256(), 0
    async for piece in body:
        received += len(piece)
        if received > at_most:
            return None
        if len(piece) < _LARGE_PIECE:
            digest.update(piece)
        else:
            await asyncio.to_thread(digest.update, piece)
    return digest.hexdigest()


async def _reject(drive: GoDrive, by: Principal, upload: Upload, error: DriveError) -> None:
    """Fail the upload, unless another PUT has stored, or is storing, its bytes."""
    with suppress(DriveError):
        if drive.blobs.receiving(upload.object_key) is not None:
            return
        try:
            await drive.blobs.head(upload.object_key)
        except NotFound:
            await drive.metadata.ask(FailUpload(by, upload.id, error.detail))


class _Arriving:
    """Iterates over a body, allows to peek at its start, and updates the row of the upload."""

    def __init__(self, drive: GoDrive, by: Principal, upload: Upload, body: Pieces) -> None:
        self._drive = drive
        self._by = by
        self._upload = upload
        self._pieces = aiter(body)
        self._peeked = b""
        self._received = 0
        self._told = 0
        self._touched_at = drive.clock.monotonic()

    async def peek(self, size: int) -> bytes:
        """Return the first *size* bytes, or all if there are fewer, without consuming them."""
        while len(self._peeked) < size:
            try:
                self._peeked += await anext(self._pieces)
            except StopAsyncIteration:
                break
        return self._peeked[:size]

    def __aiter__(self) -> _Arriving:
        return self

    async def __anext__(self) -> bytes | memoryview:
        piece: bytes | memoryview
        if self._peeked:
            piece, self._peeked = self._peeked, b""
        else:
            piece = await anext(self._pieces)
        self._received += len(piece)
        now = self._drive.clock.monotonic()
        if now - self._touched_at >= TOUCH_EVERY or self._received - self._told >= TOUCH_BYTES:
            self._touched_at, self._told = now, self._received
            with suppress(DeliveryError, StoreUnavailable):  # the next update succeeds
                await self._drive.metadata.ask(TouchUpload(self._by, self._upload.id, self._received))
        return piece
