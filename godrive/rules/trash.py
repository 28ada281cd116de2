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
trashed again, the last change wins.  A purge descends the tree in the same way
and deletes rows from the bottom up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import datetime

from godrive.backoff import Backoff
from godrive.catalog import Row, Tx
from godrive.errors import NotFound
from godrive.messages.files import EmptyTrash, ListTrash, PurgeFile, RestoreFile, TrashFile
from godrive.messages.system import ClaimPurges, FinishPurge, SettleTrash
from godrive.model import (
    File,
    FileEventKind,
    FileId,
    FileKind,
    ObjectKey,
    Page,
    Purge,
    Tombstone,
    UserId,
    name_key,
)
from godrive.principal import Principal, Verb
from godrive.rules import changes, entries, rows
from godrive.rules.access import ABOVE, VISIBLE, Folder, owner_of, resolve, root_of
from godrive.rules.names import check_depth, search_key
from godrive.rules.registry import Env, rule

_LONGEST_PURGE_DELAY = 3600.0
_PURGE_BACKOFF = Backoff(60.0, _LONGEST_PURGE_DELAY)
_CHILDREN_AT_ONCE = 200
"""Children that one statement of a purge processes.  It takes milliseconds, so other writers do not wait."""

_NOT_CLEARED = (  # now, or just after the last emptying of the trash, which must not include this entry
    "(SELECT CASE WHEN u.trash_cleared_at >= $1 THEN u.trash_cleared_at + 1 ELSE $1 END "
    "FROM users u WHERE u.id = entries.owner_id)"
)
_PUT = (
    "UPDATE entries SET state = 'trashed', list_state = 'hidden', updated_at = $1, purge_at = $3, next_purge_at = $3, "
    f"trashed_at = {_NOT_CLEARED}, {changes.REVISE} WHERE id = $2 RETURNING {rows.FILE}"
)
_BOUND = (
    f"UPDATE entries SET purge_at = $2, next_purge_at = $2, trashed_at = {_NOT_CLEARED} "
    "WHERE state = 'trashed' AND next_purge_at > $2 AND trashed_at > $1 AND trashed_at > "
    "COALESCE((SELECT u.trash_cleared_at FROM users u WHERE u.id = entries.owner_id), -1)"
)
_RESTORE = (
    "UPDATE entries SET state = 'live', list_state = kind, trashed_at = NULL, purge_at = NULL, next_purge_at = NULL, "
    f"parent_id = $3, name = $4, name_key = $5, search_key = $6, updated_at = $1, {changes.REVISE} "
    f"WHERE id = $2 RETURNING {rows.FILE}"
)
_IS_PLACE = f"SELECT 1 FROM entries WHERE id = $1 AND state = 'live' AND kind = 'folder' AND {VISIBLE} = 1"
_PLACE = f"SELECT {ABOVE}, height FROM entries WHERE id = $1 AND state = 'live' AND kind = 'folder'"
_CHILDREN = (
    "SELECT id, kind, size_bytes, list_state, created_at FROM entries WHERE owner_id = $1 AND parent_id = $2 "
    "AND state = 'live' AND (created_at, id) > ($3, $4) ORDER BY created_at, id LIMIT $5"
)
_DUE_TRASHED = "SELECT id, owner_id FROM entries WHERE state = 'trashed' AND next_purge_at <= $1 ORDER BY next_purge_at"
_DUE_PURGING = "SELECT id, owner_id FROM entries WHERE state = 'purging' AND next_purge_at <= $1 ORDER BY next_purge_at"
_SET_BACK = "SELECT id, owner_id FROM entries WHERE state = 'purging' AND next_purge_at > $1"
_CLEARED = (  # CROSS JOIN makes SQLite begin with the few users, not with the whole trash
    "SELECT e.id, e.owner_id FROM users u CROSS JOIN entries e WHERE u.trash_cleared_at IS NOT NULL "
    "AND e.owner_id = u.id AND e.state = 'trashed' AND e.trashed_at <= u.trash_cleared_at"
)
_FORGET_CLEARED = (
    "UPDATE users SET trash_cleared_at = NULL WHERE trash_cleared_at IS NOT NULL AND NOT EXISTS (SELECT 1 "
    "FROM entries e WHERE e.owner_id = users.id AND e.state = 'trashed' AND e.trashed_at <= users.trash_cleared_at)"
)
_IN_TRASH = "state = 'trashed' AND trashed_at > COALESCE((SELECT trash_cleared_at FROM users WHERE id = $1), -1)"

_MOVE_OUT = (  # the second condition repeats that of the index, because the query planner cannot infer it
    "UPDATE entries SET parent_id = '' WHERE parent_id = $1 AND state = 'trashed' AND state <> 'live'"
)
_OWNED = (
    "SELECT e.id, e.owner_id, e.list_state, e.size_bytes FROM users u CROSS JOIN entries e "
    "WHERE u.state = 'deleted' AND e.owner_id = u.id"
)
_OF_DELETED = (
    f"{_OWNED} AND e.list_state = 'file' UNION ALL {_OWNED} AND e.list_state = 'folder' UNION ALL "
    f"{_OWNED} AND e.state = 'trashed' AND e.next_purge_at > $1 LIMIT $2"
)

_AT_ONCE = 50
_PLACES = ", ".join(f"${number}" for number in range(1, _AT_ONCE + 1))
_CLAIMABLE = (
    "SELECT e.id, e.purge_attempts, e.list_state, e.size_bytes FROM entries e JOIN users u ON u.id = e.owner_id "
    f"WHERE e.id IN ({_PLACES}) AND (e.next_purge_at <= ${_AT_ONCE + 1} "
    f"OR (e.state = 'purging' AND e.next_purge_at > ${_AT_ONCE + 2}) OR e.trashed_at <= u.trash_cleared_at)"
)
_KEYS_TO_DELETE = (
    f"SELECT DISTINCT v.file_id, v.object_key FROM versions v WHERE v.file_id IN ({_PLACES}) AND NOT EXISTS ("
    "SELECT 1 FROM versions o JOIN entries e ON e.id = o.file_id "
    "WHERE o.object_key = v.object_key AND e.state <> 'purging')"
)


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
    owner_id = await owner_of(tx, ask.by, Verb.RESTORE)
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


@rule(SettleTrash, writes=True)
async def settle(tx: Tx, ask: SettleTrash, env: Env) -> bool:
    """As ``SettleTrash`` says: one folder, at most ``limit`` of its children."""
    row = await tx.one("SELECT folder_id, owner_id FROM unsettled ORDER BY folder_id LIMIT 1")
    if row is None:
        return False
    folder_id, owner_id = FileId(row[0]), UserId(row[1])
    await tx.lock(owner_id)
    job = await tx.one("SELECT after_created_at, after_id FROM unsettled WHERE folder_id = $1", folder_id)
    if job is None:  # another process has settled it
        return True
    shown = await tx.one(_IS_PLACE, folder_id) is not None
    children = await tx.all(_CHILDREN, owner_id, folder_id, *job, ask.limit)
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


@rule(ClaimPurges, writes=True)
async def claim_purges(tx: Tx, ask: ClaimPurges, env: Env) -> list[Purge]:
    """As ``ClaimPurges`` says.

    Several versions may share a blob.  Its key is returned with an entry only if
    every other entry that refers to it is being purged too, so the blob is
    deleted with the last of them.  Deleting a key twice is harmless.
    """
    at, far = rows.micros(env.now), rows.later(env.now, _LONGEST_PURGE_DELAY)
    await _bound_due_times(tx, env)
    found = await _due(tx, ask.limit, at, far)
    if not found:
        return []
    await tx.lock(*{UserId(owner_id) for _, owner_id in found})
    file_ids = list(dict.fromkeys(FileId(file_id) for file_id, _ in found))
    # Before the lock, the owner may have restored some entries, and another sweep may have claimed some.
    due = {row[0]: row for row in await _each(tx, _CLAIMABLE, file_ids, at, far)}
    await tx.run_each(
        "UPDATE entries SET state = 'purging', purge_attempts = purge_attempts + 1, next_purge_at = $2 WHERE id = $1",
        [(id_, rows.later(env.now, _PURGE_BACKOFF.after(attempts + 1))) for id_, attempts, *_ in due.values()],
    )
    claimed = {file_id: Purge(file_id=file_id, object_keys=[]) for file_id in file_ids if file_id in due}
    for file_id, object_key in await _each(tx, _KEYS_TO_DELETE, list(claimed)):
        claimed[file_id].object_keys.append(ObjectKey(object_key))
    return list(claimed.values())


async def _bound_due_times(tx: Tx, env: Env) -> None:
    """Make entries trashed before the clock was set back due after one grace period from now."""
    await tx.run(_BOUND, rows.micros(env.now), rows.later(env.now, env.config.janitor.trash_grace))


async def _due(tx: Tx, limit: int, at: int, far: int) -> list[Row]:
    """Return (id, owner) of the entries to purge."""
    found: list[Row] = []
    for sql, *values in ((_DUE_TRASHED, at), (_DUE_PURGING, at), (_SET_BACK, far), (_CLEARED,)):
        if len(found) < limit:
            found += await tx.all(f"{sql} LIMIT ${len(values) + 1}", *values, limit - len(found))
    if len(found) < limit:
        await tx.run(_FORGET_CLEARED)
        found += await _of_deleted_users(tx, limit - len(found), at)
    return found


async def _each(tx: Tx, sql: str, file_ids: Sequence[FileId], *values: object) -> list[Row]:
    """Return the rows for all files, with one statement for every 50."""
    found: list[Row] = []
    for start in range(0, len(file_ids), _AT_ONCE):
        some = [*file_ids[start : start + _AT_ONCE]]
        some += some[-1:] * (_AT_ONCE - len(some))
        found += await tx.all(sql, *some, *values)
    return found


async def _of_deleted_users(tx: Tx, limit: int, at: int) -> list[Row]:
    """Trash up to *limit* entries of deleted users, due for purging now, and return (id, owner) of each."""
    owners = {row[1] for row in await tx.all(_OF_DELETED, at, limit)}
    if not owners:
        return []
    await tx.lock(*owners)  # before the lock, another sweep or a settling may change the same entries
    found = [row for row in await tx.all(_OF_DELETED, at, limit) if row[1] in owners]
    hidden = Counter[UserId]()
    for _, owner_id, list_state, size in found:
        if list_state != "hidden":
            hidden[UserId(owner_id)] += size
    for user_id, size in hidden.items():
        await changes.charge(tx, user_id, live=-size, trash=size)
    await tx.run_each(
        "UPDATE entries SET state = 'trashed', list_state = 'hidden', trashed_at = $2, purge_at = $2, "
        "next_purge_at = $2 WHERE id = $1",
        [(row[0], at) for row in found],
    )
    return [row[:2] for row in found]


@rule(FinishPurge, writes=True)
async def finish_purge(tx: Tx, ask: FinishPurge, env: Env) -> None:
    """As ``FinishPurge`` says.  Does nothing for an entry that is not being purged."""
    row = await tx.one("SELECT owner_id, kind, parent_id FROM entries WHERE id = $1 AND state = 'purging'", ask.file_id)
    if row is None:
        return
    owner_id, parent_id = UserId(row[0]), row[2]
    await tx.lock(owner_id)
    if row[1] == FileKind.FOLDER.value and await _has_children(tx, owner_id, ask.file_id, env.now):
        return
    gone = await tx.one("DELETE FROM entries WHERE id = $1 RETURNING version_id, trashed_at", ask.file_id)
    if gone is None:
        return
    await tx.run("DELETE FROM unsettled WHERE folder_id = $1", ask.file_id)
    await tx.run("DELETE FROM properties WHERE entry_id = $1", ask.file_id)
    trash_bytes = version_bytes = version_rows = 0
    for id_, size_bytes in await tx.all(
        "DELETE FROM versions WHERE file_id = $1 RETURNING id, size_bytes", ask.file_id
    ):
        if id_ == gone[0]:
            trash_bytes += size_bytes
        else:
            version_bytes += size_bytes
            version_rows += 1
    top = gone[1] is not None  # the contents of a purged folder are not in the log
    await changes.record(
        tx,
        FileEventKind.PURGED if top else None,
        owner_id,
        ask.file_id,
        None,
        now=env.now,
        trace=changes.Trace(FileKind(row[1]), parent_id, parent_id),
        trash=-trash_bytes,
        versions=-version_bytes,
        version_rows=-version_rows,
        entries=-1,
    )
    if parent_id:
        await tx.run(
            "UPDATE entries SET next_purge_at = $2 WHERE id = $1 AND state = 'purging' "
            "AND NOT EXISTS (SELECT 1 FROM entries c WHERE c.parent_id = $1 AND c.state <> 'live')",
            parent_id,
            rows.micros(env.now),
        )


async def _has_children(tx: Tx, owner_id: UserId, folder_id: FileId, now: datetime) -> bool:
    """Begin to purge some children of the folder.  Returns whether it has any children.

    Children that were trashed on their own remain in the trash: their parent becomes the root.
    """
    await tx.run(_MOVE_OUT, folder_id)
    children = await tx.all(_CHILDREN, owner_id, folder_id, -1, "", _CHILDREN_AT_ONCE)
    if children:
        await tx.run_each(
            "UPDATE entries SET state = 'purging', list_state = 'hidden', next_purge_at = $2 WHERE id = $1",
            [(child[0], rows.micros(now)) for child in children],
        )
        # Their contents may still be listed if the purge overtakes the settling.
        await tx.run_each(entries.UNSETTLE, [(id_, owner_id) for id_, kind, *_ in children if kind == "folder"])
        if size := sum(child[2] for child in children if child[3] != "hidden"):
            await changes.charge(tx, owner_id, live=-size, trash=size)
        await tx.run("UPDATE entries SET next_purge_at = $2 WHERE id = $1", folder_id, rows.micros(now))
        return True
    return await tx.one("SELECT 1 FROM entries WHERE parent_id = $1 AND state <> 'live'", folder_id) is not None
