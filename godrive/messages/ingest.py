"""What may be said to the ingest actor: it turns bytes that arrived into files."""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar

from godrive.model import BlobInfo, ETag, File, ObjectKey, UploadId, Value
from godrive.principal import Principal
from godrive.runtime import Ask, Contract, Lane


class Ingest(Contract, name="ingest"):
    """The only way an upload becomes a file."""


class CommitUpload(Ask[Ingest, File]):
    """Compare what arrived with what was declared and publish it.  Idempotent: returns the same file.

    *blob* is what the store has, where the asker has just put it.  Without it
    the store is asked.  Raises ``NotFound`` unless *by* may work on the upload,
    ``Conflict`` (no bytes yet), ``Gone``, ``LengthMismatch``, ``DigestMismatch``,
    ``NameTaken``.  The mismatches end the upload.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    upload_id: UploadId
    blob: BlobInfo | None = None


class Outcome(StrEnum):
    """What became of a bucket event."""

    PUBLISHED = "published"
    REJECTED = "rejected"
    IGNORED = "ignored"


class IngestBlob(Ask[Ingest, Outcome]):
    """A store says that a blob arrived.

    ``PUBLISHED`` (now or before), ``REJECTED`` (not what was declared: the
    upload has failed), or ``IGNORED`` (a key that no upload is waiting for, or
    one that cannot be published yet, which the reconciler tries again).
    The event is only a hint: the store's HEAD decides.
    """

    lane: ClassVar[Lane] = Lane.CHORE
    object_key: ObjectKey
    size_bytes: int | None = None
    etag: ETag | None = None


class Reconciled(Value):
    """Counts of one reconciliation.  ``postponed`` were not checked, because a store is out.

    ``problem`` is the first failure that an operator should see: an upload that
    ended, an object that the store refuses, or the outage.
    """

    checked: int = 0
    published: int = 0
    failed: int = 0
    expired: int = 0
    postponed: int = 0
    problem: str = ""


class Reconcile(Ask[Ingest, Reconciled]):
    """Publish or end every pending upload that is due, by the store's HEAD alone.

    An upload that cannot be published yet (its name is taken, the store
    refuses the object) stays pending and is retried with growing delays until
    its deadline.  An outage ends the reconciliation and counts as no attempt.
    """

    lane: ClassVar[Lane] = Lane.CHORE
    timeout: ClassVar[float] = 600.0
