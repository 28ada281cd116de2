"""The one way in and out for bytes: every route, protocol and embedder brings and takes them through here.

Control goes through the actors' mailboxes, bytes go past them, straight
between the caller and the blob store of this process.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING

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
from godrive.messages.storage import Admit
from godrive.messages.uploads import BeginUpload, FailUpload, TouchUpload
from godrive.model import BlobInfo, Content, File, FileId, OnConflict, Spot, Upload, UploadState, VersionId
from godrive.principal import Principal

if TYPE_CHECKING:
    from godrive.drive import GoDrive

Pieces = AsyncIterable[bytes | memoryview]
"""A body as it arrives.  A piece must not change while it is in use, which is until the next one is asked for."""

TOUCH_EVERY = 10.0
"""Seconds after which the upload's row learns that bytes are still arriving."""


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
) -> File:
    """Store *body* as a new file of *size* bytes.  When this returns, file and bytes are durable.

    Without *mime* the type is determined from the bytes.  With *sha256* (hex)
    other bytes are refused.  Raises what ``Admit``, ``BeginUpload`` and
    :func:`receive_upload` raise.
    """
    in_transit = await drive.storage.ask(Admit(size))
    upload = await drive.metadata.ask(
        BeginUpload(
            by, where, name, mime, size, sha256=sha256.lower() if sha256 else None, on_conflict=on_conflict,
            in_transit=in_transit,
        )
    )  # fmt: skip
    return await receive_upload(drive, by, upload, body)


async def receive_upload(drive: GoDrive, by: Principal, upload: Upload, body: Pieces) -> File:
    """Store *body* as the bytes of a pending upload and publish it.

    The row of the upload learns every :data:`TOUCH_EVERY` seconds that bytes
    are arriving, so an upload that is under way does not expire.  Bytes that are
    not what was declared end the upload: ``LengthMismatch``, ``DigestMismatch``.
    Raises ``UploadFinished`` or ``Gone`` when it has ended, ``StorageFull``,
    ``StoreUnavailable``, ``NameTaken``, and what *body* raises.
    """
    check_pending(upload)
    arriving = _Arriving(drive, by, upload, body)
    try:
        mime = None if upload.mime else sniff(await arriving.peek(HEAD), upload.name)
        blob = await drive.blobs.put(
            upload.object_key, arriving, size=upload.size_bytes, sha256=upload.sha256, mime=mime
        )
    except UploadFinished:
        # The bytes are there.  Unless another put is about to commit them, nobody else will soon.
        with suppress(DriveError):
            await drive.ingest.ask(CommitUpload(by, upload.id))
        raise
    except (LengthMismatch, DigestMismatch) as error:
        await _reject(drive, by, upload, error)
        raise
    return await commit(drive, by, upload, blob)


async def commit(drive: GoDrive, by: Principal, upload: Upload, blob: BlobInfo) -> File:
    """Publish the upload whose bytes are *blob*."""
    return await drive.ingest.ask(CommitUpload(by, upload.id, blob=blob))


async def open_content(
    drive: GoDrive, by: Principal, file_id: FileId, *, version_id: VersionId | None = None
) -> Content:
    """Where the bytes of a file lie that *by* may read now.  Raises ``NotFound``, ``Forbidden``."""
    return await drive.metadata.ask(OpenContent(by, file_id, version_id))


async def read(
    drive: GoDrive, by: Principal, file_id: FileId, *, start: int = 0, end: int | None = None
) -> AsyncIterator[bytes]:
    """The bytes of a file from *start* to before *end*, in pieces.  Raises ``NotFound``, ``StoreUnavailable``."""
    content = await open_content(drive, by, file_id)
    async for piece in drive.blobs.get(content.object_key, start=start, end=end):
        yield piece


def check_pending(upload: Upload) -> None:
    """Raises ``UploadFinished`` or ``Gone`` unless the upload waits for its bytes."""
    if upload.state is UploadState.COMMITTED:
        raise UploadFinished("The upload already has its bytes.")
    if upload.state is not UploadState.PENDING:
        raise Gone(upload.reason or "The upload has ended.")


async def _reject(drive: GoDrive, by: Principal, upload: Upload, error: DriveError) -> None:
    """End the upload for that reason, unless another put brings, or has brought, the right bytes."""
    with suppress(DriveError):
        if drive.blobs.receiving(upload.object_key) is not None:
            return
        try:
            await drive.blobs.head(upload.object_key)
        except NotFound:
            await drive.metadata.ask(FailUpload(by, upload.id, error.detail))


class _Arriving:
    """The pieces of a body, some of which may be looked at before they are taken."""

    def __init__(self, drive: GoDrive, by: Principal, upload: Upload, body: Pieces) -> None:
        self._drive = drive
        self._by = by
        self._upload = upload
        self._pieces = aiter(body)
        self._peeked = b""
        self._received = 0
        self._touched_at = drive.clock.monotonic()

    async def peek(self, size: int) -> bytes:
        """The first *size* bytes, or all there are.  They are still to come when iterated."""
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
        if now - self._touched_at >= TOUCH_EVERY:
            self._touched_at = now
            with suppress(DeliveryError, StoreUnavailable):  # the next one will do
                await self._drive.metadata.ask(TouchUpload(self._by, self._upload.id, self._received))
        return piece
