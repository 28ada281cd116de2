"""Uploads whose bytes come in several appends: who appends, and how far the bytes are durable.

The offset is ``received_bytes``.  Only one statement raises it, which compares
both the offset and the writer, so of two appends to one upload, in whatever
process, the bytes of one count.
"""

from __future__ import annotations

from godrive.catalog import Tx
from godrive.errors import Conflict, Gone, Invalid, LengthMismatch, QuotaExceeded, UploadFinished, UploadTakenOver
from godrive.messages.pending import PendingUploads
from godrive.messages.resumable import AdvanceUpload, ClaimUpload, DeclareLength
from godrive.model import IN_APPENDS, ObjectKey, Upload, UploadKind, UploadState
from godrive.principal import Verb
from godrive.rules import changes, rows
from godrive.rules.access import check_upload
from godrive.rules.registry import Env, rule
from godrive.rules.resizing import room_of
from godrive.rules.uploads import ended, life_of, load

_EXTENDED = "expires_at = CASE WHEN expires_at < ${0} THEN ${0} ELSE expires_at END"
_CLAIM = (
    f"UPDATE uploads SET writer = $2, {_EXTENDED.format(4)} "
    f"WHERE id = $1 AND state = 'pending' AND received_bytes = $3 RETURNING {rows.UPLOAD}"
)
_ADVANCE = (
    f"UPDATE uploads SET received_bytes = $4, staging = $5, {_EXTENDED.format(6)} "
    "WHERE id = $1 AND state = 'pending' AND writer = $2 AND received_bytes = $3 "
    f"AND (deferred = 1 OR size_bytes >= $4) RETURNING {rows.UPLOAD}"
)
_DECLARE = (
    "UPDATE uploads SET size_bytes = $2, deferred = 0 WHERE id = $1 AND state = 'pending' AND deferred = 1 "
    f"RETURNING {rows.UPLOAD}"
)
_LOCK = f"UPDATE uploads SET attempts = attempts WHERE id = $1 AND state = 'pending' RETURNING {rows.UPLOAD}"


@rule(ClaimUpload, writes=True)
async def claim(tx: Tx, ask: ClaimUpload, env: Env) -> Upload:
    """As ``ClaimUpload`` says."""
    upload = await load(tx, ask.by, ask.upload_id)
    if upload.kind not in IN_APPENDS:
        raise Conflict("The bytes of this upload come in one request.")
    if upload.state is not UploadState.PENDING:
        return _finished(upload)
    if ask.length is not None:
        upload = await _declare(tx, upload, ask.length)
    row = await tx.one(_CLAIM, upload.id, ask.writer, ask.offset, rows.later(env.now, life_of(upload.kind, env)))
    return _finished(await load(tx, ask.by, ask.upload_id)) if row is None else rows.upload(row)


def _finished(upload: Upload) -> Upload:
    """Return an upload that cannot be claimed.  Raises ``Gone`` if it has ended without a file."""
    error = None if upload.state is UploadState.PENDING else ended(upload)
    if isinstance(error, Gone):
        raise error
    return upload


@rule(AdvanceUpload, writes=True)
async def advance(tx: Tx, ask: AdvanceUpload, env: Env) -> Upload:
    """As ``AdvanceUpload`` says."""
    if not 0 <= ask.before <= ask.after <= rows.MOST_BYTES:
        raise Invalid(f"An offset is between 0 and {rows.MOST_BYTES} and never goes back.", field="offset")
    deadline = rows.later(env.now, life_of(UploadKind.RESUMABLE, env))
    row = await tx.one(_ADVANCE, ask.upload_id, ask.writer, ask.before, ask.after, ask.staging, deadline)
    if row is not None:
        upload = rows.upload(row)
        await check_upload(tx, ask.by, Verb.CREATE, upload)  # raising undoes the move; to read first costs each chunk
        return upload
    upload = await load(tx, ask.by, ask.upload_id)
    if (upload.received_bytes, upload.staging, upload.writer) == (ask.after, ask.staging, ask.writer):
        return upload  # the same message again
    if upload.state is not UploadState.PENDING:
        raise ended(upload)
    if upload.length is not None and ask.after > upload.length:
        raise LengthMismatch(f"More than the declared {upload.length} bytes arrived.")
    raise UploadTakenOver


@rule(DeclareLength, writes=True)
async def declare(tx: Tx, ask: DeclareLength, env: Env) -> Upload:
    """As ``DeclareLength`` says."""
    upload = await load(tx, ask.by, ask.upload_id)
    if upload.state is not UploadState.PENDING:
        if upload.state is UploadState.COMMITTED and upload.size_bytes == ask.length:
            return upload
        raise ended(upload)
    return await _declare(tx, upload, ask.length)


async def _declare(tx: Tx, upload: Upload, length: int) -> Upload:
    # First, because every rule locks the row of the upload before that of its owner.
    row = await tx.one(_LOCK, upload.id)
    if row is None:
        raise UploadFinished
    upload = rows.upload(row)
    if not upload.deferred:
        if length != upload.size_bytes:
            raise Invalid(f"The upload was declared to have {upload.size_bytes} bytes.", field="size_bytes")
        return upload
    if not upload.received_bytes <= length <= rows.MOST_BYTES:
        raise Invalid(
            f"The length is at least the {upload.received_bytes} bytes that have arrived, and at most "
            f"{rows.MOST_BYTES}.",
            field="size_bytes",
        )
    await tx.lock(upload.owner_id)
    room = await room_of(tx, upload.owner_id)
    if room is not None and length - upload.size_bytes > max(room, 0):
        raise QuotaExceeded("The file exceeds the remaining quota.", field="size_bytes")
    await changes.charge(tx, upload.owner_id, reserved=length - upload.size_bytes)
    return rows.upload(rows.found(await tx.one(_DECLARE, upload.id, length), "upload"))


@rule(PendingUploads)
async def pending(tx: Tx, ask: PendingUploads, env: Env) -> list[ObjectKey]:
    """As ``PendingUploads`` says."""
    sql = f"SELECT object_key FROM uploads WHERE object_key IN ({rows.PLACES}) AND state = 'pending'"
    found = {row[0] for row in await rows.each(tx, sql, ask.object_keys)}
    return [key for key in ask.object_keys if key in found]
