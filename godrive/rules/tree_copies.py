"""Copies of large trees, which take several transactions.

Theory of operation.  The tree is built in small batches, each a transaction,
below a top whose state is ``building``.  Nothing below such a top is visible
(see ``access``), and the top itself is in no list, because it is not live.  The
last transaction attaches the top.  From then on the copy is like a tree that
has just been restored: exact by id and by folder, while the list of the whole
drive follows (``trash.settle``).

All bytes and rows of the tree are charged before the first row is built.  The
row in ``copies`` holds what was charged and how much of it exists by now, and
``uncopied`` the folders that are not finished.  If nobody builds it for a while,
the copy is cleared: its top goes the way of every purged tree.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from godrive.catalog import Catalog, Row, Tx
from godrive.errors import Conflict, DriveError, NotFound, TooManyRequests
from godrive.messages.files import CopyFile
from godrive.messages.system import ClearCopies
from godrive.model import At, File, FileEventKind, FileId, OnConflict, Spot, UserId, name_key, spot
from godrive.principal import Verb
from godrive.rules import changes, copies, entries, folders, rows
from godrive.rules.access import Folder, Resolved, reach, resolve, resolve_folder
from godrive.rules.names import check_depth, search_key
from godrive.rules.registry import Env, procedure, rule

MOST_BUILDING = 2
"""Trees of one owner that may be built at the same time."""
PATIENCE = 60.0
"""Seconds after its last batch until a copy counts as abandoned."""

_NAMES_AT_ONCE = copies.MOST_AT_ONCE
_BELOW = (
    "WITH RECURSIVE below (id, kind, size_bytes) AS (SELECT id, kind, size_bytes FROM entries WHERE id = $2 UNION ALL "
    "SELECT e.id, e.kind, e.size_bytes FROM below JOIN entries e ON e.owner_id = $1 AND e.parent_id = below.id "
    "AND e.state = 'live' WHERE below.kind = 'folder') "
    "SELECT COUNT(*), CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM below"
)
_TAKEN = (
    "SELECT name_key FROM entries WHERE owner_id = $1 AND parent_id = $2 AND state = 'live' "
    f"AND name_key IN ({', '.join(f'${number + 3}' for number in range(_NAMES_AT_ONCE))})"
)
_ATTACH = (
    "UPDATE entries SET state = 'live', list_state = kind, parent_id = $3, name = $4, name_key = $5, search_key = $6, "
    f"updated_at = $1, {changes.REVISE} WHERE id = $2 RETURNING {rows.LIVE}"
)
_CHARGES = "reserved_bytes, reserved_entries, built_bytes, built_entries"
_ALIVE = f"UPDATE copies SET expires_at = $2 WHERE id = $1 RETURNING {_CHARGES}"


class Building(msgspec.Struct, frozen=True):
    """A copy that is being built, and where it is to be attached."""

    id: FileId
    owner_id: UserId
    source_id: FileId
    where: Spot
    name: str


@procedure(CopyFile)
async def copy(catalog: Catalog, ask: CopyFile, env: Callable[[], Env]) -> File:
    """As ``CopyFile`` says."""
    copied = await catalog.write(lambda tx: copies.copy_at_once(tx, ask, env(), copies.MOST_AT_ONCE))
    if copied is not None:
        return copied[0]
    number, size = await catalog.read(lambda tx: measure(tx, ask))
    building = await catalog.write(lambda tx: begin(tx, ask, number, size, env()), chore=True)
    try:
        while await catalog.write(lambda tx: build(tx, ask, building, env()), chore=True):
            pass
        return await catalog.write(lambda tx: attach(tx, ask, building, env()), chore=True)
    except DriveError as error:
        try:
            await catalog.write(lambda tx: discard(tx, building.id, building.owner_id, env()), chore=True)
        except DriveError as another:  # the janitor clears it
            error.add_note(f"The copy could not be cleared at once: {another.detail}")
        raise


async def measure(tx: Tx, ask: CopyFile) -> tuple[int, int]:
    """Return the number of entries and of bytes that a copy will have, if the tree stays as it is."""
    source = await resolve(tx, ask.by, ask.file_id, Verb.READ)
    row = rows.found(await tx.one(_BELOW, source.owner_id, source.file.id))
    return row[0], row[1]


async def begin(tx: Tx, ask: CopyFile, number: int, size: int, env: Env) -> Building:
    """Charge the whole tree and create the hidden top of its copy."""
    await tx.grow()
    source = await copies.find_source(tx, ask)
    plan, where = await _make_plan(tx, ask, source)
    owner_id = source.owner_id
    alive = "SELECT COUNT(*) FROM copies WHERE owner_id = $1 AND expires_at > $2"
    (count,) = rows.found(await tx.one(alive, owner_id, rows.micros(env.now)))
    if count >= MOST_BUILDING:
        raise TooManyRequests(f"{MOST_BUILDING} folders of this drive are being copied already.", retry_after=5.0)
    await changes.check_room(tx, owner_id, env.config.auth, entries=number, size=size)
    top = await copies.read_top(tx, plan, "")
    at = rows.micros(env.now)
    await tx.run(copies.COPY, *copies.values(top, owner_id, "hidden", at, "building"))
    await copies.insert_rest(tx, owner_id, [top], at)
    await tx.run(
        "INSERT INTO copies (id, owner_id, reserved_bytes, reserved_entries, built_bytes, built_entries, expires_at) "
        "VALUES ($1, $2, $3, $4, 0, 1, $5)",
        top.new_id,
        owner_id,
        size,
        number,
        rows.later(env.now, PATIENCE),
    )
    await _schedule(tx, top.new_id, [top])
    await changes.charge(tx, owner_id, reserved=size, entries=number)
    return Building(top.new_id, owner_id, source.file.id, where, ask.name or source.file.name)


async def _make_plan(tx: Tx, ask: CopyFile, source: Resolved) -> tuple[copies.CopyPlan, Spot]:
    """Check what can be checked now, and return where to attach the copy.  The last step creates missing parents."""
    where = copies.place(ask, source)
    if isinstance(where, At) and where.parents:
        folder, missing = await reach(tx, ask.by, where, Verb.CREATE)
        target = Folder(folder.owner_id, folder.id, folder.depth + len(missing))
        return await copies.make_plan(tx, ask, source, target, new=bool(missing)), where
    target = await resolve_folder(tx, ask.by, where, Verb.CREATE)
    return await copies.make_plan(tx, ask, source, target), spot(target.id)


async def _schedule(tx: Tx, copy_id: FileId, folders: Sequence[copies.EntryToCopy]) -> None:
    """Schedule the copying of the children of the folders."""
    await tx.run_each(
        "INSERT INTO uncopied (copy_id, folder_id, source_id, after_created_at, after_id) VALUES ($1, $2, $3, -1, '')",
        [(copy_id, folder.new_id, folder.id) for folder in folders],
    )


async def build(tx: Tx, ask: CopyFile, building: Building, env: Env) -> bool:
    """Build the next rows of the copy.  Returns whether any are left."""
    await tx.grow()
    await tx.lock(building.owner_id)
    reserved_bytes, reserved_entries, built_bytes, built_entries = await _touch(tx, building, env)
    room, size, at = copies.MOST_AT_ONCE, 0, rows.micros(env.now)
    while room > 0:
        job = await tx.one(
            "SELECT folder_id, source_id, after_created_at, after_id FROM uncopied WHERE copy_id = $1 "
            "ORDER BY folder_id LIMIT 1",
            building.id,
        )
        if job is None:
            break
        children = await _children(tx, ask, building, job, room)
        sources = [copies.EntryToCopy.of(row, job[0]) for row in children]
        await _insert_beside(tx, building.owner_id, sources, at, fresh=job[3] == "")
        await copies.insert_rest(tx, building.owner_id, sources, at)
        if sources:  # the tree may have become higher since the folder was copied
            folder = Folder(building.owner_id, FileId(job[0]))
            await entries.raise_height(tx, folder, max(source.height for source in sources) + 1)
        await _schedule(tx, building.id, [source for source in sources if source.is_folder])
        if len(children) < room:
            await tx.run("DELETE FROM uncopied WHERE copy_id = $1 AND folder_id = $2", building.id, job[0])
        else:
            await tx.run(
                "UPDATE uncopied SET after_created_at = $3, after_id = $4 WHERE copy_id = $1 AND folder_id = $2",
                building.id,
                job[0],
                children[-1][-1],
                children[-1][0],
            )
        built_entries += len(sources)
        size += sum(source.size_bytes for source in sources)
        room -= len(sources) + 1  # an empty folder costs too
    built_bytes += size
    more_bytes, more_entries = max(built_bytes - reserved_bytes, 0), max(built_entries - reserved_entries, 0)
    if more_bytes or more_entries:  # the tree has grown since it was measured
        await changes.check_room(tx, building.owner_id, env.config.auth, entries=more_entries, size=more_bytes)
        await changes.charge(tx, building.owner_id, reserved=more_bytes, entries=more_entries)
    await tx.run(
        "UPDATE copies SET reserved_bytes = $2, reserved_entries = $3, built_bytes = $4, built_entries = $5 "
        "WHERE id = $1",
        building.id,
        reserved_bytes + more_bytes,
        reserved_entries + more_entries,
        built_bytes,
        built_entries,
    )
    return room <= 0


async def _touch(tx: Tx, building: Building, env: Env) -> Row:
    """Keep the copy from being cleared, and return its charges.  Raises ``Conflict`` if it was cleared."""
    row = await tx.one(_ALIVE, building.id, rows.later(env.now, PATIENCE))
    if row is None:
        raise Conflict("The copy was interrupted for too long.", retry_after=1.0)
    return row


async def _children(tx: Tx, ask: CopyFile, building: Building, job: Row, limit: int) -> list[Row]:
    """Return the next children of a folder of the source, none if *by* may no longer read the folder.

    Raises ``NotFound`` if it is the source itself.
    """
    _, source_id, *after = job
    try:
        await resolve(tx, ask.by, FileId(source_id), Verb.READ)
    except NotFound:
        if source_id == building.source_id:
            raise
        return []
    return await tx.all(copies.CHILDREN, building.owner_id, source_id, *after, limit)


async def _insert_beside(
    tx: Tx, owner_id: UserId, sources: Sequence[copies.EntryToCopy], at: int, *, fresh: bool
) -> None:
    """Insert the children of one folder of the copy, beside those of earlier batches unless it is *fresh*.

    Earlier batches may have copied a name that another entry of the source has now.  Then the later one is numbered.
    """
    taken: set[str] = set()
    if sources and not fresh:
        keys = [name_key(source.name) for source in sources]
        keys += keys[-1:] * (_NAMES_AT_ONCE - len(keys))
        taken = {row[0] for row in await tx.all(_TAKEN, owner_id, sources[0].parent, *keys)}
    await copies.insert(
        tx, owner_id, [source for source in sources if name_key(source.name) not in taken], at, listed=False
    )
    for source in sources:
        if name_key(source.name) in taken:
            folder = Folder(owner_id, FileId(source.parent))
            name = await entries.free_name(tx, folder, source.name, OnConflict.RENAME)
            await copies.insert(tx, owner_id, [msgspec.structs.replace(source, name=name)], at, listed=False)


async def attach(tx: Tx, ask: CopyFile, building: Building, env: Env) -> File:
    """Make the copy visible."""
    target = await folders.target(tx, ask.by, building.where, env)
    reserved_bytes, reserved_entries, built_bytes, built_entries = await _touch(tx, building, env)
    (height,) = rows.found(await tx.one("SELECT height FROM entries WHERE id = $1", building.id))
    check_depth(target.depth + 1 + height, "parent_id")
    name = await entries.free_name(tx, target, building.name, ask.on_conflict)
    at = rows.micros(env.now)
    row = await tx.one(_ATTACH, at, building.id, target.key, name, name_key(name), search_key(name))
    copied = rows.live_file(target.owner_id, rows.found(row))
    await entries.raise_height(tx, target, height + 1)
    await entries.unsettle(tx, copied)
    await tx.run("DELETE FROM copies WHERE id = $1", building.id)
    await changes.record(
        tx,
        FileEventKind.CREATED,
        copied.owner_id,
        copied.id,
        copied,
        now=env.now,
        trash=built_bytes,
        reserved=-reserved_bytes,
        entries=built_entries - reserved_entries,
    )
    return copied


async def discard(tx: Tx, copy_id: FileId, owner_id: UserId, env: Env) -> None:
    """Begin to purge what was built of a copy.  Does nothing for a copy that was attached or discarded."""
    await tx.lock(owner_id)
    row = await tx.one(
        f"DELETE FROM copies WHERE id = $1 RETURNING {_CHARGES}",
        copy_id,
    )
    if row is None:
        return
    reserved_bytes, reserved_entries, built_bytes, built_entries = row
    await tx.run("DELETE FROM uncopied WHERE copy_id = $1", copy_id)
    await tx.run(
        "UPDATE entries SET state = 'purging', next_purge_at = $2 WHERE id = $1", copy_id, rows.micros(env.now)
    )
    await changes.charge(
        tx, owner_id, trash=built_bytes, reserved=-reserved_bytes, entries=built_entries - reserved_entries
    )


@rule(ClearCopies, writes=True)
async def clear(tx: Tx, ask: ClearCopies, env: Env) -> bool:
    """As ``ClearCopies`` says, one copy at a time, so that only one owner is locked."""
    far = rows.later(env.now, PATIENCE)
    await tx.run("UPDATE copies SET expires_at = $1 WHERE expires_at > $1", far)  # the clock was set back
    row = await tx.one("SELECT id, owner_id FROM copies WHERE expires_at <= $1 LIMIT 1", rows.micros(env.now))
    if row is None:
        return False
    await tx.lock(row[1])
    still = await tx.one("SELECT 1 FROM copies WHERE id = $1 AND expires_at <= $2", row[0], rows.micros(env.now))
    if still is not None:  # nobody has built it in the meantime
        await discard(tx, row[0], row[1], env)
    return True
