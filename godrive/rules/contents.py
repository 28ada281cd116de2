"""The entries of a folder together with the keys of their bytes, for those who read whole folders."""

from __future__ import annotations

from godrive.catalog import Tx
from godrive.messages.files import ListContents
from godrive.model import Content, ObjectKey, Page
from godrive.principal import Verb
from godrive.rules import rows
from godrive.rules.access import resolve_folder
from godrive.rules.names import search_key
from godrive.rules.registry import Env, rule

_COLUMNS = ", ".join(f"e.{column.strip()}" for column in rows.LIVE.split(","))
_LIST = (
    f"SELECT {_COLUMNS}, v.object_key FROM entries e LEFT JOIN versions v ON v.id = e.version_id "
    "WHERE e.owner_id = $1 AND e.parent_id = $2 AND e.state = 'live' {after}"
    "ORDER BY e.search_key, e.id LIMIT $3"
)
_FIRST = _LIST.replace("{after}", "")
_NEXT = _LIST.replace("{after}", "AND (e.search_key, e.id) > ($4, $5) ")


@rule(ListContents)
async def list_contents(tx: Tx, ask: ListContents, env: Env) -> Page[Content]:
    """As ``ListContents`` says."""
    rows.check_limit(ask.limit)
    folder = await resolve_folder(tx, ask.by, ask.where, Verb.READ)
    scope = ("contents", folder.owner_id, folder.key)
    position = () if ask.page is None else env.tokens.read(scope, ask.page)
    found = await tx.all(_NEXT if position else _FIRST, folder.owner_id, folder.key, ask.limit + 1, *position)
    limit = rows.that_fit(found, ask.limit)
    items = [
        Content(file=rows.live_file(folder.owner_id, row[:-1]), object_key=ObjectKey(row[-1] or ""))
        for row in found[:limit]
    ]
    if len(found) <= limit:
        return Page(items=items)
    last = items[-1].file
    return Page(items=items, next_page=env.tokens.make(scope, (search_key(last.name), last.id)))
