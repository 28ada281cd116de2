"""Store files in one request with a token: by path, by parent and name, or from an HTML form."""

from __future__ import annotations

from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import Annotated

import msgspec
from aiohttp import hdrs, web
from multidict import istr

from godrive import small_transfer, transfer
from godrive.arriving import Pieces, digest_of
from godrive.blobs.disposition import UNKNOWN
from godrive.errors import (
    DigestMismatch,
    DriveError,
    Forbidden,
    Gone,
    Invalid,
    LengthMismatch,
    NameTaken,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    StorageFull,
    TooDeep,
    TooLarge,
)
from godrive.http.api.call import Call
from godrive.http.api.conditions import exists, must_be_new
from godrive.http.api.digests import FIELDS, REPR_DIGEST, Digests, read_digests
from godrive.http.api.idempotency import store_once
from godrive.http.api.media_types import MediaType, parse_media_type
from godrive.http.api.operations import Routes
from godrive.http.api.problems import Malformed, RequestTimeout, UnsupportedMediaType
from godrive.http.api.reading import combined, entity_tags
from godrive.http.api.resumption import is_part
from godrive.http.routes.files import EntryId, FileList, Name, spot_of
from godrive.http.routes.incoming import BYTES, check_whole, length_of, receiving, small_body
from godrive.http.routes.resuming import FileOptions, Resumption
from godrive.http.wire.form import read_form
from godrive.http.wire.request_body import RequestBody
from godrive.messages.files import FindFile
from godrive.model import At, ETag, File, FileKind, OnConflict, Root, Spot, VersionId
from godrive.principal import Scope

routes = Routes("files")

FORM = "multipart/form-data"
MODIFIED_AT = istr("X-Modified-At")
_FIELDS = {"mime": hdrs.CONTENT_TYPE, "size_bytes": hdrs.CONTENT_LENGTH, "modified_at": MODIFIED_AT}
_RAISES = [
    DigestMismatch,
    Gone,
    Invalid,
    LengthMismatch,
    Malformed,
    NameTaken,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    RequestTimeout,
    StorageFull,
    TooLarge,
    UnsupportedMediaType,
]
_UNTYPED = {UNKNOWN, "application/x-www-form-urlencoded"}
"""What clients say of bytes whose type they do not know; curl says the latter."""
_instant = msgspec.json.Decoder(Annotated[datetime, msgspec.Meta(tz=True)])


class PostQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the file goes.  `name` is required, except for a form, whose files have names."""

    parent_id: EntryId | None = None
    name: Name | None = None
    on_conflict: OnConflict = OnConflict.FAIL
    parents: bool = False


class PutFileQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to do if the path has a file already, and whether to create the folders that are missing."""

    on_conflict: OnConflict = OnConflict.REPLACE
    parents: bool = False


class Offer(msgspec.Struct, frozen=True, gc=False):
    """What the headers of a request say about the bytes."""

    size: int | None
    mime: str
    digests: Digests
    modified_at: datetime | None
    if_match: ETag | None
    must_be_new: bool
    on_conflict: OnConflict

    def options(self) -> FileOptions:
        """Return what the request says about the file, for ``transfer`` and ``resumable``."""
        return {
            "mime": self.mime,
            "sha256": self.digests.sha256,
            "on_conflict": self.on_conflict,
            "modified_at": self.modified_at,
            "if_match": self.if_match,
        }


@routes.put(
    "/v1/files/by-path/{path}",
    needs=Scope.FILES_WRITE,
    content=[BYTES],
    status=201,
    also=[200],
    replays=True,
    conditional=True,
    fields={**_FIELDS, "name": "path"},
    raises=[*_RAISES, TooDeep],
)
async def put_by_path(call: Call, path: At, query: PutFileQuery) -> File | web.Response:
    """Store the bytes of the body as the file at a path: `201` if it is new, `200` if it was replaced.

    Replacing keeps the earlier bytes as a version. If the file has the same bytes already, nothing changes. For a
    request with `Expect: 100-continue`, the server checks everything else before it asks for the bytes. If the length
    is not known, send chunks: they are reserved from the quota as they come.
    """
    if not path.path:
        raise Invalid("The root is a folder.", field="path")
    *folders, name = path.path
    return await store(call, At(path=tuple(folders), parents=query.parents), name, read_offer(call, query.on_conflict))


@routes.post(
    "/v1/files",
    needs=Scope.FILES_WRITE,
    content=[BYTES, FORM],
    status=201,
    also=[200],
    replays=True,
    conditional=True,
    fields=_FIELDS,
    raises=_RAISES,
)
async def post_file(call: Call, query: PostQuery) -> File | FileList | web.Response:
    """Store the bytes of the body as a file, or the files of an HTML form.

    A body is stored under `name`; the files of a form have names of their own, and the answer to a form is a list. A
    browser that sends a directory sends names with slashes, which are paths below the root; `parents` creates their
    folders. If a file of a form is refused, the files before it stay; a repetition with the same `Idempotency-Key` does
    not store them again.
    """
    where, offer = spot_of(query.parent_id), read_offer(call, query.on_conflict)
    boundary = _boundary(call.request)
    if boundary is not None:
        if query.name is not None:
            raise Invalid("The files of a form have names of their own.", field="name")
        return await _store_form(call, where, query, offer, boundary)
    if query.name is None:
        raise Invalid("Say the name of the file.", field="name")
    return await store(call, where, query.name, offer)


async def store(call: Call, where: Spot, name: str, offer: Offer) -> File | web.Response:
    """Store the body of the request as the file *name* of a folder, and set the headers of the answer.

    A client that can resume it may send a part.
    """
    resumption = Resumption.of(call, sha512=offer.digests.sha512)
    async with receiving(call) as body:
        if resumption is None:
            file, is_new = await _store(call, where, name, offer, body)
        else:
            stored = await _store_resumably(call, where, name, offer, body, resumption=resumption)
            if isinstance(stored, web.Response):
                return stored
            file, is_new = stored
    if not is_new:
        call.status = 200
    call.locate(f"/v1/files/{file.id}")
    call.headers[hdrs.ETAG] = f'"{file.etag}"'
    return file


async def _store(call: Call, where: Spot, name: str, offer: Offer, body: Pieces) -> tuple[File, bool]:
    """Store *body*.  Returns the file, and whether it is a new one."""
    content = small_body(call, body) if isinstance(body, RequestBody) else None
    try:
        if content is not None:
            options, sha512 = offer.options(), offer.digests.sha512
            file, is_current = await small_transfer.store_small(
                call.drive, call.by, where, name, content, sha512=sha512, turn=call.turn(), **options
            )
            return file, is_current and file.is_new
        async with call.turn():
            upload = await transfer.reserve(call.drive, call.by, where, name, size=offer.size, **offer.options())
    except (NameTaken, PreconditionFailed, QuotaExceeded) as refused:
        again = body if content is None else transfer.once(content)
        return await _known(call, where, name, offer, again, refused=refused), False
    try:
        file = await transfer.receive_once(
            call.drive,
            call.by,
            upload,
            body,
            grows=offer.size is None,
            sha512=offer.digests.sha512,
            turn=call.turn(),
        )
    except NameTaken as refused:
        raise _refusal(refused, offer) from None
    return file, file.is_new and file.version_id == VersionId(upload.id)


async def _store_resumably(
    call: Call, where: Spot, name: str, offer: Offer, body: Pieces, *, resumption: Resumption
) -> tuple[File, bool] | web.Response:
    """Store *body*, which may be a part of a file, so that the client can continue if it breaks off."""
    try:
        upload = await resumption.begin(where, name, offer.options())
    except (NameTaken, PreconditionFailed, QuotaExceeded) as refused:
        if not resumption.is_complete:
            raise _refusal(refused, offer) from None
        return await _known(call, where, name, offer, body, refused=refused), False
    try:
        return await resumption.receive(upload, body)
    except NameTaken as refused:
        raise _refusal(refused, offer) from None


async def _known(call: Call, where: Spot, name: str, offer: Offer, body: Pieces, *, refused: DriveError) -> File:
    """Return the file that an earlier request has stored, if this is the same request.  Raises why it was refused."""
    is_renamed = offer.on_conflict is OnConflict.RENAME
    known = None if offer.must_be_new or is_renamed else await _stored_before(call, where, name, offer, body)
    if known is None:
        raise _refusal(refused, offer) from None
    return known


def _refusal(refused: DriveError, offer: Offer) -> DriveError:
    if offer.must_be_new and isinstance(refused, NameTaken) and refused.field == "name":
        return exists("There is a file of that name.")
    return refused


async def _stored_before(call: Call, where: Spot, name: str, offer: Offer, body: Pieces) -> File | None:
    """Return the file that has the name, if it is what the request stores.

    Then the client did not get the answer to an earlier request, and sends it
    again (RFC 9110, section 13.1.1).  That is refused only because the first one
    was carried out: the name is taken, the tag has changed, the quota is used.
    Raises the error if the catalog cannot say what has the name: the client must
    not take the refusal of a repetition for the answer to its request.
    """
    try:
        async with call.turn():
            file = await call.drive.metadata.ask(FindFile(call.by, where, name))
    except (NotFound, Forbidden):  # an upload needs no right to read
        return None
    sha256 = offer.digests.sha256
    if offer.mime not in ("", file.mime) or offer.modified_at not in (None, file.modified_at):
        return None
    if file.kind is FileKind.FOLDER or offer.size not in (None, file.size_bytes) or sha256 not in (None, file.sha256):
        return None
    return file if await digest_of(body, at_most=file.size_bytes) == file.sha256 else None


async def _store_form(call: Call, where: Spot, query: PostQuery, offer: Offer, boundary: str) -> FileList:
    if offer.digests != Digests() or offer.if_match is not None:
        raise Invalid("Digests and If-Match are for one file, not for a form.", field=hdrs.CONTENT_TYPE)
    stored: list[File] = []
    async with receiving(call) as body, aclosing(read_form(body, boundary)) as form:
        async for part in form:
            folder, name = _place(where, part.name, parents=query.parents)
            mime = "" if part.mime == UNKNOWN else part.mime
            of_part = msgspec.structs.replace(offer, size=None, mime=mime)
            store_part = partial(_store_part, call, folder, name, of_part, part)
            said = f"{len(stored)} {part.name}"
            try:
                stored.append(await store_once(call.request, said, call.in_turn(), call.by, store_part))
            except DriveError as error:
                before = f" The {len(stored)} before it are stored." if stored else ""
                error.detail = f"{error.detail} This is file {len(stored) + 1} of the form, {part.name!a}.{before}"
                raise
    if not stored:  # a client that forgot the file name, as ``curl -F file=a.txt`` does, must not take it for stored
        raise Invalid("No part of the form is a file: a file has a file name.", field="filename")
    return FileList(files=stored)


async def _store_part(call: Call, where: Spot, name: str, offer: Offer, body: Pieces) -> File:
    file, _ = await _store(call, where, name, offer, body)
    return file


def _place(where: Spot, name: str, *, parents: bool) -> tuple[Spot, str]:
    """Return the folder and the name of a file of a form.  A name with slashes is a path below the root."""
    *folders, last = name.split("/")
    if folders and isinstance(where, Root):
        return At(path=tuple(folders), parents=parents), last
    return where, name


def read_offer(call: Call, on_conflict: OnConflict) -> Offer:
    """Read the headers of a request that stores bytes.  Raises ``Invalid``, ``Malformed``, ``UnsupportedMediaType``."""
    request = call.request
    check_whole(request)
    if_match = None
    if hdrs.IF_MATCH in request.headers:
        if_match = ETag("*") if entity_tags(request, hdrs.IF_MATCH) == [] else call.if_match
    is_new = must_be_new(request)
    if is_new and if_match is not None:
        raise exists("A file cannot be absent and match.")
    mime = request.headers.get(hdrs.CONTENT_TYPE, "").strip()
    if mime.lower() in _UNTYPED:
        mime = ""
    return Offer(
        size=length_of(request),
        mime=mime,
        digests=read_digests(request, [REPR_DIGEST] if is_part(request) else FIELDS),
        modified_at=_modified_at(request),
        if_match=if_match,
        must_be_new=is_new,
        on_conflict=OnConflict.FAIL if is_new else on_conflict,
    )


def _modified_at(request: web.Request) -> datetime | None:
    text = combined(request, MODIFIED_AT)
    if text is None:
        return None
    try:
        instant: datetime = _instant.decode(msgspec.json.encode(text))
        return instant.astimezone(UTC)
    except (msgspec.DecodeError, UnicodeEncodeError, OverflowError):
        raise Invalid(
            "Must be a time as in RFC 3339, with its offset: 2026-01-31T12:00:00Z.", field=MODIFIED_AT
        ) from None


def _boundary(request: web.Request) -> str | None:
    """Return the boundary of a form; ``None`` for other bodies.  Raises ``Malformed``."""
    sent = request.headers.get(hdrs.CONTENT_TYPE)
    if sent is None or not sent.lower().lstrip().startswith(FORM):
        return None
    form: MediaType = parse_media_type(sent)
    boundary = dict(form.parameters).get("boundary", "")
    if not 1 <= len(boundary) <= 70 or not boundary.isascii():
        raise Malformed("The form has no valid boundary.", field=hdrs.CONTENT_TYPE)
    return boundary
