"""SQL about the folders above an entry, and how each database keeps a folder as it is until the transaction ends.

A folder is where something can be put only while no folder above it is in the
trash.  On SQLite, which has one writer, a statement that looks is enough.  On
PostgreSQL the owner must be locked first, and what is looked at must be what
was committed before the lock was granted: newer than what the statement sees
that waits for it.  Each statement in a function sees that, so a function locks
and then looks (``held_depth``), in one round trip with the statement that uses it.
"""

from __future__ import annotations

# A correlated walk: `parent_id` is that of the entry in the outer statement.  UNION ends the walk if there is a cycle.
_UP = (
    "WITH RECURSIVE up (id, parent_id, state) AS ("
    "SELECT p.id, p.parent_id, p.state FROM entries p WHERE p.id = entries.parent_id UNION "
    "SELECT p.id, p.parent_id, p.state FROM up JOIN entries p ON p.id = up.parent_id WHERE up.state = 'live') "
)
_LIVE = "COALESCE(MIN(CASE WHEN state = 'live' THEN 1 ELSE 0 END), 0)"
VISIBLE = f"CASE WHEN entries.parent_id = '' THEN 1 ELSE ({_UP} SELECT {_LIVE} FROM up) END"
"""SQL: 1 when no folder above the row of ``entries`` is in the trash, else 0."""
ABOVE = (
    f"CASE WHEN entries.parent_id = '' THEN 0 ELSE ({_UP} SELECT CASE WHEN {_LIVE} = 1 THEN COUNT(*) ELSE -1 END "
    "FROM up) END"
)
"""SQL: the number of folders above the row of ``entries``, or -1 if one of them is in the trash."""

_DEPTH = (
    f"(SELECT NULLIF({ABOVE}, -1) FROM entries WHERE entries.id = {{folder}} AND entries.owner_id = {{owner}} "
    "AND entries.kind = 'folder' AND entries.state = 'live'{more})"
)
_IS_HIGH = " AND entries.height > 0"


def depth_of(owner: str, folder: str) -> str:
    """Return SQL: how many folders are above the live folder of the owner, NULL if there is no such folder."""
    return _DEPTH.format(owner=owner, folder=folder, more="")


def held_depth(owner: str, folder: str, upload: str = "''", *, locks: bool) -> str:
    """Return SQL: the same of a folder that has had an entry already, which nobody changes until the transaction ends.

    Where the database *locks*, the row of the upload is locked first, then that
    of the owner.  In a statement, it must be compared once only.
    """
    if locks:
        return f"held_depth({owner}, {folder}, {upload})"
    return _DEPTH.format(owner=owner, folder=folder, more=_IS_HIGH)


SQLITE_WORDS = {"hold_folders": "SELECT 1"}
POSTGRES_WORDS = {
    "hold_folders": f"""
CREATE FUNCTION held_depth(the_owner TEXT, the_folder TEXT, the_upload TEXT) RETURNS BIGINT LANGUAGE plpgsql AS $$ BEGIN
    IF the_upload <> '' THEN
        PERFORM 1 FROM uploads WHERE id = the_upload FOR UPDATE;
    END IF;
    PERFORM 1 FROM users WHERE id = the_owner FOR UPDATE;
    RETURN {_DEPTH.format(owner="the_owner", folder="the_folder", more=_IS_HIGH)};
END $$"""
}
