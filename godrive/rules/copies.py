"""Copies of files and trees.  A copy has rows of its own and shares the blobs.

Theory of operation.  The rows of ``versions`` refer to blobs by key, and a purge
deletes a blob only with the last entry that refers to it (``trash``).  Both
hold the owner's lock: a copy finds an entry whose purge has not begun, and from
then on the purge of that entry keeps the bytes; or it finds nothing.

A file, or a small tree, is copied in one transaction.  ``tree_copies`` copies a
larger one.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from godrive.catalog import Row, Tx
from godrive.errors import Cycle, Forbidden
from godrive.messages.files import CopyFile
from godrive.model import (
    File,
    FileEventKind,
    FileId,
    FileKind,
    ObjectKey,
    Spot,
    UserId,
    VersionId,
    name_key,
    new_id,
    spot,
)
from godrive.principal import Verb
from godrive.rules import changes, entries, folders, rows
from godrive.rules.access import Folder, Resolved, lies_in, resolve
from godrive.rules.names import check_depth, check_name, search_key
from godrive.rules.registry import Env

MOST_AT_ONCE = 64
"""Entries that one transaction copies.  It takes SQLite about 3 milliseconds, so other writers hardly wait."""

_SOURCE = (
    "SELECT e.id, e.name, e.kind, e.mime, e.size_bytes, e.sha256, e.version_id, e.modified_at, e.properties, e.height, "
    "v.object_key, e.created_at FROM entries e LEFT JOIN versions v ON v.id = e.version_id "
)
_TOP = f"{_SOURCE} WHERE e.id = $1"
CHILDREN = (
    f"{_SOURCE} WHERE e.owner_id = $1 AND e.parent_id = $2 AND e.state = 'live' "
    "AND (e.created_at, e.id) > ($3, $4) ORDER BY e.created_at, e.id LIMIT $5"
)
# Not INSERT ... SELECT: from its own table, that takes SQLite three times as long.
COPY = (
    "INSERT INTO entries (id, owner_id, list_state, parent_id, kind, name, name_key, search_key, mime, size_bytes, "
    "sha256, version_id, created_at, updated_at, revision, modified_at, properties, height, state) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13, $13, $14, $15, $16, $17) "
    "ON CONFLICT DO NOTHING"
)
_COPY_VERSION = (
    "INSERT INTO versions (id, file_id, revision, object_key, mime, size_bytes, sha256, created_at, modified_at) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7, $3, $8)"
)
_COPY_PROPERTIES = (
    "INSERT INTO properties (entry_id, key, owner_id, value) "
    "SELECT $1, key, owner_id, value FROM properties WHERE entry_id = $2"
)


class CopyPlan(msgspec.Struct, frozen=True):
    """What to copy and where to, checked."""

    source: Resolved
    target: Folder
    name: str


class EntryToCopy(msgspec.Struct, frozen=True):
    """An entry to copy, as its row says, and the ids of its copy."""

    id: FileId
    name: str
    kind: str
    mime: str
    size_bytes: int
    sha256: str | None
    version_id: VersionId | None
    modified_at: int
    properties: str | None
    height: int
    object_key: ObjectKey | None
    created_at: int
    parent: str
    new_id: FileId
    new_version_id: VersionId | None

    @classmethod
    def of(cls, row: Row, parent: str) -> EntryToCopy:
        """Return the source for a row of :data:`CHILDREN`, to be copied into the folder *parent*."""
        id_, name, kind, mime, size, sha256, version_id, modified_at, properties, height, object_key, created_at = row
        return cls(
            id=id_,
            name=name,
            kind=kind,
            mime=mime,
            size_bytes=size,
            sha256=sha256,
            version_id=version_id,
            modified_at=modified_at,
            properties=properties,
            height=height,
            object_key=object_key,
            created_at=created_at,
            parent=parent,
            new_id=FileId(new_id()),
            new_version_id=None if version_id is None else VersionId(new_id()),
        )

    @property
    def is_folder(self) -> bool:
        return self.kind == FileKind.FOLDER.value


async def read_top(tx: Tx, plan: CopyPlan, parent: str) -> EntryToCopy:
    """Return the source that the plan names."""
    row = rows.found(await tx.one(_TOP, plan.source.file.id))
    return msgspec.structs.replace(EntryToCopy.of(row, parent), name=plan.name)


async def copy_at_once(tx: Tx, ask: CopyFile, env: Env, most: int) -> tuple[File, int] | None:
    """Copy the entry in this transaction.  Return the copy and its number of entries.

    Returns ``None``, and has changed nothing, if there are more than *most*.
    """
    await tx.grow()
    source = await find_source(tx, ask)
    below = await _read_below(tx, source, most - 1)
    if below is None:
        return None
    target = await folders.target(tx, ask.by, place(ask, source), env)
    plan = await make_plan(tx, ask, source, target)
    top = await read_top(tx, plan, target.key)
    found = [top]
    parents = {top.id: top.new_id}
    for parent_id, row in below:
        found.append(copied := EntryToCopy.of(row, parents[parent_id]))
        parents[copied.id] = copied.new_id
    size = sum(each.size_bytes for each in found)
    await changes.check_room(tx, target.owner_id, env.config.auth, entries=len(found), size=size)
    at = rows.micros(env.now)
    while not await tx.run(COPY, *values(top, target.owner_id, top.kind, at)):
        name = await entries.free_name(tx, target, plan.name, ask.on_conflict)
        top = msgspec.structs.replace(top, name=name)
    await insert(tx, target.owner_id, found[1:], at, listed=True)
    await insert_rest(tx, target.owner_id, found, at)
    await entries.raise_height(tx, target, source.height + 1)
    row = rows.found(await tx.one(f"SELECT {rows.LIVE} FROM entries WHERE id = $1", top.new_id))
    file = rows.live_file(target.owner_id, row)
    await changes.record(
        tx,
        FileEventKind.CREATED,
        file.owner_id,
        file.id,
        file,
        now=env.now,
        live=size,
        entries=len(found),
    )
    return file, len(found)


async def find_source(tx: Tx, ask: CopyFile) -> Resolved:
    """Return the entry to copy, with its owner locked."""
    source = await resolve(tx, ask.by, ask.file_id, Verb.READ)
    if source.file.id == rows.ROOT_ID:
        raise Forbidden("The root of a drive cannot be copied.")
    await tx.lock(source.owner_id)
    return await resolve(tx, ask.by, ask.file_id, Verb.READ)


def place(ask: CopyFile, source: Resolved) -> Spot:
    """Return the folder for the copy, by default that of the source."""
    return spot(source.file.parent_id) if ask.where is None else ask.where


async def _read_below(tx: Tx, source: Resolved, most: int) -> list[tuple[FileId, Row]] | None:
    """Return the folder and the row of each entry below the source, from the top down; ``None`` if more than *most*."""
    found: list[tuple[FileId, Row]] = []
    folder_ids = [source.file.id] if source.file.kind is FileKind.FOLDER else []
    for folder_id in folder_ids:
        children = await tx.all(CHILDREN, source.owner_id, folder_id, -1, "", most - len(found) + 1)
        if len(found) + len(children) > most:
            return None
        found += [(folder_id, row) for row in children]
        folder_ids += [row[0] for row in children if row[2] == FileKind.FOLDER.value]
    return found


async def make_plan(tx: Tx, ask: CopyFile, source: Resolved, target: Folder, *, new: bool = False) -> CopyPlan:
    """Check that the copy fits into the folder *target*, in which every name is free if it is *new*."""
    file = source.file
    rows.check_match(file, ask.if_match)
    if target.owner_id != file.owner_id:
        raise Forbidden("An entry cannot be copied to another owner.")
    if file.kind is FileKind.FOLDER and target.id is not None and await lies_in(tx, target.id, file.id):
        raise Cycle("The folder cannot be copied into itself.", field="parent_id")
    check_depth(target.depth + 1 + source.height, "parent_id")
    name = check_name(ask.name or file.name)
    return CopyPlan(source, target, name if new else await entries.free_name(tx, target, name, ask.on_conflict))


def values(source: EntryToCopy, owner_id: UserId, list_state: str, at: int, state: str = "live") -> tuple[object, ...]:
    """Return the values of :data:`COPY`."""
    return (
        source.new_id,
        owner_id,
        list_state,
        source.parent,
        source.kind,
        source.name,
        name_key(source.name),
        search_key(source.name),
        source.mime,
        source.size_bytes,
        source.sha256,
        source.new_version_id,
        at,
        source.modified_at,
        source.properties,
        source.height,
        state,
    )


async def insert(tx: Tx, owner_id: UserId, sources: Sequence[EntryToCopy], at: int, *, listed: bool) -> None:
    """Insert the rows of copies, whose names are free.  All are created at *at*."""
    await tx.run_each(COPY, [values(each, owner_id, each.kind if listed else "hidden", at) for each in sources])


async def insert_rest(tx: Tx, owner_id: UserId, sources: Sequence[EntryToCopy], at: int) -> None:
    """Insert what belongs to the rows of the copies: their versions, which share the blobs, and properties."""
    versions = [
        (s.new_version_id, s.new_id, at, s.object_key, s.mime, s.size_bytes, s.sha256, s.modified_at)
        for s in sources
        if s.version_id is not None
    ]
    await tx.run_each(_COPY_VERSION, versions)
    await tx.run_each(_COPY_PROPERTIES, [(s.new_id, s.id) for s in sources if s.properties])
