"""Messages that the server's own parts send to the metadata actor for housekeeping.

None of them names an entry on behalf of a user, so none carries a principal:
each works on everything that is due, for all owners.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from godrive.messages.metadata import Metadata
from godrive.model import (
    FileEvent,
    FileId,
    ObjectKey,
    Upload,
    UploadId,
    UserId,
    Value,
    VersionId,
)
from godrive.runtime import Ask, Lane


class CheckCatalog(Ask[Metadata, None]):
    """Check that the catalog can be read and written, and that its last write did not fail.  Raises why not."""

    lane: ClassVar[Lane] = Lane.CHORE


class DueUploads(Ask[Metadata, list[Upload]]):
    """Claim the pending uploads whose next check is due, longest due first.

    The first check is due *after* seconds after the intent.  Each call counts
    an attempt and postpones the next check.  The delay doubles up to a minute,
    and the last check is at the deadline.
    """

    lane: ClassVar[Lane] = Lane.CHORE

    after: float
    limit: int


class PostponeUploads(Ask[Metadata, None]):
    """Check these uploads again in *after* seconds and count no attempt, because the store was down."""

    lane: ClassVar[Lane] = Lane.CHORE

    upload_ids: list[UploadId]
    after: float


class Cleanup(Value):
    """Bytes of an upload that ended without a file.  *staging* is ``None`` if they came in one PUT, or not at all.

    *multipart* is the store's id of parts that clients may have sent.
    """

    upload_id: UploadId
    object_key: ObjectKey
    staging: str | None = None
    multipart: str = ""


class DueCleanups(Ask[Metadata, list[Cleanup]]):
    """Claim the ended uploads whose bytes must be deleted now.  Each call counts an attempt and postpones the next.

    An upload is returned soon after its end, and again after its URL has expired.
    """

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int


class FinishCleanup(Ask[Metadata, None]):
    """Record that the bytes of the upload are deleted.  Idempotent."""

    lane: ClassVar[Lane] = Lane.CHORE

    upload_id: UploadId


class Purge(Value):
    """An entry to purge, and the blobs of its versions that no other entry refers to.

    A file may have very many versions.  Then the keys are those of the first ones, up to the *revision*.
    """

    file_id: FileId
    object_keys: list[ObjectKey]
    revision: int = 0


class ClaimPurges(Ask[Metadata, list[Purge]]):
    """Claim entries whose grace period is over; they can no longer be restored.  Each call counts an attempt.

    *due_by* is the time that counts while the clock is in doubt.
    """

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int
    due_by: datetime | None = None


class FinishPurge(Ask[Metadata, None]):
    """Delete the rows of an entry whose bytes are deleted, and release its quota.  Idempotent.

    *revision* is that of the ``Purge``: the bytes of the versions up to it are
    deleted.  If the file has more, a later ``ClaimPurges`` returns it again.

    A folder is deleted once it is empty.  Before that, each call schedules the
    purge of some of its children, and a later ``ClaimPurges`` returns the folder again.
    """

    lane: ClassVar[Lane] = Lane.CHORE

    file_id: FileId
    revision: int = 0


class VersionPurge(Value):
    """An earlier version to remove, and its blob if nothing else refers to it."""

    version_id: VersionId
    object_key: ObjectKey | None


class ReviewVersions(Ask[Metadata, int]):
    """Apply the retention to at most *limit* earlier versions.  Returns their number, less than *limit* when done.

    Those that are neither among the newest of their file nor young nor named
    are marked for ``ClaimVersions``; the others are reviewed again later.
    *due_by* is the time that counts while the clock is in doubt.
    """

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int
    due_by: datetime | None = None


class ClaimVersions(Ask[Metadata, list[VersionPurge]]):
    """Claim versions that were deleted, or whose retention is over.  Each call counts an attempt."""

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int


class FinishVersion(Ask[Metadata, None]):
    """Delete the row of a claimed version whose bytes are deleted, and release its quota.  Idempotent."""

    lane: ClassVar[Lane] = Lane.CHORE

    version_id: VersionId


class SettleTrash(Ask[Metadata, bool]):
    """Propagate the trashing or restoring of folders to *limit* more rows below.  Returns whether any are left."""

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int

    timeout: ClassVar[float] = 60.0


class ClearCopies(Ask[Metadata, bool]):
    """Begin to purge one copy of a tree that is not being built any more.  Returns whether there was one."""

    lane: ClassVar[Lane] = Lane.CHORE


class IndexNames(Ask[Metadata, bool]):
    """Bring the index of names up to date for at most *limit* changed entries.  Returns whether there were any."""

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int

    timeout: ClassVar[float] = 60.0


class NameCheck(Value):
    """The ids of the entries whose index is wrong, and the id at which the next check begins; ``""`` at the end."""

    wrong: list[FileId]
    next: str


class CheckNames(Ask[Metadata, NameCheck]):
    """Compare the index of names with the entries, *limit* ids after *after*.

    Entries that wait to be indexed are left out.  With *correct*, those that are wrong are indexed anew.
    """

    lane: ClassVar[Lane] = Lane.CHORE

    after: str = ""
    limit: int = 1000
    correct: bool = False

    timeout: ClassVar[float] = 60.0


class KnownKeys(Ask[Metadata, list[ObjectKey]]):
    """Return those of the keys that a row refers to."""

    lane: ClassVar[Lane] = Lane.CHORE

    object_keys: list[ObjectKey]


class Pruned(Value):
    """How many of each kind had expired: *accounts* are users who were deleted, *users* their rows."""

    accounts: int = 0
    sessions: int = 0
    uploads: int = 0
    idempotency_keys: int = 0
    users: int = 0


class Prune(Ask[Metadata, Pruned]):
    """Delete expired sessions and keys, ended uploads past their retention, users who are due, and their rows.

    *due_by* is the time that counts while the clock is in doubt.
    """

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int
    due_by: datetime | None = None


class UploadCounts(Ask[Metadata, dict[str, int]]):
    """Return the number of uploads by state."""

    lane: ClassVar[Lane] = Lane.CHORE


class Drift(Value):
    """The difference between the stored usage of all users and their rows.  Not zero means a bug."""

    bytes: int
    rows: int

    def __bool__(self) -> bool:
        return self.bytes > 0 or self.rows > 0


class UsageDrift(Ask[Metadata, Drift]):
    """Compare the stored usage of all users with their rows.  Reads every row."""

    lane: ClassVar[Lane] = Lane.CHORE

    timeout: ClassVar[float] = 600.0


class RecountUsage(Ask[Metadata, int]):
    """Correct the stored usage of at most *limit* users.  Returns their number; 0 when all usage is correct."""

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int = 50

    timeout: ClassVar[float] = 600.0


class DueEvents(Ask[Metadata, list[FileEvent]]):
    """Return the oldest changes that NATS does not have yet, in order.  Empty if none are published."""

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int


class MarkPublished(Ask[Metadata, None]):
    """Record that NATS has these events.  Idempotent."""

    lane: ClassVar[Lane] = Lane.CHORE

    events: list[FileEvent]


class ChangeNumbers(Ask[Metadata, dict[UserId, int]]):
    """Return the number of the last change of each owner, for those who wait for changes."""

    owner_ids: list[UserId]


class PrunedLog(Value):
    """How many changes were deleted, and the owner after whom the next call continues; ``None`` at the end."""

    changes: int
    after: UserId | None


class PruneLog(Ask[Metadata, PrunedLog]):
    """Delete at most *limit* changes that are too old or too many, of the next owners after *after*.

    *due_by* is the time that counts while the clock is in doubt.
    """

    lane: ClassVar[Lane] = Lane.CHORE

    after: UserId
    limit: int
    due_by: datetime | None = None


class DueWebhook(Value):
    """A webhook with changes to deliver.  *number* is the change number of its owner."""

    id: str
    owner_id: UserId
    url: str
    secret: str
    cursor: str
    failures: int
    number: int


class DueWebhooks(Ask[Metadata, list[DueWebhook]]):
    """Return webhooks that have changes to deliver: those first whose turn or next attempt is longest ago."""

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int


class SettleWebhook(Ask[Metadata, None]):
    """Move a webhook from the cursor *before* to *cursor*.

    Without a *problem*, *seen* is the change number up to which nothing is left.
    With one, the delivery after *cursor* failed: the next attempt is postponed,
    and the webhook is disabled if it has failed for too long or the failure is
    *final*.  Does nothing if the webhook is not at *before*.
    """

    lane: ClassVar[Lane] = Lane.CHORE

    webhook_id: str
    before: str
    cursor: str
    seen: int = 0
    problem: str | None = None
    final: bool = False


class AcquireLease(Ask[Metadata, bool]):
    """Acquire or renew the lease for *ttl* seconds.  Returns false while another holder has it."""

    lane: ClassVar[Lane] = Lane.CHORE

    name: str
    holder: str
    ttl: float


class ReleaseLease(Ask[Metadata, None]):
    """Release the lease.  Idempotent: does nothing unless *holder* has it."""

    lane: ClassVar[Lane] = Lane.CHORE

    name: str
    holder: str
