"""How far an upload is, in the headers of the IETF's resumable uploads."""

from __future__ import annotations

from aiohttp import hdrs

from godrive import resumable, transfer
from godrive.http.api import resumption
from godrive.http.api.call import Call
from godrive.model import IN_APPENDS, Upload, UploadId, UploadState


async def find_offset(call: Call, upload_id: UploadId) -> Upload | None:
    """Return the upload that the client asks about in order to resume it, and set the headers that say how far it is.

    ``None`` if the request asks for something else: only ``HEAD``, and ``GET`` by a client of the protocol, end a
    request that is still sending.  Raises ``Gone`` if the upload has ended without a file.
    """
    if call.request.method != hdrs.METH_HEAD and resumption.INTEROP not in call.request.headers:
        return None
    upload = await resumable.offset(call.drive, call.by, upload_id, turn=call.turn())
    if upload.kind in IN_APPENDS:
        _set_state(call, upload)
    return upload


def show_offset(call: Call, upload: Upload) -> None:
    """Set the headers that say how far an upload is, unless a request that is still sending moves its offset."""
    is_open = upload.kind in IN_APPENDS and upload.state in (UploadState.PENDING, UploadState.COMMITTED)
    if is_open and not call.drive.append_turns.is_taken(upload.id):
        _set_state(call, upload)


def _set_state(call: Call, upload: Upload) -> None:
    version = resumption.read_version(call.request) or resumption.VERSIONS[None]
    call.headers |= {**state_of(call, upload, version), hdrs.CACHE_CONTROL: "no-store"}


def state_of(call: Call, upload: Upload, version: resumption.ProtocolVersion) -> dict[str, str]:
    """Return the headers that say how far an upload is.  Raises ``Gone`` if it has ended without a file."""
    transfer.check_open(upload)
    headers: dict[str, str] = {
        resumption.OFFSET: str(upload.received_bytes),
        resumption.COMPLETE: resumption.boolean(upload.state is UploadState.COMMITTED),
        resumption.LIMIT: limit_of(call, upload, version),
    }
    if upload.length is not None:
        headers[resumption.LENGTH] = str(upload.length)
    return headers


def limit_of(call: Call, upload: Upload | None, version: resumption.ProtocolVersion) -> str:
    """Return the limits of an upload, or of those to come."""
    limits = {"max-size": call.drive.config.blobs.max_upload_bytes}
    if upload is not None and upload.state is UploadState.PENDING:
        left = upload.expires_at - call.drive.clock.now()
        limits[version.max_age] = max(0, int(left.total_seconds()))
    return ", ".join(f"{name}={value}" for name, value in limits.items())


def url_of(call: Call, upload: Upload) -> str:
    """Return the URL of an upload, for this client."""
    return f"{call.base}/v1/uploads/{upload.id}"
