"""Messages to the metadata actor about uploads whose bytes come in several appends."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from godrive.messages.metadata import Metadata
from godrive.model import ETag, OnConflict, Spot, Upload, UploadId, Value
from godrive.principal import Principal
from godrive.runtime import Ask, Lane


class ClaimUpload(Ask[Metadata, Upload]):
    """Make *writer* the only append whose bytes count, if *offset* is that of the upload, and extend the deadline.

    With another offset, or if the upload is committed, it is returned as it is.
    *length* declares a deferred length, as ``DeclareLength`` does.  Raises ``NotFound``, ``Gone``,
    ``Conflict`` (the upload has no appends), and what ``DeclareLength`` raises.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    upload_id: UploadId
    writer: str
    offset: int
    length: int | None = None


class AdvanceUpload(Ask[Metadata, Upload]):
    """Move the offset from *before* to *after*, because the store has the bytes durably, and extend the deadline.

    *staging* is how the store goes on.  Idempotent.
    Raises ``UploadTakenOver`` unless *writer* has the upload at *before*,
    ``NotFound``, ``UploadFinished``, ``Gone``, ``LengthMismatch`` (more bytes than declared).
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    upload_id: UploadId
    writer: str
    before: int
    after: int
    staging: str


class Joined(Value):
    """The upload that the bytes of *parts* are for, and the parts in order."""

    upload: Upload
    parts: list[Upload]


class JoinUploads(Ask[Metadata, Joined]):
    """Begin an upload of the bytes of *parts*, one after another, which end as parts.

    What the parts have reserved is then reserved for it.  A part may come more
    than once.  Idempotent: the same parts again are those of the same upload.  Raises ``NotFound``, ``Conflict``
    (one is no part, or has not all of its bytes, or was joined with others),
    ``Gone``, ``Invalid``, ``TooLarge``, and what ``BeginUpload`` raises.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    parts: list[UploadId]
    where: Spot
    name: str
    mime: str
    sha256: str | None = None
    on_conflict: OnConflict = OnConflict.FAIL
    modified_at: datetime | None = None
    if_match: ETag | None = None
    note: str = ""


class DeclareLength(Ask[Metadata, Upload]):
    """Declare the length of an upload that was begun without, and reserve that many bytes.  Idempotent.

    Raises ``NotFound``, ``UploadFinished``, ``Gone``, ``QuotaExceeded``,
    ``Invalid`` (another length was declared, or more bytes have arrived).
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    upload_id: UploadId
    length: int
