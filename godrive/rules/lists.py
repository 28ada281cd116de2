"""Lists of live entries, in pages by key.

Theory of operation.  A page is read in the order of an index from where the
page before ended, so it costs the same wherever it begins and however large
the folder is.  For each order there is an index of all entries of a folder, and
one of its folders only, which costs uploads nothing.  With *folders_first*, a
page reads the folders, and where they end goes on with the files, for which it
passes over the folders in the index of all: one more index would cost each
upload more than that costs a list.  The whole drive has indices in two orders.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import Any, NamedTuple

import msgspec

from godrive.catalog import Row, Tx
from godrive.catalog.ancestors import VISIBLE
from godrive.errors import Invalid
from godrive.messages.files import ListFiles, Listing, ReadList, Selection
from godrive.model import ETag, File, FileKind, Page, Sort, UserId
from godrive.principal import Verb
from godrive.rules import rows
from godrive.rules.access import Folder, resolve_place
from godrive.rules.names import after_prefix, search_key
from godrive.rules.registry import Env, rule

_CHANGES = "SELECT changes FROM users WHERE id = $1"
_ANY_TAG = "*"
_LONGEST_FILTER = 1000
_HIDDEN_AT_ONCE = 64
_ONE = f"SELECT {rows.LIVE} FROM entries WHERE id = $1 AND state = 'live'"
_REVISION = 10
"""Its index in ``rows.LIVE``."""
_state_of, _properties_of = attrgetter("id", "revision"), attrgetter("properties")
_MOST_UNKNOWN = 4
"""Unknown files of a page that are looked up one by one; with more, the page is read again."""

Known = Mapping[tuple[str, int], File]
"""Files by id and revision, which no two states of a file share."""


class Order(msgspec.Struct, frozen=True):
    """A column, its index in ``rows.LIVE``, the direction, and whether the *whole* drive can be listed so."""

    column: str
    index: int
    down: bool
    whole: bool


ORDERS = {
    Sort.NEWEST: Order("created_at", 2, down=True, whole=True),
    Sort.OLDEST: Order("created_at", 2, down=False, whole=True),
    Sort.NAME: Order("search_key", 1, down=False, whole=True),
    Sort.NAME_DESCENDING: Order("search_key", 1, down=True, whole=True),
    Sort.SMALLEST: Order("size_bytes", 7, down=False, whole=False),
    Sort.LARGEST: Order("size_bytes", 7, down=True, whole=False),
    Sort.LEAST_RECENT: Order("modified_at", 11, down=False, whole=False),
    Sort.MOST_RECENT: Order("modified_at", 11, down=True, whole=False),
}


class ListPosition(msgspec.Struct, frozen=True, array_like=True):
    """The last entry of a page: its sort key and its id.  With *folders_first*, whether it is a file."""

    key: int | str
    id: str
    in_files: bool = False


@rule(ListFiles)
async def list_page(tx: Tx, ask: ListFiles, env: Env) -> Page[File]:
    """As ``ListFiles`` says."""
    return await read_page(tx, ask, env)


async def read_list(
    tx: Tx, ask: ReadList, env: Env, place: Folder | UserId, *, nonce: str, known: Known | None = None
) -> Listing:
    """As ``ReadList`` says, for a list of *place* (see ``resolve_place``) in the catalog with that *nonce*.

    The change number is read first, so the page is at least as new as the tag.
    *known* is for :func:`read_page`.
    """
    owner_id = owner_in(place)
    row = await tx.one(_CHANGES, owner_id)
    tag = tag_of(owner_id, nonce, 0 if row is None else row[0])
    if is_known(tag, ask, place, env):
        return Listing(tag=tag)
    return Listing(tag=tag, page=await read_page(tx, ask, env, known))


async def read_listing(tx: Tx, ask: ReadList, env: Env, place: Folder | UserId, *, nonce: str) -> Listing:
    """Like :func:`read_list`, in one statement unless the page is empty, for a caller that knows no tag."""
    changes: list[int] = []
    page = await read_page(tx, ask, env, changes=changes)
    if not changes:
        return await read_list(tx, ask, env, place, nonce=nonce)
    return Listing(tag=tag_of(owner_in(place), nonce, changes[0]), page=page)


def known_of(page: Page[File]) -> Known:
    """Return the files of the page as *known* for its next reading."""
    return dict(zip(map(_state_of, page.items), page.items, strict=True))


def tag_of(owner_id: UserId, nonce: str, change: int) -> ETag:
    """Return the tag of all lists of the owner until their next change."""
    return ETag(f"{owner_id}.{nonce}.{change}")


def owner_in(place: Folder | UserId) -> UserId:
    """Return the owner of what is listed."""
    return place if isinstance(place, str) else place.owner_id


def is_known(tag: ETag, ask: ReadList, place: Folder | UserId, env: Env) -> bool:
    """Whether the tag is one of ``ask.known``.

    All lists of an owner have one tag, so it does not tell that there is this one.  Raises ``Invalid`` if there is not.
    """
    if not ask.known or (tag not in ask.known and _ANY_TAG not in ask.known):
        return False
    choose(ask, owner_in(place), None if isinstance(place, str) else place.key, env)
    return True


async def read_page(
    tx: Tx, ask: Selection, env: Env, known: Known | None = None, *, changes: list[int] | None = None
) -> Page[File]:
    """Return the page.  Add the change number that its first statement saw to *changes*, unless that found nothing.

    *known* are files that are probably in it.  Of those only the id and the
    revision are read: to read a row and to make a file of it takes three times
    as long as to find it.

    If names are very long, a page has fewer than ``limit`` rows.  Without a
    filter, or with a prefix and in order of name, the cost depends on the page
    only, not on the size of the drive; for files that follow folders, also on
    the number of folders.  Any other filter scans the names until the page is
    full.
    """
    rows.check_limit(ask.limit)
    place = await resolve_place(tx, ask.by, ask.where, Verb.READ)
    folder, owner_id = (None, place) if isinstance(place, str) else (place, place.owner_id)
    chosen = choose(ask, owner_id, None if folder is None else folder.key, env)
    order, values, scope, after = chosen.order, chosen.values, chosen.scope, chosen.after
    folders_first = ask.folders_first and folder is not None

    reads = 0

    async def read(
        kind: FileKind | None, limit: int, after: ListPosition | None, columns: str = rows.LIVE
    ) -> list[Row]:
        nonlocal reads
        reads += 1
        sql = list_sql(
            ask.sort,
            kind=kind,
            in_folder=folder is not None,
            prefix=bool(ask.prefix),
            contains=bool(ask.contains),
            after=after is not None,
            columns=columns,
            tagged=changes is not None,
        )
        found = await tx.all(sql, *values, *(() if after is None else (after.key, after.id)), limit)
        if changes is None:
            return found
        if found and reads == 1:
            changes.append(found[0][-1] or 0)
        return [row[:-1] for row in found]

    def page(items: list[File], position: ListPosition | None) -> Page[File]:
        return Page(items=items, next_page=None if position is None else env.tokens.make(scope, position))

    most = ask.limit + 1
    if known and not folders_first:
        found = await read(None, most, after, "id, revision")
        files = await _known_files(tx, owner_id, found[: ask.limit], known, whole=folder is None)
        if files is not None:
            return page(files, ListPosition(key_of(files[-1], order), files[-1].id) if len(found) == most else None)
    if folders_first:
        in_files = after is not None and after.in_files
        found = [] if in_files else await read(FileKind.FOLDER, most, after)
        if len(found) < most:
            found += await read(FileKind.FILE, most - len(found), after if in_files else None)
    else:
        found = await read(None, most, after)
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
        return page(items, None)
    last = found[limit - 1]
    key = search_key(last[1]) if order.column == "search_key" else last[order.index]
    return page(items, ListPosition(key, last[0], folders_first and last[4] == FileKind.FILE))


class Chosen(NamedTuple):
    """A selection for SQL: order, first values of :func:`list_sql`, scope of its tokens, and where it begins."""

    order: Order
    values: list[object]
    scope: tuple[object, ...]
    after: ListPosition | None


def choose(ask: Selection, owner_id: UserId, folder_key: str | None, env: Env) -> Chosen:
    """Return what the selection means in the folder, or in the whole drive.  Raises ``Invalid``."""
    order = ORDERS[ask.sort]
    if folder_key is None and not order.whole:
        raise Invalid("The whole drive is listed by name or time of creation only: name a folder.", field="sort")
    values: list[object] = [owner_id] if folder_key is None else [owner_id, folder_key]
    prefix = _filter(ask.prefix, "prefix") if ask.prefix else None
    if prefix is not None:
        values += [prefix, after_prefix(prefix) or "\U0010ffff" * 256]
    contains = _filter(ask.contains, "contains") if ask.contains else None
    if contains is not None:
        values.append(f"%{literal(contains)}%")
    folders_first = ask.folders_first and folder_key is not None
    scope = ("files", owner_id, folder_key, str(ask.sort), folders_first, prefix, contains)
    return Chosen(order, values, scope, None if ask.page is None else env.tokens.read_as(ListPosition, scope, ask.page))


async def _known_files(
    tx: Tx, owner_id: UserId, found: Sequence[Row], known: Known, *, whole: bool
) -> list[File] | None:
    """Return the files of the rows (id, revision), or ``None`` if the rows must be read as a whole after all."""
    if not found or (whole and found[0][-1]):
        return None
    keys: Sequence[Any] = [row[:2] for row in found] if whole else found
    files: list[Any] = [known.get(key) for key in keys]
    if not all(files):
        unknown = [number for number, file in enumerate(files) if file is None]
        if len(unknown) > _MOST_UNKNOWN:
            return None
        for number in unknown:
            id_, revision, *_ = found[number]
            full = await tx.one(_ONE, id_)
            if full is None or full[_REVISION] != revision:  # it has changed since, and may lie elsewhere
                return None
            files[number] = rows.live_file(owner_id, full)
    if any(map(_properties_of, files)):  # which may be long
        return None
    return files


def key_of(file: File, order: Order) -> int | str:
    """Return the sort key of the file."""
    if order.column == "search_key":
        return search_key(file.name)
    value: int | datetime = getattr(file, order.column)
    return rows.micros(value) if isinstance(value, datetime) else value


@cache
def list_sql(
    sort: Sort,
    *,
    kind: FileKind | None,
    in_folder: bool,
    prefix: bool,
    contains: bool,
    after: bool,
    columns: str = rows.LIVE,
    tagged: bool = False,
) -> str:
    """Return the statement for one kind of list.  There are few kinds, so each statement is prepared once.

    In the list of a whole drive, the column after these tells whether any folder of the
    owner is unsettled, so that rows must be checked for a trashed ancestor.  If
    *tagged*, the last column is the owner's change number.
    """
    order = ORDERS[sort]
    number = iter(range(1, 10))
    terms = [f"owner_id = ${next(number)}"]
    if in_folder:
        terms.append(f"parent_id = ${next(number)} AND state = 'live'")
    else:
        terms.append("list_state = 'file'")
        columns += ", (SELECT 1 FROM unsettled t WHERE t.owner_id = $1 LIMIT 1) AS unsettled"
    if tagged:
        columns += ", (SELECT u.changes FROM users u WHERE u.id = $1)"
    if kind is not None:
        terms.append(f"kind = '{kind.value}'")
    if prefix:
        terms.append(f"search_key >= ${next(number)} AND search_key < ${next(number)}")
    if contains:
        terms.append(f"search_key LIKE ${next(number)} ESCAPE '!'")
    if after:
        terms.append(f"({order.column}, id) {'<' if order.down else '>'} (${next(number)}, ${next(number)})")
    way = "DESC" if order.down else "ASC"
    where = " AND ".join(terms)
    return f"SELECT {columns} FROM entries WHERE {where} ORDER BY {order.column} {way}, id {way} LIMIT ${next(number)}"


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
