"""Join uploads: a client that sends a file in parallel uploads its parts, then joins them."""

from __future__ import annotations

from msgspec.structs import replace

from godrive.catalog import Tx
from godrive.errors import Conflict, Gone, Invalid, NotFound, TooLarge
from godrive.messages.resumable import Joined, JoinUploads
from godrive.messages.uploads import BeginUpload
from godrive.model import Upload, UploadId, UploadKind, UploadState
from godrive.principal import Verb
from godrive.rules import changes, rows
from godrive.rules.access import check_upload
from godrive.rules.registry import Env, rule
from godrive.rules.uploads import begin, load

MOST_PARTS = 1000
"""The most parts of one upload."""

_PARTS = f"SELECT {rows.UPLOAD}, joined_into FROM uploads WHERE id IN ({rows.PLACES})"
_END_PART = (  # its bytes are deleted at its deadline, which is late enough for a join that is repeated
    "UPDATE uploads SET state = 'committed', finished_at = $2, cleanup_at = expires_at, joined_into = $3 "
    "WHERE id = $1 AND state = 'pending' AND deferred = 0 AND received_bytes = size_bytes"
)
_SIZE = f"UPDATE uploads SET size_bytes = $2 WHERE id = $1 RETURNING {rows.UPLOAD}"


@rule(JoinUploads, writes=True)
async def join(tx: Tx, ask: JoinUploads, env: Env) -> Joined:
    """As ``JoinUploads`` says."""
    if not 1 <= len(ask.parts) <= MOST_PARTS:
        raise Invalid(f"An upload is joined from 1 to {MOST_PARTS} parts.", field="parts")
    parts, joined_into = await _parts(tx, ask)
    if any(joined_into):
        if len(set(joined_into)) > 1 or joined_into[0] is None:
            raise Conflict("A part was joined with others.")
        return Joined(upload=await load(tx, ask.by, joined_into[0]), parts=parts)
    size = sum(part.size_bytes for part in parts)
    if size > env.config.blobs.max_upload_bytes:
        raise TooLarge(f"A file can have at most {env.config.blobs.max_upload_bytes} bytes.", field="size_bytes")
    different = sorted({part.id: part for part in parts}.values(), key=lambda part: part.id)
    upload = await begin(  # of a part that comes more than once, the bytes are reserved once
        tx,
        BeginUpload(
            ask.by,
            ask.where,
            ask.name,
            ask.mime,
            size - sum(part.size_bytes for part in different),
            sha256=ask.sha256,
            on_conflict=ask.on_conflict,
            modified_at=ask.modified_at,
            if_match=ask.if_match,
            note=ask.note,
            kind=UploadKind.RESUMABLE,
        ),
        env,
    )
    if upload.owner_id != parts[0].owner_id:
        raise Conflict("The parts belong to another drive.")
    for part in different:
        if not await tx.run(_END_PART, part.id, rows.micros(env.now), upload.id):
            raise _unfit(part)
    await changes.charge(tx, upload.owner_id, uploads=-len(different))
    upload = rows.upload(rows.found(await tx.one(_SIZE, upload.id, size), "upload"))
    return Joined(upload=upload, parts=[replace(part, state=UploadState.COMMITTED) for part in parts])


async def _parts(tx: Tx, ask: JoinUploads) -> tuple[list[Upload], list[UploadId | None]]:
    found = {row[0]: row for row in await rows.each(tx, _PARTS, ask.parts)}
    parts, joined_into = [], []
    for part_id in ask.parts:
        if part_id not in found:
            raise NotFound("There is no such upload.")
        part = rows.upload(found[part_id])
        await check_upload(tx, ask.by, Verb.CREATE, part)
        if part.kind is not UploadKind.PART:
            raise _unfit(part)
        parts.append(part)
        joined_into.append(found[part_id][-1])
    return parts, joined_into


def _unfit(part: Upload) -> Conflict | Gone:
    if part.kind is not UploadKind.PART:
        return Conflict(f"The upload {part.id} is not a part.")
    if part.state is UploadState.PENDING:
        return Conflict(f"The part {part.id} has not all of its bytes.")
    return Gone(f"The part {part.id} has ended.")
