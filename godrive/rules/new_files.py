"""New files whose rows are written together.

On SQLite, each statement takes about as long as the row that it writes.  So a few statements write the rows of all
files of a group, after one has found out which of them are simple: of a free name, in a folder that is there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

from godrive.catalog import Tx
from godrive.catalog.ancestors import held_depth
from godrive.catalog.many import over
from godrive.model import File, ObjectKey, UserId, name_key
from godrive.rules import changes, entries, rows, versions
from godrive.rules.names import MOST_DEPTH
from godrive.rules.registry import Env
from godrive.rules.room import limits_of, room_for

_SIMPLE = (
    "SELECT new.column1 FROM (VALUES {rows}) new WHERE NOT EXISTS (SELECT 1 FROM entries "
    "WHERE owner_id = new.column2 AND parent_id = new.column3 AND name_key = new.column4 AND entries.state = 'live') "
    "AND CASE WHEN new.column8 THEN EXISTS (SELECT 1 FROM uploads WHERE id = new.column5 AND state = 'pending' "
    "AND owner_id = new.column2 AND parent_id = new.column3 AND name = new.column6 AND size_bytes = new.column7) "
    "ELSE NOT EXISTS (SELECT 1 FROM versions WHERE id = new.column5) END "
    f"AND (new.column3 = '' OR {held_depth('new.column2', 'new.column3', locks=False)} <= {MOST_DEPTH - 2})"
)
_ASKED = "($1, $2, $3, $4, $5, $6, $7, $8)"
_COMMIT = (
    "UPDATE OR FAIL uploads SET state = 'committed', finished_at = new.column2, received_bytes = size_bytes, "
    "file_id = new.column3 FROM (VALUES {rows}) new WHERE uploads.id = new.column1"
)
_CHARGE = changes.charging(room_for(changes.FIRST_OF_CHARGED, "new.column"))


class NewFile(NamedTuple):
    """A file to be made, with the key of its bytes.

    It *is_published* if a pending upload, which has the id of its version, has reserved its bytes.  Otherwise there
    must be room for it, and one that *replaces* a file needs room for a version too, as if its name were taken.
    """

    file: File
    object_key: ObjectKey
    is_published: bool = False
    replaces: bool = False


_AT_ONCE = 16
"""Files of one statement, since SQLite keeps each that was prepared, and there is one for each number of files."""


async def make_together(tx: Tx, wanted: Sequence[NewFile | None], env: Env) -> list[File | None]:
    """Make the simple files.  Returns each, and ``None`` for each other file, for which nothing was changed."""
    made: list[File | None] = []
    for start in range(0, len(wanted), _AT_ONCE):
        made += await _make(tx, wanted[start : start + _AT_ONCE], env)
    return made


async def _make(tx: Tx, wanted: Sequence[NewFile | None], env: Env) -> list[File | None]:
    own: dict[UserId, list[NewFile]] = defaultdict(list)
    for new in await _simple(tx, wanted):
        own[new.file.owner_id].append(new)
    created = [_created(owner_id, files, env) for owner_id, files in own.items()]
    logged = await changes.charge_created(tx, _CHARGE, created, now=env.now) if created else {}
    made = [new for owner_id in logged for new in own[owner_id]]
    if made:
        published = [new.file for new in made if new.is_published]
        if published:
            at = rows.micros(env.now)
            await tx.run(*over(_COMMIT, "($1, $2, $3)", [(file.version_id, at, file.id) for file in published]))
        await entries.place_each(tx, [new.file for new in made])
        await versions.add_each(tx, [(new.file, new.object_key) for new in made])
        await changes.log_each(tx, [*chain.from_iterable(logged.values())])
    ids = {new.file.id for new in made}
    return [new.file if new is not None and new.file.id in ids else None for new in wanted]


async def _simple(tx: Tx, wanted: Sequence[NewFile | None]) -> list[NewFile]:
    """Return the simple ones.  Of several with one name, or of one version, it is the first."""
    asked: list[tuple[object, ...]] = []
    known: set[object] = set()
    for number, new in enumerate(wanted):
        if new is None:
            continue
        file = new.file
        place = file.owner_id, file.parent_id or "", name_key(file.name)
        if known.isdisjoint((place, file.version_id)):
            known.update((place, file.version_id))
            asked.append((number, *place, file.version_id, file.name, file.size_bytes, new.is_published))
    found = await tx.all(*over(_SIMPLE, _ASKED, asked)) if asked else []
    return [new for (number,) in found if (new := wanted[number]) is not None]


def _created(owner_id: UserId, own: Sequence[NewFile], env: Env) -> changes.Created:
    """Return what is to be charged to the owner of the files, if there is room for all."""
    stored = [new.file.size_bytes for new in own if not new.is_published]
    reserved = [new.file.size_bytes for new in own if new.is_published]
    provided = None
    if stored:
        uploads, most, earlier = limits_of(env.config.auth, replaces=any(new.replaces for new in own))
        provided = sum(stored), uploads, most - len(stored) + 1, earlier  # it asks for one more
    return changes.Created(owner_id, [new.file for new in own], sum(reserved), len(reserved), provided)
