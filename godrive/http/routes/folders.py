"""Create folders.  ``GET /v1/files/{id}/children`` lists a folder; all other operations are those of files."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import hdrs
from msgspec import Meta

from godrive.errors import DriveError, Invalid, NameTaken, NotFound, QuotaExceeded, TooDeep
from godrive.http.api.call import Call
from godrive.http.api.operations import Routes
from godrive.http.api.paths import split_path
from godrive.http.routes.files import EntryId, Name, PlainPath, spot_of
from godrive.messages.files import EnsureFolder, MakeFolder
from godrive.model import At, File, Spot
from godrive.principal import Scope

routes = Routes("files")


class FolderBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A name and a parent (without `parent_id`, or with `root`, the root), or a path."""

    name: Name | None = None
    parent_id: EntryId | None = None
    path: PlainPath | None = None
    parents: Annotated[bool, Meta(description="Create the folders that are missing on the path.")] = False
    exist_ok: Annotated[bool, Meta(description="If the folder exists, answer with it, and `200`.")] = False

    def place(self) -> tuple[Spot, str]:
        """Return the parent and the name of the folder.  Raises ``Invalid``."""
        if self.path is None:
            if self.name is None:
                raise Invalid("Send a name or a path.", field="name")
            return spot_of(self.parent_id), self.name
        for field in ("name", "parent_id"):
            if getattr(self, field) is not None:
                raise Invalid("Send either a path, or a name and a parent_id.", field=field)
        *above, name = split_path(self.path)
        return At(path=tuple(above), parents=self.parents), name


@routes.post(
    "/v1/folders",
    needs=Scope.FILES_WRITE,
    status=201,
    also=[200],
    replays=True,
    raises=[Invalid, NotFound, NameTaken, TooDeep, QuotaExceeded],
)
async def make_folder(call: Call, body: FolderBody) -> File:
    """Create a folder, by name or by path.

    With `parents`, the folders that are missing above it are created too, all or none. With `exist_ok` the answer is
    `200` and the folder if it is there already, and two clients that ask at the same time get the same folder.
    """
    where, name = body.place()
    try:
        if body.exist_ok:
            ensured = await call.drive.metadata.ask(EnsureFolder(call.by, where, name))
            folder, created = ensured.folder, ensured.created
        else:
            folder, created = await call.drive.metadata.ask(MakeFolder(call.by, where, name)), True
    except DriveError as error:
        if body.path is not None and error.field == "name":  # which is its last name
            error.field = "path"
        raise
    if created:
        call.locate(f"/v1/files/{folder.id}")
    else:
        call.status = 200
    call.headers[hdrs.ETAG] = f'"{folder.etag}"'
    return folder if body.path is None else msgspec.structs.replace(folder, path="/".join(split_path(body.path)))
