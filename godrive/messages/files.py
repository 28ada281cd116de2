"""Messages to the metadata actor about files, folders and the trash."""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

import msgspec

from godrive.messages.metadata import Metadata
from godrive.model import (
    Content,
    Ensured,
    ETag,
    File,
    FileId,
    FileType,
    OnConflict,
    Page,
    Place,
    PropertyValue,
    Sort,
    Spot,
    Tombstone,
    Value,
    VersionId,
    Which,
)
from godrive.principal import Principal
from godrive.runtime import Ask, Lane


class Selection(msgspec.Struct, frozen=True):
    """A page of a list: where, in which order, and with which names.

    ``Root`` and ``In`` list exactly the entries of one folder.  ``Anywhere``
    lists the files of the whole drive.  It never shows trashed files, but for
    some seconds it may omit files that were just restored with their folder;
    its pages may then be short or empty and still have a ``next_page``.

    *folders_first* lists the folders of a folder before its files.  The whole
    drive can be sorted by name and time of creation only.

    *prefix* selects names that begin with it, *contains* names that contain it;
    both compare in NFC and ignore case.
    """

    by: Principal
    where: Place
    limit: int = 100
    page: str | None = None
    sort: Sort = Sort.NEWEST
    folders_first: bool = False
    prefix: str | None = None
    contains: str | None = None


class ListFiles(Selection, Ask[Metadata, Page[File]], frozen=True):
    """List live entries, one page at a time.

    Raises ``NotFound`` (the folder), ``Invalid`` (the page token belongs to another list).
    """


class Listing(Value):
    """A page of a list and its tag.  Without *page*, the list is what it was when it had the tag before."""

    tag: ETag
    page: Page[File] | None = None


class ReadList(Selection, Ask[Metadata, Listing], frozen=True):
    """Return the tag of a list, and unless the tag is one of *known*, a page.  Raises as ``ListFiles``.

    ``*`` in *known* stands for any tag.  Equal tags mean equal lists.  The
    page is at least as new as the tag.  A tag names the owner and the catalog,
    and is for all lists of the drive.  No tag is used for two different lists,
    not even after a backup was restored.
    """

    known: tuple[ETag, ...] = ()


class SearchFiles(Ask[Metadata, Page[File]]):
    """Find live entries at any depth below *where*, one page at a time.

    *text* is one or more words; a name matches if it contains all of them, in
    any order, in NFC and without regard to case.  A word of one or two
    characters must begin a word of the name.  Without *text*, the filters
    select, and the newest comes first.

    Of the newest 1000 matches, names that equal *text* come first, then those
    that begin with it, those in which each word begins a word, and the others;
    newest first among equals.  Older matches follow on later pages, ranked in
    the same way, up to 1000 at a time.  A page may be short or empty and still
    have a ``next_page``.

    Every change that was acknowledged is seen, with the exceptions of the list
    of the whole drive, and of more than 10 000 names that were added within
    seconds.  Raises ``NotFound`` (the folder), ``Invalid``.
    """

    by: Principal
    where: Spot
    text: str | None = None
    type: FileType | None = None
    min_size: int | None = None
    max_size: int | None = None
    modified_after: datetime | None = None
    modified_before: datetime | None = None
    limit: int = 100
    page: str | None = None


class GetFile(Ask[Metadata, File]):
    """Return one live entry.  Raises ``NotFound`` unless *by* may read it."""

    by: Principal
    file_id: Which


class FindFile(Ask[Metadata, File]):
    """Return the live entry of the folder that has the name.  Raises ``NotFound`` unless *by* may read it."""

    by: Principal
    where: Spot
    name: str


class MakeFolder(Ask[Metadata, File]):
    """Create a folder.

    Raises ``NotFound`` (the parent), ``NameTaken``, ``Invalid``, ``TooDeep``, ``QuotaExceeded``.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    where: Spot
    name: str


class EnsureFolder(Ask[Metadata, Ensured]):
    """Return the folder of that name, and create it if there is none.  Idempotent.

    Raises as ``MakeFolder``; ``NameTaken`` if a file has the name.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    where: Spot
    name: str


class UpdateFile(Ask[Metadata, File]):
    """Rename an entry, move it with its contents, or change what a client keeps with it, in one transaction.

    What is ``None`` stays as it is.  A move takes constant time, whatever the
    folder contains.  *modified_at* is when the content was last modified.
    *properties* are merged: a value of ``None`` removes the
    property.  An update that changes nothing leaves the ETag as it is.

    Raises ``NotFound`` (the entry; with ``field`` ``parent_id``, the folder),
    ``Cycle`` (the folder is the entry or lies in it), ``NameTaken``,
    ``Invalid``, ``PreconditionFailed``.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    file_id: Which
    name: str | None = None
    where: Spot | None = None
    on_conflict: OnConflict = OnConflict.FAIL
    if_match: ETag | None = None
    modified_at: datetime | None = None
    favorite: bool | None = None
    properties: dict[str, PropertyValue | None] | None = None


class CopyFile(Ask[Metadata, File]):
    """Copy an entry, with its contents, into the folder *where*, by default its own.  With *name*, under that name.

    The copy shares the bytes and counts with its full size.  It has the current
    version of each file only.  It appears whole or not at all, however the
    server ends.  A large tree takes several transactions, between which others
    write.  What is moved or trashed in the source meanwhile may be missing.

    Raises ``NotFound`` (the entry; with ``field`` ``parent_id``, the folder),
    ``Cycle`` (the folder is the entry or lies in it), ``NameTaken``, ``TooDeep``,
    ``QuotaExceeded``, ``TooManyRequests`` (the owner copies other large trees),
    ``Invalid``, ``PreconditionFailed``, ``Forbidden`` (the entry is the root).
    """

    lane: ClassVar[Lane] = Lane.WRITE
    timeout: ClassVar[float] = 600.0

    by: Principal
    file_id: Which
    where: Spot | None = None
    name: str | None = None
    on_conflict: OnConflict = OnConflict.FAIL
    if_match: ETag | None = None


class TrashFile(Ask[Metadata, Tombstone]):
    """Move an entry, with its contents, to the trash.  Idempotent: the first purge date stays.

    Takes constant time, whatever the folder contains.  Raises ``NotFound``, ``PreconditionFailed``.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    file_id: Which
    if_match: ETag | None = None


class ListTrash(Ask[Metadata, Page[File]]):
    """List the entries in the trash, most recently trashed first, without the contents of folders."""

    by: Principal
    limit: int = 100
    page: str | None = None


class RestoreFile(Ask[Metadata, File]):
    """Restore an entry, with its contents, to its folder, or to the root if the folder is gone.

    Idempotent: an entry that is not in the trash is returned unchanged.  Raises
    ``NotFound`` (also once its purge has begun), ``NameTaken``, ``PreconditionFailed``.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    file_id: FileId
    on_conflict: OnConflict = OnConflict.FAIL
    if_match: ETag | None = None


class PurgeFile(Ask[Metadata, None]):
    """Begin to purge an entry in the trash.  It disappears from every list at once.

    Raises ``NotFound``, ``PreconditionFailed``.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal
    file_id: FileId
    if_match: ETag | None = None


class EmptyTrash(Ask[Metadata, int]):
    """Begin to purge all entries in the trash.  Returns the number of entries that the trash listed.

    Takes bounded time: entries after the first 1000 disappear within the next seconds.
    """

    lane: ClassVar[Lane] = Lane.WRITE

    by: Principal


class ListContents(Ask[Metadata, Page[Content]]):
    """List the entries of a folder by name, with the object keys of their bytes (empty for a folder).

    Raises ``NotFound`` (the folder), ``Invalid`` (the page token belongs to another list).
    """

    by: Principal
    where: Spot
    limit: int = 100
    page: str | None = None


class ListFavorites(Ask[Metadata, Page[File]]):
    """List the favorite files and folders of the drive, newest first.  Nothing in the trash is listed."""

    by: Principal
    limit: int = 100
    page: str | None = None


class ListByProperty(Ask[Metadata, Page[File]]):
    """List the files and folders that have the property *key*, newest first.  With *value*, only those with that value.

    Numbers are equal if their values are (``1`` and ``1.0``); a text never equals
    a number.  Nothing in the trash is listed.  Raises ``Invalid``.
    """

    by: Principal
    key: str
    value: PropertyValue | None = None
    limit: int = 100
    page: str | None = None


class OpenContent(Ask[Metadata, Content]):
    """Return a live file with the object key of its bytes.  Every read of bytes goes through this message.

    *version_id* selects a version other than the current one.  Raises
    ``NotFound`` unless *by* may read the file now, and for a trashed or purged
    file, a folder, and a disabled user.
    """

    by: Principal
    file_id: Which
    version_id: VersionId | None = None
