"""The trash: put, list, restore, purge.

``live -> trashed -> purging``: from the last there is no return, for the bytes
may be gone already.  Bytes count as trash until the rows go.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from godrive.catalog import Row, Tx
from godrive.errors import NotFound
from godrive.model import (
    ETag,
    File,
    FileEventKind,
    FileId,
    ObjectKey,
    OnConflict,
    Page,
    Purge,
    Tombstone,
    UserId,
    name_key,
)
from godrive.rules import entries, outbox, rows
from godrive.rules.names import search_key
from godrive.rules.page_tokens import PageTokens

_LONGEST_PURGE_DELAY = 3600.0

_TO_TRASH = (
    "UPDATE users SET live_bytes = live_bytes - $2, trash_bytes = trash_bytes + $2, changes = changes + 1 WHERE id = $1"
)
_FROM_TRASH = (
    "UPDATE users SET live_bytes = live_bytes + $2, trash_bytes = trash_bytes - $2, changes = changes + 1 WHERE id = $1"
)
_AT_ONCE = 50
_PLACES = ", ".join(f"${number}" for number in range(1, _AT_ONCE + 1))
_STILL_DUE = f"SELECT id, purge_attempts FROM entries WHERE id IN ({_PLACES}) AND next_purge_at <= ${_AT_ONCE + 1}"
_KEYS_TO_DELETE = (
    f"SELECT DISTINCT v.file_id, v.object_key FROM versions v WHERE v.file_id IN ({_PLACES}) AND NOT EXISTS ("
    "SELECT 1 FROM versions o JOIN entries e ON e.id = o.file_id "
    "WHERE o.object_key = v.object_key AND e.state <> 'purging')"
)


async def put(
    tx: Tx, owner_id: UserId, file_id: FileId, *, now: datetime, grace: float, if_match: ETag | None = None
) -> Tombstone:
    """As ``TrashFile`` says; it may be purged *grace* seconds from now."""
    await tx.lock(owner_id)
    file, state = await entries.load(tx, owner_id, file_id)
    if state == "live":
        rows.check_match(file, if_match)
        row = await tx.one(
            "UPDATE entries SET state = 'trashed', trashed_at = $2, purge_at = $3, next_purge_at = $3, "
            f"updated_at = $2, revision = revision + 1 WHERE id = $1 RETURNING {rows.FILE}",
            file_id,
            rows.micros(now),
            rows.later(now, grace),
        )
        file = rows.file(rows.found(row))
        await tx.run(_TO_TRASH, owner_id, file.size_bytes)
        await outbox.note(tx, FileEventKind.TRASHED, owner_id, file_id, file, now=now)
    if file.trashed_at is None or file.purge_at is None:
        raise NotFound("There is no such file.")
    return Tombstone(file_id=file_id, trashed_at=file.trashed_at, purge_at=file.purge_at)


async def list_page(
    tx: Tx, owner_id: UserId, *, tokens: PageTokens, limit: int = 100, page: str | None = None
) -> Page[File]:
    """As ``ListTrash`` says."""
    rows.check_limit(limit)
    scope = ("trash", owner_id)
    values: list[object] = [owner_id]
    after = ""
    if page is not None:
        values += tokens.read(scope, page)
        after = "AND (trashed_at, id) < ($2, $3) "
    found = await tx.all(
        f"SELECT {rows.FILE} FROM entries WHERE owner_id = $1 AND state = 'trashed' {after}"
        f"ORDER BY trashed_at DESC, id DESC LIMIT ${len(values) + 1}",
        *values,
        limit + 1,
    )
    items = [rows.file(row) for row in found[:limit]]
    if len(found) <= limit:
        return Page(items=items)
    return Page(items=items, next_page=tokens.make(scope, (found[limit - 1][12], items[-1].id)))


async def restore(
    tx: Tx,
    owner_id: UserId,
    file_id: FileId,
    *,
    now: datetime,
    on_conflict: OnConflict = OnConflict.FAIL,
    if_match: ETag | None = None,
) -> File:
    """As ``RestoreFile`` says; where its folder is gone, into the root."""
    await tx.lock(owner_id)
    file, state = await entries.load(tx, owner_id, file_id)
    if state == "live":
        return file
    rows.check_match(file, if_match)
    parent_id = file.parent_id if await entries.is_folder(tx, owner_id, file.parent_id) else None
    name = await entries.free_name(tx, owner_id, parent_id, file.name, on_conflict)
    row = await tx.one(
        "UPDATE entries SET state = 'live', trashed_at = NULL, purge_at = NULL, next_purge_at = NULL, parent_id = $2, "
        "name = $3, name_key = $4, search_key = $5, updated_at = $6, revision = revision + 1 "
        f"WHERE id = $1 RETURNING {rows.FILE}",
        file_id,
        parent_id or "",
        name,
        name_key(name),
        search_key(name),
        rows.micros(now),
    )
    restored = rows.file(rows.found(row))
    await tx.run(_FROM_TRASH, owner_id, restored.size_bytes)
    await outbox.note(tx, FileEventKind.RESTORED, owner_id, file_id, restored, now=now)
    return restored


async def purge(tx: Tx, owner_id: UserId, file_id: FileId, *, now: datetime, if_match: ETag | None = None) -> None:
    """As ``PurgeFile`` says."""
    await tx.lock(owner_id)
    file, state = await entries.load(tx, owner_id, file_id)
    if state == "live":
        raise NotFound("There is no such file in the trash.")
    rows.check_match(file, if_match)
    await tx.run(
        "UPDATE entries SET state = 'purging', next_purge_at = $2, revision = revision + 1 WHERE id = $1",
        file_id,
        rows.micros(now),
    )


async def empty(tx: Tx, owner_id: UserId, *, now: datetime) -> int:
    """As ``EmptyTrash`` says."""
    await tx.lock(owner_id)
    return await tx.run(
        "UPDATE entries SET state = 'purging', next_purge_at = $2, revision = revision + 1 "
        "WHERE owner_id = $1 AND state = 'trashed'",
        owner_id,
        rows.micros(now),
    )


async def claim_purges(tx: Tx, *, limit: int, now: datetime) -> list[Purge]:
    """As ``ClaimPurges`` says.  A write: it counts the attempts.

    Several versions may share a blob.  Its key is given with an entry only
    when every other that refers to it is on its way out too, so the blob goes
    with the last of them; given twice, it is deleted twice, which is harmless.
    """
    at = rows.micros(now)
    found = await tx.all(
        "SELECT id, owner_id FROM entries WHERE next_purge_at <= $1 ORDER BY next_purge_at LIMIT $2", at, limit
    )
    found += await _of_deleted_users(tx, limit - len(found), at)
    if not found:
        return []
    await tx.lock(*{UserId(owner_id) for _, owner_id in found})
    file_ids = [FileId(file_id) for file_id, _ in found]
    # Before they were locked, their owner may have restored some, and another sweep claimed some.
    due = {row[0]: row[1] for row in await _each(tx, _STILL_DUE, file_ids, at)}
    await tx.run_each(
        "UPDATE entries SET state = 'purging', purge_attempts = purge_attempts + 1, next_purge_at = $2 WHERE id = $1",
        [(id_, rows.later(now, _purge_delay(attempts))) for id_, attempts in due.items()],
    )
    claimed = {file_id: Purge(file_id=file_id, object_keys=[]) for file_id in file_ids if file_id in due}
    for file_id, object_key in await _each(tx, _KEYS_TO_DELETE, list(claimed)):
        claimed[file_id].object_keys.append(ObjectKey(object_key))
    return list(claimed.values())


def _purge_delay(attempts: int) -> float:
    return min(_LONGEST_PURGE_DELAY, 60.0 * 2.0 ** min(attempts, 30))


async def _each(tx: Tx, sql: str, file_ids: Sequence[FileId], *values: object) -> list[Row]:
    """The rows for all these files, a statement for each fifty."""
    found: list[Row] = []
    for start in range(0, len(file_ids), _AT_ONCE):
        some = [*file_ids[start : start + _AT_ONCE]]
        some += some[-1:] * (_AT_ONCE - len(some))
        found += await tx.all(sql, *some, *values)
    return found


async def _of_deleted_users(tx: Tx, limit: int, at: int) -> list[Row]:
    """Entries of users who are no more, put into the trash to be purged at once: a sweep's worth at a time."""
    if limit <= 0:
        return []
    columns = "SELECT e.id, e.owner_id, e.state, e.size_bytes FROM users u JOIN entries e ON e.owner_id = u.id"
    found = await tx.all(
        f"{columns} AND e.state = 'live' WHERE u.state = 'deleted' UNION ALL "
        f"{columns} AND e.state = 'trashed' AND e.next_purge_at > $1 WHERE u.state = 'deleted' LIMIT $2",
        at,
        limit,
    )
    await tx.run_each(_TO_TRASH, [(owner_id, size) for _, owner_id, state, size in found if state == "live"])
    await tx.run_each(
        "UPDATE entries SET state = 'trashed', trashed_at = $2, purge_at = $2, next_purge_at = $2 WHERE id = $1",
        [(row[0], at) for row in found],
    )
    return [row[:2] for row in found]


async def finish_purge(tx: Tx, file_id: FileId, *, now: datetime) -> None:
    """As ``FinishPurge`` says; an entry that is not being purged is left alone."""
    row = await tx.one("SELECT owner_id FROM entries WHERE id = $1 AND state = 'purging'", file_id)
    if row is None:
        return
    owner_id = UserId(row[0])
    await tx.lock(owner_id)
    gone = await tx.one("DELETE FROM entries WHERE id = $1 RETURNING version_id", file_id)
    if gone is None:
        return
    trash_bytes = version_bytes = 0
    for id_, size_bytes in await tx.all("DELETE FROM versions WHERE file_id = $1 RETURNING id, size_bytes", file_id):
        if id_ == gone[0]:
            trash_bytes += size_bytes
        else:
            version_bytes += size_bytes
    await tx.run(
        "UPDATE users SET trash_bytes = trash_bytes - $2, version_bytes = version_bytes - $3 WHERE id = $1",
        owner_id,
        trash_bytes,
        version_bytes,
    )
    await outbox.note(tx, FileEventKind.PURGED, owner_id, file_id, None, now=now)
