"""Lists of files and folders: of a folder, and of the whole drive."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from godrive.errors import Invalid, NotFound
from godrive.http.api.call import Call
from godrive.http.api.conditions import ANY, known_tags
from godrive.http.api.operations import Routes
from godrive.http.app_keys import PAGE_CACHE
from godrive.http.routes.files import EntryId, FileList, Limit, PageToken, spot_of
from godrive.http.wire.bytes_response import BytesResponse
from godrive.messages.files import ReadList
from godrive.model import Anywhere, FileId, Place, Sort
from godrive.principal import Scope, authority

routes = Routes("files")

_LISTED = {hdrs.CONTENT_TYPE: "application/json", hdrs.CACHE_CONTROL: "private, no-cache"}
_encoder = msgspec.json.Encoder()


class ChildrenQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Selects files and the size of a page."""

    limit: Limit | None = None
    page: PageToken | None = None
    sort: Annotated[
        Sort, Meta(description="A minus reverses the order. Only a folder can be sorted by `size` or `modified_at`.")
    ] = Sort.NEWEST
    folders_first: Annotated[bool, Meta(description="In a folder, list its folders before its files.")] = False
    q: Annotated[str, Meta(max_length=255, description="Names that contain this, ignoring case.")] | None = None
    prefix: Annotated[str, Meta(max_length=255, description="Names that begin with this.")] | None = None


class FilesQuery(ChildrenQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Selects files of one folder, or of the whole drive."""

    parent_id: EntryId | None = None


@routes.get("/v1/files", needs=Scope.FILES_READ, original="/files", raises=[Invalid, NotFound], conditional=True)
async def list_files(call: Call, query: FilesQuery) -> FileList | web.Response:
    """List files, newest first by default.

    With `parent_id`, list the entries of one folder; without, all files of the drive.  A page has 100 rows by default
    (20 on the root path) and at most 1000.  A request with `If-None-Match` gets `304` while nothing has changed.
    """
    return await list_entries(call, _place(query), query)


@routes.get(
    "/v1/files/{file_id}/children",
    needs=Scope.FILES_READ,
    raises=[Invalid, NotFound],
    conditional=True,
    fields={"parent_id": "file_id"},
)
async def list_children(call: Call, file_id: FileId, query: ChildrenQuery) -> FileList | web.Response:
    """List the entries of one folder (`root` for the root). The same as `GET /v1/files?parent_id=`."""
    return await list_entries(call, spot_of(file_id), query)


async def list_entries(call: Call, where: Place, query: ChildrenQuery) -> web.Response:
    """Answer with one page of the place, or with 304."""
    cache, request = call.request.app[PAGE_CACHE], (authority(call.by), call.original, where, query)
    kept, known = cache.get(request), known_tags(call.request)
    listing = await call.drive.metadata.ask(
        ReadList(
            call.by,
            where,
            query.limit or (20 if call.original else 100),
            query.page,
            query.sort,
            query.folders_first,
            query.prefix or None,
            query.q or None,
            known if kept is None else (*known, kept[0]),
        )
    )
    headers = {hdrs.ETAG: f'W/"{listing.tag}"', **_LISTED}
    if listing.page is not None:
        body = _encoder.encode(FileList.of(listing.page))
        cache.put(request, listing.tag, body)
    elif kept is None or listing.tag in known or ANY in known:
        return web.Response(status=304, headers=headers)
    else:
        body = kept[1]
    return BytesResponse(body=body, headers=headers)


def _place(query: FilesQuery) -> Place:
    """Return the place to list: a folder, the root, or without `parent_id` the whole drive."""
    return Anywhere() if query.parent_id is None else spot_of(query.parent_id)
