"""Resumable uploads as the IETF defines them: an upload in one request can be continued in others.

A request that stores bytes and has ``Upload-Complete`` begins an upload, whose URL the client gets in an interim
answer before it has sent the bytes.  If the request breaks off, ``HEAD`` of that URL says how many bytes are stored,
and ``PATCH`` sends the rest and gets the answer that the first request would have got.

A dialect of :mod:`godrive.resumable`, as tus is.
"""

from __future__ import annotations

from datetime import datetime
from typing import TypedDict

from aiohttp import hdrs, web
from multidict import istr

from godrive import resumable
from godrive.appended import Checksum
from godrive.arriving import Pieces
from godrive.errors import (
    ChecksumMismatch,
    Conflict,
    DigestMismatch,
    Gone,
    Invalid,
    LengthMismatch,
    NameTaken,
    NotFound,
    OffsetMismatch,
    PreconditionFailed,
    QuotaExceeded,
    StorageFull,
    TooLarge,
    UploadFinished,
    UploadTakenOver,
)
from godrive.http.api import operations, resumption
from godrive.http.api.call import Call
from godrive.http.api.digests import CONTENT_DIGEST, read_digests
from godrive.http.api.media_types import parse_media_type
from godrive.http.api.operations import PUBLIC, Routes
from godrive.http.api.problems import InconsistentLength, Malformed, RequestTimeout, UnsupportedMediaType
from godrive.http.api.resumption import ProtocolVersion, Wish, boolean, read_offset, read_wish
from godrive.http.routes.incoming import check_whole, length_of, receiving
from godrive.http.routes.upload_state import limit_of, state_of, url_of
from godrive.http.wire.interim import send_interim
from godrive.messages.ingest import CommitUpload
from godrive.messages.uploads import FailUpload
from godrive.model import At, ETag, File, OnConflict, Spot, Upload, UploadId, UploadState, VersionId
from godrive.principal import Scope

routes = Routes("uploads")

_ACCEPT_PATCH = istr("Accept-Patch")
_SUPPORTED = 104, "Upload Resumption Supported"
"""The interim answer that names the upload, or says how much of it is durable."""


class FileOptions(TypedDict):
    """What a request says about the file that it uploads."""

    mime: str
    sha256: str | None
    on_conflict: OnConflict
    modified_at: datetime | None
    if_match: ETag | None


class Resumption:
    """A request that stores bytes and can be resumed."""

    def __init__(self, call: Call, wish: Wish) -> None:
        self.is_complete = wish.is_complete
        self._call = call
        self._wish = wish

    @classmethod
    def of(cls, call: Call, *, sha512: str | None) -> Resumption | None:
        """Return the resumption that the client asked for; ``None`` if it asked for none.

        Raises ``Malformed`` if the client sends a part of a file and the server cannot resume it.
        """
        if resumption.COMPLETE not in call.request.headers:
            return None
        wish = read_wish(call.request, 0, length_of(call.request))
        if wish is None:
            return None
        if sha512 is not None or call.drive.appendable is None:
            if wish.is_complete:
                return None
            raise Malformed("The server cannot resume this upload.", field=resumption.COMPLETE)
        return cls(call, wish)

    async def begin(self, where: Spot, name: str, options: FileOptions) -> Upload:
        """Begin the upload, and tell the client its URL."""
        call, version = self._call, self._wish.version
        try:
            upload = await resumable.begin(
                call.drive, call.by, where, name, size=self._wish.length, turn=call.turn(), **options
            )
        except TooLarge:
            call.on_error(resumption.LIMIT, limit_of(call, None, version))
            raise
        if upload.state is UploadState.PENDING:
            headers: dict[str, str] = {hdrs.LOCATION: url_of(call, upload), **version.interim}
            headers[resumption.LIMIT] = limit_of(call, upload, version)
            send_interim(call.request, *_SUPPORTED, headers)
        return upload

    async def receive(self, upload: Upload, body: Pieces) -> tuple[File, bool] | web.Response:
        """Append the body of the request, the first one of the upload.

        Returns the file, and whether it is new; or the answer for a part.
        """
        call, checksum = self._call, None if self.is_complete else _checksum(self._call.request)
        upload = await _append(call, upload.id, 0, body, wish=self._wish, checksum=checksum)
        if upload.state is UploadState.COMMITTED:
            return await _finished(call, upload, self._wish.version)
        headers = {**state_of(call, upload, self._wish.version), hdrs.LOCATION: url_of(call, upload)}
        return web.Response(status=201, headers={**headers, hdrs.CACHE_CONTROL: "no-store"})


async def _finished(call: Call, upload: Upload, version: ProtocolVersion) -> tuple[File, bool]:
    """Return the file of a finished upload, and whether it is new."""
    call.headers[resumption.COMPLETE] = boolean(True)
    if version.tells_end:
        call.headers[resumption.OFFSET] = str(upload.received_bytes)
    async with call.turn():
        file = await call.drive.ingest.ask(CommitUpload(call.by, upload.id))
    return file, file.is_new and file.version_id == VersionId(upload.id)


@routes.patch(
    "/v1/uploads/{upload_id}",
    needs=Scope.FILES_WRITE,
    also=[201, 204],
    content=[resumption.PARTIAL],
    may_be_empty=True,
    takes=["Upload-Offset", "Upload-Complete", "Upload-Draft-Interop-Version"],
    sends=["Upload-Offset", "Upload-Complete", "Upload-Limit"],
    fields={"size_bytes": resumption.LENGTH, "content_length": hdrs.CONTENT_LENGTH},
    raises=[
        Conflict,
        DigestMismatch,
        Gone,
        InconsistentLength,
        Invalid,
        Malformed,
        NameTaken,
        NotFound,
        OffsetMismatch,
        PreconditionFailed,
        QuotaExceeded,
        RequestTimeout,
        StorageFull,
        TooLarge,
        UnsupportedMediaType,
        UploadFinished,
        UploadTakenOver,
    ],
)
async def append_to_upload(call: Call, upload_id: UploadId) -> File | web.Response:
    """Send the bytes from `Upload-Offset` on, all that are left (`Upload-Complete: ?1`) or some of them (`?0`).

    After the last byte the answer is that of the request which began the upload: the file. What arrives before a
    connection is lost stays. Ends an earlier request that is still sending to this upload. With a SHA-256 in
    `Content-Digest`, all bytes of the body are stored, or none. `409 offset_mismatch` has the offset of the upload in
    `Upload-Offset`.
    """
    request = call.request
    call.on_error(resumption.COMPLETE, boolean(False))
    try:
        kind = parse_media_type(request.headers.get(hdrs.CONTENT_TYPE, "")).name
    except Invalid:
        kind = ""
    if kind != resumption.PARTIAL:
        raise UnsupportedMediaType(f"Bytes are sent as {resumption.PARTIAL}.", field=hdrs.CONTENT_TYPE)
    check_whole(request)
    offset = read_offset(request)
    if offset is None:
        raise Malformed("Say where the bytes begin.", field=resumption.OFFSET)
    wish = read_wish(request, offset, length_of(request))
    if wish is None:
        raise Malformed("Say whether these are the last bytes.", field=resumption.COMPLETE)
    async with receiving(call) as body:
        upload = await _append(call, upload_id, offset, body, wish=wish, checksum=_checksum(request))
    if upload.state is not UploadState.COMMITTED:
        headers = {**state_of(call, upload, wish.version), hdrs.CACHE_CONTROL: "no-store"}
        return web.Response(status=wish.version.appended, headers=headers)
    file, is_new = await _finished(call, upload, wish.version)
    call.status = 201 if is_new else 200
    call.locate(f"/v1/files/{file.id}")
    call.headers[hdrs.ETAG] = f'"{file.etag}"'
    return file


async def _append(
    call: Call, upload_id: UploadId, offset: int, body: Pieces, *, wish: Wish, checksum: Checksum | None
) -> Upload:
    drive, by, turn, size = call.drive, call.by, call.turn(), length_of(call.request)

    def tell(durable: int) -> None:
        if size is None or durable < offset + size:  # otherwise the final answer comes now
            send_interim(call.request, *_SUPPORTED, {**wish.version.interim, resumption.OFFSET: str(durable)})

    try:
        upload = await resumable.append(
            drive,
            by,
            upload_id,
            offset,
            body,
            size=size,
            length=wish.length,
            checksum=checksum,
            progress=tell,
            turn=turn,
        )
        if wish.is_complete and upload.length is None:
            upload = await resumable.declare(drive, by, upload_id, upload.received_bytes, turn=turn)
    except OffsetMismatch as error:
        call.on_error(resumption.OFFSET, str(error.offset))
        raise
    except LengthMismatch as error:
        if size is None:  # the specification demands that such an upload ends
            await drive.metadata.ask(FailUpload(by, upload_id, error.detail))
        raise InconsistentLength(error.detail, field=error.field) from None
    except ChecksumMismatch as error:
        raise DigestMismatch(error.detail, field=CONTENT_DIGEST) from None
    except Invalid as error:
        if error.field != "size_bytes":
            call.on_error(resumption.COMPLETE, boolean(isinstance(error, DigestMismatch)))
            raise
        raise InconsistentLength(error.detail, field=resumption.LENGTH) from None
    except (NameTaken, PreconditionFailed):
        call.on_error(resumption.COMPLETE, boolean(True))
        raise
    except TooLarge:
        call.on_error(resumption.LIMIT, limit_of(call, None, wish.version))
        raise
    if wish.is_complete and upload.state is UploadState.PENDING:
        call.on_error(resumption.OFFSET, str(upload.received_bytes))
        raise InconsistentLength(f"The upload has {upload.length} bytes, and these were not the last.")
    return upload


def _checksum(request: web.Request) -> Checksum | None:
    """Return the digest that the content of this request must have.  Raises ``Malformed``."""
    digests = read_digests(request, [CONTENT_DIGEST])
    if digests.sha256 is None and digests.sha512 is not None:
        raise Malformed("The digest of a part is by sha-256.", field=CONTENT_DIGEST)
    return None if digests.sha256 is None else Checksum("sha256", bytes.fromhex(digests.sha256))


_DESCRIBES: operations.Options = {"status": 204, "sends": ["Upload-Limit", "Accept-Patch"]}


@routes.options("/v1/files", needs=PUBLIC, **_DESCRIBES)
async def describe_files(call: Call) -> web.Response:
    """Return the limits of uploads that can be resumed."""
    return _describe(call)


@routes.options("/v1/files/by-path/{path}", needs=PUBLIC, **_DESCRIBES)
async def describe_path(call: Call, path: At) -> web.Response:
    """The same as `OPTIONS /v1/files`."""
    return _describe(call)


def _describe(call: Call) -> web.Response:
    path = call.request.match_info.route.resource
    assert path is not None  # noqa: S101 - only the handlers of errors have none
    same = [resource for resource in call.request.app.router.resources() if resource.canonical == path.canonical]
    headers = {hdrs.ALLOW: ",".join(sorted({route.method for resource in same for route in resource}))}
    if call.drive.appendable is not None:
        headers[resumption.LIMIT] = limit_of(call, None, resumption.VERSIONS[None])
        headers[_ACCEPT_PATCH] = resumption.PARTIAL  # drafts 10 and 11 demand it
    return web.Response(status=204, headers=headers)
