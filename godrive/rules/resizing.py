"""Uploads whose length is not known before their bytes: the reservation follows the bytes."""

from __future__ import annotations

from godrive.catalog import Tx
from godrive.errors import Invalid, LengthMismatch, QuotaExceeded, UploadTakenOver
from godrive.messages.uploads import ResizeUpload, TouchUpload
from godrive.model import IN_APPENDS, Upload, UserId
from godrive.rules import changes, rows
from godrive.rules.registry import Env, rule
from godrive.rules.uploads import touch

_ROOM = "SELECT quota_bytes - live_bytes - trash_bytes - version_bytes - reserved_bytes FROM users WHERE id = $1"
_RESIZE = f"UPDATE uploads SET size_bytes = $2 WHERE id = $1 RETURNING {rows.UPLOAD}"


@rule(ResizeUpload, writes=True)
async def resize(tx: Tx, ask: ResizeUpload, env: Env) -> Upload:
    """As ``ResizeUpload`` says."""
    if not 0 <= ask.least <= ask.most <= rows.MOST_BYTES:
        raise Invalid(f"A size is between 0 and {rows.MOST_BYTES} bytes.", field="size_bytes")
    # First, because every rule locks the row of the upload before that of its owner.
    upload = await touch(tx, TouchUpload(ask.by, ask.upload_id, ask.least), env)
    if upload.writer != ask.writer:
        raise UploadTakenOver
    if upload.kind in IN_APPENDS and not upload.deferred:  # its length has been declared meanwhile, and is reserved
        if ask.least > upload.size_bytes:
            raise LengthMismatch(f"More than the declared {upload.size_bytes} bytes arrived.")
        return upload
    await tx.lock(upload.owner_id)
    room = await room_of(tx, upload.owner_id)
    size = ask.most if room is None else min(ask.most, upload.size_bytes + max(room, 0))
    if size < ask.least:
        raise QuotaExceeded("The file exceeds the remaining quota.", field="size_bytes")
    if size == upload.size_bytes:
        return upload
    await changes.charge(tx, upload.owner_id, reserved=size - upload.size_bytes)
    return rows.upload(rows.found(await tx.one(_RESIZE, upload.id, size), "upload"))


async def room_of(tx: Tx, owner_id: UserId) -> int | None:
    """Return how many bytes the quota leaves; ``None`` without a quota.  Negative if it was lowered."""
    row = rows.found(await tx.one(_ROOM, owner_id), "user")
    room: int | None = row[0]
    return room
