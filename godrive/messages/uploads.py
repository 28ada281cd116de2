"""Messages to the metadata actor about uploads."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from godrive.messages.metadata import Metadata
from godrive.model import (
    BlobInfo,
    ETag,
    File,
    ObjectKey,
    OnConflict,
    Page,
    Spot,
    Upload,
    UploadId,
    UploadKind,
    UploadState,
    Value,
)
from godrive.principal import Principal
from godrive.runtime import Ask, Lane


class BeginUpload(Ask[Metadata, Upload]):
    """Create the row of an upload and reserve its bytes from the quota.

    *modified_at* is when the client last modified the content; by default, the time of
    the upload.  The upload expires *in_transit* seconds after its URL, because a PUT that
    began in time may still be running.  With *if_match*, the upload must
    replace a file that has this tag, now and when it is published.  Raises
    ``Invalid``, ``NameTaken``, ``PreconditionFailed``, ``QuotaExceeded``
    (``field`` names the limit), ``NotFound`` (the folder).

    *deferred* means that the length is declared later; *size_bytes* is what is reserved until then.
    *note* is kept with the upload.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    where: Spot
    name: str
    mime: str
    size_bytes: int
    sha256: str | None = None
    on_conflict: OnConflict = OnConflict.FAIL
    in_transit: float = 0.0
    modified_at: datetime | None = None
    if_match: ETag | None = None
    kind: UploadKind = UploadKind.WHOLE
    deferred: bool = False
    note: str = ""


class GetUpload(Ask[Metadata, Upload]):
    """Return one upload.  Raises ``NotFound`` unless *by* may work on it."""

    by: Principal
    upload_id: UploadId


class FindUpload(Ask[Metadata, Upload]):
    """Return the upload that owns the object key.  Raises ``NotFound``."""

    by: Principal
    object_key: ObjectKey


class ListUploads(Ask[Metadata, Page[Upload]]):
    """List the uploads of the user behind *by*, newest first.  Ended uploads are kept for the retention time."""

    by: Principal
    limit: int = 100
    page: str | None = None
    state: UploadState | None = None


class TouchUpload(Ask[Metadata, Upload]):
    """Record how many bytes have arrived (the number never decreases) and extend the deadline.

    Unless the upload is of the kind ``whole``, only the deadline changes, because the number is its durable offset.

    Raises ``NotFound``, or ``Gone`` or ``UploadFinished`` if the upload has ended.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    upload_id: UploadId
    received_bytes: int


class SendInParts(Ask[Metadata, Upload]):
    """Record that clients send the bytes in parts of *part_size*, which the store knows as *multipart*.

    Of several calls the first one counts: its upload is returned.  Raises
    ``NotFound``, or ``Gone`` or ``UploadFinished`` if the upload has ended.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    upload_id: UploadId
    part_size: int
    multipart: str


class ResizeUpload(Ask[Metadata, Upload]):
    """Reserve *most* bytes for a pending upload, or what the quota leaves, but not fewer than *least*.

    *least* is the number of bytes that have arrived; as with ``TouchUpload``, it
    is recorded and the deadline extended.  If the length of an upload in appends
    has been declared meanwhile, it stays as it is.  Idempotent.  Raises ``QuotaExceeded``
    (the reservation stays), ``UploadTakenOver`` (*writer* has not claimed the upload
    last), ``LengthMismatch``, ``Invalid``, and the errors of ``TouchUpload``.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    upload_id: UploadId
    least: int
    most: int
    writer: str = ""


class PublishUpload(Ask[Metadata, File]):
    """Turn the upload into a file, or into a new version of one.  Idempotent: returns the same file.

    File, version, usage and upload row change in one transaction.  An upload
    that replaces names a place: if no file has the name any more, a file is
    created; if the file has the same bytes and type already, no version is, and
    the upload has a ``reason``.  *upload* is the upload as the asker has just read it,
    which saves reading it again.  Raises ``NotFound``, ``Gone`` (the upload ended without a file),
    ``LengthMismatch``, ``DigestMismatch``, ``NameTaken``, ``PreconditionFailed``.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    upload_id: UploadId
    blob: BlobInfo
    upload: Upload | None = None


class Room(Value):
    """What a user may still store: bytes, and files."""

    size_bytes: int
    rows: int


class CheckRoom(Ask[Metadata, Room]):
    """Return the room of the user behind *by* if they may store a file of that size now.

    Raises ``QuotaExceeded``, ``NotFound``.
    """

    by: Principal
    size_bytes: int
    on_conflict: OnConflict = OnConflict.FAIL


class StoreFile(Ask[Metadata, File]):
    """Make a blob that is stored already a file, or a new version of one, without an upload.

    The caller chooses *upload_id*, which becomes the id of the version.  If the
    file of the answer has another version, its bytes were the same before, and
    the blob is not needed.  Idempotent for an *upload_id*.  Raises what ``BeginUpload`` and
    ``PublishUpload`` raise; then the blob is not needed either.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    where: Spot
    name: str
    mime: str
    blob: BlobInfo
    upload_id: UploadId
    on_conflict: OnConflict = OnConflict.FAIL
    modified_at: datetime | None = None
    if_match: ETag | None = None


class MakeFiles(Ask[Metadata, list[File | None]]):
    """Do at once what several messages ask, if that is simple: make new files of free names.

    Returns what each makes, those of *stored* first.  For any other, and one that would be
    refused, that is ``None`` and nothing has changed: ask it alone.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    stored: list[StoreFile]
    published: list[PublishUpload]


class FailUpload(Ask[Metadata, Upload]):
    """End a pending upload without a file, release its reserved bytes and schedule the deletion of received bytes.

    *state* is ``FAILED`` or ``EXPIRED``.  Idempotent: an ended upload is returned unchanged, and with *writer* also one
    that another append has claimed since.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    upload_id: UploadId
    reason: str
    state: UploadState = UploadState.FAILED
    writer: str = ""


class AbortUpload(Ask[Metadata, Upload]):
    """Abort the upload.  Idempotent.  Raises ``NotFound``, ``UploadFinished`` (it is a file)."""

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    upload_id: UploadId
