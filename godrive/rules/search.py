"""Search: find entries by name at any depth, ranked.

Theory of operation.  A search must not cost more on a large drive, so each page
looks at a bounded number of names.  It takes one of three ways:

*A folder with few entries below it* is walked from the top; all that is there is
matched.  *With a text*, the index of names gives the newest names that contain
its trigrams (``name_index``), and entries that are not indexed yet are matched
one by one.  These candidates are a batch.  The batch is filtered, ranked and
paged; then comes the next batch, of older names.  *Without a text*, the list of
the whole drive is walked from the newest.  In the last two ways, a search in a
folder keeps the entries whose parents lie in it.

A page token holds the bounds of its batch as numbers of names, which do not
change, and the rank of the last entry.  So an entry that does not change is
found exactly once, whatever happens to others between two pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import msgspec

from godrive.catalog import Row, Tx
from godrive.messages.files import SearchFiles
from godrive.model import File, FileType, Page, UserId
from godrive.principal import Verb
from godrive.rules import lists, rows
from godrive.rules.access import Folder, resolve_folder
from godrive.rules.name_index import NUMBERS, numbers_after
from godrive.rules.names import WORD, search_key
from godrive.rules.registry import Env, rule
from godrive.rules.search_query import SHOWN, Query

RANKED = 1000
"""Names that one batch takes from the index."""
EXAMINED = 2000
"""Entries that a page without a text looks at."""
BELOW = 3000
"""Entries below a folder that is walked."""
UNINDEXED = 10_000
"""Entries that are not indexed yet, or were added between two pages, of which a search looks at the newest."""

_WORDS_AT_ONCE = 1000
_AT_ONCE = 64
_PLACES = ", ".join(f"${number}" for number in range(1, _AT_ONCE + 1))
_COLUMNS = "entries.id, entries.created_at, entries.search_key, entries.parent_id"
_ROWS = (  # the last column is of the same instant: what is settled after this statement was not when it was read
    f"SELECT {rows.LIVE}, (SELECT 1 FROM unsettled t WHERE t.owner_id = ${_AT_ONCE + 1} LIMIT 1) "
    f"FROM entries WHERE id IN ({_PLACES}) AND {SHOWN} AND state = 'live'"
)
_NOTED = "SELECT DISTINCT entry_id FROM unindexed WHERE owner_id = $1 ORDER BY entry_id DESC LIMIT $2"
_BELOW = (
    "WITH RECURSIVE below (id, kind) AS ("
    "SELECT id, kind FROM entries WHERE owner_id = $1 AND parent_id = $2 AND state = 'live' UNION ALL "
    "SELECT e.id, e.kind FROM below b CROSS JOIN entries e "
    "WHERE b.kind = 'folder' AND e.owner_id = $1 AND e.parent_id = b.id AND e.state = 'live') "
    "SELECT id FROM below LIMIT $3"
)
_COUNT_BELOW = f"SELECT COUNT(*) FROM ({_BELOW}) b"
_LIE_IN = (
    f"SELECT id FROM entries WHERE id IN ({_PLACES}) AND (id = ${_AT_ONCE + 1} OR EXISTS ("
    "WITH RECURSIVE up (id) AS (SELECT entries.parent_id UNION SELECT p.parent_id FROM up JOIN entries p "
    f"ON p.id = up.id) SELECT 1 FROM up WHERE id = ${_AT_ONCE + 1}))"
)

Match: TypeAlias = tuple[int, int, str]
"""The rank, ``created_at`` and id of an entry."""


class BatchPosition(msgspec.Struct, frozen=True, array_like=True):
    """Where a page begins: after an entry of a batch.

    The batch is the names with numbers above *lower* and below *upper*,
    counted from the first number of the owner; 0 is no bound.  It begins at the
    top if *rank* is negative.
    """

    upper: int = 0
    lower: int = 0
    rank: int = -1
    created_at: int = 0
    id: str = ""


class Batch(msgspec.Struct):
    """Entries to rank, as rows of an id, ``created_at``, search key and ``parent_id``."""

    found: list[Row]
    upper: int = 0
    lower: int = 0
    next: BatchPosition | None = None
    """Where the next batch begins."""
    is_behind: bool = False
    """Whether more is not indexed than a search looks at, so that some entries may have other names by now."""


@rule(SearchFiles, large=True)
async def search(tx: Tx, ask: SearchFiles, env: Env) -> Page[File]:
    """As ``SearchFiles`` says."""
    rows.check_limit(ask.limit)
    query = Query(ask)
    folder = await resolve_folder(tx, ask.by, ask.where, Verb.READ)
    filters = (ask.type, ask.min_size, ask.max_size, ask.modified_after, ask.modified_before)
    scope = ("search", folder.owner_id, folder.key, query.text, *filters)
    at = BatchPosition() if ask.page is None else env.tokens.read_as(BatchPosition, scope, ask.page)
    batch = await _batch(tx, folder, query, at, ask.limit)
    matches = await _ranked(tx, query, batch.found, at)
    found = await _rows(tx, folder.owner_id, [id_ for *_, id_ in matches[: ask.limit]])
    fits = rows.that_fit(found, ask.limit)
    next_ = batch.next
    if len(matches) > ask.limit or fits < len(found):
        last = found[fits - 1][0] if fits < len(found) else matches[ask.limit - 1][2]
        rank, created_at, _ = next(match for match in matches if match[2] == last)
        next_ = BatchPosition(batch.upper, batch.lower, rank, created_at, last)
    shown: Sequence[Row] = found[:fits]
    if batch.is_behind:
        shown = [row for row in shown if query.rank(search_key(row[1])) is not None]
    if any(row[-1] for row in shown):
        shown = await lists.visible(tx, shown)
    items = [rows.live_file(folder.owner_id, row[:-1]) for row in shown]
    return Page(items=items, next_page=None if next_ is None else env.tokens.make(scope, next_))


async def _batch(tx: Tx, folder: Folder, query: Query, at: BatchPosition, limit: int) -> Batch:
    if folder.id is None:
        small = False
    else:
        (count,) = rows.found(await tx.one(_COUNT_BELOW, folder.owner_id, folder.id, BELOW + 1))
        small = count <= BELOW
    if small:
        where, values = query.where(folder.owner_id, folder.id, BELOW)
        return Batch(
            await tx.all(
                f"SELECT {_COLUMNS} FROM ({_BELOW}) b CROSS JOIN entries WHERE entries.id = b.id AND {where}", *values
            )
        )
    if query.words:
        alone = folder.id is None and not query.has_filters
        batch = await _from_index(tx, folder.owner_id, query, at, alone=alone)
    else:
        batch = await _from_list(tx, folder.owner_id, query, at, EXAMINED if folder.id else limit)
    if folder.id is not None:
        inside = await _parents_in(tx, folder.id, {row[3] for row in batch.found})
        batch.found = [row for row in batch.found if row[3] in inside]
    return batch


async def _from_index(tx: Tx, owner_id: UserId, query: Query, at: BatchPosition, *, alone: bool) -> Batch:
    """Return the batch at the position.  *alone*: the text decides, so what the index holds is enough to rank.

    What is not indexed is read first: an entry that is indexed between the two
    statements is then found twice and not missed.  Each statement may see another
    state, so entries that are indexed before the third are looked up by their ids.
    """
    noted = [row[0] for row in await tx.all(_NOTED, owner_id, UNINDEXED)]
    after = await numbers_after(tx, owner_id)
    lower, top = at.lower, at.upper or NUMBERS
    found: dict[str, Row] = {}
    if after is not None:
        # The bounds of a batch hold its names, and those that were added since its first page.
        limit = RANKED if at.rank < 0 else RANKED + UNINDEXED
        bounds = (after + lower, after + top, tx.names.value(query.trigrams()), limit)
        if alone:
            candidates = await tx.all(tx.names.candidates, *bounds)
            found = {row[1]: (row[1], row[2], row[3].partition(WORD)[0], "") for row in candidates}
        else:
            where, values = query.where(*bounds)
            candidates = await tx.all(
                f"SELECT c.number, c.entry_id, entries.created_at, entries.search_key, entries.parent_id "
                f"FROM ({tx.names.candidates}) c LEFT JOIN entries ON entries.id = c.entry_id AND {where}",
                *values,
            )
            found = {row[1]: row[1:] for row in candidates if row[3] is not None}
        if at.rank < 0 and len(candidates) == limit:
            lower = min(row[0] for row in candidates) - after - 1
    for id_ in noted:
        found.pop(id_, None)
    if noted:
        where, values = query.where(owner_id, UNINDEXED)
        still = await tx.all(
            f"SELECT {_COLUMNS}, n.number, CASE WHEN {where} THEN 1 ELSE 0 END FROM ({_NOTED}) u CROSS JOIN entries "
            "LEFT JOIN names n ON n.entry_id = entries.id WHERE entries.id = u.entry_id",
            *values,
        )
        fresh = [row for row in still if row[5]]
        if indexed := sorted(set(noted).difference(row[0] for row in still)):
            fresh += await _matching(tx, query, indexed)
        for row in fresh:
            number = row[4] - after if row[4] is not None and after is not None else NUMBERS - 1
            if lower < number < top:
                found[row[0]] = row
    next_ = BatchPosition(lower + 1) if lower else None
    return Batch(list(found.values()), at.upper, lower, next_, is_behind=len(noted) == UNINDEXED)


async def _matching(tx: Tx, query: Query, ids: Sequence[str]) -> list[Row]:
    """Return those of the entries that match, with their numbers in the index."""
    found: list[Row] = []
    for start in range(0, len(ids), _AT_ONCE):
        some = [*ids[start : start + _AT_ONCE], *[""] * _AT_ONCE][:_AT_ONCE]
        where, values = query.where(*some)
        found += await tx.all(
            f"SELECT {_COLUMNS}, n.number FROM entries LEFT JOIN names n ON n.entry_id = entries.id "
            f"WHERE entries.id IN ({_PLACES}) AND {where}",
            *values,
        )
    return found


async def _from_list(tx: Tx, owner_id: UserId, query: Query, at: BatchPosition, limit: int) -> Batch:
    """Return *limit* + 1 matches among the entries after the position, newest first."""
    kinds = ["file", "folder"] if query.type is None else ["folder" if query.type is FileType.FOLDER else "file"]
    start = (at.created_at, at.id) if at.rank >= 0 else (2**62, "")

    def newest(columns: str, condition: str, most: str) -> str:
        parts = [
            f"SELECT {columns} FROM entries WHERE owner_id = $1 AND list_state = '{kind}' "
            f"AND (created_at, id) < ($2, $3) AND {condition} ORDER BY created_at DESC, id DESC"
            for kind in kinds
        ]
        if len(parts) == 1:
            return f"{parts[0]} {most}"
        joined = " UNION ALL ".join(
            f"SELECT * FROM ({part} LIMIT $4) {kind}" for kind, part in zip("ab", parts, strict=True)
        )
        return f"SELECT * FROM ({joined}) merged ORDER BY created_at DESC, id DESC {most}"

    last = await tx.one(newest("created_at, id", "1 = 1", "LIMIT 1 OFFSET $4 - 1"), owner_id, *start, EXAMINED)
    end = (-(2**62), "") if last is None else tuple(last)
    where, values = query.where(owner_id, *start, limit + 1, *end)
    found = await tx.all(newest(_COLUMNS, f"(created_at, id) >= ($5, $6) AND {where}", "LIMIT $4"), *values)
    return Batch(found, next=None if last is None else BatchPosition(rank=0, created_at=last[0], id=last[1]))


async def _ranked(tx: Tx, query: Query, found: Iterable[Row], at: BatchPosition) -> list[Match]:
    """Return the matches after the position, in order.  Lets the event loop run every millisecond or so."""
    matches: list[Match] = []
    at_once = max(10, _WORDS_AT_ONCE // max(1, len(query.words)))
    for number, (id_, created_at, key, *_) in enumerate(found, 1):
        rank = query.rank(key)
        if number % at_once == 0:
            await tx.one("SELECT 1")
        if rank is not None and (rank > at.rank or (rank == at.rank and (created_at, id_) < (at.created_at, at.id))):
            matches.append((rank, created_at, id_))
    matches.sort(key=lambda match: match[1:], reverse=True)
    matches.sort(key=lambda match: match[0])
    return matches


async def _parents_in(tx: Tx, folder_id: str, parents: set[str]) -> set[str]:
    """Return those of the folders that are the folder or lie in it at any depth."""
    inside: set[str] = set()
    for some in lists.chunks(sorted(parents), _AT_ONCE):
        inside.update(row[0] for row in await tx.all(_LIE_IN, *some, folder_id))
    return inside


async def _rows(tx: Tx, owner_id: UserId, ids: list[str]) -> list[Row]:
    """Return the rows of the live entries among these, in order.

    The last column tells whether any folder of the owner is unsettled, so that they must be checked for a trashed
    ancestor.
    """
    found: dict[str, Row] = {}
    for some in lists.chunks(ids, _AT_ONCE):
        found.update((row[0], row) for row in await tx.all(_ROWS, *some, owner_id))
    return [found[id_] for id_ in ids if id_ in found]
