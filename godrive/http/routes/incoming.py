"""Store the bytes of files: by the URL of an intent, or in one request with a token."""

from __future__ import annotations

from typing import Annotated

import msgspec
from aiohttp import hdrs, web
from msgspec import Meta

from godrive import small_transfer, transfer
from godrive.blobs.disposition import UNKNOWN
from godrive.errors import (
    DigestMismatch,
    Gone,
    Invalid,
    LengthMismatch,
    NameTaken,
    NotFound,
    PreconditionFailed,
    StorageFull,
    UploadFinished,
    UrlInvalid,
)
from godrive.http.api.call import Call
from godrive.http.api.conditions import check_absent
from godrive.http.api.media_types import parse_media_type
from godrive.http.api.operations import SIGNED, Routes
from godrive.http.api.problems import Malformed, RequestTimeout, UnsupportedMediaType
from godrive.http.app_keys import METRICS
from godrive.http.observe.metrics import Metrics
from godrive.http.routes.uploads import Completed
from godrive.http.wire.request_body import RequestBody
from godrive.messages.uploads import GetUpload
from godrive.model import Upload, UploadId, UploadState, UserId
from godrive.principal import SignedUrl, Verb

routes = Routes("content")

BYTES = "application/octet-stream"


class PutQuery(msgspec.Struct, frozen=True, kw_only=True):
    """The signed parameters of an upload URL."""

    size: Annotated[int, Meta(ge=0, description="The length of the body in bytes.")]
    mime: Annotated[str, Meta(description="The media type declared in the intent; empty if none was declared.")]
    user: Annotated[UserId, Meta(description="The user on whose authority the URL acts.")]


@routes.put(
    "/v1/uploads/{upload_id}/content",
    needs=SIGNED,
    content=[BYTES],
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
async def put_content(call: Call, upload_id: UploadId, query: PutQuery) -> Completed:
    """Send the bytes of an upload to the URL of its intent.

    Returns the file. For a request with `Expect: 100-continue`, the server checks everything else before it asks for
    the bytes. If the bytes differ from the declaration, the upload fails. After an interruption, send all bytes again
    to the same URL. If the answer was lost, do the same: the answer is `200` with the file if the bytes are the same,
    otherwise `409 upload_finished`.
    """
    by = SignedUrl(user_id=query.user, verb=Verb.CREATE, target_id=upload_id)
    async with receiving(call) as body:
        content = small_body(call, body)
        upload = None if content is None else call.drive.known_uploads.take(upload_id, query.user)
        if upload is None:
            async with call.turn():
                upload = await call.drive.metadata.ask(GetUpload(by, upload_id))
        transfer.check_open(upload)
        _check_headers(call.request, upload)
        if content is None:
            file = await transfer.receive_upload(call.drive, by, upload, body, turn=call.turn())
        else:
            file = await small_transfer.receive_small(call.drive, by, upload, content, turn=call.turn())
    if upload.state is UploadState.COMMITTED or not file.is_new:
        call.status = 200
    call.locate(f"/v1/files/{file.id}")
    call.headers[hdrs.ETAG] = f'"{file.etag}"'
    return Completed(file=file)


class Receiving:
    """A body that is being received, as an async context manager: it is closed, and its bytes are counted."""

    __slots__ = ("_body", "_metrics")

    def __init__(self, body: RequestBody, metrics: Metrics) -> None:
        self._body = body
        self._metrics = metrics

    async def __aenter__(self) -> RequestBody:
        return self._body

    async def __aexit__(self, *_: object) -> None:
        self._body.close()
        self._metrics.bytes_in += self._body.received


def receiving(call: Call) -> Receiving:
    """Receive the body of the request."""
    request = call.request
    return Receiving(RequestBody(request, timeout=call.drive.config.server.body_timeout), request.app[METRICS])


def small_body(call: Call, body: RequestBody) -> bytes | None:
    """Return the whole body, if it has come with the request and is stored with others."""
    packing = call.drive.packing
    return None if packing is None else body.arrived(packing.pack_below)


def length_of(request: web.Request) -> int | None:
    """Return the length of the body; ``None`` if it comes in chunks.  A request without a body has an empty one."""
    if request.content_length is None and hdrs.TRANSFER_ENCODING not in request.headers:
        return 0
    return request.content_length


def check_whole(request: web.Request) -> None:
    """Check that the body is all of the content as it is.  Raises ``UnsupportedMediaType``, ``Malformed``."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("The content must not be encoded.", field=hdrs.CONTENT_ENCODING)
    if hdrs.CONTENT_RANGE in request.headers:
        raise Malformed("A request must send the whole content.", field=hdrs.CONTENT_RANGE)


def _check_headers(request: web.Request, upload: Upload) -> None:
    committed = upload.state is UploadState.COMMITTED
    if committed:
        check_absent(request)
    length = length_of(request)
    if length is not None and length != upload.size_bytes:
        if committed:
            raise UploadFinished("The upload already has its bytes, and these are not the same.")
        raise LengthMismatch(
            f"The upload was declared to have {upload.size_bytes} bytes, not {length}.", field=hdrs.CONTENT_LENGTH
        )
    check_whole(request)
    sent = request.headers.get(hdrs.CONTENT_TYPE)
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
