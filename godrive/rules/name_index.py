"""The index of names: what is in it, and how it follows the entries.

Theory of operation.  Keeping an index of trigrams in the transaction of an
upload or a rename would cost each of them 70 to 100 microseconds of CPU time and
several pages of the log.  So triggers on ``entries`` only note which entries
have changed (``unindexed``, some 5 microseconds), and a chore indexes these
many at a time, twice a second.  A search also looks at the entries of its user
that are noted, so it sees every change that was acknowledged (``search``).

Each indexed entry has a row in ``names``.  Its number never changes, and the
numbers of a user rise in the order in which entries were first indexed, so the
index knows which names are the newest.  An entry that is hidden, because it is
in the trash, keeps its number and loses its text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from godrive.catalog import Row, Tx
from godrive.catalog.name_search import NewName
from godrive.messages.system import CheckNames, IndexNames, NameCheck
from godrive.model import FileId, UserId
from godrive.rules import rows
from godrive.rules.names import index_text
from godrive.rules.registry import Env, rule

NUMBERS = 1 << 36
"""How many numbers each user has."""

_AT_ONCE = 64
_PLACES = ", ".join(f"${number}" for number in range(1, _AT_ONCE + 1))
_IS_DUE = "SELECT 1 FROM unindexed LIMIT 1"
_WAITING = (
    "SELECT u.owner_id, u.entry_id, u.seq, e.id, e.search_key, e.list_state, e.created_at, n.number, n.text "
    "FROM (SELECT owner_id, entry_id, seq FROM unindexed ORDER BY owner_id, entry_id, seq LIMIT $1) u "
    "LEFT JOIN entries e ON e.id = u.entry_id LEFT JOIN names n ON n.entry_id = u.entry_id "
    "ORDER BY u.owner_id, u.entry_id, u.seq"
)
_STATES = (
    "SELECT entries.id, entries.search_key, entries.list_state, entries.created_at, n.number, n.text "
    f"FROM entries LEFT JOIN names n ON n.entry_id = entries.id WHERE entries.id IN ({_PLACES})"
)
_ONE_AT_A_TIME = (  # indexers of several processes
    "INSERT INTO name_index (id, users) VALUES (1, 0) ON CONFLICT (id) DO UPDATE SET users = name_index.users"
)
_LAST = "SELECT COALESCE(MAX(number), $1) FROM names WHERE number > $1 AND number < $2"
_IDS = (
    "SELECT id FROM (SELECT id FROM (SELECT id FROM entries WHERE id > $1 ORDER BY id LIMIT $2) e UNION "
    "SELECT entry_id FROM (SELECT entry_id FROM names WHERE entry_id > $1 ORDER BY entry_id LIMIT $2) n) ids "
    "ORDER BY id LIMIT $2"
)
_INDEXED = f"SELECT entry_id, text FROM names WHERE entry_id IN ({_PLACES})"
_REMOVE = f"DELETE FROM names WHERE entry_id IN ({_PLACES})"
_FORGET = "DELETE FROM unindexed WHERE"
_NOTED = f"SELECT entry_id FROM unindexed WHERE entry_id IN ({_PLACES})"
_NOTE = (
    "INSERT INTO unindexed (owner_id, entry_id, seq) SELECT owner_id, id, 0 FROM entries WHERE id = $1 "
    "ON CONFLICT DO NOTHING"
)


@rule(IndexNames, writes=True, due=_IS_DUE)
async def index(tx: Tx, ask: IndexNames, env: Env) -> bool:
    """As ``IndexNames`` says.

    What is noted is read together with the entries, and exactly that is deleted in
    the end.  So a change that commits meanwhile is either indexed now or still noted.
    """
    if await tx.one(_IS_DUE) is None:
        return False
    await tx.run(_ONE_AT_A_TIME)
    noted = await tx.all(_WAITING, ask.limit)
    waiting = {row[1]: row for row in noted}.values()  # one may be noted several times
    new = defaultdict[UserId, list[tuple[int, str, str]]](list)
    changed: list[tuple[int, str]] = []
    gone: list[str] = []
    for owner_id, entry_id, _, id_, key, list_state, created_at, number, text in waiting:
        wanted = "" if id_ is None or list_state == "hidden" else index_text(key)
        if id_ is None:
            gone.append(entry_id)
        elif number is None and wanted:
            new[UserId(owner_id)].append((created_at, entry_id, wanted))
        elif number is not None and text != wanted:
            changed.append((number, wanted))
    if changed:
        await tx.names.change(tx, changed)
    await _remove(tx, gone)
    added = [name for owner_id, found in new.items() for name in await _numbered(tx, owner_id, found)]
    if added:
        await tx.names.add(tx, added)
    await _forget(tx, noted)
    return True


async def _forget(tx: Tx, noted: Sequence[Row]) -> None:
    """Delete what was noted, which is what comes first in the table."""
    if tx.joins:  # another transaction may have noted something before that
        await tx.run_each(f"{_FORGET} owner_id = $1 AND entry_id = $2 AND seq = $3", [row[:3] for row in noted])
    else:
        await tx.run(f"{_FORGET} (owner_id, entry_id, seq) <= ($1, $2, $3)", *noted[-1][:3])


async def _numbered(tx: Tx, owner_id: UserId, found: list[tuple[int, str, str]]) -> list[NewName]:
    """Give the entries the next numbers of their owner: the time that each was made, its id, and its text."""
    after = await numbers_after(tx, owner_id)
    if after is None:
        (users,) = rows.found(await tx.one("UPDATE name_index SET users = users + 1 WHERE id = 1 RETURNING users"))
        after = users * NUMBERS
        await tx.run("UPDATE users SET names_after = $2 WHERE id = $1", owner_id, after)
    (last,) = rows.found(await tx.one(_LAST, after, after + NUMBERS))
    found.sort()
    return [(number, id_, created_at, text) for number, (created_at, id_, text) in enumerate(found, last + 1)]


async def numbers_after(tx: Tx, owner_id: UserId) -> int | None:
    """Return the number before the owner's first; ``None`` if no name of theirs was ever indexed."""
    row = await tx.one("SELECT names_after FROM users WHERE id = $1", owner_id)
    return None if row is None else row[0]


@rule(CheckNames, writes=True)
async def check(tx: Tx, ask: CheckNames, env: Env) -> NameCheck:
    """As ``CheckNames`` says."""
    ids = [row[0] for row in await tx.all(_IDS, ask.after, ask.limit)]
    indexed = {row[0]: row[1] for row in await _each(tx, _INDEXED, ids)}
    wanted = {row[0]: "" if row[2] == "hidden" else index_text(row[1]) for row in await _each(tx, _STATES, ids)}
    noted = {row[0] for row in await _each(tx, _NOTED, ids)}
    wrong = [
        FileId(id_)
        for id_ in ids
        if id_ not in noted and (indexed.get(id_, "") != wanted.get(id_, "") or (id_ in indexed and id_ not in wanted))
    ]
    if ask.correct:
        await _remove(tx, [id_ for id_ in wrong if id_ not in wanted])
        await tx.run_each(_NOTE, [(id_,) for id_ in wrong])
    return NameCheck(wrong=wrong, next=ids[-1] if len(ids) == ask.limit else "")


async def _each(tx: Tx, sql: str, ids: Sequence[str]) -> list[Row]:
    """Return the rows for all ids, with one statement for every 64."""
    return [row for some in _filled(ids) for row in await tx.all(sql, *some)]


async def _remove(tx: Tx, ids: Sequence[str]) -> None:
    for some in _filled(ids):
        await tx.run(_REMOVE, *some)


def _filled(ids: Sequence[str]) -> Iterator[list[str]]:
    """Yield the ids, 64 at a time; the last one is repeated."""
    for start in range(0, len(ids), _AT_ONCE):
        some = [*ids[start : start + _AT_ONCE]]
        yield some + some[-1:] * (_AT_ONCE - len(some))
