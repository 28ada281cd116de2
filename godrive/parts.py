"""Large uploads whose bytes clients send to the store in parts.

Theory of operation.  The row of an upload comes first, with its bytes reserved;
then the store's id of its parts, then signed requests for the parts.  Parts that
have arrived are in the store and nowhere else, so a client that resumes an upload
lists them there.  Joining them makes the blob, which is then published like any
other: it is known by its HEAD, however often and by whom it was joined.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from godrive.blobs.parts import MOST_PARTS, SentPart, StoredPart, plan_of
from godrive.errors import DriveError, Gone, Invalid, NotFound, StoreUnavailable
from godrive.messages.ingest import CommitUpload
from godrive.messages.storage import AbortParts, BeginParts, JoinParts, ListParts, Received, SignParts
from godrive.messages.uploads import AbortUpload, FailUpload, GetUpload, SendInParts, TouchUpload
from godrive.model import ETag, File, SignedRequest, Upload, UploadId, UploadState
from godrive.principal import Principal

if TYPE_CHECKING:
    from godrive.drive import GoDrive

MOST_SIGNED = 100
"""The most parts that are signed at once."""


async def begin(drive: GoDrive, by: Principal, upload: Upload, part_size: int) -> Upload:
    """Prepare the store for the parts of an upload that has just begun.  If that fails, the upload ends.

    Raises ``StoreUnavailable``.
    """
    try:
        multipart = await drive.storage.ask(BeginParts(upload.object_key))
        return await drive.metadata.ask(SendInParts(by, upload.id, part_size, multipart))
    except DriveError as error:
        with suppress(DriveError):  # otherwise it ends at its deadline
            await drive.metadata.ask(FailUpload(by, upload.id, error.detail))
        raise


async def sign(drive: GoDrive, upload: Upload, numbers: Sequence[int]) -> list[SignedRequest]:
    """Return the signed requests for parts of a pending upload.  Raises ``Invalid`` for a number that is none."""
    plan_of(upload)
    if len(numbers) > MOST_SIGNED:
        raise Invalid(f"At most {MOST_SIGNED} parts are signed at once.", field="numbers")
    return await drive.storage.ask(SignParts(upload, list(numbers)))


async def go_on(drive: GoDrive, by: Principal, upload_id: UploadId) -> Upload:
    """Return the pending upload, whose deadline is extended because its client goes on.

    Raises ``NotFound``, ``UploadFinished``, ``Gone``, ``Conflict`` (it is not sent in parts).
    """
    upload = await drive.metadata.ask(TouchUpload(by, upload_id, 0))
    plan_of(upload)
    return upload


async def stored(
    drive: GoDrive, by: Principal, upload_id: UploadId, *, after: int = 0, limit: int = MOST_PARTS
) -> tuple[Upload, list[StoredPart]]:
    """Return the upload and at most *limit* of its parts that have arrived, from the one after number *after*.

    Of a file, these are all parts, so that a client that missed the answer to
    :func:`complete` repeats that and nothing else.  Raises ``NotFound``,
    ``Conflict`` (it is not sent in parts), ``Gone``, and if the parts were
    joined before a crash, what :func:`complete` raises.
    """
    upload = await drive.metadata.ask(GetUpload(by, upload_id))
    plan = plan_of(upload)
    if upload.state not in {UploadState.PENDING, UploadState.COMMITTED}:
        raise Gone(upload.reason or "The upload has ended.")
    if upload.state is UploadState.PENDING:
        try:
            return upload, await drive.storage.ask(ListParts(upload, after, limit))
        except NotFound:
            await complete(drive, by, upload_id)
    etag, last = ETag(upload.id), min(plan.count, after + limit)
    return upload, [
        StoredPart(number=number, size_bytes=plan.length(number), etag=etag, modified_at=upload.created_at)
        for number in range(after + 1, last + 1)
    ]


async def received(drive: GoDrive, upload: Upload) -> int | None:
    """Return how many bytes of a pending upload have arrived; ``None`` if the store knows of none, or is down."""
    if not upload.multipart:
        return await drive.storage.ask(Received(upload.object_key))
    try:
        return sum(part.size_bytes for part in await drive.storage.ask(ListParts(upload)))
    except (NotFound, StoreUnavailable):
        return None


async def complete(drive: GoDrive, by: Principal, upload_id: UploadId, parts: Sequence[SentPart] | None = None) -> File:
    """Join the parts of an upload and publish the file.  Idempotent.

    *parts* are those that the client has sent, by default those that the store
    has.  Raises what ``CommitUpload`` raises.
    """
    ask = CommitUpload(by, upload_id, parts=None if parts is None else list(parts))
    return await drive.ingest.ask(ask, timeout=JoinParts.timeout)


async def abort(drive: GoDrive, by: Principal, upload_id: UploadId) -> Upload:
    """Abort an upload and delete its parts.  Idempotent.  Raises ``NotFound``, ``UploadFinished``."""
    upload = await drive.metadata.ask(AbortUpload(by, upload_id))
    if upload.multipart:
        with suppress(DriveError):  # the janitor repeats it
            await drive.storage.ask(AbortParts(upload.object_key, upload.multipart))
    return upload
