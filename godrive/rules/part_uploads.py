"""Uploads whose bytes clients send to the store in parts."""

from __future__ import annotations

from godrive.catalog import Tx
from godrive.messages.uploads import SendInParts
from godrive.model import Upload
from godrive.rules import rows
from godrive.rules.registry import Env, rule
from godrive.rules.uploads import ended, load

_SEND_IN_PARTS = (
    "UPDATE uploads SET part_size = $2, multipart = $3 WHERE id = $1 AND state = 'pending' AND multipart = '' "
    f"RETURNING {rows.UPLOAD}"
)


@rule(SendInParts, writes=True)
async def send_in_parts(tx: Tx, ask: SendInParts, env: Env) -> Upload:
    """As ``SendInParts`` says."""
    upload = await load(tx, ask.by, ask.upload_id)
    row = await tx.one(_SEND_IN_PARTS, upload.id, ask.part_size, ask.multipart)
    if row is not None:
        return rows.upload(row)
    upload = await load(tx, ask.by, ask.upload_id)
    if not upload.multipart:
        raise ended(upload)
    return upload
