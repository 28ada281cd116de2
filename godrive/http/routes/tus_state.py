"""The answers of tus: the state of an upload, and what this server supports."""

from __future__ import annotations

from email.utils import format_datetime

from aiohttp import hdrs, web

from godrive import transfer
from godrive.appended import CHECKSUMS
from godrive.errors import NotFound
from godrive.http.api import tus_headers as tus
from godrive.http.api.call import Call
from godrive.model import Upload, UploadKind, UploadState

PATH = "/v1/tus"
ALWAYS: dict[str, str] = {tus.RESUMABLE: tus.VERSION, tus.TUS_VERSION: tus.VERSION}
"""Headers of every answer."""

_EXTENSIONS = (
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "expiration",
    "checksum",
    "termination",
    "concatenation",
)


def describe(call: Call, methods: str) -> web.Response:
    """Return what this server can do.  Without a store that can append, that is nothing."""
    headers: dict[str, str] = {hdrs.ALLOW: methods}
    if call.drive.appendable is not None:
        headers["Tus-Extension"] = ",".join(_EXTENSIONS)
        headers["Tus-Checksum-Algorithm"] = ",".join(CHECKSUMS)
    headers["Tus-Max-Size"] = str(call.drive.config.blobs.max_upload_bytes)
    return web.Response(status=204, headers=headers)


def url_of(call: Call, upload: Upload) -> str:
    """Return the URL of an upload, for this client."""
    return f"{call.base}{PATH}/{upload.id}"


def note_of(metadata: str, concat: str) -> str:
    """Return what is kept with an upload because its state repeats it: ``Upload-Metadata`` and ``Upload-Concat``."""
    return f"{metadata}\n{concat}"


def parts_of(upload: Upload) -> tuple[str, ...]:
    """Return the ids of the parts that an upload was made of; empty for one that takes bytes itself."""
    urls = upload.note.partition("\n")[2].partition(";")[2]
    return tuple(url.rpartition("/")[2] for url in urls.split())


def state_of(call: Call, upload: Upload) -> dict[str, str]:
    """Return the headers that say how far an upload is.

    Raises ``Gone`` if it has ended without a file, ``NotFound`` if its bytes come in one request.
    """
    if upload.kind is UploadKind.WHOLE:
        raise NotFound("There is no such upload.")
    transfer.check_open(upload)
    metadata, _, concat = upload.note.partition("\n")
    headers: dict[str, str] = {hdrs.CACHE_CONTROL: "no-store", tus.OFFSET: str(upload.received_bytes)}
    if upload.length is None:
        headers[tus.DEFER_LENGTH] = "1"
    else:
        headers[tus.LENGTH] = str(upload.length)
    if metadata:
        headers[tus.METADATA] = metadata
    if concat or upload.kind is UploadKind.PART:
        headers[tus.CONCAT] = concat or "partial"
    if upload.state is UploadState.PENDING:
        headers["Upload-Expires"] = format_datetime(upload.expires_at, usegmt=True)
    elif upload.file_id is not None:
        headers["Upload-File-Id"] = upload.file_id
        headers[hdrs.CONTENT_LOCATION] = f"{call.base}/v1/files/{upload.file_id}"
    return headers
