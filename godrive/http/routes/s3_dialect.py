"""The multipart calls of the S3 API for one upload, for clients that know only these, such as Uppy's S3 plugin.

Their answers are those of Amazon S3 (Amazon S3 API reference,
"CreateMultipartUpload", "ListParts", "CompleteMultipartUpload").  They mean the
same as the calls in JSON.  The parts themselves go to the store.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from aiohttp import web

from godrive import parts
from godrive.errors import (
    Conflict,
    DigestMismatch,
    Gone,
    Invalid,
    LengthMismatch,
    NameTaken,
    NotFound,
    PreconditionFailed,
    StoreUnavailable,
    UploadFinished,
)
from godrive.http.api.call import Call
from godrive.http.api.operations import Routes
from godrive.model import UploadId
from godrive.principal import Scope

routes = Routes("uploads")

XML = "application/xml"


@routes.post(
    "/v1/uploads/{upload_id}/s3",
    needs=Scope.FILES_WRITE,
    media_type=XML,
    raises=[NotFound, Conflict, UploadFinished, Gone],
)
async def begin_s3_upload(call: Call, upload_id: UploadId) -> web.Response:
    """Answer as the S3 call CreateMultipartUpload does, for an upload that an intent has begun. Idempotent."""
    upload = await parts.go_on(call.drive, call.by, upload_id)
    named = f"<Key>{escape(upload.object_key)}</Key><UploadId>{escape(upload.id)}</UploadId>"
    return _xml("InitiateMultipartUploadResult", named)


@routes.get(
    "/v1/uploads/{upload_id}/s3",
    needs=Scope.FILES_WRITE,
    media_type=XML,
    raises=[NotFound, Conflict, Gone, Invalid, StoreUnavailable],
)
async def list_s3_parts(call: Call, upload_id: UploadId) -> web.Response:
    """Answer as the S3 call ListParts does, with all parts at once."""
    upload, found = await parts.stored(call.drive, call.by, upload_id)
    listed = "".join(
        f"<Part><PartNumber>{part.number}</PartNumber><Size>{part.size_bytes}</Size>"
        f"<ETag>{escape(part.etag)}</ETag></Part>"
        for part in found
    )
    named = f"<Key>{escape(upload.object_key)}</Key><UploadId>{escape(upload.id)}</UploadId>"
    return _xml("ListPartsResult", f"{named}<IsTruncated>false</IsTruncated>{listed}")


@routes.post(
    "/v1/uploads/{upload_id}/s3/complete",
    needs=Scope.FILES_WRITE,
    media_type=XML,
    raises=[
        NotFound,
        Conflict,
        Gone,
        Invalid,
        LengthMismatch,
        DigestMismatch,
        NameTaken,
        PreconditionFailed,
        StoreUnavailable,
    ],
)
async def complete_s3_upload(call: Call, upload_id: UploadId) -> web.Response:
    """Answer as the S3 call CompleteMultipartUpload does. Idempotent.

    The body is ignored: the parts to join are those of the upload.
    """
    file = await parts.complete(call.drive, call.by, upload_id)
    call.locate(f"/v1/files/{file.id}")
    named = f"<Location>{escape(call.headers['Location'])}</Location><Key>{escape(file.id)}</Key>"
    return _xml("CompleteMultipartUploadResult", f"{named}<ETag>{escape(file.content_etag)}</ETag>")


def _xml(name: str, content: str) -> web.Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<{name}>{content}</{name}>'
    return web.Response(text=text, content_type=XML, headers={"Cache-Control": "no-store"})
