"""Messages to the ingest actor, which turns received bytes into files."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

import msgspec

from godrive.blobs.parts import SentPart
from godrive.model import BlobInfo, ETag, File, ObjectKey, Upload, UploadId, Value
from godrive.principal import Principal
from godrive.runtime import Ask, Contract, Lane


class Ingest(Contract, name="ingest"):
    """The only way an upload becomes a file."""


class CommitUpload(Ask[Ingest, File]):
    """Compare the bytes with the declaration and publish the file.  Idempotent: returns the same file.

    *blob* describes the stored bytes, if the caller has just stored them, and *upload* is the upload as it read it;
    otherwise the actor reads the upload and sends a HEAD to the store.  Parts that the store has are
    joined first; *parts* are those that the client has sent.  Raises ``NotFound`` unless *by* may work on the upload,
    ``Conflict`` (no bytes yet), ``Gone``, ``LengthMismatch``, ``DigestMismatch``,
    ``NameTaken``, and what ``JoinParts`` raises.  A mismatch of the whole ends the upload.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    order_key: ClassVar[str | None] = "upload_id"  # of several requests to complete an upload, one does the work

    by: Principal
    upload_id: UploadId
    blob: BlobInfo | None = None
    parts: list[SentPart] | None = None
    upload: Upload | None = None


class EventOutcome(StrEnum):
    """The result of a bucket event."""

    PUBLISHED = "published"
    REJECTED = "rejected"
    IGNORED = "ignored"


class IngestBlob(Ask[Ingest, EventOutcome]):
    """Process a store's event that a blob arrived.

    Returns ``PUBLISHED`` (now or earlier), ``REJECTED`` (the bytes differ from
    the declaration, and the upload has failed), or ``IGNORED`` (no pending
    upload has that key, or it cannot be published yet and the reconciler will
    retry).  The store's HEAD decides, unless the event is *certain* and says
    all that a HEAD could: then the upload is published without one.

    An event is certain if it came over an authenticated channel, for the first
    time, soon after it happened, and for the key that the blob stays under.
    """

    lane: ClassVar[Lane] = Lane.CHORE
    object_key: ObjectKey
    size_bytes: int | None = None
    etag: ETag | None = None
    at: datetime | None = None
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    certain: bool = False


class Reconciled(Value):
    """Counts of one reconciliation.  ``postponed`` counts uploads not checked because of an outage.

    ``problem`` is the first failure for the operator: a failed upload, an
    object that the store refuses, or the outage.
    """

    checked: int = 0
    published: int = 0
    failed: int = 0
    expired: int = 0
    postponed: int = 0
    problem: str = ""


class Reconcile(Ask[Ingest, Reconciled]):
    """Publish or end every pending upload that is due, according to the store's HEAD.

    An upload that cannot be published yet (its name is taken, the store
    refuses the object) stays pending and is retried with growing delays until
    its deadline.  An outage ends the reconciliation and does not count as an attempt.
    An upload that takes long, because a large blob is read for its digest, delays no
    other: its work goes on, and a later reply counts its result.
    """

    lane: ClassVar[Lane] = Lane.CHORE
    timeout: ClassVar[float] = 600.0
