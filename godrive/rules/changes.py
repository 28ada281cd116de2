"""Record a change of a drive: usage, the owner's change number, and an event.

While an owner's change number is the same, their lists are the same.  A new
number is the time of the change in microseconds, or the last number plus one if
that is greater.  Therefore it always rises, and a catalog restored from a
backup never repeats a number.  Revisions of entries work the same way.
"""

from __future__ import annotations

from datetime import datetime

from godrive.catalog import Tx
from godrive.config import Auth
from godrive.errors import QuotaExceeded
from godrive.model import File, FileEventKind, FileId, UserId
from godrive.rules import outbox, rows

_CHARGE = (
    "UPDATE users SET live_bytes = live_bytes + $2, trash_bytes = trash_bytes + $3, "
    "version_bytes = version_bytes + $4, reserved_bytes = reserved_bytes + $5, "
    "entry_count = entry_count + $6, upload_count = upload_count + $7"
)
_CHANGE = f"{_CHARGE}, changes = CASE WHEN changes < $8 THEN $8 ELSE changes + 1 END WHERE id = $1"

REVISE = "revision = CASE WHEN revision < $1 THEN $1 ELSE revision + 1 END"
"""SQL: the next revision of an entry.  ``$1`` is the time in microseconds."""


async def record(
    tx: Tx,
    kind: FileEventKind | None,
    owner_id: UserId,
    file_id: FileId | None,
    file: File | None,
    *,
    now: datetime,
    live: int = 0,
    trash: int = 0,
    versions: int = 0,
    reserved: int = 0,
    entries: int = 0,
    uploads: int = 0,
) -> None:
    """Record one change: add to the owner's usage, raise their change number, write an event of *kind*.

    Without *kind*, the change affects lists but writes no event.
    """
    await tx.run(_CHANGE, owner_id, live, trash, versions, reserved, entries, uploads, rows.micros(now))
    if kind is not None and file_id is not None:
        await outbox.note(tx, kind, owner_id, file_id, file, now=now)


async def charge(
    tx: Tx, owner_id: UserId, *, live: int = 0, trash: int = 0, reserved: int = 0, uploads: int = 0
) -> None:
    """Add to the usage of an owner without changing their lists."""
    await tx.run(f"{_CHARGE} WHERE id = $1", owner_id, live, trash, 0, reserved, 0, uploads)


async def check_rows(tx: Tx, owner_id: UserId, limits: Auth) -> None:
    """Raises ``QuotaExceeded`` if the owner has reached the limit of entries."""
    row = rows.found(await tx.one("SELECT entry_count + upload_count FROM users WHERE id = $1", owner_id), "user")
    if row[0] >= limits.max_entries:
        raise QuotaExceeded(f"A drive has at most {limits.max_entries} files and folders.", field="entries")
