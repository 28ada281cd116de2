"""What may be said to the metadata actor about uploads."""

from __future__ import annotations

from typing import ClassVar

from godrive.messages.metadata import Metadata
from godrive.model import (
    BlobInfo,
    File,
    ObjectKey,
    OnConflict,
    Page,
    Spot,
    Upload,
    UploadId,
    UploadState,
)
from godrive.principal import Principal
from godrive.runtime import Ask, Lane


class BeginUpload(Ask[Metadata, Upload]):
    """Make the row of an upload and reserve its bytes.

    The upload expires *in_transit* seconds after its URL, because a PUT that
    began in time may still be running.  Raises ``Invalid``, ``NameTaken``,
    ``QuotaExceeded`` (``field`` names what is exhausted), ``NotFound`` (the folder).
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


class GetUpload(Ask[Metadata, Upload]):
    """One upload.  Raises ``NotFound`` unless *by* may work on it."""

    by: Principal
    upload_id: UploadId


class FindUpload(Ask[Metadata, Upload]):
    """The upload that the key was made for.  Raises ``NotFound``."""

    by: Principal
    object_key: ObjectKey


class ListUploads(Ask[Metadata, Page[Upload]]):
    """The uploads of the user behind *by*, newest first.  Ended ones stay for the retention time."""

    by: Principal
    limit: int = 100
    page: str | None = None
    state: UploadState | None = None


class TouchUpload(Ask[Metadata, Upload]):
    """Bytes are arriving: note how many (never fewer than before) and move the deadline on.

    Raises ``NotFound``, ``Gone`` or ``UploadFinished`` when the upload has ended.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    upload_id: UploadId
    received_bytes: int


class PublishUpload(Ask[Metadata, File]):
    """Make the upload a file.  This is the only way a file comes to be.  Idempotent: returns the same file.

    One transaction: file, version, usage and upload row.  Raises ``NotFound``,
    ``Gone`` (it ended otherwise), ``LengthMismatch``, ``DigestMismatch``, ``NameTaken``.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    upload_id: UploadId
    blob: BlobInfo


class FailUpload(Ask[Metadata, Upload]):
    """End a pending upload without a file, release its reserved bytes and schedule the removal of what arrived.

    *state* is ``FAILED`` or ``EXPIRED``.  An ended upload is returned as it is.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    upload_id: UploadId
    reason: str
    state: UploadState = UploadState.FAILED


class AbortUpload(Ask[Metadata, Upload]):
    """Give the upload up.  Idempotent.  Raises ``NotFound``, ``UploadFinished`` (it is a file)."""

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    upload_id: UploadId
