"""Records of when the drive was backed up, and where."""

from __future__ import annotations

from godrive.catalog import Tx
from godrive.messages.backups import ListBackups, MadeBackup, NoteBackup
from godrive.rules import rows
from godrive.rules.registry import Env, rule


@rule(NoteBackup, writes=True)
async def note(tx: Tx, ask: NoteBackup, env: Env) -> None:
    """As ``NoteBackup`` says."""
    made = ask.made
    await tx.run(
        "INSERT INTO backups (target, snapshot_id, made_at, blobs, bytes) VALUES ($1, $2, $3, $4, $5) "
        "ON CONFLICT (target) DO UPDATE SET snapshot_id = $2, made_at = $3, blobs = $4, bytes = $5",
        made.target,
        made.snapshot_id,
        rows.micros(made.made_at),
        made.blobs,
        made.bytes,
    )


@rule(ListBackups)
async def backups(tx: Tx, ask: ListBackups, env: Env) -> list[MadeBackup]:
    """As ``ListBackups`` says."""
    return [
        MadeBackup(target=row[0], snapshot_id=row[1], made_at=rows.instant(row[2]), blobs=row[3], bytes=row[4])
        for row in await tx.all("SELECT target, snapshot_id, made_at, blobs, bytes FROM backups ORDER BY target")
    ]
