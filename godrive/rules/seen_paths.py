"""Find a folder by its path before the transaction, and check in it that the path is unchanged: fewer round trips.

Before the transaction, one statement walks down the path.  The statement that
uses the folder then checks, with the owner locked, that each folder on the path
has the revision that was seen and is in no trash.  A folder that is renamed or
moved gets another revision, so the path still leads to the same folder.
"""

from __future__ import annotations

from godrive.catalog import Row
from godrive.errors import DriveError
from godrive.model import At, FileId, Spot, name_key
from godrive.principal import ApiToken, HostUser, Principal, UserSession
from godrive.rules.access import Folder, root_of
from godrive.rules.names import check_path
from godrive.rules.registry import Question

_TEXTS = "'{}'::TEXT[] COLLATE \"C\""
_WALK = (  # LIMIT makes PostgreSQL look each name up; it might answer a join by reading all entries of the owner
    f"WITH RECURSIVE down (id, level, ids, revisions) AS (SELECT '' COLLATE \"C\", 0, {_TEXTS}, '{{}}'::BIGINT[] "
    "UNION ALL SELECT e.id, down.level + 1, down.ids || e.id, down.revisions || e.revision FROM down "
    "JOIN LATERAL (SELECT id, revision FROM entries WHERE owner_id = $1 AND parent_id = down.id "
    "AND name_key = ($2::TEXT[])[down.level + 1] AND state = 'live' AND kind = 'folder' LIMIT 1) e ON TRUE "
    "WHERE down.level < cardinality($2::TEXT[])) "
    "SELECT max(ids), max(revisions) FROM down WHERE level = cardinality($2::TEXT[])"
)

Path = tuple[list[str], list[int]]
"""The ids and the revisions of the folders on a path."""


def ask_for_path(by: Principal, where: Spot) -> Question | None:
    """Return the question for the folder; ``None`` if *where* is no path, or *by* needs a look-up."""
    if not isinstance(by, UserSession | HostUser | ApiToken) or root_of(by) is not None:
        return None
    if not isinstance(where, At) or where.below or not where.path:
        return None
    try:
        names = check_path(where.path)
    except DriveError:
        return None  # the rule raises it when its turn comes
    return Question(_WALK, (by.user_id, tuple(map(name_key, names))))


def seen_path(by: Principal, row: Row | None) -> tuple[Folder, Path] | None:
    """Return the folder of the answer, and what :func:`is_held` compares; ``None`` if there was no such folder."""
    if row is None or row[0] is None or not isinstance(by, UserSession | HostUser | ApiToken):
        return None
    ids, revisions = row
    return Folder(by.user_id, FileId(ids[-1])), (ids, revisions)


def is_held(ids: str, revisions: str) -> str:
    """Return SQL for PostgreSQL: whether the folders are as they were seen.  They stay so until the transaction ends.

    The owner must be locked before.
    """
    return (
        "(SELECT COUNT(*) FROM (SELECT 1 FROM entries "
        f"JOIN unnest({ids}::TEXT[], {revisions}::BIGINT[]) AS seen (id, revision) "
        "ON entries.id = seen.id AND entries.revision = seen.revision "
        f"WHERE entries.state = 'live' FOR UPDATE OF entries) held) = cardinality({ids}::TEXT[])"
    )
