"""Whether a user may have one more upload: the quota and the limits on rows."""

from __future__ import annotations

from godrive.catalog import Tx
from godrive.config import Auth
from godrive.errors import NotFound, QuotaExceeded
from godrive.model import OnConflict, Upload, UserId
from godrive.rules import changes


def room_for(first: int, mark: str = "$") -> str:
    """Return SQL: whether an active user may have one more upload, of as many bytes as the parameter *first* says.

    The limits follow that parameter: see :func:`limits_of`.  With another *mark*, they are columns of that name.
    """
    size, uploads, entries, versions = (f"{mark}{first + number}" for number in range(4))
    return (
        f"state = 'active' AND upload_count < {uploads} AND entry_count + upload_count < {entries} "
        f"AND version_count + upload_count < {versions} AND (quota_bytes IS NULL "
        f"OR live_bytes + trash_bytes + version_bytes + reserved_bytes + {size} <= quota_bytes)"
    )


HAS_ROOM = f"id = $1 AND {room_for(2)}"
"""SQL: whether the user ``$1`` may have one more upload."""
_HOLD = f"UPDATE users SET upload_count = upload_count WHERE {HAS_ROOM}"
_NO_LIMIT = 2**62


def limits_of(limits: Auth, *, replaces: bool) -> tuple[int, int, int]:
    """Return the values of :data:`HAS_ROOM` after the first two, for an upload that may *replace* a file."""
    return limits.max_pending_uploads, limits.max_entries, limits.max_versions if replaces else _NO_LIMIT


async def hold_room(tx: Tx, upload: Upload, limits: Auth) -> None:
    """Check the room for an upload without a row.  Locks the owner, so other transactions cannot use it any more.

    Raises ``QuotaExceeded``, ``NotFound``.
    """
    replaces = upload.on_conflict is OnConflict.REPLACE
    if not await tx.run(_HOLD, upload.owner_id, upload.size_bytes, *limits_of(limits, replaces=replaces)):
        raise await no_room(tx, upload.owner_id, upload.size_bytes, limits, replaces=replaces)


async def no_room(
    tx: Tx, owner_id: UserId, size_bytes: int, limits: Auth, *, replaces: bool
) -> NotFound | QuotaExceeded:
    """Return the reason why the owner cannot have one more upload."""
    if await tx.one("SELECT 1 FROM users WHERE id = $1 AND state = 'active'", owner_id) is None:
        return NotFound("There is no such user.")
    try:
        await changes.check_room(
            tx, owner_id, limits, uploads=1, entries=1, versions=1 if replaces else 0, size=size_bytes
        )
    except QuotaExceeded as error:
        return error
    return QuotaExceeded("The file exceeds the remaining quota.", field="size_bytes")  # freed a moment ago
