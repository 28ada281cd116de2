"""What may be said to the metadata actor: files, uploads, the trash."""

from __future__ import annotations

from godrive.model import (
    BlobInfo,
    Cleanup,
    Content,
    ETag,
    File,
    FileEvent,
    FileId,
    ObjectKey,
    OnConflict,
    Page,
    Pruned,
    Purge,
    Sort,
    StoredReply,
    Tombstone,
    Upload,
    UploadId,
    UploadState,
    UserId,
    VersionId,
)
from godrive.runtime import Ask, Contract


class Metadata(Contract, name="metadata"):
    """Owns files, uploads and the trash."""


class ListFiles(Ask[Metadata, Page[File]]):
    """The owner's live entries, a page at a time.

    *parent_id* limits to one folder, *prefix* to names that begin with it and
    *contains* to names with it inside (both compared in NFC, without case).
    Raises ``Invalid`` for a page token that we did not make.
    """

    owner_id: UserId
    limit: int = 100
    page: str | None = None
    parent_id: FileId | None = None
    sort: Sort = Sort.NEWEST
    prefix: str | None = None
    contains: str | None = None


class CountChanges(Ask[Metadata, int]):
    """How often what the owner's lists of files show has changed: the same number, the same lists.

    What is listed after this is asked is at least as new as the number.
    """

    owner_id: UserId


class GetFile(Ask[Metadata, File]):
    """One live entry.  Raises ``NotFound`` unless *owner_id* has it."""

    owner_id: UserId
    file_id: FileId


class RenameFile(Ask[Metadata, File]):
    """Give an entry another name.  Raises ``NotFound``, ``NameTaken``, ``Invalid``, ``PreconditionFailed``."""

    owner_id: UserId
    file_id: FileId
    name: str
    if_match: ETag | None = None


class TrashFile(Ask[Metadata, Tombstone]):
    """Move an entry to the trash; again keeps the first purge date.  Raises ``NotFound``, ``PreconditionFailed``."""

    owner_id: UserId
    file_id: FileId
    if_match: ETag | None = None


class ListTrash(Ask[Metadata, Page[File]]):
    """What is in the owner's trash, most recently trashed first."""

    owner_id: UserId
    limit: int = 100
    page: str | None = None


class RestoreFile(Ask[Metadata, File]):
    """Take an entry out of the trash; of one that is not in it, a no-op.

    Raises ``NotFound`` (also once its purge has begun), ``NameTaken``, ``PreconditionFailed``.
    """

    owner_id: UserId
    file_id: FileId
    on_conflict: OnConflict = OnConflict.FAIL
    if_match: ETag | None = None


class PurgeFile(Ask[Metadata, None]):
    """Begin the purge of an entry in the trash now; it is gone from every list at once.  Raises ``NotFound``."""

    owner_id: UserId
    file_id: FileId
    if_match: ETag | None = None


class EmptyTrash(Ask[Metadata, int]):
    """Begin the purge of everything in the trash; how many entries."""

    owner_id: UserId


class OpenContent(Ask[Metadata, Content]):
    """Where a live file's bytes lie: the one way to any read of them.

    With *owner_id* (a principal asks) the file must be theirs; without (a signed
    URL was shown) *version_id* must be given.  Raises ``NotFound`` for a file
    in the trash, a purged one, a folder, and when its owner is disabled.
    """

    file_id: FileId
    owner_id: UserId | None = None
    version_id: VersionId | None = None


class BeginUpload(Ask[Metadata, Upload]):
    """Make the row of an upload and reserve its bytes.

    It ends when its URL does and the bytes that were *in_transit* then, for so
    many seconds, have not arrived either.  Raises ``Invalid``, ``NameTaken``,
    ``QuotaExceeded``, ``NotFound`` (the folder).
    """

    owner_id: UserId
    name: str
    mime: str
    size_bytes: int
    sha256: str | None = None
    parent_id: FileId | None = None
    on_conflict: OnConflict = OnConflict.FAIL
    in_transit: float = 0.0


class GetUpload(Ask[Metadata, Upload]):
    """One upload.  Raises ``NotFound`` unless *owner_id* (where given) began it."""

    upload_id: UploadId
    owner_id: UserId | None = None


class FindUpload(Ask[Metadata, Upload]):
    """The upload that the key was made for.  Raises ``NotFound``."""

    object_key: ObjectKey


class ListUploads(Ask[Metadata, Page[Upload]]):
    """The owner's uploads, newest first; ended ones stay for the retention time."""

    owner_id: UserId
    limit: int = 100
    page: str | None = None
    state: UploadState | None = None


class TouchUpload(Ask[Metadata, Upload]):
    """Bytes are arriving: note how many (never fewer than before) and move the deadline on.

    Raises ``NotFound``, ``Gone`` or ``UploadFinished`` when the upload has ended.
    """

    upload_id: UploadId
    received_bytes: int


class PublishUpload(Ask[Metadata, File]):
    """Make the upload a file: the only way one comes to be.  Again gives the same file.

    One transaction: file, version, usage and upload row.  Raises ``NotFound``,
    ``Gone`` (it ended otherwise), ``LengthMismatch``, ``DigestMismatch``, ``NameTaken``.
    """

    upload_id: UploadId
    blob: BlobInfo


class FailUpload(Ask[Metadata, Upload]):
    """End a pending upload without a file, give its reserve back, have its bytes removed.

    *state* is ``FAILED`` or ``EXPIRED``.  Of an ended upload a no-op: the row as it is.
    """

    upload_id: UploadId
    reason: str
    state: UploadState = UploadState.FAILED


class AbortUpload(Ask[Metadata, Upload]):
    """The owner gives up; again is harmless.  Raises ``NotFound``, ``UploadFinished`` (it is a file)."""

    owner_id: UserId
    upload_id: UploadId


class DueUploads(Ask[Metadata, list[Upload]]):
    """Pending uploads whose next check is due, longest due first.

    The first check is *after* seconds after the intent.  Each call counts an
    attempt and doubles the delay to the next check, up to a minute, and never past the deadline.
    """

    after: float
    limit: int


class PostponeUploads(Ask[Metadata, None]):
    """Return uploads from :class:`DueUploads` unchecked, because a store is out.

    The attempt does not count, and they are due again in *after* seconds.
    """

    upload_ids: list[UploadId]
    after: float


class DueCleanups(Ask[Metadata, list[Cleanup]]):
    """Ended uploads whose bytes are to be removed now; each call counts an attempt and puts the next off.

    An upload is listed once soon after its end, and again once its URL can no longer be used.
    """

    limit: int


class FinishCleanup(Ask[Metadata, None]):
    """The bytes of that upload are gone; again is harmless."""

    upload_id: UploadId


class ClaimPurges(Ask[Metadata, list[Purge]]):
    """Entries whose grace is over.  Once claimed they cannot be restored; each call counts an attempt."""

    limit: int


class FinishPurge(Ask[Metadata, None]):
    """The bytes are gone: drop the rows and give the bytes back; again is harmless."""

    file_id: FileId


class KnownKeys(Ask[Metadata, list[ObjectKey]]):
    """Those of the keys that a row refers to."""

    object_keys: list[ObjectKey]


class Prune(Ask[Metadata, Pruned]):
    """Drop expired sessions and keys, ended uploads past their retention, deleted users with nothing left."""

    limit: int


class UploadCounts(Ask[Metadata, dict[str, int]]):
    """Number of uploads by state."""


class ClaimKey(Ask[Metadata, StoredReply | None]):
    """Claim an idempotency key: ``None`` when it is new, else the answer that was given.

    *fingerprint* is of the request; another one raises ``IdempotencyMismatch``,
    one still being served ``Conflict``.
    """

    owner_id: UserId
    key: str
    fingerprint: str


class SettleKey(Ask[Metadata, None]):
    """Keep the answer for a claimed key; without one, let the key go."""

    owner_id: UserId
    key: str
    stored: StoredReply | None = None


class UsageDrift(Ask[Metadata, int]):
    """Bytes by which the kept usage differs from what the rows add up to, over all owners: zero, or a bug."""


class DueEvents(Ask[Metadata, list[FileEvent]]):
    """The oldest events that are not published yet, in order; none where the catalog keeps no outbox."""

    limit: int


class DropEvents(Ask[Metadata, None]):
    """Those events are published; again is harmless."""

    events: list[FileEvent]


class AcquireLease(Ask[Metadata, bool]):
    """Whether *holder* may do what the lease is for during the next *ttl* seconds; its own lease it renews."""

    name: str
    holder: str
    ttl: float


class ReleaseLease(Ask[Metadata, None]):
    """Give the lease back; of one that *holder* does not have, a no-op."""

    name: str
    holder: str
