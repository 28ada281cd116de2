"""What the parts of the server say to the metadata actor for chores that are nobody's request.

No message here is about an entry that a user names, so none carries a
principal: each works on whatever is due, whoever owns it.
"""

from __future__ import annotations

from typing import ClassVar

from godrive.messages.metadata import Metadata
from godrive.model import (
    Cleanup,
    FileEvent,
    FileId,
    ObjectKey,
    Pruned,
    Purge,
    Upload,
    UploadId,
    Value,
)
from godrive.runtime import Ask, Lane


class DueUploads(Ask[Metadata, list[Upload]]):
    """Pending uploads whose next check is due, longest due first.

    The first check is *after* seconds after the intent.  Each call counts an
    attempt and puts the next check off, doubling up to a minute, at the latest to the deadline.
    """

    lane: ClassVar[Lane] = Lane.CHORE

    after: float
    limit: int


class PostponeUploads(Ask[Metadata, None]):
    """The store was out when these were due: check them again *after* seconds from now, and count no attempt."""

    lane: ClassVar[Lane] = Lane.CHORE

    upload_ids: list[UploadId]
    after: float


class DueCleanups(Ask[Metadata, list[Cleanup]]):
    """Ended uploads whose bytes are to be removed now.  Each call counts an attempt and puts the next off.

    An upload is listed once soon after its end, and again once its URL can no longer be used.
    """

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int


class FinishCleanup(Ask[Metadata, None]):
    """The bytes of that upload are gone.  Idempotent."""

    lane: ClassVar[Lane] = Lane.CHORE

    upload_id: UploadId


class ClaimPurges(Ask[Metadata, list[Purge]]):
    """Entries whose grace period is over.  Once claimed they cannot be restored.  Each call counts an attempt."""

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int


class FinishPurge(Ask[Metadata, None]):
    """The bytes are gone: drop the rows and release the bytes from the quota.  Idempotent.

    A folder goes when nothing is left in it; until then this puts some of what
    is in it on the way, and the folder comes back with the next ``ClaimPurges``.
    """

    lane: ClassVar[Lane] = Lane.CHORE

    file_id: FileId


class SettleTrash(Ask[Metadata, bool]):
    """Carry a trashing or restoring of a folder some rows further down its tree.  Returns whether more is left."""

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int

    timeout: ClassVar[float] = 60.0


class KnownKeys(Ask[Metadata, list[ObjectKey]]):
    """Those of the keys that a row refers to."""

    lane: ClassVar[Lane] = Lane.CHORE

    object_keys: list[ObjectKey]


class Prune(Ask[Metadata, Pruned]):
    """Drop expired sessions and keys, ended uploads past their retention, deleted users with nothing left."""

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int


class UploadCounts(Ask[Metadata, dict[str, int]]):
    """Number of uploads by state."""

    lane: ClassVar[Lane] = Lane.CHORE


class Drift(Value):
    """How far the kept usage of all users differs from their rows: zero, or a bug."""

    bytes: int
    rows: int

    def __bool__(self) -> bool:
        return self.bytes > 0 or self.rows > 0


class UsageDrift(Ask[Metadata, Drift]):
    """Compare the kept usage of all users with their rows.  Reads every row."""

    lane: ClassVar[Lane] = Lane.CHORE

    timeout: ClassVar[float] = 600.0


class RecountUsage(Ask[Metadata, int]):
    """Set the kept usage of some users whose rows add up to something else.  Returns their number, 0 when all agree."""

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int = 50

    timeout: ClassVar[float] = 600.0


class DueEvents(Ask[Metadata, list[FileEvent]]):
    """The oldest events that are not published yet, in order.  None where the catalog keeps no outbox."""

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int


class DropEvents(Ask[Metadata, None]):
    """Those events are published.  Idempotent."""

    lane: ClassVar[Lane] = Lane.CHORE

    events: list[FileEvent]


class NoteTime(Ask[Metadata, float]):
    """The seconds since the time was last recorded, negative if the clock was set back; 0 if it never was.

    Records it again, unless it lies more than *back* seconds before or
    *forward* seconds after the recorded one.
    """

    lane: ClassVar[Lane] = Lane.CHORE

    back: float = 1e12
    forward: float = 1e12


class AcquireLease(Ask[Metadata, bool]):
    """Whether *holder* may do what the lease is for during the next *ttl* seconds.  Its own lease it renews."""

    lane: ClassVar[Lane] = Lane.CHORE

    name: str
    holder: str
    ttl: float


class ReleaseLease(Ask[Metadata, None]):
    """Release the lease.  Does nothing when *holder* does not have it."""

    lane: ClassVar[Lane] = Lane.CHORE

    name: str
    holder: str
