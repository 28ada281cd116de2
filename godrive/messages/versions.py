"""Messages to the metadata actor about the versions of a file.  ``OpenContent`` reads the bytes of one."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from godrive.messages.metadata import Metadata
from godrive.model import ETag, File, FileId, Page, Value, VersionId
from godrive.principal import Principal
from godrive.runtime import Ask, Lane


class Version(Value):
    """One state of a file's bytes.  The *current* one is what the file shows.

    ``created_at`` is when the file got these bytes, ``replaced_at`` when it got
    others.  A version with a *name* is kept until it is deleted.
    """

    id: VersionId
    file_id: FileId
    current: bool
    name: str | None
    mime: str
    size_bytes: int
    sha256: str | None
    created_at: datetime
    modified_at: datetime
    replaced_at: datetime | None


class ListVersions(Ask[Metadata, Page[Version]]):
    """List the versions of a live file, newest first; the first one is current.

    Raises ``NotFound`` unless *by* may read the file, ``Invalid`` (the page token belongs to another list).
    """

    by: Principal
    file_id: FileId
    limit: int = 100
    page: str | None = None


class RestoreVersion(Ask[Metadata, File]):
    """Make a new version of the file with the bytes of an earlier one.  The bytes are shared, and charged once more.

    Idempotent: does nothing if the file has these bytes already.  *if_match* is
    about the file.  Raises ``NotFound``, ``PreconditionFailed``, ``QuotaExceeded``.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    file_id: FileId
    version_id: VersionId
    if_match: ETag | None = None


class NameVersion(Ask[Metadata, Version]):
    """Name a version, so that it is kept for ever, or with ``None`` remove its name.

    A version without a name is kept for at least the retention time from now.
    Raises ``NotFound``, ``Invalid``, ``PreconditionFailed``.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    file_id: FileId
    version_id: VersionId
    name: str | None
    if_match: ETag | None = None


class DeleteVersion(Ask[Metadata, None]):
    """Begin to remove an earlier version.  It disappears from every list at once, its bytes and its charge soon.

    Raises ``NotFound``, ``PreconditionFailed``, ``Conflict`` (the version is current).
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    file_id: FileId
    version_id: VersionId
    if_match: ETag | None = None
