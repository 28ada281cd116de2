"""Authorization: the only module that decides what a principal may do with an entry.

Theory of operation.  An entry is visible if neither it nor any folder above it
is in the trash.  Only the trashed entry itself carries a mark, so the statement
that reads an entry also walks from it to the root.  The walk costs nothing for
an entry of the root, and about 17 microseconds at depth 10 (SQLite).  A path is
walked down from the topmost folder that the principal can see, by names of live
entries only, also in one statement.  An entry that the principal may not use
gets the same ``NotFound`` as one that does not exist.

Rules take a :class:`Resolved` or a :class:`Folder` from here, never an owner
and an id.  For a verb that writes, the rows of the owner are locked first, so
the decision holds until the transaction ends.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from godrive.catalog import Row, Tx
from godrive.catalog.ancestors import ABOVE
from godrive.errors import Forbidden, NameTaken, NotFound
from godrive.model import (
    Anywhere,
    At,
    File,
    FileId,
    FileKind,
    In,
    Place,
    Root,
    Spot,
    Upload,
    UserId,
    UserState,
    Which,
    name_key,
)
from godrive.principal import (
    SCOPE_OF,
    ApiToken,
    HostUser,
    Principal,
    ShareLink,
    SignedUrl,
    System,
    UserSession,
    Verb,
    user_of,
)
from godrive.rules import rows
from godrive.rules.names import check_depth, check_path
from godrive.rules.registry import Question

_SELECT = (
    f"SELECT {', '.join(f'entries.{column}' for column in rows.FILE.split(', '))}, entries.list_state, entries.height, "
    f"entries.state, {ABOVE}, users.state, users.trash_cleared_at"
)
_OWNS = "users.id = entries.owner_id"
_ENTRY = f"{_SELECT} FROM entries LEFT JOIN users ON {_OWNS} WHERE entries.id = $1"
_ENTRY_OR_NONE = f"{_SELECT} FROM (SELECT 1) always LEFT JOIN entries ON entries.id = $1 LEFT JOIN users ON {_OWNS}"
_LIST_STATE, _HEIGHT, _STATE, _DEPTH, _OWNER_STATE, _CLEARED_AT = -6, -5, -4, -3, -2, -1
# The names after the first are in $4, each behind its length in four digits.  The subquery makes PostgreSQL look each
# name up; it might answer a join by reading all entries of the owner for each level.
_LENGTH = "CAST(substr($4, down.at, 4) AS INTEGER)"
_WALK = (
    "WITH RECURSIVE down (entry_id, level, at) AS (SELECT id, 1, 1 FROM entries "
    "WHERE owner_id = $1 AND parent_id = $2 AND name_key = $3 AND state = 'live' UNION ALL "
    "SELECT (SELECT e.id FROM entries e WHERE e.owner_id = $1 AND e.parent_id = down.entry_id "
    f"AND e.name_key = substr($4, down.at + 4, {_LENGTH}) AND e.state = 'live'), "
    f"down.level + 1, down.at + 4 + {_LENGTH} FROM down WHERE down.entry_id IS NOT NULL AND down.level < $5) "
    f"SELECT {rows.FILE}, list_state, height, level, (SELECT u.state FROM users u WHERE u.id = $1) "
    "FROM down JOIN entries ON entries.id = down.entry_id "
    "WHERE level = (SELECT MAX(level) FROM down WHERE entry_id IS NOT NULL)"
)
"""SQL: the last entry on a path that exists, and how many names lead to it."""
_ROOT = "SELECT created_at FROM users WHERE id = $1"
_LIES_IN = (
    "WITH RECURSIVE up (id, parent_id) AS (SELECT id, parent_id FROM entries WHERE id = $1 UNION "
    "SELECT p.id, p.parent_id FROM up JOIN entries p ON p.id = up.parent_id) SELECT 1 FROM up WHERE id = $2"
)
_IS_ACTIVE = "SELECT 1 FROM users WHERE id = $1 AND state = 'active'"
_ACTIVE = UserState.ACTIVE.value
_USERS = UserSession, HostUser, ApiToken
_READS = frozenset({Verb.READ})
_OF_TRASHED = frozenset({Verb.DELETE, Verb.RESTORE, Verb.PURGE})
_OF_LIVE = frozenset(Verb) - {Verb.PURGE}


class Resolved(msgspec.Struct, frozen=True, gc=False):
    """An entry on which the principal may perform the verb.

    *trashed*: the entry is in the trash.  *listed*: its bytes count as live,
    and the list of the whole drive shows it; this may lag behind *trashed*.
    *depth* is the number of names in its path from the root of the drive,
    *height* at least the number of levels below it.
    """

    file: File
    trashed: bool
    listed: bool
    depth: int
    height: int

    @property
    def owner_id(self) -> UserId:
        """The owner, whose quota and lock apply."""
        return self.file.owner_id


class Folder(msgspec.Struct, frozen=True, gc=False):
    """A folder on which the principal may perform the verb.  The root has no *id*.

    *depth* and *height* are those of :class:`Resolved`, 0 for the root.
    """

    owner_id: UserId
    id: FileId | None
    depth: int = 0
    height: int = 0

    @property
    def key(self) -> str:
        """The value of the column ``parent_id`` for entries of this folder."""
        return self.id or ""


async def resolve(tx: Tx, by: Principal, which: Which, verb: Verb) -> Resolved:
    """Return the entry if *by* may perform *verb* on it now.

    The root of a drive can be read, as an entry with the id ``root``.  Raises
    ``NotFound`` if *by* may not or the entry does not exist, ``Forbidden`` if
    *by* may not perform *verb* on any entry or the entry is the root,
    ``Invalid`` and ``TooDeep`` for a path that no entry can have.
    """
    if isinstance(which, str):
        return await _resolve_id(tx, by, which, verb)
    return await _resolve_path(tx, by, which, verb)


async def _resolve_id(tx: Tx, by: Principal, entry_id: FileId, verb: Verb) -> Resolved:
    check_scope(by, verb)
    user_id = None if isinstance(by, System) else by.user_id
    if verb not in _READS and user_id is not None:
        await tx.lock(user_id)
    row = rows.found(await tx.one(_ENTRY, entry_id))
    if user_id is None:
        if verb not in _READS:
            await tx.lock(UserId(row[rows.OWNER]))
            row = rows.found(await tx.one(_ENTRY, entry_id))
    elif row[rows.OWNER] != user_id or row[_OWNER_STATE] != _ACTIVE or not await _covers(tx, by, entry_id):
        raise NotFound("There is no such file.")
    file, state = rows.file(row), row[_STATE]
    depth, height = row[_DEPTH] + 1, row[_HEIGHT]
    if state == "live" and depth and verb in _OF_LIVE:
        return Resolved(file, False, row[_LIST_STATE] != "hidden", depth, height)
    if state == "trashed" and verb in _OF_TRASHED and not _is_cleared(row):
        return Resolved(file, True, False, depth, height)
    raise NotFound("There is no such file in the trash." if verb is Verb.PURGE else "There is no such file.")


def _is_cleared(row: Row) -> bool:
    """Whether the trash was emptied after the entry was trashed, so that its purge has begun."""
    cleared_at, trashed_at = row[_CLEARED_AT], row[rows.TRASHED_AT]
    return cleared_at is not None and trashed_at <= cleared_at


async def _resolve_path(tx: Tx, by: Principal, at: At, verb: Verb) -> Resolved:
    found, level = await _walk(tx, by, at, verb)
    if level < len(at.path):
        raise NotFound("There is no such file.")
    if verb not in _OF_LIVE:
        raise NotFound("There is no such file in the trash.")
    if isinstance(found, Resolved):
        return found
    if verb not in _READS:
        raise Forbidden("The root of a drive cannot be changed.")
    row = rows.found(await tx.one(_ROOT, found.owner_id), "user")
    return Resolved(rows.root(found.owner_id, row[0]), trashed=False, listed=True, depth=0, height=0)


async def _walk(tx: Tx, by: Principal, at: At, verb: Verb) -> tuple[Resolved | Folder, int]:
    """Return the last entry on the path that exists, and the number of names that lead to it.

    With no name at all that is where the path begins: a ``Folder`` if it is the root of the drive.
    """
    keys = [name_key(name) for name in check_path(at.path)]
    top: Resolved | Folder
    top_id = at.below or root_of(by)
    if top_id is None:
        top = Folder(_drive_of(by, verb), None)
        if verb not in _READS:
            await tx.lock(top.owner_id)
        start = ""
    else:
        top = await _resolve_id(tx, by, top_id, verb)
        if top.trashed:
            raise NotFound("There is no such file.")
        start = top_id
    row = None
    if keys:
        rest = "".join([f"{len(key):04}{key}" for key in keys[1:]])
        row = await tx.one(_WALK, top.owner_id, start, keys[0], rest, len(keys))
    if row is None:
        if top_id is None:
            await _check_active(tx, by, verb, top.owner_id)
        return top, 0
    list_state, height, level, owner_state = row[-4:]
    if owner_state != _ACTIVE:
        raise NotFound("There is no such file.")
    return Resolved(rows.file(row), False, list_state != "hidden", top.depth + level, height), level


async def resolve_folder(tx: Tx, by: Principal, where: Spot, verb: Verb, *, lock: bool = True) -> Folder:
    """Return the folder if *by* may perform *verb* in it now.

    ``Root`` is the topmost folder that *by* can see.  Without *lock*, the root
    of a drive is neither locked nor checked, because the caller does both.
    Never creates a folder; ``folders.target`` does.  Raises ``NotFound``
    (``field`` is ``parent_id`` or ``path``) if *by* may not or the entry is not
    a folder, ``TooDeep`` if *verb* creates and nothing can lie deeper, and the
    errors of :func:`resolve`.
    """
    if isinstance(where, At) and (where.path or where.below):
        folder, missing = await reach(tx, by, where, verb)
        if missing:
            raise _no_folder("path")
        return folder
    folder_id = where.folder_id if isinstance(where, In) else root_of(by)
    if folder_id is None:
        owner_id = _drive_of(by, verb)
        if lock:
            if verb not in _READS:
                await tx.lock(owner_id)
            await _check_active(tx, by, verb, owner_id)
        return Folder(owner_id, None)
    try:
        resolved = await _resolve_id(tx, by, folder_id, verb)
    except NotFound:
        raise _no_folder("parent_id") from None
    return _folder(resolved, verb, "parent_id")


async def reach(tx: Tx, by: Principal, at: At, verb: Verb) -> tuple[Folder, Sequence[str]]:
    """Return the last folder on the path that exists, and the names on the path that are missing below it.

    Raises as :func:`resolve_folder`, and ``NameTaken`` if with *parents* a file is in the way.
    """
    try:
        found, level = await _walk(tx, by, at, verb)
    except NotFound:
        raise _no_folder("path") from None
    if isinstance(found, Folder):
        return found, at.path
    if at.parents and found.file.kind is FileKind.FILE:
        raise NameTaken(f"{found.file.name!r} is a file, not a folder.", field="path")
    return _folder(found, verb, "path"), at.path[level:]


def _folder(resolved: Resolved, verb: Verb, field: str) -> Folder:
    if resolved.file.kind is not FileKind.FOLDER:
        raise _no_folder(field)
    if verb is Verb.CREATE:
        check_depth(resolved.depth + 1, field)
    return Folder(resolved.owner_id, resolved.file.id, resolved.depth, resolved.height)


def _no_folder(field: str) -> NotFound:
    return NotFound("There is no such folder.", field=field)


def presume(by: Principal, where: Spot, verb: Verb) -> Folder | None:
    """Return the folder without a look-up of whether it exists; ``None`` if *where* or *by* needs a look-up.

    The statement that uses it must check that the owner is active, and the depth of the folder unless it is the root.
    Raises ``Forbidden``.
    """
    if not isinstance(by, _USERS) or root_of(by) is not None:
        return None
    if not isinstance(where, Root) and isinstance(where, At) and (where.path or where.below):
        return None
    check_scope(by, verb)
    return Folder(by.user_id, where.folder_id if isinstance(where, In) else None)


def ask_for(entry_id: FileId) -> Question:
    """Return the question whose answer is for :func:`seen`."""
    return Question(_ENTRY_OR_NONE, (entry_id,))


def seen(row: Row, owner_id: UserId) -> File | None:
    """Return the entry if it was the active user's and in no trash when the question was answered.

    The statement that uses it must check that its revision and its state, and the state of the owner and of the folders
    above, are still the same.
    """
    if row[rows.OWNER] != owner_id or row[_OWNER_STATE] != _ACTIVE or row[_STATE] != "live" or row[_DEPTH] < 0:
        return None
    return rows.file(row)


async def resolve_place(tx: Tx, by: Principal, where: Place, verb: Verb) -> Folder | UserId:
    """Like :func:`resolve_folder`.  For ``Anywhere``, return the owner of the drive."""
    if not isinstance(where, Anywhere):
        return await resolve_folder(tx, by, where, verb)
    return await owner_of(tx, by, verb)


async def owner_of(tx: Tx, by: Principal, verb: Verb) -> UserId:
    """Return the user in whose whole drive *by* may perform *verb*.

    Raises ``NotFound`` if the user is not active, ``Forbidden`` for a principal
    that is confined to one entry, ``Invalid`` for the system, which has no drive.
    """
    owner_id = _drive_of(by, verb)
    await _check_active(tx, by, verb, owner_id)
    return owner_id


def _drive_of(by: Principal, verb: Verb) -> UserId:
    check_scope(by, verb)
    if not isinstance(by, UserSession) and (isinstance(by, SignedUrl) or root_of(by) is not None):
        raise Forbidden("This credential covers one entry only.")
    return user_of(by)


async def _check_active(tx: Tx, by: Principal, verb: Verb, owner_id: UserId) -> None:
    # The auth actor has just checked the session, and a disabled user has none, so a list needs no look-up.
    if verb in _READS and isinstance(by, UserSession):
        return
    await check_active(tx, owner_id)


async def check_active(tx: Tx, owner_id: UserId) -> None:
    """Raises ``NotFound`` unless the user is active."""
    if await tx.one(_IS_ACTIVE, owner_id) is None:
        raise NotFound("There is no such user.")


async def check_upload(tx: Tx, by: Principal, verb: Verb, upload: Upload) -> None:
    """Check that *by* may perform *verb* on the upload.

    The upload must belong to the user, and its folder must lie in the folder
    that *by* is confined to.  Raises ``NotFound``, ``Forbidden``.
    """
    if not covers_all_of(by, verb, upload) and not (
        isinstance(by, ApiToken) and upload.owner_id == by.user_id and await _covers(tx, by, upload.parent_id)
    ):
        raise NotFound("There is no such upload.")


def covers_all_of(by: Principal, verb: Verb, upload: Upload) -> bool:
    """Whether *by* may perform *verb* on the upload wherever its folder lies.  Raises ``Forbidden``."""
    check_scope(by, verb)
    match by:
        case System():
            return True
        case ShareLink():
            return False
        case SignedUrl():
            return upload.owner_id == by.user_id and upload.id == by.target_id
        case _:
            return upload.owner_id == by.user_id and root_of(by) is None


def check_scope(by: Principal, verb: Verb) -> None:
    """Raises ``Forbidden`` if *by* may not perform *verb* on any entry."""
    if isinstance(by, UserSession):  # most are, and a pattern takes ten times as long
        return
    match by:
        case ApiToken():
            allowed = SCOPE_OF[verb] in by.scopes
        case ShareLink():
            allowed = verb in by.verbs
        case SignedUrl():
            allowed = verb is by.verb
        case _:
            return
    if not allowed:
        raise Forbidden(f"This credential lacks the scope {SCOPE_OF[verb].value}.")


def root_of(by: Principal) -> FileId | None:
    """Return the topmost folder that *by* can see; ``None`` is the root of the drive."""
    if isinstance(by, UserSession) or not isinstance(by, ApiToken | ShareLink):
        return None
    return by.folder_id if isinstance(by, ApiToken) else by.entry_id


async def lies_in(tx: Tx, entry_id: FileId, folder_id: FileId) -> bool:
    """Whether the entry is that folder, or lies in it at any depth."""
    return entry_id == folder_id or await tx.one(_LIES_IN, entry_id, folder_id) is not None


async def _covers(tx: Tx, by: Principal, entry_id: FileId | None) -> bool:
    """Whether the entry (``None``: the root) lies in the folder that *by* is confined to."""
    top = root_of(by) if isinstance(by, UserSession) or not isinstance(by, SignedUrl) else FileId(by.target_id)
    return top is None or (entry_id is not None and await lies_in(tx, entry_id, top))
