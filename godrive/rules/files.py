"""Live entries: list, get, rename, move, and open for reading."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from godrive.catalog import Row, Tx
from godrive.errors import Cycle, Forbidden, Invalid, NotFound
from godrive.messages.files import FindFile, GetFile, ListFiles, OpenContent, UpdateFile
from godrive.model import (
    Content,
    File,
    FileEventKind,
    FileKind,
    ObjectKey,
    Page,
    Sort,
    Spot,
    UserId,
    name_key,
)
from godrive.principal import Verb
from godrive.rules import changes, entries, folders, rows
from godrive.rules.access import VISIBLE, Folder, Resolved, lies_in, resolve, resolve_folder, resolve_place
from godrive.rules.marks import describe
from godrive.rules.names import after_prefix, check_depth, check_name, search_key
from godrive.rules.registry import Env, rule

_LONGEST_FILTER = 1000
_VERSION = "SELECT id, mime, size_bytes, sha256, modified_at, object_key FROM versions WHERE id = $1 AND file_id = $2"
_HIDDEN_AT_ONCE = 64
_RENAME = (
    f"UPDATE entries SET name = $3, name_key = $4, search_key = $5, updated_at = $1, {changes.REVISE} "
    f"WHERE id = $2 RETURNING {rows.LIVE}"
)
_MOVE = (
    "UPDATE entries SET parent_id = $3, name = $4, name_key = $5, search_key = $6, list_state = kind, updated_at = $1, "
    f"{changes.REVISE} WHERE id = $2 RETURNING {rows.LIVE}"
)


@rule(ListFiles)
async def list_page(tx: Tx, ask: ListFiles, env: Env) -> Page[File]:
    """As ``ListFiles`` says.

    If names are very long, a page has fewer than ``limit`` rows.  Without a
    filter, or with a prefix and in order of name, the cost depends on the page
    only, not on the size of the drive.  Any other filter scans the names until
    the page is full.
    """
    rows.check_limit(ask.limit)
    place = await resolve_place(tx, ask.by, ask.where, Verb.READ)
    folder = place if isinstance(place, Folder) else None
    owner_id = place.owner_id if isinstance(place, Folder) else place
    values: list[object] = [owner_id]
    if folder is not None:
        values.append(folder.key)
    prefix = _filter(ask.prefix, "prefix") if ask.prefix else None
    if prefix is not None:
        values += [prefix, after_prefix(prefix) or "\U0010ffff" * 256]
    contains = _filter(ask.contains, "contains") if ask.contains else None
    if contains is not None:
        values.append(f"%{literal(contains)}%")
    scope = ("files", owner_id, None if folder is None else folder.key, ask.sort.value, prefix, contains)
    if ask.page is not None:
        values += env.tokens.read(scope, ask.page)
    sql = list_sql(
        ask.sort,
        in_folder=folder is not None,
        prefix=prefix is not None,
        contains=contains is not None,
        after=ask.page is not None,
    )
    found = await tx.all(sql, *values, ask.limit + 1)
    limit = rows.that_fit(found, ask.limit)
    shown: Sequence[Row] = found[:limit]
    if folder is None and found and found[0][-1]:
        shown = await visible(tx, shown)
    items = (
        [rows.live_file(owner_id, row[:-1]) for row in shown]
        if folder is None
        else [rows.live_file(owner_id, row) for row in shown]
    )
    if len(found) <= limit:
        return Page(items=items)
    id_, name, created_at, *_ = found[limit - 1]
    by_name = ask.sort in (Sort.NAME, Sort.NAME_DESCENDING)
    return Page(items=items, next_page=env.tokens.make(scope, (search_key(name) if by_name else created_at, id_)))


@cache
def list_sql(sort: Sort, *, in_folder: bool, prefix: bool, contains: bool, after: bool) -> str:
    """Return the statement for one kind of list.  There are few kinds, so each statement is prepared once.

    In the list of a whole drive, the last column tells whether any folder of the
    owner is unsettled, so that rows must be checked for a trashed ancestor.
    """
    column = "search_key" if sort in (Sort.NAME, Sort.NAME_DESCENDING) else "created_at"
    down = sort in (Sort.NEWEST, Sort.NAME_DESCENDING)
    number = iter(range(1, 10))
    terms = [f"owner_id = ${next(number)}"]
    columns = rows.LIVE
    if in_folder:
        terms.append(f"parent_id = ${next(number)} AND state = 'live'")
    else:
        terms.append("list_state = 'file'")
        columns += ", (SELECT 1 FROM unsettled t WHERE t.owner_id = $1 LIMIT 1)"
    if prefix:
        terms.append(f"search_key >= ${next(number)} AND search_key < ${next(number)}")
    if contains:
        terms.append(f"search_key LIKE ${next(number)} ESCAPE '!'")
    if after:
        terms.append(f"({column}, id) {'<' if down else '>'} (${next(number)}, ${next(number)})")
    way = "DESC" if down else "ASC"
    where = " AND ".join(terms)
    return f"SELECT {columns} FROM entries WHERE {where} ORDER BY {column} {way}, id {way} LIMIT ${next(number)}"


async def visible(tx: Tx, found: Sequence[Row]) -> list[Row]:
    """Return the rows, of columns that begin with ``rows.LIVE``, that have no ancestor in the trash."""
    parents = {row[5] for row in found if row[5]}
    hidden: set[str] = set()
    places = ", ".join(f"${number}" for number in range(1, _HIDDEN_AT_ONCE + 1))
    sql = f"SELECT id FROM entries WHERE id IN ({places}) AND (state <> 'live' OR {VISIBLE} = 0)"
    for some in chunks(sorted(parents), _HIDDEN_AT_ONCE):
        hidden.update(row[0] for row in await tx.all(sql, *some))
    return [row for row in found if row[5] not in hidden]


def chunks(values: list[str], size: int) -> list[list[str]]:
    """Split the values into lists of exactly *size*.  The last list repeats its last value."""
    chunks = [values[start : start + size] for start in range(0, len(values), size)]
    return [chunk + chunk[-1:] * (size - len(chunk)) for chunk in chunks]


def literal(text: str) -> str:
    """Return the pattern of ``LIKE ... ESCAPE '!'`` that is this text."""
    return text.replace("!", "!!").replace("%", "!%").replace("_", "!_")


def _filter(text: str, field: str) -> str:
    """Return the search key of a filter.  Raises ``Invalid`` if no name can match it."""
    if len(text) > _LONGEST_FILTER or "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        raise Invalid(f"No name can match this {field}.", field=field)
    return search_key(text)


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
    parent = Folder(file.owner_id, file.parent_id)
    name = await entries.free_name(tx, parent, ask.name or file.name, ask.on_conflict, but=file.id)
    row = await tx.one(_RENAME, rows.micros(env.now), file.id, name, name_key(name), search_key(name))
    return rows.live_file(file.owner_id, rows.found(row))


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
