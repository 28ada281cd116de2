"""Folders as ZIP archives."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Annotated

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from godrive.archive import Archive, DamagedMember
from godrive.blobs.disposition import content_disposition
from godrive.errors import Invalid, NotFound, StoreUnavailable
from godrive.http.api.call import Call
from godrive.http.api.operations import Routes
from godrive.http.app_keys import METRICS
from godrive.http.observe.request_log import CLIENT_LEFT, findings, logger
from godrive.http.routes.files import ROOT, spot_of
from godrive.http.wire.sendfile import STALLED
from godrive.messages.files import GetFile
from godrive.model import FileId, FileKind, UserId
from godrive.principal import Caller, Scope, SignedUrl, Verb

routes = Routes("archives")

ZIP = "application/zip"


class RangeNotSupported(Invalid):
    """An archive is made while it is sent, so no part of it can be had on its own."""

    code = "range_not_supported"
    title = "Ranges are not supported"


class ArchiveQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The query of a request with a token."""


class SignedArchiveQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The signed parameters of the URL of an archive."""

    user: Annotated[UserId, Meta(description="The user on whose authority the URL acts.")]


@routes.get(
    "/v1/files/{file_id}/zip",
    needs=Scope.FILES_READ,
    by_url=SignedArchiveQuery,
    media_type=ZIP,
    raises=[NotFound, Invalid, RangeNotSupported, StoreUnavailable],
)
async def get_archive(call: Call, file_id: FileId, query: ArchiveQuery | SignedArchiveQuery) -> web.StreamResponse:
    """Read a folder as a ZIP archive, with a token or from the URL of its download. `root` is the whole drive.

    The archive is made while it is sent and is not compressed. `Content-Length` is known for up to 5000 files and
    folders. The answer to a request with `Range` is `400 range_not_supported`. If a file is lost while the archive is
    sent, the connection is closed before the end of the archive.
    """
    request, drive = call.request, call.drive
    by: Caller | SignedUrl
    if isinstance(query, SignedArchiveQuery):
        by = SignedUrl(user_id=query.user, verb=Verb.READ, target_id=file_id)
        findings.get().user = query.user
    else:
        by = call.by
    if hdrs.RANGE in request.headers and hdrs.IF_RANGE not in request.headers:  # there is no validator for If-Range
        raise RangeNotSupported("An archive is made while it is sent: request it whole.", field=hdrs.RANGE)
    async with call.turn():
        name = "drive"
        if file_id != ROOT:
            folder = await drive.metadata.ask(GetFile(by, file_id))
            if folder.kind is not FileKind.FOLDER:
                raise NotFound("There is no such folder.")
            name = folder.name
        archive = await Archive.open(drive, by, spot_of(file_id))
    try:
        return await _send(call, archive, name)
    finally:
        archive.close()


async def _send(call: Call, archive: Archive, name: str) -> web.StreamResponse:
    request = call.request
    response = web.StreamResponse(
        headers={
            hdrs.CONTENT_TYPE: ZIP,
            hdrs.CONTENT_DISPOSITION: content_disposition(f"{name}.zip", ZIP),
            hdrs.ACCEPT_RANGES: "none",
            hdrs.CACHE_CONTROL: "no-store",
            hdrs.VARY: hdrs.AUTHORIZATION,
            "Content-Security-Policy": "default-src 'none'; sandbox",
        }
    )
    response.content_length = archive.length
    if request.method == hdrs.METH_HEAD:
        return response
    await response.prepare(request)
    found, sent = findings.get(), 0
    found.status = response.status
    try:
        async with aclosing(archive.pieces()) as pieces:
            async for piece in pieces:
                async with asyncio.timeout(STALLED):
                    await response.write(piece)
                sent += len(piece)
        await response.write_eof()
    except (ConnectionError, TimeoutError):
        found.ended = CLIENT_LEFT
        if request.transport is not None:
            request.transport.abort()
    except DamagedMember as damaged:
        request.app[METRICS].damaged[damaged.kind] += 1
        member = damaged.member
        logger().error("blob_damaged", kind=damaged.kind, object_key=member.object_key, file_id=member.file_id)
        raise
    finally:
        request.app[METRICS].bytes_out += sent
    return response
