"""Messages to the metadata actor about the blobs that a drive must have, and about those that are damaged."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from godrive.messages.metadata import Metadata
from godrive.model import FileId, ObjectKey, Value
from godrive.runtime import Ask, Lane


class ExpectedBlob(Value):
    """A blob that the store must have, and one of the files that refer to it."""

    object_key: ObjectKey
    size_bytes: int
    sha256: str | None
    file_id: FileId


class ExpectedBlobs(Ask[Metadata, list[ExpectedBlob]]):
    """List the blobs of files and versions that are not being purged, in key order, from the one after *after*.

    With *only*, return those of these blobs, in key order.
    """

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int
    after: ObjectKey = ObjectKey("")
    only: list[ObjectKey] | None = None


class NamedSizes(Ask[Metadata, dict[ObjectKey, int]]):
    """Return the sizes of blobs that versions name, in key order, from the one after *after*.

    It takes much less than ``ExpectedBlobs``, and has what is being purged too.
    """

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int
    after: ObjectKey = ObjectKey("")


class Fault(StrEnum):
    """What is wrong with a blob."""

    MISSING = "missing"
    """A file refers to it, and the store does not have it."""
    SIZE = "size"
    """It has another length than its row."""
    DIGEST = "digest"
    """Its bytes are not those that were stored: their SHA-256 is another one."""
    UNREADABLE = "unreadable"
    """The store has it and cannot read it."""
    ORPHAN = "orphan"
    """No file refers to it."""


class BlobFault(Value):
    """One fault.  *file_id* is a file that refers to the blob; there may be more that share it."""

    fault: Fault
    object_key: ObjectKey
    detail: str
    size_bytes: int = 0
    file_id: str | None = None


class ScrubState(Value):
    """How far the scrub is.

    A pass began at *begun_at* and has read *blobs* and *bytes*, up to the key
    *after*; ``""`` if it has ended.  *ended_at* is the end of the last whole pass.
    *damaged* counts the damaged blobs that are known, by fault.
    """

    begun_at: datetime | None
    ended_at: datetime | None
    after: ObjectKey
    blobs: int
    bytes: int
    damaged: dict[str, int]


class ReadScrub(Ask[Metadata, ScrubState]):
    """Return how far the scrub is."""

    lane: ClassVar[Lane] = Lane.CHORE


class BeginScrub(Ask[Metadata, None]):
    """Record that a new pass begins."""

    lane: ClassVar[Lane] = Lane.CHORE


class NoteScrub(Ask[Metadata, None]):
    """Record that all blobs after *after*, up to *upto*, were read, and which of them are damaged.

    *upto* ``""`` is the end of the pass.  Idempotent: does nothing unless the scrub is at *after*.
    """

    lane: ClassVar[Lane] = Lane.CHORE

    after: ObjectKey
    upto: ObjectKey
    blobs: int
    bytes: int
    found: list[BlobFault]


class Damage(Value):
    """A damaged blob, and when it was found."""

    finding: BlobFault
    found_at: datetime


class ListDamage(Ask[Metadata, list[Damage]]):
    """List the damaged blobs that are known, in key order, from the one after *after*."""

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int
    after: ObjectKey = ObjectKey("")


class ForgetDamage(Ask[Metadata, None]):
    """Record that these blobs are well again, or not needed any more.  Idempotent."""

    lane: ClassVar[Lane] = Lane.CHORE

    object_keys: list[ObjectKey]
