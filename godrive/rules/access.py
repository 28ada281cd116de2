"""Authorization: the only module that decides what a principal may do with an entry.

Theory of operation.  An entry is visible if neither it nor any folder above it
is in the trash.  Only the trashed entry itself carries a mark, so the statement
that reads an entry also walks from it to the root.  The walk costs nothing for
an entry of the root, and about 17 microseconds at depth 10 (SQLite).  An entry
that the principal may not use gets the same ``NotFound`` as one that does not
exist.

Rules take a :class:`Resolved` or a :class:`Folder` from here, never an owner
and an id.  For a verb that writes, the rows of the owner are locked first, so
the decision holds until the transaction ends.
"""

from __future__ import annotations

import msgspec

from godrive.catalog import Row, Tx
from godrive.errors import Forbidden, NotFound
from godrive.model import Anywhere, File, FileId, FileKind, Place, Root, Spot, Upload, UserId, UserState
from godrive.principal import SCOPE_OF, ApiToken, Principal, ShareLink, SignedUrl, System, UserSession, Verb, user_of
from godrive.rules import rows

# A correlated walk: `parent_id` is that of the entry in the outer statement.  UNION ends the walk if there is a cycle.
VISIBLE = (
    "CASE WHEN entries.parent_id = '' THEN 1 ELSE ("
    "WITH RECURSIVE up (id, parent_id, state) AS ("
    "SELECT p.id, p.parent_id, p.state FROM entries p WHERE p.id = entries.parent_id UNION "
    "SELECT p.id, p.parent_id, p.state FROM up JOIN entries p ON p.id = up.parent_id WHERE up.state = 'live') "
    "SELECT COALESCE(MIN(CASE WHEN state = 'live' THEN 1 ELSE 0 END), 0) FROM up) END"
)
"""SQL: 1 when no folder above the row of ``entries`` is in the trash, else 0."""

_ENTRY = (
    f"SELECT {rows.FILE}, list_state, state, {VISIBLE}, (SELECT u.state FROM users u WHERE u.id = entries.owner_id), "
    "(SELECT u.trash_cleared_at FROM users u WHERE u.id = entries.owner_id) "
    "FROM entries WHERE id = $1"
)
_LIST_STATE, _STATE, _VISIBLE, _OWNER_STATE, _CLEARED_AT = -5, -4, -3, -2, -1
_ABOVE = (
    "WITH RECURSIVE up (id, parent_id) AS (SELECT id, parent_id FROM entries WHERE id = $1 UNION "
    "SELECT p.id, p.parent_id FROM up JOIN entries p ON p.id = up.parent_id) SELECT 1 FROM up WHERE id = $2"
)
_IS_ACTIVE = "SELECT 1 FROM users WHERE id = $1 AND state = 'active'"
_ACTIVE = UserState.ACTIVE.value
_READS = frozenset({Verb.READ})
_OF_TRASHED = frozenset({Verb.DELETE, Verb.RESTORE, Verb.PURGE})
_OF_LIVE = frozenset(Verb) - {Verb.PURGE}


class Resolved(msgspec.Struct, frozen=True, gc=False):
    """An entry on which the principal may perform the verb.

    *trashed*: the entry is in the trash.  *listed*: its bytes count as live,
    and the list of the whole drive shows it; this may lag behind *trashed*.
    """

    file: File
    trashed: bool
    listed: bool

    @property
    def owner_id(self) -> UserId:
        """The owner, whose quota and lock apply."""
        return self.file.owner_id


class Folder(msgspec.Struct, frozen=True, gc=False):
    """A folder on which the principal may perform the verb.  The root has no *id*."""

    owner_id: UserId
    id: FileId | None

    @property
    def key(self) -> str:
        """The value of the column ``parent_id`` for entries of this folder."""
        return self.id or ""


async def resolve(tx: Tx, by: Principal, entry_id: FileId, verb: Verb) -> Resolved:
    """Return the entry if *by* may perform *verb* on it now.

    Raises ``NotFound`` if it may not or the entry does not exist, ``Forbidden``
    if *by* may not perform *verb* on any entry.
    """
    check_scope(by, verb)
    if verb not in _READS and not isinstance(by, System):
        await tx.lock(by.user_id)
    row = rows.found(await tx.one(_ENTRY, entry_id))
    if isinstance(by, System):
        if verb not in _READS:
            await tx.lock(UserId(row[rows.OWNER]))
            row = rows.found(await tx.one(_ENTRY, entry_id))
    elif row[rows.OWNER] != by.user_id or row[_OWNER_STATE] != _ACTIVE or not await _covers(tx, by, entry_id):
        raise NotFound("There is no such file.")
    file, state = rows.file(row), row[_STATE]
    if state == "live" and row[_VISIBLE] and verb in _OF_LIVE:
        return Resolved(file, trashed=False, listed=row[_LIST_STATE] != "hidden")
    if state == "trashed" and verb in _OF_TRASHED and not _is_cleared(row):
        return Resolved(file, trashed=True, listed=False)
    raise NotFound("There is no such file in the trash." if verb is Verb.PURGE else "There is no such file.")


def _is_cleared(row: Row) -> bool:
    """Whether the trash was emptied after the entry was trashed, so that its purge has begun."""
    cleared_at, trashed_at = row[_CLEARED_AT], row[rows.TRASHED_AT]
    return cleared_at is not None and trashed_at <= cleared_at


async def resolve_folder(tx: Tx, by: Principal, where: Spot, verb: Verb, *, lock: bool = True) -> Folder:
    """Return the folder if *by* may perform *verb* in it now.

    ``Root`` is the topmost folder that *by* can see.  Without *lock*, the root
    of a drive is neither locked nor checked, because the caller does both.
    Raises ``NotFound`` (``field`` is ``parent_id``) if *by* may not or the entry
    is not a folder, ``Forbidden`` as :func:`resolve`.
    """
    folder_id = root_of(by) if isinstance(where, Root) else where.folder_id
    if folder_id is None:
        owner_id = _drive_of(by, verb)
        if lock:
            if verb not in _READS:
                await tx.lock(owner_id)
            await _check_active(tx, by, verb, owner_id)
        return Folder(owner_id, None)
    try:
        resolved = await resolve(tx, by, folder_id, verb)
    except NotFound:
        raise _no_folder() from None
    if resolved.file.kind is not FileKind.FOLDER:
        raise _no_folder()
    return Folder(resolved.owner_id, resolved.file.id)


def _no_folder() -> NotFound:
    return NotFound("There is no such folder.", field="parent_id")


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
    if isinstance(by, SignedUrl) or root_of(by) is not None:
        raise Forbidden("This credential covers one entry only.")
    return user_of(by)


async def _check_active(tx: Tx, by: Principal, verb: Verb, owner_id: UserId) -> None:
    """Raises ``NotFound`` unless the user is active."""
    # The auth actor has just checked the session, and a disabled user has none, so a list needs no look-up.
    if verb in _READS and isinstance(by, UserSession):
        return
    if await tx.one(_IS_ACTIVE, owner_id) is None:
        raise NotFound("There is no such user.")


async def check_upload(tx: Tx, by: Principal, verb: Verb, upload: Upload) -> None:
    """Check that *by* may perform *verb* on the upload.

    The upload must belong to the user, and its folder must lie in the folder
    that *by* is confined to.  Raises ``NotFound``, ``Forbidden``.
    """
    check_scope(by, verb)
    match by:
        case System():
            covered = True
        case ShareLink():
            covered = False
        case SignedUrl():
            covered = upload.owner_id == by.user_id and upload.id == by.target_id
        case _:
            covered = upload.owner_id == by.user_id and await _covers(tx, by, upload.parent_id)
    if not covered:
        raise NotFound("There is no such upload.")


def check_scope(by: Principal, verb: Verb) -> None:
    """Raises ``Forbidden`` if *by* may not perform *verb* on any entry."""
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
    match by:
        case ApiToken():
            return by.folder_id
        case ShareLink():
            return by.entry_id
        case _:
            return None


async def lies_in(tx: Tx, entry_id: FileId, folder_id: FileId) -> bool:
    """Whether the entry is that folder, or lies in it at any depth."""
    return entry_id == folder_id or await tx.one(_ABOVE, entry_id, folder_id) is not None


async def _covers(tx: Tx, by: Principal, entry_id: FileId | None) -> bool:
    """Whether the entry (``None``: the root) lies in the folder that *by* is confined to."""
    if isinstance(by, SignedUrl):
        return entry_id == by.target_id
    top = root_of(by)
    return top is None or (entry_id is not None and await lies_in(tx, entry_id, top))
