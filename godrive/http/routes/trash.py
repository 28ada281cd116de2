"""The trash: list it, empty it, purge one entry."""

from __future__ import annotations

import msgspec

from godrive.errors import Invalid, NotFound, PreconditionFailed
from godrive.http.api.call import Call
from godrive.http.api.operations import Routes
from godrive.http.routes.files import FileList, Limit, PageToken
from godrive.messages.files import EmptyTrash, ListTrash, PurgeFile
from godrive.model import FileId
from godrive.principal import Scope

routes = Routes("trash")


class PageQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Selects a page and its size."""

    limit: Limit = 100
    page: PageToken | None = None


class Purged(msgspec.Struct, kw_only=True):
    """The number of entries that are being purged."""

    purged: int


@routes.get("/v1/trash", needs=Scope.FILES_READ, raises=[Invalid])
async def list_trash(call: Call, query: PageQuery) -> FileList:
    """List the trash, most recently trashed first."""
    page = await call.drive.metadata.ask(ListTrash(by=call.by, limit=query.limit, page=query.page))
    return FileList.of(page)


@routes.delete("/v1/trash", needs=Scope.FILES_DELETE, replays=True)
async def empty_trash(call: Call) -> Purged:
    """Empty the trash: purge all entries in it."""
    return Purged(purged=await call.drive.metadata.ask(EmptyTrash(call.by)))


@routes.delete(
    "/v1/trash/{file_id}",
    needs=Scope.FILES_DELETE,
    status=204,
    replays=True,
    conditional=True,
    raises=[NotFound, PreconditionFailed],
)
async def purge_file(call: Call, file_id: FileId) -> None:
    """Purge one entry in the trash."""
    await call.drive.metadata.ask(PurgeFile(by=call.by, file_id=file_id, if_match=call.if_match))
