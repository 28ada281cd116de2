"""Files and folders: list, rename, move, trash, restore, and get download URLs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, TypeVar

import msgspec
from aiohttp import hdrs, web
from msgspec import UNSET, Meta, UnsetType

from godrive.errors import (
    Cycle,
    Invalid,
    NameTaken,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    TooDeep,
    TooManyRequests,
)
from godrive.http.api.call import Call
from godrive.http.api.conditions import is_known
from godrive.http.api.operations import Routes
from godrive.http.api.paths import split_path
from godrive.messages.files import (
    CopyFile,
    GetFile,
    RestoreFile,
    TrashFile,
    UpdateFile,
)
from godrive.model import (
    At,
    File,
    FileId,
    In,
    OnConflict,
    Page,
    PropertyValue,
    Root,
    Spot,
    Which,
)
from godrive.principal import Scope

routes = Routes("files")


T = TypeVar("T")

ROOT = "root"
"""The id of the root in requests."""

Limit = Annotated[int, Meta(ge=1, le=1000, description="The most rows in a page.")]
PageToken = Annotated[str, Meta(max_length=2048, description="The `next_page` of the previous page.")]
EntryId = Annotated[str, Meta(pattern=r"^[0-9A-Za-z_-]{1,64}$(?!\n)")]  # $ also matches before a last newline
PlainPath = Annotated[
    str, Meta(min_length=1, max_length=8190, description="Names with a slash between them, from the root. Not encoded.")
]
ModifiedAt = Annotated[
    datetime, Meta(tz=True, description="When the content was last modified: RFC 3339, rounded to the microsecond.")
]
Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=1024,
        description="1 to 255 characters, at most 1024 bytes, no `/`, `\\` or control characters.",
    ),
]


class UpdateBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What to change: the name, the folder (`null` or `root` for the root), the time, the favorite mark, properties."""

    name: Name | UnsetType = UNSET
    parent_id: EntryId | UnsetType | None = UNSET
    modified_at: ModifiedAt | UnsetType = UNSET
    on_conflict: OnConflict = OnConflict.FAIL
    favorite: bool | UnsetType = UNSET
    properties: (
        Annotated[
            dict[str, PropertyValue | None],
            Meta(
                description="Properties to set. `null` removes one. At most 64 texts, numbers and booleans; a key has "
                "1 to 64 of the characters `A-Z a-z 0-9 _ . : -`, a text at most 1024 bytes."
            ),
        ]
        | UnsetType
    ) = UNSET


class CopyBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The folder of the copy (`null` or `root` for the root) and its name.  By default, those of the source."""

    parent_id: EntryId | UnsetType | None = UNSET
    name: Name | UnsetType = UNSET
    on_conflict: OnConflict = OnConflict.FAIL


class RestoreBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What to do if another file has the name now."""

    on_conflict: OnConflict = OnConflict.FAIL


class FileList(msgspec.Struct, kw_only=True):
    """One page of files.  ``next_page`` is absent on the last page."""

    files: list[File]
    next_page: str | UnsetType = UNSET

    @classmethod
    def of(cls, page: Page[File]) -> FileList:
        """Convert a page to an answer."""
        return cls(files=page.items, next_page=page.next_page or UNSET)


class Trashed(msgspec.Struct, kw_only=True):
    """The file is in the trash and will be purged at ``purge_at``."""

    deleted: FileId
    trashed_at: datetime
    purge_at: datetime


def spot_of(parent_id: str | None) -> Spot:
    """Return the folder with that id.  ``None`` and ``root`` are the root."""
    return Root() if parent_id in (None, ROOT) else In(folder_id=FileId(parent_id))


def folder_at(path: str, *, parents: bool) -> Spot:
    """Return the folder at a path of a body."""
    return At(path=tuple(split_path(path)), parents=parents)


def given(value: T | UnsetType) -> T | None:
    """Return the value of a field; ``None`` if the body does not have the field."""
    return None if value is UNSET else value


@routes.get("/v1/files/{file_id}", needs=Scope.FILES_READ, raises=[NotFound], conditional=True)
async def get_file(call: Call, file_id: FileId) -> File | web.Response:
    """Get one file or folder. A request with `If-None-Match` gets `304` while it is unchanged."""
    return await get_entry(call, which_of(file_id))


def which_of(file_id: FileId) -> Which:
    """Return the entry with that id.  ``root`` is the root."""
    return At(path=()) if file_id == ROOT else file_id


async def get_entry(call: Call, which: Which) -> File | web.Response:
    """Answer with the entry, or with 304."""
    file = await call.drive.metadata.ask(GetFile(call.by, which))
    if is_known(call.request, file.etag):
        return web.Response(status=304, headers={hdrs.ETAG: f'"{file.etag}"', hdrs.CACHE_CONTROL: "private, no-cache"})
    return tagged(call, file)


@routes.patch(
    "/v1/files/{file_id}",
    needs=Scope.FILES_WRITE,
    replays=True,
    conditional=True,
    raises=[NotFound, NameTaken, Cycle, Invalid, TooDeep, PreconditionFailed],
)
async def update_file(call: Call, file_id: FileId, body: UpdateBody) -> File:
    """Rename or move a file or folder, set its time of modification or its properties, mark it as a favorite.

    All changes are made, or none. A folder moves with its contents. The answer is `409 cycle` if the new parent is the
    folder itself or lies in it.
    """
    return await update_entry(call, which_of(file_id), body)


async def update_entry(call: Call, which: Which, body: UpdateBody) -> File:
    """Change the entry, and answer with it."""
    if body == UpdateBody(on_conflict=body.on_conflict):
        raise Invalid("Send what to change: name, parent_id, modified_at, properties or favorite.", field="name")
    file = await call.drive.metadata.ask(
        UpdateFile(
            by=call.by,
            file_id=which,
            name=given(body.name),
            where=None if isinstance(body.parent_id, UnsetType) else spot_of(body.parent_id),
            on_conflict=body.on_conflict,
            if_match=call.if_match,
            modified_at=given(body.modified_at),
            favorite=given(body.favorite),
            properties=given(body.properties),
        )
    )
    return tagged(call, file)


@routes.post(
    "/v1/files/{file_id}/copy",
    needs=Scope.FILES_WRITE,
    needs_also=frozenset({Scope.FILES_READ}),
    status=201,
    replays=True,
    conditional=True,
    raises=[NotFound, NameTaken, Cycle, Invalid, PreconditionFailed, QuotaExceeded, TooManyRequests],
)
async def copy_file(call: Call, file_id: FileId, body: CopyBody | None) -> File:
    """Copy a file or folder.

    A folder is copied with its contents. The copy shares the bytes of its source and counts with its full size.
    It has the current version of each file only. It appears whole or not at all. The answer comes when it has appeared.
    """
    body = body or CopyBody()
    copied = await call.drive.metadata.ask(
        CopyFile(
            by=call.by,
            file_id=file_id,
            where=None if isinstance(body.parent_id, UnsetType) else spot_of(body.parent_id),
            name=None if isinstance(body.name, UnsetType) else body.name,
            on_conflict=body.on_conflict,
            if_match=call.if_match,
        )
    )
    call.locate(f"/v1/files/{copied.id}")
    return tagged(call, copied)


@routes.delete(
    "/v1/files/{file_id}",
    needs=Scope.FILES_DELETE,
    original="/files/{file_id}",
    replays=True,
    conditional=True,
    raises=[NotFound, PreconditionFailed],
)
async def trash_file(call: Call, file_id: FileId) -> Trashed:
    """Move a file or folder to the trash. Idempotent: the first purge date stays."""
    return await trash_entry(call, which_of(file_id))


async def trash_entry(call: Call, which: Which) -> Trashed:
    """Trash the entry."""
    tombstone = await call.drive.metadata.ask(TrashFile(by=call.by, file_id=which, if_match=call.if_match))
    return Trashed(deleted=tombstone.file_id, trashed_at=tombstone.trashed_at, purge_at=tombstone.purge_at)


@routes.post(
    "/v1/files/{file_id}/restore",
    needs=Scope.FILES_DELETE,
    replays=True,
    conditional=True,
    raises=[NotFound, NameTaken, TooDeep, PreconditionFailed],
)
async def restore_file(call: Call, file_id: FileId, body: RestoreBody | None) -> File:
    """Restore a file or folder from the trash. Idempotent."""
    on_conflict = OnConflict.FAIL if body is None else body.on_conflict
    file = await call.drive.metadata.ask(
        RestoreFile(by=call.by, file_id=file_id, on_conflict=on_conflict, if_match=call.if_match)
    )
    return tagged(call, file)


def tagged(call: Call, file: File) -> File:
    """Return the entry, with its ETag in the headers."""
    call.headers[hdrs.ETAG] = f'"{file.etag}"'
    return file
