"""Live entries: get, rename, move, and open for reading."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import msgspec

from godrive.catalog import Row, Tx
from godrive.catalog.ancestors import held_depth
from godrive.catalog.chains import ChainStep, chain
from godrive.errors import Cycle, Forbidden, NotFound
from godrive.messages.files import FindFile, GetFile, OpenContent, UpdateFile
from godrive.model import (
    At,
    Content,
    File,
    FileEventKind,
    FileKind,
    ObjectKey,
    OnConflict,
    Spot,
    UserId,
    name_key,
)
from godrive.principal import ApiToken, HostUser, UserSession, Verb, user_of
from godrive.rules import changes, entries, folders, rows
from godrive.rules.access import Folder, Resolved, ask_for, check_scope, lies_in, resolve, resolve_folder, root_of, seen
from godrive.rules.marks import describe
from godrive.rules.names import check_depth, check_name, search_key
from godrive.rules.registry import Env, Question, rule

_VERSION = (
    "SELECT id, mime, size_bytes, sha256, modified_at, object_key FROM versions "
    "WHERE id = $1 AND file_id = $2 AND next_purge_at IS NULL"
)
_RENAME = (  # no row if another entry has the name: a look-up of its own would cost as much again
    "UPDATE entries SET name = $3, name_key = $4, search_key = $5, updated_at = $1, revision = $8 "
    "WHERE id = $2 AND NOT EXISTS (SELECT 1 FROM entries o WHERE o.owner_id = $6 AND o.parent_id = $7 "
    "AND o.name_key = $4 AND o.state = 'live' AND o.id <> $2)"
)
_IN_ROOT = "CASE WHEN $6 = '' THEN 0 END"
"""The depth of the root.  With ``OR`` in its place, PostgreSQL would leave out the function that locks the owner."""
# For PostgreSQL, where the function locks the owner: what the statement reads after that is as old as the statement,
# but a row that it locks is the newest.  If somebody has taken the name meanwhile, the index refuses it.
_AS_SEEN = (
    f"state = 'active' AND CASE WHEN COALESCE({held_depth('$1', '$6', locks=True)}, {_IN_ROOT}) >= 0 THEN "
    "EXISTS (SELECT 1 FROM entries WHERE id = $4 AND revision = $5 AND entries.state = 'live' FOR UPDATE) "
    "AND NOT EXISTS (SELECT 1 FROM entries o WHERE o.owner_id = $1 AND o.parent_id = $6 AND o.name_key = $7 "
    "AND o.state = 'live' AND o.id <> $4) ELSE FALSE END"
)
_RENAME_SEEN = (
    "UPDATE entries SET name = $2, name_key = $3, search_key = $4, updated_at = $5, revision = $6 FROM charged "
    "WHERE id = $1"
)
_MOVE = (
    "UPDATE entries SET parent_id = $3, name = $4, name_key = $5, search_key = $6, list_state = kind, updated_at = $1, "
    f"{changes.REVISE} WHERE id = $2 RETURNING {rows.LIVE}"
)


async def read_changes(tx: Tx, owner_ids: Sequence[UserId]) -> dict[UserId, int]:
    """Return the change number of each owner; 0 for an owner that does not exist."""
    places = 1 << (len(owner_ids) - 1).bit_length()  # a power of two: few statements, each prepared once
    found = await tx.all(_changes_sql(places), *owner_ids, *[owner_ids[-1]] * (places - len(owner_ids)))
    numbers: dict[UserId, int] = dict.fromkeys(owner_ids, 0)
    for owner_id, number in found:
        numbers[owner_id] = number
    return numbers


@cache
def _changes_sql(places: int) -> str:
    return f"SELECT id, changes FROM users WHERE id IN ({', '.join(f'${number + 1}' for number in range(places))})"


async def read_nonce(tx: Tx) -> str:
    """Return the random id of this catalog."""
    return str(rows.found(await tx.one("SELECT nonce FROM catalog"), "catalog")[0])


@rule(GetFile)
async def get(tx: Tx, ask: GetFile, env: Env) -> File:
    """As ``GetFile`` says."""
    return (await resolve(tx, ask.by, ask.file_id, Verb.READ)).file


@rule(FindFile)
async def find(tx: Tx, ask: FindFile, env: Env) -> File:
    """As ``FindFile`` says."""
    found = await entries.find(tx, await resolve_folder(tx, ask.by, ask.where, Verb.READ), ask.name)
    if found is None:
        raise NotFound("There is no such file.")
    return found.file


def see(ask: UpdateFile) -> Question | None:
    """Ask for the entry before the transaction if the message only renames it, by id."""
    by, file_id = ask.by, ask.file_id
    more = ask.where, ask.modified_at, ask.favorite, ask.properties
    if ask.name is None or any(value is not None for value in more) or ask.on_conflict is OnConflict.REPLACE:
        return None
    if isinstance(file_id, At):
        return None
    if not isinstance(by, UserSession | HostUser | ApiToken) or root_of(by) is not None:
        return None
    check_scope(by, Verb.EDIT)
    return ask_for(file_id)


@rule(UpdateFile, writes=True, sees=see)
async def update(tx: Tx, ask: UpdateFile, env: Env) -> File:
    """As ``UpdateFile`` says."""
    if ask.name is not None:
        check_name(ask.name)
        if env.seen is not None and (renamed := await _rename_seen(tx, ask, env, ask.name, env.seen)) is not None:
            return renamed
    found = await resolve(tx, ask.by, ask.file_id, Verb.EDIT)
    file = before = found.file
    rows.check_match(file, ask.if_match)
    late = 0
    if ask.where is not None:
        file = await _move(tx, ask, ask.where, env, found)
        if file is not before and not found.listed:
            # The entry was restored with its old folder but not yet settled, so its usage is settled now.
            late = file.size_bytes
            if file.kind is FileKind.FOLDER:
                await entries.unsettle(tx, file)
    elif ask.name not in (None, file.name):
        file = await _rename(tx, ask, env, file)
    file = await describe(tx, ask, env, file)
    if file is before:
        return file
    await changes.record(
        tx,
        _kind_of(before, file),
        file.owner_id,
        file.id,
        file,
        now=env.now,
        trace=changes.Trace(file.kind, file.parent_id or "", before.parent_id or ""),
        live=late,
        trash=-late,
    )
    return file


def _kind_of(before: File, after: File) -> FileEventKind:
    if before.parent_id != after.parent_id:
        return FileEventKind.MOVED
    return FileEventKind.UPDATED if before.name == after.name else FileEventKind.RENAMED


async def _rename(tx: Tx, ask: UpdateFile, env: Env, file: File) -> File:
    name = ask.name or file.name
    renamed = None if ask.on_conflict is OnConflict.REPLACE else await _try_rename(tx, env, file, name)
    if renamed is None:
        parent = Folder(file.owner_id, file.parent_id)
        name = await entries.free_name(tx, parent, name, ask.on_conflict, but=file.id)
        renamed = await _try_rename(tx, env, file, name)
    assert renamed is not None  # noqa: S101 - the owner is locked
    return renamed


async def _rename_seen(tx: Tx, ask: UpdateFile, env: Env, name: str, row: Row) -> File | None:
    """Rename the entry of the *row* in one statement.

    Returns ``None`` if it has changed since, the name is taken or the same, or ``if_match`` says something else.
    """
    before = seen(row, user_of(ask.by))
    if before is None or name == before.name or ask.if_match not in (None, "*", before.etag):
        return None
    file, key = _renamed(env, before, name), name_key(name)
    parent, at = file.parent_id or "", rows.micros(env.now)
    is_seen = (file.id, before.revision, parent, key)
    values = (file.id, name, key, search_key(name), at, file.revision)
    # The last column tells this operation from others on the same file.
    step = ChainStep("renamed", _RENAME_SEEN, values, "id || revision || name")
    made = await changes.record_with(
        tx,
        FileEventKind.RENAMED,
        file,
        step,
        key=f"{file.id}{file.revision}{name}",
        now=env.now,
        provided=(_AS_SEEN, is_seen),
    )
    return file if made else None


def _renamed(env: Env, file: File, name: str) -> File:
    """Return the entry as it is after it is renamed now."""
    at = rows.micros(env.now)
    revision = max(at, file.revision + 1)
    etag = rows.etag(file.id, revision)
    return msgspec.structs.replace(file, name=name, updated_at=rows.instant(at), revision=revision, etag=etag)


async def _try_rename(tx: Tx, env: Env, file: File, name: str) -> File | None:
    """Return the entry with the new name, or ``None`` if another entry has it."""
    renamed = _renamed(env, file, name)  # the owner is locked, so nothing has changed it meanwhile
    parent, at = file.parent_id or "", rows.micros(env.now)
    values = at, file.id, name, name_key(name), search_key(name), file.owner_id, parent, renamed.revision
    return renamed if await chain(tx, ChainStep("renamed", _RENAME, values, "id")) else None


async def _move(tx: Tx, ask: UpdateFile, where: Spot, env: Env, found: Resolved) -> File:
    file = found.file
    target = await folders.target(tx, ask.by, where, env)
    if target.owner_id != file.owner_id:
        raise Forbidden("An entry cannot be moved to another owner.")
    name = ask.name or file.name
    if (target.id, name) == (file.parent_id, file.name):
        return file
    if file.kind is FileKind.FOLDER and target.id is not None and await lies_in(tx, target.id, file.id):
        raise Cycle("The folder cannot be moved into itself.", field="parent_id")
    check_depth(target.depth + 1 + found.height, "parent_id")
    name = await entries.free_name(tx, target, name, ask.on_conflict, but=file.id)
    row = await tx.one(_MOVE, rows.micros(env.now), file.id, target.key, name, name_key(name), search_key(name))
    await entries.raise_height(tx, target, found.height + 1)
    return rows.live_file(file.owner_id, rows.found(row))


@rule(OpenContent)
async def open_content(tx: Tx, ask: OpenContent, env: Env) -> Content:
    """As ``OpenContent`` says.  The file has the size, type and digest of the requested version."""
    file = (await resolve(tx, ask.by, ask.file_id, Verb.READ)).file
    row = rows.found(await tx.one(_VERSION, ask.version_id or file.version_id or "", file.id))
    if row[0] != file.version_id:
        file = rows.with_version(file, row)
    return Content(file=file, object_key=ObjectKey(row[-1]))
