"""The trash: put an entry in, list, restore, purge.

Theory of operation.  An entry goes ``live -> trashed -> purging``.  Purging is
final, because bytes may already be deleted.  Trashing changes the state of the
trashed entry only, not of the rows below it; ``access`` finds a trashed ancestor
on its walk to the root.  Two properties of the rows below follow in the
background, in batches (:func:`settle`): ``list_state``, which the list of the
whole drive and the search use, and whether the bytes count as live or as trash.
The sum of both is always exact.

The table ``unsettled`` holds the folders that wait for this, with their
progress.  A batch updates some children to the current state of the folder and
adds the folders among them to the table.  So if a tree is trashed, restored and
trashed again, the last change wins.
"""

from __future__ import annotations

from datetime import datetime

from godrive.catalog import Tx
from godrive.catalog.ancestors import ABOVE, VISIBLE
from godrive.errors import NotFound
from godrive.messages.files import EmptyTrash, ListTrash, PurgeFile, RestoreFile, TrashFile
from godrive.messages.system import SettleTrash
from godrive.model import (
    File,
    FileEventKind,
    FileId,
    FileKind,
    Page,
    Tombstone,
    UserId,
    name_key,
)
from godrive.principal import Principal, Verb
from godrive.rules import changes, entries, rows
from godrive.rules.access import Folder, check_active, owner_of, resolve, root_of
from godrive.rules.names import check_depth, search_key
from godrive.rules.registry import Env, rule

NOT_CLEARED = (  # now, or just after the last emptying of the trash, which must not include this entry
    "(SELECT CASE WHEN u.trash_cleared_at >= $1 THEN u.trash_cleared_at + 1 ELSE $1 END "
    "FROM users u WHERE u.id = entries.owner_id)"
)
_PUT = (
    f"UPDATE entries SET state = 'trashed', list_state = 'hidden', updated_at = $1, purge_at = $3 + {rows.BEHIND}, "
    f"next_purge_at = $3 + {rows.BEHIND}, trashed_at = {NOT_CLEARED}, {changes.REVISE} "
    f"WHERE id = $2 RETURNING {rows.FILE}"
)
_RESTORE = (
    "UPDATE entries SET state = 'live', list_state = kind, trashed_at = NULL, purge_at = NULL, next_purge_at = NULL, "
    f"parent_id = $3, name = $4, name_key = $5, search_key = $6, updated_at = $1, {changes.REVISE} "
    f"WHERE id = $2 RETURNING {rows.FILE}"
)
_IS_PLACE = f"SELECT 1 FROM entries WHERE id = $1 AND state = 'live' AND kind = 'folder' AND {VISIBLE} = 1"
_PLACE = f"SELECT {ABOVE}, height FROM entries WHERE id = $1 AND state = 'live' AND kind = 'folder'"
CHILDREN = (
    "SELECT id, kind, size_bytes, list_state, created_at FROM entries WHERE owner_id = $1 AND parent_id = $2 "
    "AND state = 'live' AND (created_at, id) > ($3, $4) ORDER BY created_at, id LIMIT $5"
)
_IN_TRASH = "state = 'trashed' AND trashed_at > COALESCE((SELECT trash_cleared_at FROM users WHERE id = $1), -1)"


@rule(TrashFile, writes=True)
async def put(tx: Tx, ask: TrashFile, env: Env) -> Tombstone:
    """As ``TrashFile`` says."""
    found = await resolve(tx, ask.by, ask.file_id, Verb.DELETE)
    file = found.file
    if not found.trashed:
        rows.check_match(file, ask.if_match)
        grace = env.config.janitor.trash_grace
        row = await tx.one(_PUT, rows.micros(env.now), file.id, rows.later(env.now, grace))
        trashed = rows.file(rows.found(row))
        size = file.size_bytes if found.listed else 0
        await _moved(tx, FileEventKind.TRASHED, trashed, file.parent_id, env.now, to_trash=size)
        file = trashed
    assert file.trashed_at is not None and file.purge_at is not None  # noqa: S101, PT018 - so is every trashed row
    return Tombstone(file_id=file.id, trashed_at=file.trashed_at, purge_at=file.purge_at)


async def _moved(
    tx: Tx, kind: FileEventKind, file: File, from_id: FileId | None, now: datetime, *, to_trash: int
) -> None:
    """Record that the entry was trashed or restored.  Schedule the settling of a folder."""
    if file.kind is FileKind.FOLDER:
        await entries.unsettle(tx, file)
    trace = changes.Trace(file.kind, file.parent_id or "", from_id or "")
    await changes.record(tx, kind, file.owner_id, file.id, file, now=now, trace=trace, live=-to_trash, trash=to_trash)


@rule(ListTrash)
async def list_page(tx: Tx, ask: ListTrash, env: Env) -> Page[File]:
    """As ``ListTrash`` says."""
    rows.check_limit(ask.limit)
    owner_id = await owner_of(tx, ask.by, Verb.READ)
    await check_active(tx, owner_id)
    scope = ("trash", owner_id)
    values: list[object] = [owner_id]
    after = ""
    if ask.page is not None:
        values += env.tokens.read(scope, ask.page)
        after = "AND (trashed_at, id) < ($2, $3) "
    found = await tx.all(
        f"SELECT {rows.FILE} FROM entries WHERE owner_id = $1 AND {_IN_TRASH} {after}"
        f"ORDER BY trashed_at DESC, id DESC LIMIT ${len(values) + 1}",
        *values,
        ask.limit + 1,
    )
    limit = rows.that_fit(found, ask.limit)
    items = [rows.file(row) for row in found[:limit]]
    if len(found) <= limit:
        return Page(items=items)
    position = (found[limit - 1][rows.TRASHED_AT], items[-1].id)
    return Page(items=items, next_page=env.tokens.make(scope, position))


@rule(RestoreFile, writes=True)
async def restore(tx: Tx, ask: RestoreFile, env: Env) -> File:
    """As ``RestoreFile`` says."""
    found = await resolve(tx, ask.by, ask.file_id, Verb.RESTORE)
    file = found.file
    if not found.trashed:
        return file
    rows.check_match(file, ask.if_match)
    folder = await _live_folder(tx, file, file.parent_id) or await _root_for(tx, ask.by, file)
    check_depth(folder.depth + 1 + found.height, "parent_id")
    name = await entries.free_name(tx, folder, file.name, ask.on_conflict)
    row = await tx.one(_RESTORE, rows.micros(env.now), file.id, folder.key, name, name_key(name), search_key(name))
    restored = rows.file(rows.found(row))
    await entries.raise_height(tx, folder, found.height + 1)
    await _moved(tx, FileEventKind.RESTORED, restored, file.parent_id, env.now, to_trash=-restored.size_bytes)
    return restored


async def _live_folder(tx: Tx, file: File, folder_id: FileId | None) -> Folder | None:
    """Return the folder of the owner of *file* (``None`` is the root), or ``None`` if it is not live."""
    if folder_id is None:
        return Folder(file.owner_id, None)
    row = await tx.one(_PLACE, folder_id)
    return None if row is None or row[0] < 0 else Folder(file.owner_id, folder_id, row[0] + 1, row[1])


async def _root_for(tx: Tx, by: Principal, file: File) -> Folder:
    """Return the folder for an entry whose own folder is gone: the topmost that *by* sees.  Raises ``NotFound``."""
    top = root_of(by)
    folder = await _live_folder(tx, file, None if top == file.id else top)
    if folder is None:
        raise NotFound("The folder of the file no longer exists.")
    return folder


_FIRST_UNSETTLED = "SELECT folder_id, owner_id FROM unsettled ORDER BY folder_id LIMIT 1"


@rule(SettleTrash, writes=True, due=_FIRST_UNSETTLED)
async def settle(tx: Tx, ask: SettleTrash, env: Env) -> bool:
    """As ``SettleTrash`` says: one folder, at most ``limit`` of its children."""
    row = await tx.one(_FIRST_UNSETTLED)
    if row is None:
        return False
    folder_id, owner_id = FileId(row[0]), UserId(row[1])
    await tx.lock(owner_id)
    job = await tx.one("SELECT after_created_at, after_id FROM unsettled WHERE folder_id = $1", folder_id)
    if job is None:  # another process has settled it
        return True
    shown = await tx.one(_IS_PLACE, folder_id) is not None
    children = await tx.all(CHILDREN, owner_id, folder_id, *job, ask.limit)
    wrong = [child for child in children if (child[3] == "hidden") == shown]
    await tx.run_each(
        "UPDATE entries SET list_state = $2 WHERE id = $1",
        [(id_, kind if shown else "hidden") for id_, kind, *_ in wrong],
    )
    await tx.run_each(entries.UNSETTLE, [(id_, owner_id) for id_, kind, *_ in children if kind == "folder"])
    if len(children) < ask.limit:
        await tx.run("DELETE FROM unsettled WHERE folder_id = $1", folder_id)
    else:
        await tx.run(
            "UPDATE unsettled SET after_created_at = $2, after_id = $3 WHERE folder_id = $1",
            folder_id,
            children[-1][4],
            children[-1][0],
        )
    if wrong:
        size = sum(child[2] for child in wrong) * (1 if shown else -1)
        await changes.record(tx, None, owner_id, None, None, now=env.now, live=size, trash=-size)
    return True


@rule(PurgeFile, writes=True)
async def purge(tx: Tx, ask: PurgeFile, env: Env) -> None:
    """As ``PurgeFile`` says."""
    file = (await resolve(tx, ask.by, ask.file_id, Verb.PURGE)).file
    rows.check_match(file, ask.if_match)
    await tx.run(
        f"UPDATE entries SET state = 'purging', next_purge_at = $1, {changes.REVISE} WHERE id = $2",
        rows.micros(env.now),
        file.id,
    )


@rule(EmptyTrash, writes=True)
async def empty(tx: Tx, ask: EmptyTrash, env: Env) -> int:
    """As ``EmptyTrash`` says.  Marks the owner, so the cost does not depend on the number of entries."""
    owner_id = await owner_of(tx, ask.by, Verb.PURGE)
    await tx.lock(owner_id)
    row = await tx.one(f"SELECT COUNT(*), MAX(trashed_at) FROM entries WHERE owner_id = $1 AND {_IN_TRASH}", owner_id)
    count, last = rows.found(row, "user")
    if count:
        await tx.run("UPDATE users SET trash_cleared_at = $2 WHERE id = $1", owner_id, last)
    return int(count)
