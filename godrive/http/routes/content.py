"""Read the bytes of files: with a token, or by a URL that this server signed."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from godrive import transfer
from godrive.blobs import BlobDamaged
from godrive.blobs.disposition import UNKNOWN, content_disposition, may_be_shown
from godrive.blobs.sniffing import HEAD, is_utf_8
from godrive.drive import GoDrive
from godrive.errors import Invalid, NotFound, PreconditionFailed, RangeNotSatisfiable, StoreUnavailable
from godrive.http.api.call import Call
from godrive.http.api.conditions import is_unmodified, wanted_span
from godrive.http.api.media_types import parse_media_type
from godrive.http.api.operations import BYTES, Routes
from godrive.http.api.problems import problem
from godrive.http.app_keys import METRICS
from godrive.http.observe.request_log import logger
from godrive.http.wire.sendfile import DamagedBlob, send
from godrive.messages.storage import SignGet
from godrive.model import Content, File, FileId, UserId, VersionId
from godrive.principal import Caller, Scope, SignedUrl, Verb
from godrive.runtime import request_id

routes = Routes("content")

_POLICY = "default-src 'none'; sandbox"
_MEDIA_POLICY = "default-src 'none'; media-src 'self'; sandbox"
"""For audio and video, because the browser's player reads the URL again from its own page."""


class ContentQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Options of a request with a token."""

    inline: Annotated[
        bool, Meta(description="Let a browser display the file, if its type is safe and this server sends the bytes.")
    ] = False
    redirect: Annotated[
        bool,
        Meta(description="With an S3 store, answer with `307` and a signed URL. `false`: the bytes pass this server."),
    ] = True


class GetQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The signed parameters of a download URL."""

    v: Annotated[VersionId, Meta(description="The version of the file.")]
    user: Annotated[UserId, Meta(description="The user on whose authority the URL acts.")]
    inline: Annotated[Literal["1"], Meta(description="A browser may display the file.")] | None = None


@routes.get(
    "/v1/files/{file_id}/content",
    needs=Scope.FILES_READ,
    by_url=GetQuery,
    conditional=True,
    also=[206, 307],
    media_type=BYTES,
    raises=[NotFound, PreconditionFailed, RangeNotSatisfiable, StoreUnavailable],
)
async def get_content(call: Call, file_id: FileId, query: ContentQuery | GetQuery) -> web.StreamResponse:
    """Read the bytes of a file, with a token or from the URL of its download.

    Returns all bytes, or a part if the request has `Range`. `Content-Type` is the media type of the file. With a token
    and an S3 store, the answer is `307` to a signed URL, unless `redirect` is `false`.
    """
    if isinstance(query, ContentQuery):
        async with call.turn():
            content = await transfer.open_content(call.drive, call.by, file_id)
        return await answer_content(call, call.by, content, query)
    by = SignedUrl(user_id=query.user, verb=Verb.READ, target_id=file_id)
    async with call.turn():
        content = await transfer.open_content(call.drive, by, file_id, version_id=query.v)
    return await _send(call, by, content, inline=query.inline is not None)


async def answer_content(call: Call, by: Caller, content: Content, query: ContentQuery) -> web.StreamResponse:
    """Answer a request with a token for *content*: with a redirect to the store if clients reach it, else the bytes.

    The server that sends the bytes evaluates the conditions of the request.
    """
    drive = call.drive
    if not query.redirect or drive.presigner is None:
        return await _send(call, by, content, inline=query.inline)
    head = call.request.method == hdrs.METH_HEAD
    async with call.turn():
        signed = await drive.storage.ask(SignGet(by, content, query.inline, head))
    return web.Response(status=307, headers={hdrs.LOCATION: signed.url, hdrs.CACHE_CONTROL: "no-store"})


async def _send(call: Call, by: Caller | SignedUrl, content: Content, *, inline: bool) -> web.StreamResponse:
    request, drive = call.request, call.drive
    now = drive.clock.now()
    file, size = content.file, content.file.size_bytes
    modified_at = file.updated_at.replace(microsecond=0)
    inline = inline and may_be_shown(file.mime)
    response = web.StreamResponse(headers=_headers(file, modified_at, inline=inline))
    if is_unmodified(request, file.content_etag, modified_at):
        response.set_status(304)
        return response
    response.headers[hdrs.CONTENT_TYPE] = await _content_type(drive, content, inline=inline)
    try:
        span = wanted_span(request, file.content_etag, modified_at, size, now)
    except RangeNotSatisfiable as error:
        refusal = problem(error, request_id.get() or "")
        refusal.headers[hdrs.CONTENT_RANGE] = f"bytes */{size}"
        return refusal
    start, end = span or (0, size)
    response.content_length = end - start
    if span is not None:
        response.set_status(206)
        response.headers[hdrs.CONTENT_RANGE] = f"bytes {start}-{end - 1}/{size}"
    if request.method != hdrs.METH_HEAD and start < end:
        try:
            await send(request, response, drive.blobs, content, (start, end))
        except DamagedBlob as damaged:
            _report(request, content, damaged.kind)
            raise
        except BlobDamaged:
            _report(request, content, "bytes")
            raise DamagedBlob("bytes") from None
        except NotFound:
            # Raises if it was purged meanwhile.
            await transfer.open_content(drive, by, file.id, version_id=file.version_id)
            _report(request, content, "missing")
            raise DamagedBlob("missing") from None
        request.app[METRICS].bytes_out += end - start
    return response


def _report(request: web.Request, content: Content, kind: str) -> None:
    """Count and log a blob that does not match its file."""
    request.app[METRICS].damaged[kind] += 1
    logger().error("blob_damaged", kind=kind, object_key=content.object_key, file_id=content.file.id)


async def _content_type(drive: GoDrive, content: Content, *, inline: bool) -> str:
    """Return the media type.  For inline text, add the charset if the first bytes are valid UTF-8."""
    mime = content.file.mime or UNKNOWN
    try:
        media_type = parse_media_type(mime)
    except Invalid:
        return mime
    if not inline or not media_type.name.startswith("text/") or media_type.charset is not None:
        return mime
    head = b"".join([piece async for piece in drive.blobs.get(content.object_key, end=HEAD)])
    return f"{mime}; charset=utf-8" if is_utf_8(head) else mime


def _headers(file: File, modified_at: datetime, *, inline: bool) -> dict[str, str]:
    """Return the headers of every answer, except the type.  A browser must not execute user content."""
    media = inline and file.mime.lower().startswith(("audio/", "video/"))
    return {
        hdrs.CONTENT_DISPOSITION: content_disposition(file.name, file.mime, inline=inline),
        hdrs.ETAG: f'"{file.content_etag}"',
        hdrs.LAST_MODIFIED: modified_at.strftime("%a, %d %b %Y %H:%M:%S GMT"),
        hdrs.ACCEPT_RANGES: "bytes",
        hdrs.CACHE_CONTROL: "private, no-cache",
        hdrs.VARY: hdrs.AUTHORIZATION,
        "Content-Security-Policy": _MEDIA_POLICY if media else _POLICY,
    }
