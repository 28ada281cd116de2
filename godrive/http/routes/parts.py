"""The parts of a large upload: which ones the store has, and URLs for others."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from godrive import parts
from godrive.blobs.parts import MOST_PARTS, plan_of
from godrive.errors import Conflict, Gone, Invalid, NotFound, StoreUnavailable, UploadFinished
from godrive.http.api.call import Call
from godrive.http.api.operations import Routes
from godrive.http.routes.uploads import PartNumber, SignedPart, signed_parts
from godrive.model import ETag, UploadId
from godrive.principal import Scope

routes = Routes("uploads")


class PartView(msgspec.Struct, kw_only=True):
    """A part that the store has."""

    number: int
    size_bytes: int
    etag: ETag


class PartList(msgspec.Struct, kw_only=True):
    """The parts that the store has, by number.  ``next_after`` is absent on the last page."""

    part_size: int
    part_count: int
    parts: list[PartView]
    next_after: int | UnsetType = UNSET


class PartsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Selects parts."""

    after: Annotated[int, Meta(ge=0, le=MOST_PARTS, description="The parts after this number.")] = 0
    limit: Annotated[int, Meta(ge=1, le=1000)] = 1000


class PartsBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The numbers of the parts to send."""

    numbers: Annotated[list[PartNumber], Meta(min_length=1, max_length=parts.MOST_SIGNED)]


class SignedParts(msgspec.Struct, kw_only=True):
    """Send the parts before ``expires_at``."""

    parts: list[SignedPart]
    expires_at: datetime


@routes.get(
    "/v1/uploads/{upload_id}/parts",
    needs=Scope.FILES_WRITE,
    raises=[NotFound, Conflict, Gone, Invalid, StoreUnavailable],
)
async def list_parts(call: Call, upload_id: UploadId, query: PartsQuery) -> PartList:
    """List the parts of an upload that the store has, to send the others.

    If the upload has become a file, these are all of its parts.
    """
    upload, found = await parts.stored(call.drive, call.by, upload_id, after=query.after, limit=query.limit)
    plan = plan_of(upload)
    is_full = len(found) == query.limit and found[-1].number < plan.count
    return PartList(
        part_size=plan.part_size,
        part_count=plan.count,
        parts=[PartView(number=part.number, size_bytes=part.size_bytes, etag=part.etag) for part in found],
        next_after=found[-1].number if is_full else UNSET,
    )


@routes.post(
    "/v1/uploads/{upload_id}/parts",
    needs=Scope.FILES_WRITE,
    secret=True,
    raises=[NotFound, Conflict, UploadFinished, Gone, Invalid],
)
async def sign_more_parts(call: Call, upload_id: UploadId, body: PartsBody) -> SignedParts:
    """Get URLs for parts of an upload. Idempotent.

    The upload expires no earlier than these URLs.
    """
    upload = await parts.go_on(call.drive, call.by, upload_id)
    requests = await parts.sign(call.drive, upload, body.numbers)
    return SignedParts(
        parts=signed_parts(plan_of(upload), body.numbers, requests),
        expires_at=min(request.expires_at for request in requests),
    )
