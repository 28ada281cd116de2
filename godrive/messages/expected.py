"""Messages to the metadata actor about the blobs that a drive must have."""

from __future__ import annotations

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

    With *only*, return that blob if it is one of them.
    """

    lane: ClassVar[Lane] = Lane.CHORE

    limit: int
    after: ObjectKey = ObjectKey("")
    only: ObjectKey | None = None
