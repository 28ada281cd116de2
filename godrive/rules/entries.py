"""Find a free name for an entry and insert its row, for the rules of files, uploads and trash."""

from __future__ import annotations

from collections.abc import Sequence

from godrive.catalog import Tx
from godrive.catalog.chains import ChainStep
from godrive.catalog.many import inserting, over
from godrive.errors import Invalid, NameTaken
from godrive.model import File, FileId, OnConflict, name_key
from godrive.rules import rows
from godrive.rules.access import Folder, Resolved
from godrive.rules.names import numbered, search_key

_TAKEN = "SELECT id FROM entries WHERE owner_id = $1 AND parent_id = $2 AND name_key = $3 AND state = 'live'"
_FIND = (
    f"SELECT {rows.LIVE}, list_state, height FROM entries "
    "WHERE owner_id = $1 AND parent_id = $2 AND name_key = $3 AND state = 'live'"
)
UNSETTLE = (
    "INSERT INTO unsettled (folder_id, owner_id, after_created_at, after_id) VALUES ($1, $2, -1, '') "
    "ON CONFLICT (folder_id) DO UPDATE SET after_created_at = -1, after_id = ''"
)
_INSERT = (
    "INSERT INTO entries (id, owner_id, list_state, parent_id, kind, name, name_key, search_key, mime, size_bytes, "
    "sha256, version_id, created_at, updated_at, revision, modified_at, height, state) "
    "SELECT $1, $2, $3, $4, $3, $5, $6, $7, $8, $9, $10, $11, $12, $12, $12, $13, $14, 'live'"
)
_INSERT_EACH = inserting(_INSERT)
_PLACE = f"{_INSERT} WHERE true ON CONFLICT DO NOTHING"  # without WHERE, SQLite takes ON for the condition of a join
_RAISE = (  # ends at the first folder that is high enough, because those above it are higher
    "WITH RECURSIVE up (entry_id, parent_id, height) AS ("
    "SELECT id, parent_id, CAST($2 AS INTEGER) FROM entries WHERE id = $1 AND height < $2 UNION ALL "
    "SELECT p.id, p.parent_id, up.height + 1 FROM up JOIN entries p ON p.id = up.parent_id "
    "WHERE p.height < up.height + 1) "
    "UPDATE entries SET height = (SELECT up.height FROM up WHERE up.entry_id = entries.id) "
    "WHERE id IN (SELECT entry_id FROM up)"
)


def name_taken(name: str, field: str = "name") -> NameTaken:
    """Return the error for a name that another entry has."""
    return NameTaken(f"There is an entry named {name!r} already.", field=field)


async def find(tx: Tx, folder: Folder, name: str) -> Resolved | None:
    """Return the live entry of the folder that has the name."""
    row = await tx.one(_FIND, folder.owner_id, folder.key, name_key(name))
    if row is None:
        return None
    file = rows.live_file(folder.owner_id, row[:-2])
    return Resolved(file, trashed=False, listed=row[-2] != "hidden", depth=folder.depth + 1, height=row[-1])


async def free_name(tx: Tx, folder: Folder, name: str, on_conflict: OnConflict, *, but: FileId | None = None) -> str:
    """Return *name*, or if an entry other than *but* has it, act as *on_conflict* says.

    The name is not reserved: the caller must hold the owner's lock or retry.
    A galloping search finds a free number, so 10 000 files with one name take
    few look-ups.
    """

    if on_conflict is OnConflict.REPLACE:
        raise Invalid("Only the bytes of an upload can replace a file.", field="on_conflict")

    async def is_taken(candidate: str) -> bool:
        row = await tx.one(_TAKEN, folder.owner_id, folder.key, name_key(candidate))
        return row is not None and row[0] != but

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


async def unsettle(tx: Tx, folder: File) -> None:
    """Schedule the update of the rows below the folder (see ``trash.settle``)."""
    await tx.run(UNSETTLE, folder.id, folder.owner_id)


async def place(tx: Tx, folder: Folder, file: File, *, height: int = 0) -> bool:
    """Insert the row of a new entry of the folder.  Returns whether its name was free."""
    placed = await tx.run(_PLACE, *_values(file, height))
    if placed:
        await raise_height(tx, folder, height + 1)
    return placed > 0


def placing(file: File, *, after: str) -> ChainStep:
    """The step that inserts the row of a file, if the step *after* has found that its name is free.

    If another transaction has taken the name meanwhile, all of this one fails and is run again.
    """
    return ChainStep("placed", f"{_INSERT} FROM {after}", _values(file, 0), "id")


async def place_each(tx: Tx, files: Sequence[File]) -> None:
    """Insert the rows of files whose names are free, in folders that have had an entry already.  SQLite only."""
    await tx.run(*over(*_INSERT_EACH, [_values(file, 0) for file in files]))


async def place_chain(tx: Tx, chain: Sequence[File]) -> None:
    """Insert the rows of new folders, each in the one before it, the first in a folder that is new too."""
    await tx.run_each(_PLACE, [_values(file, len(chain) - number) for number, file in enumerate(chain, 1)])


async def raise_height(tx: Tx, folder: Folder, height: int) -> None:
    """Note that the folder now has *height* levels below it.  The caller holds the owner's lock.

    Every rule that puts an entry into a folder must call this: the height is
    what tells whether a folder can be moved without lying too deep.
    """
    if folder.id is not None and folder.height < height:
        await tx.run(_RAISE, folder.id, height)


def _values(file: File, height: int) -> tuple[object, ...]:
    return (
        file.id,
        file.owner_id,
        str(file.kind),
        file.parent_id or "",
        file.name,
        name_key(file.name),
        search_key(file.name),
        file.mime,
        file.size_bytes,
        file.sha256,
        file.version_id,
        rows.micros(file.created_at),
        rows.micros(file.modified_at),
        height,
    )
