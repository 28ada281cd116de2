"""Entries by path: the same answers as by id (``files``)."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from aiohttp import web
from msgspec import Meta

from godrive import transfer
from godrive.errors import (
    Cycle,
    Invalid,
    NameTaken,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
    StoreUnavailable,
    TooDeep,
)
from godrive.http.api.call import Call
from godrive.http.api.operations import Routes
from godrive.http.routes.content import ContentQuery, answer_content
from godrive.http.routes.files import (
    FileList,
    Trashed,
    UpdateBody,
    get_entry,
    trash_entry,
    update_entry,
)
from godrive.http.routes.lists import ChildrenQuery, list_entries
from godrive.model import At, File
from godrive.principal import Scope

routes = Routes("files")

Flag = Literal["", "true", "false"]
"""A query parameter that may stand alone: ``?children`` is ``?children=true``."""

_PAGE = ChildrenQuery()


class PathQuery(ChildrenQuery, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to answer with.  The other parameters are those of a list, and need `children`."""

    children: Annotated[Flag, Meta(description="List the entries of the folder. May stand without a value.")] = "false"
    content: Annotated[Flag, Meta(description="Answer with the bytes of the file. May stand without a value.")] = (
        "false"
    )
    inline: Annotated[bool, Meta(description="With `content`: let a browser display the file, if that is safe.")] = (
        False
    )
    redirect: Annotated[bool, Meta(description="With `content`: `false` never answers with a URL of the store.")] = True


@routes.get(
    "/v1/files/by-path/{path}",
    needs=Scope.FILES_READ,
    raises=[Invalid, NotFound, TooDeep, PreconditionFailed, RangeNotSatisfiable, StoreUnavailable],
    conditional=True,
    waits=True,
)
async def get_by_path(call: Call, path: At, query: PathQuery) -> File | FileList | web.StreamResponse:
    """Get the file or folder at a path; with `?children`, the entries of the folder; with `?content`, the bytes.

    The path begins at the root of what the credential covers; each name is percent-encoded, as UTF-8. The empty path is
    the root. The answers are those of `GET /v1/files/{file_id}`, `/children` and `/content`; the entry also has its
    `path`, as you asked for it.
    """
    if query.content != "false":
        if query.children != "false":
            raise Invalid("Ask for the children or for the content.", field="content")
        _check_no_page(query)
        async with call.turn():
            content = await transfer.open_content(call.drive, call.by, path)
        return await answer_content(call, call.by, content, ContentQuery(inline=query.inline, redirect=query.redirect))
    async with call.turn():
        return await _get(call, path, query)


async def _get(call: Call, path: At, query: PathQuery) -> File | FileList | web.Response:
    if query.children != "false":
        return await list_entries(call, path, query)
    _check_no_page(query)
    found = await get_entry(call, path)
    return msgspec.structs.replace(found, path="/".join(path.path)) if isinstance(found, File) else found


def _check_no_page(query: PathQuery) -> None:
    for name in ChildrenQuery.__struct_fields__:
        if getattr(query, name) != getattr(_PAGE, name):
            raise Invalid("Send it together with `children`.", field=name)


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
