"""What clients keep with an entry: custom properties, the favorite mark, and when its content was modified.

The properties of an entry are a JSON object in its row, so that a list needs no
join.  The table ``properties`` repeats them by key, so that a search by key or
value reads an index.
"""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

from godrive.catalog import Tx
from godrive.catalog.ancestors import VISIBLE
from godrive.errors import Invalid
from godrive.messages.files import ListByProperty, ListFavorites, UpdateFile
from godrive.model import File, Page, PropertyValue, UserId
from godrive.principal import Verb
from godrive.rules import changes, rows
from godrive.rules.access import owner_of
from godrive.rules.registry import Env, rule

MOST_PROPERTIES = 64
MOST_PROPERTY_BYTES = 1024
"""The longest text of a property, in bytes of UTF-8."""
MOST_PROPERTIES_BYTES = 8192
"""The most bytes of all properties of an entry, written as JSON."""
_KEY = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_LARGEST = 2**63
_encode = msgspec.json.Encoder(order="sorted").encode

_DESCRIBE = (
    f"UPDATE entries SET modified_at = $3, favorite = $4, properties = $5, updated_at = $1, {changes.REVISE} "
    f"WHERE id = $2 RETURNING {rows.LIVE}"
)
_SET = (
    "INSERT INTO properties (entry_id, key, owner_id, value) VALUES ($1, $2, $3, $4) "
    "ON CONFLICT (entry_id, key) DO UPDATE SET value = $4"
)
_COLUMNS = ", ".join(f"entries.{column.strip()}" for column in rows.LIVE.split(","))
_LISTED = f"list_state <> 'hidden' AND state = 'live' AND {VISIBLE} = 1"


async def describe(tx: Tx, ask: UpdateFile, env: Env, file: File) -> File:
    """Set the time of modification, the favorite mark and the properties.  Returns *file* itself if nothing changes."""
    if ask.modified_at is None and ask.favorite is None and ask.properties is None:
        return file
    modified_at = file.modified_at if ask.modified_at is None else rows.in_utc(ask.modified_at)
    favorite = file.favorite if ask.favorite is None else ask.favorite
    before = after = file.properties
    if ask.properties is not None:
        patch = {check_key(key): None if value is None else _canonical(value) for key, value in ask.properties.items()}
        after = {key: value for key, value in (before | patch).items() if value is not None}
    changed = {
        key for key in before.keys() | after.keys() if _index_value(before.get(key)) != _index_value(after.get(key))
    }
    if not changed and (modified_at, favorite) == (file.modified_at, file.favorite):
        return file
    if len(after) > MOST_PROPERTIES:
        raise Invalid(f"An entry has at most {MOST_PROPERTIES} properties.", field="properties")
    text = _encode(after).decode() if after else None
    if text is not None:
        await tx.grow()
        if len(text.encode()) > MOST_PROPERTIES_BYTES:
            raise Invalid(f"The properties of an entry have at most {MOST_PROPERTIES_BYTES} bytes.", field="properties")
    at = rows.micros(env.now)
    row = await tx.one(_DESCRIBE, at, file.id, rows.micros(modified_at), int(favorite), text)
    gone, kept = changed - after.keys(), changed & after.keys()
    await tx.run_each("DELETE FROM properties WHERE entry_id = $1 AND key = $2", [(file.id, key) for key in gone])
    await tx.run_each(_SET, [(file.id, key, file.owner_id, _index_value(after[key])) for key in kept])
    return rows.live_file(file.owner_id, rows.found(row))


def check_key(key: str, field: str = "properties") -> str:
    """Return the key of a property.  Raises ``Invalid``, which names the *field*."""
    if not _KEY.fullmatch(key):
        raise Invalid("The key of a property has 1 to 64 of the characters A-Z a-z 0-9 _ . : -", field=field)
    return key


def _index_value(value: PropertyValue | None) -> str:
    """Return the JSON text by which values are compared.  In Python, ``True`` equals ``1``."""
    return _encode(value).decode()


def _canonical(value: PropertyValue, field: str = "properties") -> PropertyValue:
    """Return the value with a whole number as an integer.  Raises ``Invalid`` if it cannot be kept exactly."""
    if isinstance(value, str):
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise Invalid("The text of a property must be valid Unicode.", field=field) from None
        if size > MOST_PROPERTY_BYTES or "\0" in value:
            raise Invalid(f"The text of a property has at most {MOST_PROPERTY_BYTES} bytes and no NUL.", field=field)
        return value
    if isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not math.isfinite(value) or (isinstance(value, int) and not -_LARGEST <= value < _LARGEST):
        raise Invalid("The number of a property must fit into 64 bits.", field=field)
    return value


@rule(ListFavorites)
async def list_favorites(tx: Tx, ask: ListFavorites, env: Env) -> Page[File]:
    """As ``ListFavorites`` says."""
    owner_id = await owner_of(tx, ask.by, Verb.READ)
    source = f"entries WHERE owner_id = $1 AND favorite = 1 AND {_LISTED}"
    return await _page(tx, ask, env, source, order="id", values=[owner_id])


@rule(ListByProperty)
async def list_by_property(tx: Tx, ask: ListByProperty, env: Env) -> Page[File]:
    """As ``ListByProperty`` says."""
    owner_id = await owner_of(tx, ask.by, Verb.READ)
    values: list[Any] = [owner_id, check_key(ask.key, "key")]
    source = "properties p JOIN entries ON entries.id = p.entry_id WHERE p.owner_id = $1 AND p.key = $2"
    if ask.value is not None:
        source += " AND p.value = $3"
        values.append(_index_value(_canonical(ask.value, "value")))
    return await _page(tx, ask, env, f"{source} AND {_LISTED}", order="p.entry_id", values=values)


async def _page(
    tx: Tx, ask: ListFavorites | ListByProperty, env: Env, source: str, *, order: str, values: list[Any]
) -> Page[File]:
    """Return the owner's entries from *source*, with *values*, by descending id: the newest first."""
    rows.check_limit(ask.limit)
    scope = (type(ask).__name__, *values)
    owner_id = UserId(values[0])
    if ask.page is not None:
        values = [*values, env.tokens.read(scope, ask.page)[1]]
        source += f" AND {order} < ${len(values)}"
    found = await tx.all(
        f"SELECT {_COLUMNS} FROM {source} ORDER BY {order} DESC LIMIT ${len(values) + 1}", *values, ask.limit + 1
    )
    limit = rows.that_fit(found, ask.limit)
    items = [rows.live_file(owner_id, row) for row in found[:limit]]
    if len(found) <= limit:
        return Page(items=items)
    return Page(items=items, next_page=env.tokens.make(scope, ("", items[-1].id)))
