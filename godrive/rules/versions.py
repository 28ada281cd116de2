"""Versions of a file: the current one, and the earlier ones that were replaced.

A version is one state of the bytes.  Blobs are immutable, so to replace the
bytes of a file adds a row and keeps the row of the version that was current.
Earlier versions count in ``version_bytes``, each with its full size, also when
several share a blob.

The order of versions is that of their ``revision``, the revision of the file
when it got these bytes, because the clock may be set back.
"""

from __future__ import annotations

from godrive.catalog import Tx
from godrive.model import File, FileEventKind, ObjectKey
from godrive.rules import changes, rows
from godrive.rules.access import Resolved
from godrive.rules.registry import Env

_ADD = (
    "INSERT INTO versions (id, file_id, revision, object_key, mime, size_bytes, sha256, created_at, modified_at) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
)
_KEEP = (
    "UPDATE versions SET replaced_at = $2, review_at = CASE WHEN name IS NULL THEN CAST($3 AS BIGINT) END, "
    "modified_at = $4 WHERE id = $1"
)
_REPLACE = (
    "UPDATE entries SET mime = $3, size_bytes = $4, sha256 = $5, version_id = $6, modified_at = $7, "
    f"list_state = kind, updated_at = $1, {changes.REVISE} WHERE id = $2 RETURNING {rows.LIVE}"
)


async def add(tx: Tx, file: File, object_key: ObjectKey) -> None:
    """Insert the row of the version that is current in *file*."""
    await tx.run(
        _ADD,
        file.version_id,
        file.id,
        file.revision,
        object_key,
        file.mime,
        file.size_bytes,
        file.sha256,
        rows.micros(file.updated_at),
        rows.micros(file.modified_at),
    )


async def replace(
    tx: Tx, target: Resolved, content: File, object_key: ObjectKey, env: Env, *, reserved: int = 0, uploads: int = 0
) -> File:
    """Make the bytes that *content* describes current in the file *target*, and keep the earlier version.

    The id, the name and the time of creation of the file stay.  The caller
    holds the owner's lock and has checked the quota, or reserved the bytes.
    """
    old, at = target.file, rows.micros(env.now)
    row = await tx.one(
        _REPLACE,
        at,
        old.id,
        content.mime,
        content.size_bytes,
        content.sha256,
        content.version_id,
        rows.micros(content.modified_at),
    )
    file = rows.live_file(old.owner_id, rows.found(row))
    review_at = rows.later(env.now, env.config.janitor.version_retention)
    await tx.run(_KEEP, old.version_id, at, review_at, rows.micros(old.modified_at))
    await add(tx, file, object_key)
    # The file may have been restored with its folder and not yet settled.  It is settled now.
    await changes.record(
        tx,
        FileEventKind.UPDATED,
        file.owner_id,
        file.id,
        file,
        now=env.now,
        live=file.size_bytes - (old.size_bytes if target.listed else 0),
        trash=0 if target.listed else -old.size_bytes,
        versions=old.size_bytes,
        reserved=reserved,
        uploads=uploads,
        version_rows=1,
    )
    return file
