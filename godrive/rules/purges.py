"""Purges: what leaves the trash for good, bytes first and rows last.

Theory of operation.  A claim marks the entries that are due as ``purging``, so
that nobody can restore them, and returns the blobs to delete.  After a crash
the next claim returns them again, and to delete a blob twice is idempotent.  A
purge of a folder descends the tree in batches and deletes rows from the bottom
up; a purge of a file with very many versions deletes them in batches too.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime

from godrive.backoff import Backoff
from godrive.catalog import Row, Tx
from godrive.messages.system import (
    ClaimPurges,
    FinishPurge,
    Purge,
)
from godrive.model import (
    FileEventKind,
    FileId,
    FileKind,
    ObjectKey,
    UserId,
    VersionId,
)
from godrive.rules import changes, entries, rows, versions
from godrive.rules.registry import Env, rule
from godrive.rules.trash import CHILDREN, NOT_CLEARED

_LONGEST_PURGE_DELAY = 3600.0
_PURGE_BACKOFF = Backoff(60.0, _LONGEST_PURGE_DELAY)
_CHILDREN_AT_ONCE = 200
"""Children that one statement of a purge processes.  It takes milliseconds, so other writers do not wait."""

_BOUND = (
    f"UPDATE entries SET purge_at = $2, next_purge_at = $2, trashed_at = {NOT_CLEARED} "
    "WHERE state = 'trashed' AND next_purge_at > $2 AND trashed_at > $1 AND trashed_at > "
    "COALESCE((SELECT u.trash_cleared_at FROM users u WHERE u.id = entries.owner_id), -1)"
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

_CLAIMABLE = (
    "SELECT e.id, e.purge_attempts, e.list_state, e.size_bytes FROM entries e JOIN users u ON u.id = e.owner_id "
    f"WHERE e.id IN ({rows.PLACES}) AND (e.next_purge_at <= ${rows.AT_ONCE + 1} OR (e.state = 'purging' AND "
    f"(e.next_purge_at <= ${rows.AT_ONCE + 2} OR e.next_purge_at > ${rows.AT_ONCE + 3})) "
    "OR e.trashed_at <= u.trash_cleared_at)"
)
_VERSIONS_AT_ONCE = 50
"""Versions of one file that one claim covers, because a file may have any number."""
_KEYS_AT_ONCE = 4000
"""Object keys that one claim returns, because a reply has at most 1 MiB."""
_FIRST_VERSIONS = (
    "SELECT f.id, v.revision, v.object_key, "
    f"CASE WHEN {versions.IS_SHARED.format(key='v.object_key')} THEN 1 ELSE 0 END "
    "FROM entries f JOIN versions v ON v.file_id = f.id AND v.revision <= COALESCE((SELECT n.revision FROM versions n "
    f"WHERE n.file_id = f.id ORDER BY n.revision LIMIT 1 OFFSET {_VERSIONS_AT_ONCE - 1}), {2**63 - 1}) "
    f"WHERE f.id IN ({rows.PLACES})"
)


@rule(ClaimPurges, writes=True)
async def claim_purges(tx: Tx, ask: ClaimPurges, env: Env) -> list[Purge]:
    """As ``ClaimPurges`` says.

    Several versions may share a blob.  Its key is returned with an entry only if
    every other version that refers to it is being purged too, so the blob is
    deleted with the last of them.  To delete a key twice is idempotent.
    """
    at, far, due_by = rows.micros(env.now), rows.later(env.now, _LONGEST_PURGE_DELAY), rows.micros(env.now)
    if ask.due_by is None:
        await _bound_due_times(tx, env)
    else:
        due_by = min(at, rows.micros(ask.due_by))
    found = await _due(tx, ask.limit, at, far, due_by)
    if not found:
        return []
    await tx.lock(*{UserId(owner_id) for _, owner_id in found})
    file_ids = list(dict.fromkeys(FileId(file_id) for file_id, _ in found))
    # Before the lock, the owner may have restored some entries, and another sweep may have claimed some.
    due = {row[0]: row for row in await rows.each(tx, _CLAIMABLE, file_ids, due_by, at, far)}
    await tx.run_each(
        "UPDATE entries SET state = 'purging', purge_attempts = purge_attempts + 1, next_purge_at = $2 WHERE id = $1",
        [(id_, rows.later(env.now, _PURGE_BACKOFF.after(attempts + 1))) for id_, attempts, *_ in due.values()],
    )
    claimed = [file_id for file_id in file_ids if file_id in due]
    found_versions: dict[str, list[Row]] = {file_id: [] for file_id in claimed}
    for row in await rows.each(tx, _FIRST_VERSIONS, claimed):
        found_versions[row[0]].append(row)
    purges: list[Purge] = []
    room = _KEYS_AT_ONCE
    for file_id in claimed:
        first = found_versions[file_id]
        room -= len(first)
        if room < 0 and purges:
            break
        keys = dict.fromkeys(ObjectKey(row[2]) for row in first if not row[3])
        revision = max((row[1] for row in first), default=0)
        purges.append(Purge(file_id=file_id, object_keys=list(keys), revision=revision))
    if len(purges) < len(claimed):  # the others are due at once
        await tx.run_each(
            "UPDATE entries SET next_purge_at = $2, purge_attempts = purge_attempts - 1 WHERE id = $1",
            [(file_id, at) for file_id in claimed[len(purges) :]],
        )
    return purges


async def _bound_due_times(tx: Tx, env: Env) -> None:
    """Make entries trashed before the clock was set back due after one grace period from now."""
    await tx.run(_BOUND, rows.micros(env.now), rows.later(env.now, env.config.janitor.trash_grace))


async def _due(tx: Tx, limit: int, at: int, far: int, due_by: int) -> list[Row]:
    """Return (id, owner) of the entries to purge: those in the trash by *due_by*, those that are begun by *at*."""
    found: list[Row] = []
    for sql, *values in ((_DUE_TRASHED, due_by), (_DUE_PURGING, at), (_SET_BACK, far), (_CLEARED,)):
        if len(found) < limit:
            found += await tx.all(f"{sql} LIMIT ${len(values) + 1}", *values, limit - len(found))
    if len(found) < limit:
        await tx.run(_FORGET_CLEARED)
        found += await _of_deleted_users(tx, limit - len(found), due_by)
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
    row = await tx.one(
        "SELECT owner_id, kind, parent_id, version_id FROM entries WHERE id = $1 AND state = 'purging'", ask.file_id
    )
    if row is None:
        return
    owner_id, parent_id = UserId(row[0]), row[2]
    await tx.lock(owner_id)
    if row[1] == FileKind.FOLDER.value and await _has_children(tx, owner_id, ask.file_id, env.now):
        return
    if row[1] == FileKind.FILE.value and await _has_versions(tx, owner_id, ask, row[3], env.now):
        return
    gone = await tx.one("DELETE FROM entries WHERE id = $1 RETURNING size_bytes, trashed_at", ask.file_id)
    if gone is None:
        return
    await tx.run("DELETE FROM unsettled WHERE folder_id = $1", ask.file_id)
    await tx.run("DELETE FROM properties WHERE entry_id = $1", ask.file_id)
    top = gone[1] is not None  # the contents of a purged folder are not in the log
    await changes.record(
        tx,
        FileEventKind.PURGED if top else None,
        owner_id,
        ask.file_id,
        None,
        now=env.now,
        trace=changes.Trace(FileKind(row[1]), parent_id, parent_id),
        trash=-gone[0],
        entries=-1,
    )
    if parent_id:
        await tx.run(
            "UPDATE entries SET next_purge_at = $2 WHERE id = $1 AND state = 'purging' "
            "AND NOT EXISTS (SELECT 1 FROM entries c WHERE c.parent_id = $1 AND c.state <> 'live')",
            parent_id,
            rows.micros(env.now),
        )


async def _has_versions(tx: Tx, owner_id: UserId, purge: FinishPurge, current: VersionId | None, now: datetime) -> bool:
    """Delete the versions of the file up to the revision of the purge.  Returns whether it has more.

    The current version is charged as the file, and its row is the last.
    """
    gone = await tx.all(
        "DELETE FROM versions WHERE file_id = $1 AND revision <= $2 RETURNING id, size_bytes",
        purge.file_id,
        purge.revision,
    )
    earlier = [row[1] for row in gone if row[0] != current]
    if earlier:
        await changes.charge(tx, owner_id, versions=-sum(earlier), version_rows=-len(earlier))
    if await tx.one("SELECT 1 FROM versions WHERE file_id = $1 LIMIT 1", purge.file_id) is None:
        return False
    await tx.run("UPDATE entries SET next_purge_at = $2 WHERE id = $1", purge.file_id, rows.micros(now))
    return True


async def _has_children(tx: Tx, owner_id: UserId, folder_id: FileId, now: datetime) -> bool:
    """Begin to purge some children of the folder.  Returns whether it has any children.

    Children that were trashed on their own remain in the trash: their parent becomes the root.
    """
    await tx.run(_MOVE_OUT, folder_id)
    children = await tx.all(CHILDREN, owner_id, folder_id, -1, "", _CHILDREN_AT_ONCE)
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
