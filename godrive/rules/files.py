"""Live entries: list, get, rename, and the one way to their bytes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache

from godrive.catalog import Tx
from godrive.errors import Invalid, NotFound
from godrive.model import (
    Content,
    ETag,
    File,
    FileEventKind,
    FileId,
    ObjectKey,
    OnConflict,
    Page,
    Sort,
    UserId,
    VersionId,
    name_key,
)
from godrive.rules import entries, outbox, rows
from godrive.rules.names import after_prefix, check_name, search_key
from godrive.rules.page_tokens import PageTokens

_LONGEST_FILTER = 1000
_GET = f"SELECT {rows.LIVE} FROM entries WHERE id = $1 AND owner_id = $2 AND state = 'live'"
_CONTENT = (
    "SELECT e.id, e.name, e.created_at, e.updated_at, e.kind, e.parent_id, v.mime, v.size_bytes, v.sha256, v.id, "
    "e.revision, e.owner_id, e.trashed_at, e.purge_at, v.object_key "
    "FROM entries e JOIN versions v ON v.file_id = e.id JOIN users u ON u.id = e.owner_id "
    "WHERE e.id = $1 AND e.state = 'live' AND u.state = 'active'"
)


async def list_page(
    tx: Tx,
    owner_id: UserId,
    *,
    tokens: PageTokens,
    limit: int = 100,
    page: str | None = None,
    parent_id: FileId | None = None,
    sort: Sort = Sort.NEWEST,
    prefix: str | None = None,
    contains: str | None = None,
) -> Page[File]:
    """As ``ListFiles`` says.

    Without a filter, or with a prefix in order of name, the cost is that of
    the page, whatever the size of the drive; any other filter looks at the
    owner's names until the page is full.
    """
    rows.check_limit(limit)
    by_name = sort in (Sort.NAME, Sort.NAME_DESCENDING)
    values: list[object] = [owner_id]
    if parent_id is not None:
        values.append(parent_id)
    if prefix:
        prefix = _filter(prefix, "prefix")
        values += [prefix, after_prefix(prefix) or "\U0010ffff" * 256]
    if contains:
        contains = _filter(contains, "contains")
        values.append("%" + contains.replace("!", "!!").replace("%", "!%").replace("_", "!_") + "%")
    scope = ("files", owner_id, parent_id, sort.value, prefix, contains)
    if page is not None:
        key, last = tokens.read(scope, page)
        values += [key, last]
    sql = list_sql(
        sort, in_folder=parent_id is not None, prefix=bool(prefix), contains=bool(contains), after=page is not None
    )
    found = await tx.all(sql, *values, limit + 1)
    items = [rows.live_file(owner_id, row) for row in found[:limit]]
    if len(found) <= limit:
        return Page(items=items)
    id_, name, created_at, *_ = found[limit - 1]
    return Page(items=items, next_page=tokens.make(scope, (search_key(name) if by_name else created_at, id_)))


@cache
def list_sql(sort: Sort, *, in_folder: bool, prefix: bool, contains: bool, after: bool) -> str:
    """The statement for one kind of list; there are few, so each is prepared once."""
    column = "search_key" if sort in (Sort.NAME, Sort.NAME_DESCENDING) else "created_at"
    down = sort in (Sort.NEWEST, Sort.NAME_DESCENDING)
    number = iter(range(1, 10))
    terms = [f"owner_id = ${next(number)}", "state = 'live'"]
    if in_folder:
        terms.append(f"parent_id = ${next(number)}")
    if prefix:
        terms.append(f"search_key >= ${next(number)} AND search_key < ${next(number)}")
    if contains:
        terms.append(f"search_key LIKE ${next(number)} ESCAPE '!'")
    if after:
        terms.append(f"({column}, id) {'<' if down else '>'} (${next(number)}, ${next(number)})")
    way = "DESC" if down else "ASC"
    where = " AND ".join(terms)
    return f"SELECT {rows.LIVE} FROM entries WHERE {where} ORDER BY {column} {way}, id {way} LIMIT ${next(number)}"


def _filter(text: str, field: str) -> str:
    """A filter as it is compared.  Raises ``Invalid`` for what no name can contain."""
    if len(text) > _LONGEST_FILTER or "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise Invalid(f"No name can match this {field}.", field=field)
    return search_key(text)


async def count_changes(tx: Tx, owner_ids: Sequence[UserId]) -> dict[UserId, int]:
    """As ``CountChanges`` says, of each; of somebody who is not there, zero."""
    places = 1 << (len(owner_ids) - 1).bit_length()  # a power of two: few statements, each prepared once
    found = await tx.all(_changes_sql(places), *owner_ids, *[owner_ids[-1]] * (places - len(owner_ids)))
    changes: dict[UserId, int] = dict.fromkeys(owner_ids, 0)
    changes.update((row[0], row[1]) for row in found)
    return changes


@cache
def _changes_sql(places: int) -> str:
    return f"SELECT id, changes FROM users WHERE id IN ({', '.join(f'${number + 1}' for number in range(places))})"


async def get(tx: Tx, owner_id: UserId, file_id: FileId) -> File:
    """One live entry.  Raises ``NotFound``."""
    return rows.live_file(owner_id, rows.found(await tx.one(_GET, file_id, owner_id)))


async def rename(
    tx: Tx, owner_id: UserId, file_id: FileId, name: str, *, now: datetime, if_match: ETag | None = None
) -> File:
    """As ``RenameFile`` says; to the name that it has, a no-op."""
    check_name(name)
    await tx.lock(owner_id)
    file = await get(tx, owner_id, file_id)
    rows.check_match(file, if_match)
    if file.name == name:
        return file
    await entries.free_name(tx, owner_id, file.parent_id, name, OnConflict.FAIL, but=file_id)
    row = await tx.one(
        "UPDATE entries SET name = $1, name_key = $2, search_key = $3, updated_at = $4, revision = revision + 1 "
        f"WHERE id = $5 RETURNING {rows.LIVE}",
        name,
        name_key(name),
        search_key(name),
        rows.micros(now),
        file_id,
    )
    renamed = rows.live_file(owner_id, rows.found(row))
    await tx.run("UPDATE users SET changes = changes + 1 WHERE id = $1", owner_id)
    await outbox.note(tx, FileEventKind.RENAMED, owner_id, file_id, renamed, now=now)
    return renamed


async def open_content(
    tx: Tx, file_id: FileId, *, owner_id: UserId | None = None, version_id: VersionId | None = None
) -> Content:
    """As ``OpenContent`` says.  The file's size, type and digest are those of the version that was asked for."""
    if owner_id is None and version_id is None:
        raise NotFound("There is no such file.")
    sql, values = _CONTENT, [file_id]
    if owner_id is not None:
        values.append(FileId(owner_id))
        sql += f" AND e.owner_id = ${len(values)}"
    if version_id is None:
        sql += " AND v.id = e.version_id"
    else:
        values.append(FileId(version_id))
        sql += f" AND v.id = ${len(values)}"
    row = rows.found(await tx.one(sql, *values))
    return Content(file=rows.file(row), object_key=ObjectKey(row[-1]))
