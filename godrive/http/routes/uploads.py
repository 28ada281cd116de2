"""Uploads: intent, state, completion and abort."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from godrive import own_urls, parts, resumable
from godrive.blobs.admission import check_admission
from godrive.blobs.parts import LARGEST_PART, MOST_PARTS, SMALLEST_PART, PartPlan, SentPart, plan_of
from godrive.errors import (
    Conflict,
    DigestMismatch,
    Forbidden,
    Gone,
    Invalid,
    LengthMismatch,
    NameTaken,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    StorageFull,
    StoreUnavailable,
    TooDeep,
    TooLarge,
    UploadFinished,
)
from godrive.http.api.call import Call
from godrive.http.api.operations import Routes
from godrive.http.routes.files import EntryId, Limit, ModifiedAt, Name, PageToken, PlainPath, folder_at, spot_of
from godrive.http.routes.upload_state import find_offset, show_offset
from godrive.messages.files import GetFile
from godrive.messages.storage import THROUGH_US, Admit, SignPut
from godrive.messages.uploads import BeginUpload, GetUpload, ListUploads
from godrive.model import IN_APPENDS, ETag, File, FileId, OnConflict, SignedRequest, Spot, Upload, UploadId, UploadState
from godrive.principal import Scope

routes = Routes("uploads")

Digest = Annotated[
    str,
    Meta(
        min_length=64,
        max_length=64,
        pattern="^[0-9a-fA-F]+$",
        description="SHA-256 in hex. The server refuses bytes with another digest.",
    ),
]


PartNumber = Annotated[int, Meta(ge=1, le=MOST_PARTS)]
PartSize = Annotated[
    int,
    Meta(
        ge=SMALLEST_PART,
        le=LARGEST_PART,
        description="The bytes of each part but the last. With it, small files can be sent in parts too.",
    ),
]


class IntentBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The upload to announce.

    The folder is that of ``parent_id`` or of ``path``; without them it is the
    root.  Without ``mime`` the server determines the type from the bytes.
    """

    filename: Name
    size_bytes: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    mime: Annotated[str, Meta(max_length=255)] = ""
    sha256: Digest | None = None
    parent_id: EntryId | None = None
    path: PlainPath | None = None
    parents: Annotated[bool, Meta(description="Create the folders of `path` that are missing.")] = False
    modified_at: ModifiedAt | None = None
    on_conflict: OnConflict = OnConflict.FAIL
    part_size: PartSize | None = None

    def place(self) -> Spot:
        """Return the folder.  Raises ``Invalid``."""
        if self.path is None:
            return spot_of(self.parent_id)
        if self.parent_id is not None:
            raise Invalid("Send either a path or a parent_id.", field="parent_id")
        return folder_at(self.path, parents=self.parents)


class SignedPart(msgspec.Struct, kw_only=True):
    """One part of a file: PUT its ``size_bytes`` bytes to ``url``, with exactly ``headers``, and keep the ETag."""

    number: int
    size_bytes: int
    url: str
    headers: dict[str, str]


class Intent(msgspec.Struct, kw_only=True):
    """Send the bytes to ``upload_url`` with ``method`` and exactly ``headers``, before ``expires_at``.

    Or send them in parts, if the answer has ``parts``: ``part_count`` parts of
    ``part_size`` bytes, the last of which may be shorter.  These are the first ones.
    """

    upload_url: str
    object_key: str
    headers: dict[str, str]
    expires_at: datetime
    upload_id: UploadId
    method: str
    part_size: int | UnsetType = UNSET
    part_count: int | UnsetType = UNSET
    parts: list[SignedPart] | UnsetType = UNSET


class UploadView(msgspec.Struct, kw_only=True):
    """An upload.  A committed upload has a ``file_id``, a failed one a ``reason``."""

    id: UploadId
    state: UploadState
    filename: str
    mime: str
    size_bytes: int
    received_bytes: int
    created_at: datetime
    expires_at: datetime
    finished_at: datetime | UnsetType = UNSET
    file_id: FileId | UnsetType = UNSET
    file: File | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class UploadList(msgspec.Struct, kw_only=True):
    """One page of uploads, newest first.  ``next_page`` is absent on the last page."""

    uploads: list[UploadView]
    next_page: str | UnsetType = UNSET


class PartSent(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A part that the client has sent, and the ETag of the store's answer."""

    number: PartNumber
    etag: Annotated[ETag, Meta(max_length=255)]


class CompleteBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The parts that the client has sent, to be compared with those that the store has."""

    parts: Annotated[list[PartSent], Meta(max_length=MOST_PARTS)] | None = None


class Completed(msgspec.Struct, kw_only=True):
    """The file that the upload became."""

    file: File


class UploadsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Selects uploads and the size of a page."""

    limit: Limit = 100
    page: PageToken | None = None
    state: UploadState | None = None


@routes.post(
    "/v1/files/upload-intent",
    needs=Scope.FILES_WRITE,
    original="/files/upload-intent",
    secret=True,
    replays=True,
    conditional=True,
    fields={"name": "filename"},
    raises=[
        Invalid,
        TooDeep,
        NotFound,
        NameTaken,
        PreconditionFailed,
        TooLarge,
        QuotaExceeded,
        StorageFull,
        StoreUnavailable,
    ],
)
async def begin_upload(call: Call, body: IntentBody) -> Intent:
    """Announce an upload and get the URL for its bytes.

    The server reserves the bytes from the quota until the upload ends. With `on_conflict` `replace`, the bytes become
    a new version of the file of that name. `If-Match` then names the entity tag that this file must have, now and when
    the bytes have arrived. A large file can be sent in parts, if the store takes them.
    """
    drive, admission = call.drive, THROUGH_US
    if drive.takes_bytes:
        await check_admission(drive.blobs, drive.config.blobs, body.size_bytes)
    else:
        admission = await drive.storage.ask(Admit(body.size_bytes, body.part_size))
    upload = await drive.metadata.ask(
        BeginUpload(
            by=call.by,
            where=body.place(),
            name=body.filename,
            mime=body.mime,
            size_bytes=body.size_bytes,
            sha256=body.sha256.lower() if body.sha256 else None,
            on_conflict=body.on_conflict,
            in_transit=admission.in_transit,
            modified_at=body.modified_at,
            if_match=call.if_match,
        )
    )
    if admission.part_size:
        upload = await parts.begin(drive, call.by, upload, admission.part_size)
    if drive.takes_bytes:
        signed = own_urls.sign_put(drive.urls, call.by, upload)
        drive.known_uploads.keep(upload)
    else:
        signed = await drive.storage.ask(SignPut(call.by, upload))
    call.locate(f"/v1/uploads/{upload.id}")
    intent = Intent(
        upload_url=call.reachable(signed.url),
        object_key=upload.object_key,
        headers=signed.headers,
        expires_at=signed.expires_at,
        upload_id=upload.id,
        method=signed.method,
    )
    if admission.part_size:
        plan = plan_of(upload)
        intent.part_size, intent.part_count = plan.part_size, plan.count
        first = range(1, min(plan.count, parts.MOST_SIGNED) + 1)
        intent.parts = signed_parts(plan, first, await parts.sign(drive, upload, first))
    return intent


def signed_parts(plan: PartPlan, numbers: Sequence[int], requests: Sequence[SignedRequest]) -> list[SignedPart]:
    """Return what the client needs to send those parts."""
    return [
        SignedPart(number=number, size_bytes=plan.length(number), url=request.url, headers=request.headers)
        for number, request in zip(numbers, requests, strict=True)
    ]


@routes.get("/v1/uploads", needs=Scope.FILES_WRITE, raises=[Invalid])
async def list_uploads(call: Call, query: UploadsQuery) -> UploadList:
    """List uploads. Ended uploads are listed for a day."""
    page = await call.drive.metadata.ask(ListUploads(by=call.by, limit=query.limit, page=query.page, state=query.state))
    return UploadList(uploads=[view_upload(upload) for upload in page.items], next_page=page.next_page or UNSET)


@routes.get(
    "/v1/uploads/{upload_id}",
    needs=Scope.FILES_WRITE,
    waits=True,
    sends=["Upload-Offset", "Upload-Length", "Upload-Complete", "Upload-Limit"],
    raises=[NotFound, Gone, NameTaken, PreconditionFailed, StoreUnavailable],
)
async def get_upload(call: Call, upload_id: UploadId) -> UploadView:
    """Get the state of an upload, and its file once it exists.

    A client that resumes an upload uses `HEAD`, or `GET` with `Upload-Draft-Interop-Version`: it ends a request that is
    still sending to the upload, and answers with `Upload-Offset`, the number of bytes that are stored. Any other `GET`
    ends nothing, and has `Upload-Offset` only while no request is sending.
    """
    upload = await find_offset(call, upload_id)
    async with call.turn():
        if upload is None:
            upload = await call.drive.metadata.ask(GetUpload(call.by, upload_id))
            show_offset(call, upload)
        return await _show(call, upload)


async def _show(call: Call, upload: Upload) -> UploadView:
    view = view_upload(upload)
    if upload.state is UploadState.PENDING and upload.kind not in IN_APPENDS:
        received = await parts.received(call.drive, upload)
        view.received_bytes = max(view.received_bytes, received or 0)
    elif upload.file_id is not None:
        try:
            view.file = await call.drive.metadata.ask(GetFile(call.by, upload.file_id))
        except (NotFound, Forbidden):
            view.file = UNSET  # in the trash, purged, or not for this token to read
    return view


@routes.post(
    "/v1/uploads/{upload_id}/complete",
    needs=Scope.FILES_WRITE,
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
async def complete_upload(call: Call, upload_id: UploadId, body: CompleteBody | None) -> Completed:
    """Publish the file now that the store has its bytes. Idempotent.

    If the upload was sent in parts, they are joined first. With `parts`, they are compared with those that the store
    has.
    """
    sent = (
        None
        if body is None or body.parts is None
        else [SentPart(number=part.number, etag=part.etag) for part in body.parts]
    )
    return Completed(file=await parts.complete(call.drive, call.by, upload_id, sent))


@routes.delete("/v1/uploads/{upload_id}", needs=Scope.FILES_WRITE, raises=[NotFound, UploadFinished])
async def abort_upload(call: Call, upload_id: UploadId) -> UploadView:
    """Abort an upload. Idempotent."""
    upload = await parts.abort(call.drive, call.by, upload_id)
    if upload.kind in IN_APPENDS:
        await resumable.abort(call.drive, call.by, upload_id)  # ends a request that is still sending
    return view_upload(upload)


def view_upload(upload: Upload) -> UploadView:
    """Convert an upload to an answer."""
    return UploadView(
        id=upload.id,
        state=upload.state,
        filename=upload.name,
        mime=upload.mime,
        size_bytes=upload.size_bytes,
        received_bytes=upload.received_bytes,
        created_at=upload.created_at,
        expires_at=upload.expires_at,
        finished_at=upload.finished_at or UNSET,
        file_id=upload.file_id or UNSET,
        reason=upload.reason or UNSET,
    )
