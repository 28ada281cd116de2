"""Entries by path: the same answers as by id (``files``)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from godrive.errors import Cycle, Invalid, NameTaken, NotFound, PreconditionFailed, TooDeep
from godrive.http.api.call import Call
from godrive.http.api.operations import Routes
from godrive.http.routes.files import (
    ChildrenQuery,
    FileList,
    Trashed,
    UpdateBody,
    get_entry,
    list_entries,
    trash_entry,
    update_entry,
)
from godrive.model import At, File
from godrive.principal import Scope

routes = Routes("files")

Flag = Literal["", "true", "false"]
"""A query parameter that may stand alone: ``?children`` is ``?children=true``."""

_PAGE = ChildrenQuery()


class PathQuery(ChildrenQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to answer with.  The other parameters are those of a list, and need `children`."""

    children: Annotated[Flag, Meta(description="List the entries of the folder. May stand without a value.")] = "false"


@routes.get("/v1/files/by-path/{path}", needs=Scope.FILES_READ, raises=[Invalid, NotFound, TooDeep], conditional=True)
async def get_by_path(call: Call, path: At, query: PathQuery) -> File | FileList | web.Response:
    """Get the file or folder at a path, or with `?children` the entries of the folder.

    The path begins at the root of what the credential covers; each name is percent-encoded, as UTF-8. The empty path is
    the root. The answers are those of `GET /v1/files/{file_id}` and `GET /v1/files/{file_id}/children`; the entry also
    has its `path`, as you asked for it.
    """
    if query.children != "false":
        return await list_entries(call, path, query)
    if any(getattr(query, name) != getattr(_PAGE, name) for name in ChildrenQuery.__struct_fields__):
        raise Invalid("Send it together with `children`.", field=_first_given(query))
    found = await get_entry(call, path)
    return msgspec.structs.replace(found, path="/".join(path.path)) if isinstance(found, File) else found


def _first_given(query: PathQuery) -> str:
    return next(name for name in ChildrenQuery.__struct_fields__ if getattr(query, name) != getattr(_PAGE, name))


@routes.patch(
    "/v1/files/by-path/{path}",
    needs=Scope.FILES_WRITE,
    replays=True,
    conditional=True,
    raises=[NotFound, NameTaken, Cycle, Invalid, TooDeep, PreconditionFailed],
)
async def update_by_path(call: Call, path: At, body: UpdateBody) -> File:
    """Change the file or folder at a path. The same as `PATCH /v1/files/{file_id}`."""
    return await update_entry(call, path, body)


@routes.delete(
    "/v1/files/by-path/{path}",
    needs=Scope.FILES_DELETE,
    replays=True,
    conditional=True,
    raises=[Invalid, NotFound, TooDeep, PreconditionFailed],
)
async def trash_by_path(call: Call, path: At) -> Trashed:
    """Move the file or folder at a path to the trash.

    No path leads into the trash, so the same request again finds nothing: send an `Idempotency-Key` to get the same
    answer again.
    """
    return await trash_entry(call, path)
