"""What may be said to the metadata actor about files, folders and the trash."""

from __future__ import annotations

from typing import ClassVar

from godrive.messages.metadata import Metadata
from godrive.model import (
    Content,
    ETag,
    File,
    FileId,
    OnConflict,
    Page,
    Place,
    Sort,
    Spot,
    Tombstone,
    VersionId,
)
from godrive.principal import Principal
from godrive.runtime import Ask, Lane


class ListFiles(Ask[Metadata, Page[File]]):
    """Live entries, a page at a time.

    ``Root`` and ``In`` list the entries of one folder, exactly.  ``Anywhere``
    lists the files of the whole drive: it never shows what is in the trash, may
    omit for some seconds what was just restored with its folder, and its pages
    may then be short, even empty, with a ``next_page``.

    *prefix* limits to names that begin with it, *contains* to names with it
    inside; both compare in NFC, without case.  Raises ``NotFound`` (the
    folder), ``Invalid`` (a page token that this list did not give).
    """

    by: Principal
    where: Place
    limit: int = 100
    page: str | None = None
    sort: Sort = Sort.NEWEST
    prefix: str | None = None
    contains: str | None = None


class TagList(Ask[Metadata, ETag]):
    """The tag of the lists of the drive that *where* belongs to: the same tag, the same lists.

    What is listed after this ask is at least as new as the tag.  A tag names
    the owner and the catalog, and none is ever given twice for different lists,
    not even after a backup was restored.
    """

    by: Principal
    where: Place


class GetFile(Ask[Metadata, File]):
    """One live entry.  Raises ``NotFound`` unless *by* may read it."""

    by: Principal
    file_id: FileId


class MakeFolder(Ask[Metadata, File]):
    """Make a folder.  Raises ``NotFound`` (the parent), ``NameTaken``, ``Invalid``, ``QuotaExceeded``."""

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    where: Spot
    name: str


class RenameFile(Ask[Metadata, File]):
    """Give an entry another name.  Raises ``NotFound``, ``NameTaken``, ``Invalid``, ``PreconditionFailed``."""

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    file_id: FileId
    name: str
    on_conflict: OnConflict = OnConflict.FAIL
    if_match: ETag | None = None


class MoveFile(Ask[Metadata, File]):
    """Put an entry, and all that is in it, into another folder, with *name* under another name.

    Takes the same time whatever lies below the entry.  Raises ``NotFound`` (the
    entry, or with the field ``parent_id`` the folder), ``Cycle`` (the folder is
    the entry or lies in it), ``NameTaken``, ``Invalid``, ``PreconditionFailed``.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    by: Principal
    file_id: FileId
    where: Spot
    name: str | None = None
    on_conflict: OnConflict = OnConflict.FAIL
    if_match: ETag | None = None


class TrashFile(Ask[Metadata, Tombstone]):
    """Move an entry, and all that is in it, to the trash.  Idempotent: the first purge date stays.

    Takes the same time whatever lies below the entry.  Raises ``NotFound``, ``PreconditionFailed``.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    file_id: FileId
    if_match: ETag | None = None


class ListTrash(Ask[Metadata, Page[File]]):
    """The entries that were moved to the trash, most recent first; what lies in them is not listed."""

    by: Principal
    limit: int = 100
    page: str | None = None


class RestoreFile(Ask[Metadata, File]):
    """Take an entry, and all that is in it, out of the trash: to its folder, or to the root when that is gone.

    An entry that is not in the trash is returned as it is.  Raises ``NotFound``
    (also once its purge has begun), ``NameTaken``, ``PreconditionFailed``.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    file_id: FileId
    on_conflict: OnConflict = OnConflict.FAIL
    if_match: ETag | None = None


class PurgeFile(Ask[Metadata, None]):
    """Begin the purge of an entry in the trash.  It leaves every list at once.

    Raises ``NotFound``, ``PreconditionFailed``.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    file_id: FileId
    if_match: ETag | None = None


class EmptyTrash(Ask[Metadata, int]):
    """Begin the purge of what is in the trash.  Returns the number of entries that the trash listed.

    Takes a bounded time: entries beyond the first thousand leave the trash within the next seconds.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal


class OpenContent(Ask[Metadata, Content]):
    """Where a live file's bytes lie: the one way to any read of them.

    *version_id* asks for one version instead of the current one.  Raises
    ``NotFound`` unless *by* may read the file now: also for a file in the
    trash, a purged one, a folder, and when the user behind *by* is disabled.
    """

    by: Principal
    file_id: FileId
    version_id: VersionId | None = None
