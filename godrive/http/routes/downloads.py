"""URLs for the bytes of files and for archives of folders."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from aiohttp import hdrs
from msgspec import Meta

from godrive.errors import Invalid, NotFound, StoreUnavailable
from godrive.http.api.call import Call
from godrive.http.api.operations import Routes
from godrive.http.routes.files import EntryId
from godrive.messages.files import GetFile, OpenContent
from godrive.messages.storage import SignArchive, SignGet
from godrive.model import FileId, FileKind, VersionId
from godrive.principal import Scope

routes = Routes("files")


class DownloadQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of the URL."""

    inline: Annotated[
        bool, Meta(description="Let a browser display the file, if its type is safe and this server sends the bytes.")
    ] = False
    method: Annotated[
        Literal["GET", "HEAD"], Meta(description="The method of the request. With S3, a URL is valid for one method.")
    ] = "GET"
    version_id: EntryId | None = None
    expires_in: (
        Annotated[
            int,
            Meta(
                ge=1,
                description="Validity of the URL in seconds, up to the server's limit (900 with an S3 store). "
                "The default is 15 minutes, or more for a large file.",
            ),
        ]
        | None
    ) = None


class Download(msgspec.Struct, kw_only=True):
    """Anyone who has ``url`` can read the bytes until ``expires_at``."""

    url: str
    expires_at: datetime


@routes.get(
    "/v1/files/{file_id}/download",
    needs=Scope.FILES_READ,
    original="/files/{file_id}/download",
    secret=True,
    raises=[NotFound, Invalid, StoreUnavailable],
)
async def download_file(call: Call, file_id: FileId, query: DownloadQuery) -> Download:
    """Get a URL for the bytes of a file, or for a folder as a ZIP archive.

    The URL of a file reads the version that is current now, even after the file was replaced, or that of `version_id`.
    """
    version_id = None if query.version_id is None else VersionId(query.version_id)
    try:
        content = await call.drive.metadata.ask(OpenContent(call.by, file_id, version_id))
    except NotFound:
        if version_id is not None:
            raise
        folder = await call.drive.metadata.ask(GetFile(call.by, file_id))
        if folder.kind is not FileKind.FOLDER:
            raise
        archive = await call.drive.storage.ask(SignArchive(call.by, folder.id, query.expires_in))
        return Download(url=call.reachable(archive.url), expires_at=archive.expires_at)
    signed = await call.drive.storage.ask(
        SignGet(
            by=call.by,
            content=content,
            inline=query.inline,
            head=query.method == hdrs.METH_HEAD,
            expires_in=query.expires_in,
        )
    )
    return Download(url=call.reachable(signed.url), expires_at=signed.expires_at)
