"""Live entries: get, rename, move, and open for reading."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import msgspec

from godrive.catalog import Tx
from godrive.errors import Cycle, Forbidden, NotFound
from godrive.messages.files import FindFile, GetFile, OpenContent, UpdateFile
from godrive.model import (
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
from godrive.principal import Verb
from godrive.rules import changes, entries, folders, rows
from godrive.rules.access import Folder, Resolved, lies_in, resolve, resolve_folder
from godrive.rules.marks import describe
from godrive.rules.names import check_depth, check_name, search_key
from godrive.rules.registry import Env, rule

_VERSION = (
    "SELECT id, mime, size_bytes, sha256, modified_at, object_key FROM versions "
    "WHERE id = $1 AND file_id = $2 AND next_purge_at IS NULL"
)
_RENAME = (  # no row if another entry has the name: a look-up of its own would cost as much again
    "UPDATE entries SET name = $3, name_key = $4, search_key = $5, updated_at = $1, revision = $8 "
    "WHERE id = $2 AND NOT EXISTS (SELECT 1 FROM entries o WHERE o.owner_id = $6 AND o.parent_id = $7 "
    "AND o.name_key = $4 AND o.state = 'live' AND o.id <> $2)"
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


@rule(UpdateFile, writes=True)
async def update(tx: Tx, ask: UpdateFile, env: Env) -> File:
    """As ``UpdateFile`` says."""
    if ask.name is not None:
        check_name(ask.name)
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


async def _try_rename(tx: Tx, env: Env, file: File, name: str) -> File | None:
    """Return the entry with the new name, or ``None`` if another entry has it."""
    at, key = rows.micros(env.now), name_key(name)
    revision = max(at, file.revision + 1)  # the owner is locked, so nothing has changed it meanwhile
    parent = file.parent_id or ""
    if not await tx.run(_RENAME, at, file.id, name, key, search_key(name), file.owner_id, parent, revision):
        return None
    etag = rows.etag(file.id, revision)
    return msgspec.structs.replace(file, name=name, updated_at=rows.instant(at), revision=revision, etag=etag)


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
