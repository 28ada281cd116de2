"""Lists from a database that is a round trip away: all that a list needs, in one statement and one row.

Theory of operation.  A row of many columns costs this process more than it
costs PostgreSQL.  So the database sends the ids and revisions of the page as
one text, and as JSON only the entries that the caller does not know.  A page
that was read before and has not changed is one comparison of texts.  The same
row has the number of the owner's last change, whether the owner is active and
whether the folder can be listed.

What this cannot answer is left to ``lists``: lists that scan, or show folders
first, lists of a path or for a principal that is confined to one folder, and
pages with properties, or while a tree settles.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import msgspec

from godrive.catalog import Row
from godrive.catalog.ancestors import depth_of
from godrive.messages.files import Listing, ReadList
from godrive.model import Anywhere, At, File, In, Page, Sort
from godrive.principal import ApiToken, HostUser, UserSession, Verb, user_of
from godrive.rules import rows
from godrive.rules.access import check_scope, root_of
from godrive.rules.lists import ORDERS, Chosen, ListPosition, choose, key_of, list_sql, tag_of
from godrive.rules.registry import LARGE_PAGE, Env, Question

_COLUMNS = rows.LIVE.split(", ")
_decode = msgspec.json.Decoder(list[list[Any]]).decode


class KnownPage(NamedTuple):
    """A page as it was read last.

    *keys* are its ids and revisions and that of the entry after it, *shown* only its own; *files* are by these.
    """

    keys: str
    shown: str
    page: Page[File]
    files: Mapping[str, File]


class Asked(NamedTuple):
    """A list that one statement can answer."""

    question: Question
    chosen: Chosen
    known: KnownPage | None


def prepare(ask: ReadList, env: Env, known: KnownPage | None) -> Asked | None:
    """Return the question for the list; ``None`` if ``lists`` must answer.  Raises ``Forbidden``, ``Invalid``."""
    if not isinstance(ask.by, UserSession | HostUser | ApiToken) or root_of(ask.by) is not None:
        return None
    if isinstance(ask.where, At) or ask.contains or ask.folders_first or ask.limit > LARGE_PAGE:
        return None
    if ask.prefix and ORDERS[ask.sort].column != "search_key":
        return None
    check_scope(ask.by, Verb.READ)
    rows.check_limit(ask.limit)
    folder_key = None if isinstance(ask.where, Anywhere) else ask.where.folder_id if isinstance(ask.where, In) else ""
    chosen = choose(ask, user_of(ask.by), folder_key, env)
    sql = listing_sql(
        ask.sort,
        whole=folder_key is None,
        in_folder=isinstance(ask.where, In),
        prefix=bool(ask.prefix),
        after=chosen.after is not None,
    )
    after = () if chosen.after is None else (chosen.after.key, chosen.after.id)
    values = (*chosen.values, *after, ask.limit + 1, "" if known is None else known.shown)
    return Asked(Question(sql, values), chosen, known)


def finish(ask: ReadList, asked: Asked, row: Row, env: Env, *, nonce: str) -> tuple[Listing, KnownPage] | None:
    """Return the list, and the page to remember; ``None`` if ``lists`` must answer after all."""
    change, folder_depth, is_unsettled, keys, encoded = row
    if change is None or folder_depth is None or is_unsettled:
        return None
    owner_id, known = user_of(ask.by), asked.known
    tag = tag_of(owner_id, nonce, change)
    if known is not None and keys == known.keys:
        return Listing(tag=tag, page=known.page), known
    new = {f"{row[0]}.{row[10]}": rows.live_file(owner_id, row) for row in _decode(encoded)} if encoded else {}
    old = {} if known is None else known.files
    found = keys.split(",") if keys else []
    files: dict[str, File] = {}
    for key in found[: ask.limit]:
        file = new.get(key) or old.get(key)
        if file is None or file.properties:  # properties may be long, so fewer may fit
            return None
        files[key] = file
    items = list(files.values())
    token = None
    if len(found) > ask.limit:
        token = env.tokens.make(asked.chosen.scope, ListPosition(key_of(items[-1], asked.chosen.order), items[-1].id))
    page = Page(items=items, next_page=token)
    return Listing(tag=tag, page=page), KnownPage(keys or "", ",".join(files), page, files)


@cache
def listing_sql(sort: Sort, *, whole: bool, in_folder: bool, prefix: bool, after: bool) -> str:
    """Return the statement, whose values are those of ``list_sql`` and those that are ``shown`` of the known page.

    Its row: the owner's change number if they are active, the depth of the
    folder if it can be listed, whether anything of the owner is unsettled, the keys, the rows
    of unknown entries.
    """
    page = list_sql(sort, kind=None, in_folder=not whole, prefix=prefix, contains=False, after=after, columns=rows.LIVE)
    limit = 2 + (not whole) + 2 * prefix + 2 * after
    folder = depth_of("$1", "$2") if in_folder else "0"
    unsettled = "max(unsettled)" if whole else "NULL"
    values = ", ".join(_COLUMNS)
    return (
        f"SELECT (SELECT u.changes FROM users u WHERE u.id = $1 AND u.state = 'active'), {folder}, {unsettled}, "
        "string_agg(key, ','), "
        f"json_agg(json_build_array({values})) FILTER (WHERE n < ${limit} AND strpos(${limit + 1}, key) = 0) "
        f"FROM (SELECT *, id || '.' || revision AS key, row_number() OVER () AS n FROM ({page}) found) numbered"
    )
