"""Read the log of changes.

Theory of operation.  A cursor names the owner, the catalog and the change number
after which a page begins.  It is valid while its change is in the log, or is the
last one that was deleted.  So a cursor that was given out before a backup was
restored is valid only if the backup has that change, and then all later changes
of the restored catalog follow it.

A page is read before ``users.log_start``, so a page never silently lacks
changes that were deleted between the two statements.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import cache, lru_cache
from hashlib import blake2b
from string import ascii_lowercase, ascii_uppercase, digits

import msgspec

from godrive.catalog import Row, Tx
from godrive.catalog.ancestors import VISIBLE
from godrive.errors import CursorReset, Invalid
from godrive.messages.changes import Change, ChangeKind, ChangePage, ListChanges
from godrive.messages.system import ChangeNumbers
from godrive.model import FileEventKind, Root, UserId
from godrive.principal import Verb
from godrive.rules import files, rows
from godrive.rules.access import resolve_folder
from godrive.rules.registry import Env, rule

KINDS = {kind.value: ChangeKind(kind.value) for kind in FileEventKind if kind is not FileEventKind.RENAMED}
KINDS[FileEventKind.RENAMED.value] = ChangeKind.MOVED
"""What clients call the kinds of the log."""
_DIGEST_BYTES, _NUMBER_BYTES = 12, 8
_DIGITS = f"{ascii_uppercase}{ascii_lowercase}{digits}-_"
"""Those of URL-safe Base64 (RFC 4648, section 5)."""
_CURSOR_LENGTH = (_DIGEST_BYTES + _NUMBER_BYTES) * 4 // 3 + 1

_STATE = (
    "SELECT catalog.nonce, u.log_start, "
    "COALESCE((SELECT MAX(l.change) FROM changes l WHERE l.owner_id = u.id), u.log_start) "
    "FROM users u CROSS JOIN catalog WHERE u.id = $1"
)
_CHANGE, _WHAT, _KIND, _ENTRY, _VISIBLE = range(5)
_COLUMNS = 5
LIVE = ", ".join(f"entries.{column}" for column in rows.LIVE.split(", "))
_TEXTS = tuple(_COLUMNS + index for index in rows.TEXTS)


@rule(ListChanges)
async def page(tx: Tx, ask: ListChanges, env: Env) -> ChangePage:
    """As ``ListChanges`` says.  Two statements, whatever the size of the log."""
    rows.check_limit(ask.limit)
    folder = await resolve_folder(tx, ask.by, Root(), Verb.READ)
    owner_id = folder.owner_id
    if ask.cursor is None:
        nonce, _, last = await _state(tx, owner_id)
        return ChangePage(changes=[], cursor=_make(_drive(owner_id, nonce), last), has_more=False, number=last)
    shown_drive, number = _read(ask.cursor)
    values = [owner_id, number, ask.limit + 2, *([] if folder.id is None else [folder.id])]
    found = await tx.all(_page_sql(confined=folder.id is not None), *values)
    nonce, start, _ = await _state(tx, owner_id)
    drive = _drive(owner_id, nonce)
    after = found[1:] if found and found[0][_CHANGE] == number else found
    if shown_drive != drive or number < start or (number > start and after is found):
        raise CursorReset(
            "The log of changes does not reach back to this cursor: read the whole drive again.", field="cursor"
        )
    shown = after[: rows.that_fit(after, ask.limit, _TEXTS)]
    last = shown[-1][_CHANGE] if shown else number
    if folder.id is None:
        changes = [_change(owner_id, drive, row) for row in shown]
    else:
        changes = [change for row in shown if (change := _covered(owner_id, drive, row)) is not None]
    return ChangePage(changes=changes, cursor=_make(drive, last), has_more=len(after) > len(shown), number=last)


async def first_cursor(tx: Tx, owner_id: UserId) -> str:
    """Return the cursor before the oldest change that is in the log."""
    nonce, start, _ = await _state(tx, owner_id)
    return _make(_drive(owner_id, nonce), start)


async def _state(tx: Tx, owner_id: UserId) -> tuple[str, int, int]:
    """Return the nonce of the catalog, the last deleted number of the log, and its last number."""
    nonce, start, last = rows.found(await tx.one(_STATE, owner_id), "user")
    return nonce, start, last


@cache
def _page_sql(*, confined: bool) -> str:
    """Return the statement for the changes from a number on.

    For a principal that is confined to the folder ``$4``, three more columns
    tell whether the entry, its folder after the change and its folder before it
    lie in that folder.
    """
    covered = ""
    if confined:
        covered = ", " + ", ".join(map(_lies_in, ("entries.id", "c.parent_id", "c.from_id")))
    return (
        f"SELECT c.change, c.what, c.kind, c.entry_id, {VISIBLE}, {LIVE}{covered} FROM changes c "
        "LEFT JOIN entries ON entries.id = c.entry_id AND entries.state = 'live' "
        "WHERE c.owner_id = $1 AND c.change >= $2 ORDER BY c.change LIMIT $3"
    )


def _lies_in(column: str) -> str:
    return (
        "(SELECT COUNT(*) FROM (WITH RECURSIVE up (id, parent_id) AS ("
        f"SELECT p.id, p.parent_id FROM entries p WHERE p.id = {column} UNION "
        "SELECT p.id, p.parent_id FROM up JOIN entries p ON p.id = up.parent_id) "
        "SELECT 1 FROM up WHERE id = $4) covered)"
    )


_LIVE_END = _COLUMNS + len(rows.LIVE.split(", "))


def _change(owner_id: UserId, drive: str, row: Row) -> Change:
    """Return the change of a row as a principal sees it who may read the whole drive."""
    shows_entry = row[_VISIBLE] and row[_COLUMNS] is not None
    file = rows.live_file(owner_id, row[_COLUMNS:_LIVE_END]) if shows_entry else None
    return Change(KINDS[row[_WHAT]], row[_ENTRY], rows.KINDS[row[_KIND]], _make(drive, row[_CHANGE]), file)


def _covered(owner_id: UserId, drive: str, row: Row) -> Change | None:
    """Return the change of a row as a principal sees it who is confined to a folder; ``None`` if it is not visible."""
    covers_entry, covers_new, covers_old = row[_LIVE_END:]
    is_live = row[_COLUMNS] is not None
    if not (covers_entry or covers_new or covers_old):
        return None
    change = _change(owner_id, drive, row)
    if not covers_entry:
        change = msgspec.structs.replace(change, entry=None)
        if is_live or not covers_new:
            change = msgspec.structs.replace(change, change=ChangeKind.REMOVED)
    return change


def _drive(owner_id: UserId, nonce: str) -> str:
    """Return the part of a cursor that names the owner and the catalog."""
    name = f"{owner_id}.{nonce}".encode()
    return urlsafe_b64encode(blake2b(name, digest_size=_DIGEST_BYTES, person=b"godrive cursor").digest()).decode()


def _make(drive: str, number: int) -> str:
    """Return the cursor after that change.  A page has one for each: only the last two bytes are encoded anew."""
    last = number & 0xFFFF
    return f"{_begin(drive, number >> 16)}{_DIGITS[last >> 10]}{_DIGITS[last >> 4 & 63]}{_DIGITS[last << 2 & 63]}"


@lru_cache(256)
def _begin(drive: str, number: int) -> str:
    return drive + urlsafe_b64encode(number.to_bytes(_NUMBER_BYTES - 2)).decode()


def _read(cursor: str) -> tuple[str, int]:
    """Return the drive and the number of a cursor.  Raises ``Invalid``."""
    try:
        raw = urlsafe_b64decode(cursor.encode("ascii") + b"=") if len(cursor) == _CURSOR_LENGTH else b""
    except ValueError:
        raw = b""
    number = int.from_bytes(raw[_DIGEST_BYTES:])
    if len(raw) != _DIGEST_BYTES + _NUMBER_BYTES or number >= 2**63:
        raise Invalid("This is not a cursor of this server.", field="cursor")
    return cursor[: _DIGEST_BYTES * 4 // 3], number


@rule(ChangeNumbers)
async def numbers(tx: Tx, ask: ChangeNumbers, env: Env) -> dict[UserId, int]:
    """As ``ChangeNumbers`` says."""
    return await files.read_changes(tx, ask.owner_ids) if ask.owner_ids else {}
