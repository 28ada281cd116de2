"""The routes that move bytes: targets of signed URLs, if clients cannot reach the store directly."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from godrive import transfer
from godrive.blobs.disposition import UNKNOWN, content_disposition, may_be_shown
from godrive.blobs.sniffing import HEAD, is_utf_8
from godrive.drive import GoDrive
from godrive.errors import (
    DigestMismatch,
    Gone,
    Invalid,
    LengthMismatch,
    NameTaken,
    NotFound,
    PreconditionFailed,
    RangeNotSatisfiable,
    StorageFull,
    UploadFinished,
    UrlInvalid,
)
from godrive.http.api.call import Call
from godrive.http.api.conditions import check_absent, is_unmodified, wanted_span
from godrive.http.api.media_types import parse_media_type
from godrive.http.api.operations import SIGNED, Routes
from godrive.http.api.problems import Malformed, RequestTimeout, UnsupportedMediaType, problem
from godrive.http.app_keys import METRICS
from godrive.http.observe.middleware import meet_expectation
from godrive.http.observe.request_log import findings, logger
from godrive.http.routes.uploads import Completed
from godrive.http.wire.request_body import RequestBody
from godrive.http.wire.sendfile import DamagedBlob, send
from godrive.messages.uploads import GetUpload
from godrive.model import Content, File, FileId, Upload, UploadId, UploadState, UserId, VersionId
from godrive.principal import SignedUrl, Verb
from godrive.runtime import request_id

routes = Routes("content")

_POLICY = "default-src 'none'; sandbox"
_MEDIA_POLICY = "default-src 'none'; media-src 'self'; sandbox"
"""For audio and video, because the browser's player reads the URL again from its own page."""


class PutQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The signed parameters of an upload URL."""

    size: Annotated[int, Meta(ge=0, description="The length of the body in bytes.")]
    mime: Annotated[str, Meta(description="The media type declared in the intent; empty if none was declared.")]
    user: Annotated[UserId, Meta(description="The user on whose authority the URL acts.")]


class GetQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The signed parameters of a download URL."""

    v: Annotated[VersionId, Meta(description="The version of the file.")]
    user: Annotated[UserId, Meta(description="The user on whose authority the URL acts.")]
    inline: Annotated[Literal["1"], Meta(description="A browser may display the file.")] | None = None


@routes.put(
    "/v1/uploads/{upload_id}/content",
    needs=SIGNED,
    status=201,
    also=[200],
    raises=[
        UrlInvalid,
        NotFound,
        Gone,
        UploadFinished,
        NameTaken,
        PreconditionFailed,
        LengthMismatch,
        DigestMismatch,
        Invalid,
        Malformed,
        UnsupportedMediaType,
        RequestTimeout,
        StorageFull,
    ],
)
async def put_content(call: Call, upload_id: UploadId, query: PutQuery) -> Completed | web.Response:
    """Send the bytes of an upload to the URL of its intent.

    Returns the file. For a request with `Expect: 100-continue`, the server checks everything else before it asks for
    the bytes. If the bytes differ from the declaration, the upload fails. After an interruption, send all bytes again
    to the same URL. If the answer was lost, do the same: the answer is `200` with the file if the bytes are the same,
    otherwise `409 upload_finished`.
    """
    request, drive = call.request, call.drive
    by = SignedUrl(user_id=query.user, verb=Verb.CREATE, target_id=upload_id)
    findings.get().user = query.user
    upload = await drive.metadata.ask(GetUpload(by, upload_id))
    transfer.check_open(upload)
    _check_headers(request, upload)
    if hdrs.EXPECT in request.headers and (refusal := await meet_expectation(request)) is not None:
        return refusal
    body = RequestBody(request, timeout=drive.config.server.body_timeout)
    try:
        file = await transfer.receive_upload(drive, by, upload, body)
    finally:
        body.close()
        request.app[METRICS].bytes_in.inc(body.received)
    if body.last:
        request.content.feed_eof()  # otherwise aiohttp would wait for the rest of the body
        call.headers[hdrs.CONNECTION] = "close"
    if upload.state is UploadState.COMMITTED or not file.is_new:
        call.status = 200
    call.locate(f"/v1/files/{file.id}")
    call.headers[hdrs.ETAG] = f'"{file.etag}"'
    return Completed(file=file)


@routes.get(
    "/v1/files/{file_id}/content",
    needs=SIGNED,
    conditional=True,
    also=[206],
    media_type="application/octet-stream",
    raises=[UrlInvalid, NotFound, PreconditionFailed, RangeNotSatisfiable],
)
async def get_content(call: Call, file_id: FileId, query: GetQuery) -> web.StreamResponse:
    """Read the bytes of a file from the URL of its download.

    Returns all bytes, or a part if the request has `Range`. `Content-Type` is the media type of the file.
    """
    request, drive = call.request, call.drive
    now = drive.clock.now()
    by = SignedUrl(user_id=query.user, verb=Verb.READ, target_id=file_id)
    findings.get().user = query.user
    content = await transfer.open_content(drive, by, file_id, version_id=query.v)
    file, size = content.file, content.file.size_bytes
    modified_at = file.updated_at.replace(microsecond=0)
    inline = query.inline is not None and may_be_shown(file.mime)
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
        except NotFound:
            await transfer.open_content(drive, by, file_id, version_id=query.v)  # raises if it was purged meanwhile
            _report(request, content, "missing")
            raise DamagedBlob("missing") from None
        request.app[METRICS].bytes_out.inc(end - start)
    return response


def _report(request: web.Request, content: Content, kind: str) -> None:
    """Count and log a blob that does not match its file."""
    request.app[METRICS].damaged[kind] += 1
    logger().error("blob_damaged", kind=kind, object_key=content.object_key, file_id=content.file.id)


async def expect_later(request: web.Request) -> None:
    """Leave ``Expect: 100-continue`` to the handler, which first checks everything else."""


def _check_headers(request: web.Request, upload: Upload) -> None:
    headers, committed = request.headers, upload.state is UploadState.COMMITTED
    if committed:
        check_absent(request)
    length = request.content_length
    if length is None and hdrs.TRANSFER_ENCODING not in headers:
        length = 0
    if length is not None and length != upload.size_bytes:
        if committed:
            raise UploadFinished("The upload already has its bytes, and these are not the same.")
        raise LengthMismatch(
            f"The upload was declared to have {upload.size_bytes} bytes, not {length}.", field=hdrs.CONTENT_LENGTH
        )
    if headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("The content must not be encoded.", field=hdrs.CONTENT_ENCODING)
    if hdrs.CONTENT_RANGE in headers:
        raise Malformed("A PUT must send the whole content.", field=hdrs.CONTENT_RANGE)
    sent = headers.get(hdrs.CONTENT_TYPE)
    if upload.mime and sent is not None and not _agree(upload.mime, sent):
        raise Invalid(f"The upload was declared as {upload.mime}.", field=hdrs.CONTENT_TYPE)


def _agree(declared: str, sent: str) -> bool:
    if declared.strip().lower() == sent.strip().lower():
        return True  # also if neither is a valid media type
    try:
        type_ = parse_media_type(sent)
        # Generated clients send application/octet-stream, which contradicts no type.
        return type_.name == UNKNOWN or parse_media_type(declared).agrees_with(type_)
    except Invalid:
        return False


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
        "Content-Security-Policy": _MEDIA_POLICY if media else _POLICY,
    }
