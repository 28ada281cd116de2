"""The versions of a file: list, restore, name and delete them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import hdrs, web
from msgspec import UNSET, Meta, UnsetType

from godrive import transfer
from godrive.errors import (
    Conflict,
    Invalid,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    RangeNotSatisfiable,
    StoreUnavailable,
)
from godrive.http.api.call import Call
from godrive.http.api.operations import BYTES, Routes
from godrive.http.routes.content import ContentQuery, answer_content
from godrive.http.routes.files import Limit, PageToken
from godrive.messages.versions import DeleteVersion, ListVersions, NameVersion, RestoreVersion, Version
from godrive.model import File, FileId, VersionId
from godrive.principal import Scope

routes = Routes("versions")


class VersionsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Selects a page and its size."""

    limit: Limit = 100
    page: PageToken | None = None


class VersionBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The name of the version, or `null` for none."""

    name: Annotated[str, Meta(min_length=1, max_length=255, description="Printable characters.")] | None


class VersionList(msgspec.Struct, kw_only=True):
    """One page of versions, newest first.  ``next_page`` is absent on the last page."""

    versions: list[Version]
    next_page: str | UnsetType = UNSET


@routes.get("/v1/files/{file_id}/versions", needs=Scope.FILES_READ, raises=[NotFound, Invalid])
async def list_versions(call: Call, file_id: FileId, query: VersionsQuery) -> VersionList:
    """List the versions of a file, newest first. The first one is current."""
    page = await call.drive.metadata.ask(ListVersions(call.by, file_id, query.limit, query.page))
    return VersionList(versions=page.items, next_page=page.next_page or UNSET)


@routes.get(
    "/v1/files/{file_id}/versions/{version_id}/content",
    needs=Scope.FILES_READ,
    conditional=True,
    also=[206, 307],
    media_type=BYTES,
    raises=[NotFound, Invalid, PreconditionFailed, RangeNotSatisfiable, StoreUnavailable],
)
async def get_version_content(
    call: Call, file_id: FileId, version_id: VersionId, query: ContentQuery
) -> web.StreamResponse:
    """Read the bytes of a version. The options are those of `GET /v1/files/{file_id}/content`."""
    async with call.turn():
        content = await transfer.open_content(call.drive, call.by, file_id, version_id=version_id)
    return await answer_content(call, call.by, content, query)


@routes.post(
    "/v1/files/{file_id}/versions/{version_id}/restore",
    needs=Scope.FILES_WRITE,
    replays=True,
    conditional=True,
    raises=[NotFound, PreconditionFailed, QuotaExceeded],
)
async def restore_version(call: Call, file_id: FileId, version_id: VersionId) -> File:
    """Make the bytes of an earlier version current again, as a new version.

    The version before stays. The new version counts in the quota. If the file has these bytes already, nothing changes.
    """
    file = await call.drive.metadata.ask(RestoreVersion(call.by, file_id, version_id, call.if_match))
    call.headers[hdrs.ETAG] = f'"{file.etag}"'
    return file


@routes.patch(
    "/v1/files/{file_id}/versions/{version_id}",
    needs=Scope.FILES_WRITE,
    replays=True,
    conditional=True,
    raises=[NotFound, Invalid, PreconditionFailed],
)
async def name_version(call: Call, file_id: FileId, version_id: VersionId, body: VersionBody) -> Version:
    """Name a version. A version with a name is kept until it is deleted."""
    return await call.drive.metadata.ask(NameVersion(call.by, file_id, version_id, body.name, call.if_match))


@routes.delete(
    "/v1/files/{file_id}/versions/{version_id}",
    needs=Scope.FILES_DELETE,
    status=204,
    replays=True,
    conditional=True,
    raises=[NotFound, Conflict, PreconditionFailed],
)
async def delete_version(call: Call, file_id: FileId, version_id: VersionId) -> None:
    """Delete an earlier version, which cannot be undone. Its bytes count in the quota for about a minute more."""
    await call.drive.metadata.ask(DeleteVersion(call.by, file_id, version_id, call.if_match))
