"""Create folders.  ``GET /v1/files?parent_id=`` lists a folder; all other operations are those of files."""

from __future__ import annotations

import msgspec
from aiohttp import hdrs

from godrive.errors import Invalid, NameTaken, NotFound, QuotaExceeded
from godrive.http.api.call import Call
from godrive.http.api.operations import Routes
from godrive.http.routes.files import EntryId, Name, spot_of
from godrive.messages.files import MakeFolder
from godrive.model import File
from godrive.principal import Scope

routes = Routes("files")


class FolderBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The name and the parent of the new folder.  Without `parent_id`, or with `root`, the parent is the root."""

    name: Name
    parent_id: EntryId | None = None


@routes.post(
    "/v1/folders",
    needs=Scope.FILES_WRITE,
    status=201,
    replays=True,
    raises=[Invalid, NotFound, NameTaken, QuotaExceeded],
)
async def make_folder(call: Call, body: FolderBody) -> File:
    """Create a folder."""
    folder = await call.drive.metadata.ask(MakeFolder(call.by, spot_of(body.parent_id), body.name))
    call.locate(f"/v1/files/{folder.id}")
    call.headers[hdrs.ETAG] = f'"{folder.etag}"'
    return folder
