"""Who may do what with which entry: the one place that decides it.

Theory of operation.  An entry is visible when neither it nor any folder above
it is in the trash.  Only the entry that was trashed carries a mark, so this is
a walk from the entry to the root, made in the statement that reads the entry:
an entry of the root costs nothing more, one at depth 10 some 17 microseconds
(SQLite).  Who asks and what for is compared with what was read, and whatever
does not fit gets the same ``NotFound`` as an entry that does not exist.

A rule gets a :class:`Resolved` or a :class:`Folder` from here and never an
owner and an id.  With a verb that writes, the rows of the owner are locked
first, so what was resolved holds until the transaction ends.
"""

from __future__ import annotations

import msgspec

from godrive.catalog import Row, Tx
from godrive.errors import Forbidden, NotFound
from godrive.model import Anywhere, File, FileId, FileKind, Place, Root, Spot, Upload, UserId, UserState
from godrive.principal import SCOPE_OF, ApiToken, Principal, ShareLink, SignedUrl, System, UserSession, Verb, user_of
from godrive.rules import rows

# A correlated walk: `parent_id` is that of the entry in the outer statement.  UNION ends it should there be a cycle.
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
    """An entry that the principal may use as it asked to.

    *trashed* says that it is in the trash, *listed* that it counts as live in
    the usage and in the list of the whole drive, which may follow later.
    """

    file: File
    trashed: bool
    listed: bool

    @property
    def owner_id(self) -> UserId:
        """Whose rows, quota and locks the entry belongs to."""
        return self.file.owner_id


class Folder(msgspec.Struct, frozen=True, gc=False):
    """A folder that the principal may use as it asked to.  The root has no *id*."""

    owner_id: UserId
    id: FileId | None

    @property
    def key(self) -> str:
        """The folder as the column ``parent_id`` has it."""
        return self.id or ""


async def resolve(tx: Tx, by: Principal, entry_id: FileId, verb: Verb) -> Resolved:
    """The entry, if *by* may do *verb* with it now.

    Raises ``NotFound`` when it may not, and when there is no such entry;
    ``Forbidden`` when *by* may do no such thing with any entry.
    """
    _check_scope(by, verb)
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
    """Whether the trash was emptied after the entry came into it: then its purge has begun."""
    cleared_at, trashed_at = row[_CLEARED_AT], row[rows.TRASHED_AT]
    return cleared_at is not None and trashed_at <= cleared_at


async def resolve_folder(tx: Tx, by: Principal, where: Spot, verb: Verb, *, lock: bool = True) -> Folder:
    """The folder, if *by* may do *verb* in it now.

    ``Root`` is the top of what *by* sees.  Without *lock* nothing is locked and
    checked for the root of a drive, for a rule that will do both.  Raises
    ``NotFound`` (``field`` is ``parent_id``) when *by* may not, and when it is
    no folder; ``Forbidden`` as :func:`resolve`.
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
    """As :func:`resolve_folder`; for ``Anywhere`` the user whose drive it is."""
    if not isinstance(where, Anywhere):
        return await resolve_folder(tx, by, where, verb)
    return await owner_of(tx, by, verb)


async def owner_of(tx: Tx, by: Principal, verb: Verb) -> UserId:
    """The user in whose whole drive *by* may do *verb*.

    Raises ``NotFound`` when the user is not active, ``Forbidden`` for a
    principal that is confined to one entry, and ``Invalid`` for the system,
    which has no drive.
    """
    owner_id = _drive_of(by, verb)
    await _check_active(tx, by, verb, owner_id)
    return owner_id


def _drive_of(by: Principal, verb: Verb) -> UserId:
    _check_scope(by, verb)
    if isinstance(by, SignedUrl) or root_of(by) is not None:
        raise Forbidden("This credential covers one entry only.")
    return user_of(by)


async def _check_active(tx: Tx, by: Principal, verb: Verb, owner_id: UserId) -> None:
    """Raises ``NotFound`` unless the user is active."""
    # Auth has just found the session alive, which it is only while its user is active: a list needs no look-up.
    if verb in _READS and isinstance(by, UserSession):
        return
    if await tx.one(_IS_ACTIVE, owner_id) is None:
        raise NotFound("There is no such user.")


async def check_upload(tx: Tx, by: Principal, verb: Verb, upload: Upload) -> None:
    """That *by* may do *verb* with the upload: it is the user's own, and meant for where *by* is confined to.

    Raises ``NotFound``, ``Forbidden``.
    """
    _check_scope(by, verb)
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


def _check_scope(by: Principal, verb: Verb) -> None:
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
        raise Forbidden(f"This credential does not cover that: it needs the scope {SCOPE_OF[verb].value}.")


def root_of(by: Principal) -> FileId | None:
    """The folder that is the top of all that *by* sees; ``None`` is the root of the drive."""
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
    """Whether the entry (``None`` is the root of the drive) lies where *by* is confined to."""
    if isinstance(by, SignedUrl):
        return entry_id == by.target_id
    top = root_of(by)
    return top is None or (entry_id is not None and await lies_in(tx, entry_id, top))
