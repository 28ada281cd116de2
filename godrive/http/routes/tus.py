"""tus 1.0: uploads in any number of requests (https://tus.io/protocols/resumable-upload).

A dialect of :mod:`godrive.resumable`, which decides everything: here are headers.
"""

from __future__ import annotations

from functools import partial

import msgspec
from aiohttp import hdrs, web

from godrive import resumable
from godrive.appended import Checksum
from godrive.errors import (
    ChecksumMismatch,
    Conflict,
    DigestMismatch,
    Forbidden,
    Gone,
    Invalid,
    LengthMismatch,
    NameTaken,
    NotFound,
    OffsetMismatch,
    PreconditionFailed,
    QuotaExceeded,
    StorageFull,
    TooDeep,
    TooLarge,
    UploadFinished,
    UploadTakenOver,
)
from godrive.http.api import tus_headers as tus
from godrive.http.api.call import Call
from godrive.http.api.media_types import parse_media_type
from godrive.http.api.operations import PUBLIC, Options, Routes
from godrive.http.api.problems import Malformed, MethodNotAllowed, RequestTimeout, UnsupportedMediaType
from godrive.http.routes.files import EntryId
from godrive.http.routes.incoming import check_whole, length_of, receiving
from godrive.http.routes.tus_metadata import KNOWN, read_wanted
from godrive.http.routes.tus_state import ALWAYS, PATH, describe, note_of, parts_of, state_of, url_of
from godrive.http.routes.uploads import UploadView, view_upload
from godrive.messages.uploads import GetUpload
from godrive.model import At, OnConflict, Upload, UploadId, UploadState
from godrive.principal import Scope

routes = Routes("tus", always=ALWAYS)

_ON_UPLOAD = "GET,HEAD,PATCH,DELETE,POST,OPTIONS"
_ABOUT = ["Upload-Length", "Upload-Expires", "Upload-Metadata", "Upload-Concat", "Upload-File-Id", "Content-Location"]
_FIELDS = {
    "name": "filename",
    "mime": "filetype",
    "size_bytes": tus.LENGTH,
    "offset": tus.OFFSET,
    "length": tus.LENGTH,
    "content_length": hdrs.CONTENT_LENGTH,
    "parts": tus.CONCAT,
}
_OF_BYTES = [
    ChecksumMismatch,
    Conflict,
    DigestMismatch,
    Gone,
    Invalid,
    Malformed,
    MethodNotAllowed,
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
    tus.UnsupportedTusVersion,
]

_DISCOVERY: Options = {
    "status": 204,
    "sends": ["Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm"],
}
_DISCOVERY_AT_ROOT: Options = {**_DISCOVERY, "original": f"{PATH}/"}
_CREATES: Options = {
    "status": 201,
    "media_type": "",
    "replays": True,
    "content": [tus.CHUNK],
    "may_be_empty": True,
    "takes": [
        "Tus-Resumable",
        "Upload-Length",
        "Upload-Defer-Length",
        "Upload-Metadata",
        "Upload-Concat",
        "Upload-Checksum",
    ],
    "sends": ["Upload-Offset", "Upload-Expires"],
    "fields": _FIELDS,
    "raises": [*_OF_BYTES, Forbidden, TooDeep],
}
_CREATES_AT_ROOT: Options = {**_CREATES, "original": f"{PATH}/"}  # many clients write the endpoint with a slash


class TusQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The folder, and what to do if the name is taken.  ``Upload-Metadata`` may have both instead."""

    parent_id: EntryId | None = None
    on_conflict: OnConflict = OnConflict.FAIL


class TusFolderQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to do if the name is taken."""

    on_conflict: OnConflict = OnConflict.REPLACE


@routes.options(PATH, needs=PUBLIC, **_DISCOVERY_AT_ROOT)
async def describe_tus(call: Call) -> web.Response:
    """Return what the server supports: extensions of tus, the largest upload, the algorithms of checksums."""
    return describe(call, "POST,OPTIONS")


@routes.options(f"{PATH}/by-path/{{path}}", needs=PUBLIC, **_DISCOVERY)
async def describe_tus_folder(call: Call, path: At) -> web.Response:
    """The same as `OPTIONS /v1/tus`."""
    return describe(call, "POST,OPTIONS")


@routes.options(f"{PATH}/{{upload_id}}", needs=PUBLIC, **_DISCOVERY)
async def describe_tus_upload(call: Call, upload_id: UploadId) -> web.Response:
    """The same as `OPTIONS /v1/tus`."""
    return describe(call, _ON_UPLOAD)


@routes.post(PATH, needs=Scope.FILES_WRITE, **_CREATES_AT_ROOT)
async def create_tus_upload(call: Call, query: TusQuery) -> web.Response:
    """Create an upload, with its first bytes or without.

    `Upload-Metadata` may have `filename` or `name`, `filetype` or `type`, `relativePath` (its folders are created),
    `path` or `parent_id` (the folder), `on_conflict`, `modified_at` (or `mtime` in seconds, `lastModified` in
    milliseconds) and `sha256`; other keys are kept. The URL in `Location` works for the user, with any of their tokens,
    until `Upload-Expires`, which every accepted byte postpones.
    """
    return await _create(call, None, query.parent_id, query.on_conflict)


@routes.post(f"{PATH}/by-path/{{path}}", needs=Scope.FILES_WRITE, **_CREATES)
async def create_tus_upload_in_folder(call: Call, path: At, query: TusFolderQuery) -> web.Response:
    """Create an upload in the folder at a path. As with `PUT` by path, `on_conflict` is `replace` by default."""
    return await _create(call, path, None, query.on_conflict)


async def _create(call: Call, base: At | None, parent_id: str | None, on_conflict: OnConflict) -> web.Response:
    request = call.request
    _check(call, "POST,OPTIONS", hdrs.METH_POST)
    concat = tus.read_concat(request, call.base)
    sent, meta = tus.read_metadata(request, KNOWN)
    size = length_of(request)
    if size != 0 and not _is_chunk(request):
        raise UnsupportedMediaType(f"Bytes are sent as {tus.CHUNK}.", field=hdrs.CONTENT_TYPE)
    check_whole(request)
    wanted = read_wanted(meta, base, parent_id, on_conflict)
    if concat is not None and not concat.is_part:
        if size != 0 or tus.LENGTH in request.headers or tus.DEFER_LENGTH in request.headers:
            raise Malformed("The parts have the bytes and the length.", field=tus.CONCAT)
        upload = await resumable.concatenate(
            call.drive,
            call.by,
            [UploadId(part) for part in concat.parts],
            wanted.where,
            wanted.name,
            mime=wanted.mime,
            sha256=wanted.sha256,
            on_conflict=wanted.on_conflict,
            modified_at=wanted.modified_at,
            note=note_of(sent, request.headers[tus.CONCAT]),
            check=partial(_check_parts, parts=concat.parts),
            turn=call.turn(),
        )
        return _created(call, upload)
    length = tus.read_length(request)
    if length is not None and size is not None and size > length:
        raise TooLarge(f"The upload has {length} bytes.", field=hdrs.CONTENT_LENGTH)
    checksum = tus.read_checksum(request)
    upload = await resumable.begin(
        call.drive,
        call.by,
        wanted.where,
        wanted.name,
        size=length,
        mime=wanted.mime,
        sha256=wanted.sha256,
        on_conflict=wanted.on_conflict,
        modified_at=wanted.modified_at,
        part=concat is not None,
        note=note_of(sent, ""),
        turn=call.turn(),
    )
    if size != 0:
        call.on_error(hdrs.LOCATION, url_of(call, upload))  # what has arrived by then stays
        upload = await _receive(call, upload.id, 0, None, checksum)
    return _created(call, upload)


def _check_parts(upload: Upload, parts: tuple[str, ...]) -> None:
    is_open = upload.state in (UploadState.PENDING, UploadState.COMMITTED)
    if is_open and parts_of(upload) != parts:
        raise Conflict("The parts were joined with others, or in another order.", field=tus.CONCAT)


async def _receive(
    call: Call, upload_id: UploadId, offset: int, length: int | None, checksum: Checksum | None
) -> Upload:
    """Append the body of the request."""
    try:
        async with receiving(call) as body:
            upload = await resumable.append(
                call.drive,
                call.by,
                upload_id,
                offset,
                body,
                size=length_of(call.request),
                length=length,
                checksum=checksum,
                turn=call.turn(),
            )
    except (OffsetMismatch, LengthMismatch) as error:
        async with call.turn():
            _check_takes_bytes(await call.drive.metadata.ask(GetUpload(call.by, upload_id)))
        if isinstance(error, LengthMismatch):
            raise TooLarge(error.detail, field=error.field) from None
        call.on_error(tus.OFFSET, str(error.offset))
        raise
    _check_takes_bytes(upload)
    return upload


def _check_takes_bytes(upload: Upload) -> None:
    if parts_of(upload):
        raise Forbidden("The upload was made of parts, and takes no bytes itself.")


def _created(call: Call, upload: Upload) -> web.Response:
    return web.Response(status=201, headers={hdrs.LOCATION: url_of(call, upload), **state_of(call, upload)})


@routes.get(
    f"{PATH}/{{upload_id}}",
    needs=Scope.FILES_WRITE,
    waits=True,
    sends=["Upload-Offset", *_ABOUT],
    fields=_FIELDS,
    raises=[Gone, Malformed, MethodNotAllowed, NotFound, tus.UnsupportedTusVersion],
)
async def get_tus_upload(call: Call, upload_id: UploadId) -> UploadView:
    """Ask where to continue: `HEAD` answers with `Upload-Offset`, the number of bytes that are stored.

    Ends a request that is still sending to this upload. For a day after an upload has finished, the answer names its
    file in `Upload-File-Id` and `Content-Location`.
    """
    _check(call, _ON_UPLOAD, hdrs.METH_GET, hdrs.METH_HEAD)
    upload = await resumable.offset(call.drive, call.by, upload_id, turn=call.turn())
    call.headers |= {**state_of(call, upload), hdrs.CACHE_CONTROL: "no-store"}
    return view_upload(upload)


@routes.patch(
    f"{PATH}/{{upload_id}}",
    needs=Scope.FILES_WRITE,
    status=204,
    content=[tus.CHUNK],
    may_be_empty=True,
    takes=["Tus-Resumable", "Upload-Offset", "Upload-Length", "Upload-Checksum"],
    sends=["Upload-Offset", *_ABOUT],
    fields=_FIELDS,
    raises=[*_OF_BYTES, Forbidden],
)
async def append_to_tus_upload(call: Call, upload_id: UploadId) -> web.Response:
    """Send the bytes from `Upload-Offset` on, all that are left or some of them.

    What arrives before a connection is lost stays. Ends an earlier request that is still sending to this upload. With
    `Upload-Checksum`, all bytes of the body are stored, or none: `460` if they differ. `409 offset_mismatch` has the
    offset of the upload in `Upload-Offset`.
    """
    return await _append(call, upload_id)


async def _append(call: Call, upload_id: UploadId) -> web.Response:
    request = call.request
    _check(call, _ON_UPLOAD, hdrs.METH_PATCH)
    if not _is_chunk(request):
        raise UnsupportedMediaType(f"Bytes are sent as {tus.CHUNK}.", field=hdrs.CONTENT_TYPE)
    check_whole(request)
    offset = tus.number(request, tus.OFFSET)
    if offset is None:
        raise Malformed("Say where the bytes begin.", field=tus.OFFSET)
    upload = await _receive(call, upload_id, offset, tus.number(request, tus.LENGTH), tus.read_checksum(request))
    return web.Response(status=204, headers=state_of(call, upload))


@routes.delete(
    f"{PATH}/{{upload_id}}",
    needs=Scope.FILES_WRITE,
    status=204,
    takes=["Tus-Resumable"],
    raises=[Malformed, MethodNotAllowed, NotFound, UploadFinished, tus.UnsupportedTusVersion],
)
async def terminate_tus_upload(call: Call, upload_id: UploadId) -> None:
    """End an upload and free what it holds. Idempotent. If it is finished, the answer is `409 upload_finished`."""
    await _terminate(call, upload_id)


async def _terminate(call: Call, upload_id: UploadId) -> None:
    _check(call, _ON_UPLOAD, hdrs.METH_DELETE)
    await resumable.abort(call.drive, call.by, upload_id)


@routes.post(
    f"{PATH}/{{upload_id}}",
    needs=Scope.FILES_WRITE,
    status=204,
    content=[tus.CHUNK],
    may_be_empty=True,
    takes=["Tus-Resumable", "X-HTTP-Method-Override"],
    sends=["Upload-Offset", *_ABOUT],
    fields=_FIELDS,
    raises=[*_OF_BYTES, Forbidden],
)
async def override_tus_method(call: Call, upload_id: UploadId) -> web.Response:
    """Carry out the method in `X-HTTP-Method-Override`, for clients that can send neither `PATCH` nor `DELETE`."""
    match tus.header(call.request, tus.OVERRIDE):
        case hdrs.METH_PATCH:
            return await _append(call, upload_id)
        case hdrs.METH_HEAD:
            tus.check_version(call.request)
            return web.Response(
                status=204,
                headers=state_of(call, await resumable.offset(call.drive, call.by, upload_id, turn=call.turn())),
            )
        case hdrs.METH_DELETE:
            async with call.turn():
                await _terminate(call, upload_id)
            return web.Response(status=204, headers={hdrs.CACHE_CONTROL: "no-store"})
        case _:
            tus.check_version(call.request)
            call.on_error(hdrs.ALLOW, _ON_UPLOAD)
            raise MethodNotAllowed(f"An upload takes POST only with {tus.OVERRIDE}: PATCH, DELETE or HEAD.")


def _check(call: Call, allowed: str, *methods: str) -> None:
    """Check the version, and that ``X-HTTP-Method-Override``, if it is sent, names one of *methods*.

    Otherwise the client means another method than it has sent.  Raises ``UnsupportedTusVersion``, ``MethodNotAllowed``.
    """
    tus.check_version(call.request)
    meant = tus.header(call.request, tus.OVERRIDE)
    if meant and meant not in methods:
        call.on_error(hdrs.ALLOW, allowed)
        raise MethodNotAllowed(f"{tus.OVERRIDE} is for POST to an upload, and names PATCH, DELETE or HEAD.")


def _is_chunk(request: web.Request) -> bool:
    try:
        return parse_media_type(request.headers.get(hdrs.CONTENT_TYPE, "")).name == tus.CHUNK
    except Invalid:
        return False
