"""Uploads that end without a file."""

from __future__ import annotations

from godrive.catalog import Tx
from godrive.messages.uploads import AbortUpload, FailUpload
from godrive.model import Upload, UploadState
from godrive.rules import changes, rows
from godrive.rules.registry import Env, rule
from godrive.rules.uploads import ended, load

_END = (
    "UPDATE uploads SET state = $2, reason = $3, finished_at = $4, cleanup_at = $4, note = '' "
    f"WHERE id = $1 AND state = 'pending' AND $5 IN ('', writer) RETURNING {rows.UPLOAD}"
)


@rule(FailUpload, writes=True)
async def fail(tx: Tx, ask: FailUpload, env: Env) -> Upload:
    """As ``FailUpload`` says."""
    return await _end(tx, ask, env)


@rule(AbortUpload, writes=True)
async def abort(tx: Tx, ask: AbortUpload, env: Env) -> Upload:
    """As ``AbortUpload`` says."""
    upload = await _end(tx, FailUpload(ask.by, ask.upload_id, "The owner aborted it.", UploadState.ABORTED), env)
    if upload.state is UploadState.COMMITTED:
        raise ended(upload)
    return upload


async def _end(tx: Tx, ask: FailUpload, env: Env) -> Upload:
    """End the upload if it is pending, and claimed by the writer if one is named.  Returns its resulting state."""
    upload = await load(tx, ask.by, ask.upload_id)
    row = await tx.one(_END, upload.id, ask.state.value, ask.reason, rows.micros(env.now), ask.writer)
    if row is None:
        return await load(tx, ask.by, ask.upload_id)
    upload = rows.upload(row)
    await changes.charge(tx, upload.owner_id, reserved=-upload.size_bytes, uploads=-1)
    return upload
