"""What the rules of files, uploads and trash share: find an entry, find a place for one."""

from __future__ import annotations

from godrive.catalog import Tx
from godrive.errors import NameTaken, NotFound
from godrive.model import File, FileId, OnConflict, UserId, name_key
from godrive.rules import rows
from godrive.rules.names import numbered

_MINE = f"SELECT {rows.FILE}, state FROM entries WHERE id = $1 AND owner_id = $2"
_FOLDER = "SELECT 1 FROM entries WHERE id = $1 AND owner_id = $2 AND state = 'live' AND kind = 'folder'"
_TAKEN = "SELECT id FROM entries WHERE owner_id = $1 AND parent_id = $2 AND name_key = $3 AND state = 'live'"


async def load(tx: Tx, owner_id: UserId, file_id: FileId) -> tuple[File, str]:
    """The entry and its state, unless its purge has begun.  Raises ``NotFound``."""
    row = rows.found(await tx.one(_MINE, file_id, owner_id))
    if row[-1] == "purging":
        raise NotFound("There is no such file.")
    return rows.file(row), row[-1]


async def is_folder(tx: Tx, owner_id: UserId, parent_id: FileId | None) -> bool:
    """Whether the owner has that live folder; everybody has a root."""
    return parent_id is None or await tx.one(_FOLDER, parent_id, owner_id) is not None


async def holder(tx: Tx, owner_id: UserId, parent_id: FileId | None, name: str) -> str | None:
    """The id of the live entry that has the name there."""
    row = await tx.one(_TAKEN, owner_id, parent_id or "", name_key(name))
    return None if row is None else row[0]


def name_taken(name: str) -> NameTaken:
    """The error for a name that another entry has."""
    return NameTaken(f"There is an entry named {name!r} already.", field="name")


async def free_name(
    tx: Tx, owner_id: UserId, parent_id: FileId | None, name: str, on_conflict: OnConflict, *, but: FileId | None = None
) -> str:
    """The name, or where it is taken (by another than *but*) what *on_conflict* says.

    Free until somebody takes it: lock the owner before, or be ready to ask
    again.  A free number is found by doubling and then halving, so ten
    thousand files of one name cost no more than a few looks.
    """

    async def is_taken(candidate: str) -> bool:
        return await holder(tx, owner_id, parent_id, candidate) not in (None, but)

    if not await is_taken(name):
        return name
    if on_conflict is OnConflict.FAIL:
        raise name_taken(name)
    taken, free = 0, 1
    while await is_taken(numbered(name, free)):
        taken, free = free, free * 2
    while free - taken > 1:
        middle = (taken + free) // 2
        if await is_taken(numbered(name, middle)):
            taken = middle
        else:
            free = middle
    return numbered(name, free)
