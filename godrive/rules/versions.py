"""Versions of a file: the current one, and the earlier ones that were replaced.

A version is one state of the bytes.  Blobs are immutable, so to replace the
bytes of a file adds a row and keeps the row of the version that was current.
Earlier versions count in ``version_bytes``, each with its full size, also when
several share a blob.

The order of versions is that of their ``revision``, the revision of the file
when it got these bytes, because the clock may be set back.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from godrive.catalog import Row, Tx
from godrive.catalog.chains import ChainStep
from godrive.catalog.many import inserting, over
from godrive.errors import Conflict, Invalid, NotFound
from godrive.messages.versions import DeleteVersion, ListVersions, NameVersion, RestoreVersion, Version
from godrive.model import File, FileEventKind, ObjectKey, Page, VersionId, new_id
from godrive.principal import Verb
from godrive.rules import changes, rows
from godrive.rules.access import Resolved, resolve
from godrive.rules.registry import Env, rule

_LONGEST_NAME = 255
_COLUMNS = "id, name, mime, size_bytes, sha256, created_at, modified_at, replaced_at, revision, object_key"
_TEXTS = 1, 2
_REVISION, _OBJECT_KEY = 8, 9
_ONE = f"SELECT {_COLUMNS} FROM versions WHERE id = $1 AND file_id = $2 AND next_purge_at IS NULL"
_PAGE = (
    f"SELECT {_COLUMNS} FROM versions WHERE file_id = $1 AND revision < $2 AND next_purge_at IS NULL "
    "ORDER BY revision DESC LIMIT $3"
)
IS_SHARED = (
    "EXISTS (SELECT 1 FROM versions o JOIN entries e ON e.id = o.file_id "
    "WHERE o.object_key = {key} AND o.next_purge_at IS NULL AND e.state <> 'purging')"
)
"""SQL: whether a version that is not being removed refers to the object key."""

_ADD = (
    "INSERT INTO versions (id, file_id, revision, object_key, mime, size_bytes, sha256, created_at, modified_at) "
    "SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9"
)
_ADD_EACH = inserting(_ADD)
_BEHIND = rows.BEHIND.replace("$1", "$2")
_KEEP = (
    f"UPDATE versions SET replaced_at = $2 + {_BEHIND}, "
    f"review_at = CASE WHEN name IS NULL THEN CAST($3 AS BIGINT) + {_BEHIND} END, modified_at = $4 WHERE id = $1"
)
_REPLACE = (
    "UPDATE entries SET mime = $3, size_bytes = $4, sha256 = $5, version_id = $6, modified_at = $7, "
    f"list_state = kind, updated_at = $1, {changes.REVISE} WHERE id = $2 RETURNING {rows.LIVE}"
)


async def add(tx: Tx, file: File, object_key: ObjectKey) -> None:
    """Insert the row of the version that is current in *file*."""
    await tx.run(_ADD, *_values(file, object_key))


async def add_each(tx: Tx, files: Sequence[tuple[File, ObjectKey]]) -> None:
    """Insert the rows of several.  SQLite only."""
    await tx.run(*over(*_ADD_EACH, [_values(file, object_key) for file, object_key in files]))


def adding(file: File, object_key: ObjectKey, *, after: str) -> ChainStep:
    """The step that does the same, if the step *after* has found a row."""
    return ChainStep("added", f"{_ADD} FROM {after}", _values(file, object_key), "id")


def _values(file: File, object_key: ObjectKey) -> tuple[object, ...]:
    return (
        file.version_id,
        file.id,
        file.revision,
        object_key,
        file.mime,
        file.size_bytes,
        file.sha256,
        rows.micros(file.updated_at),
        rows.micros(file.modified_at),
    )


async def replace(
    tx: Tx, target: Resolved, content: File, object_key: ObjectKey, env: Env, *, reserved: int = 0, uploads: int = 0
) -> File:
    """Make the bytes that *content* describes current in the file *target*, and keep the earlier version.

    The id, the name and the time of creation of the file stay.  The caller
    holds the owner's lock and has checked the quota, or reserved the bytes.
    """
    old, at = target.file, rows.micros(env.now)
    row = await tx.one(
        _REPLACE,
        at,
        old.id,
        content.mime,
        content.size_bytes,
        content.sha256,
        content.version_id,
        rows.micros(content.modified_at),
    )
    file = rows.live_file(old.owner_id, rows.found(row))
    review_at = rows.later(env.now, env.config.janitor.version_retention)
    await tx.run(_KEEP, old.version_id, at, review_at, rows.micros(old.modified_at))
    await add(tx, file, object_key)
    # The file may have been restored with its folder and not yet settled.  It is settled now.
    await changes.record(
        tx,
        FileEventKind.UPDATED,
        file.owner_id,
        file.id,
        file,
        now=env.now,
        live=file.size_bytes - (old.size_bytes if target.listed else 0),
        trash=0 if target.listed else -old.size_bytes,
        versions=old.size_bytes,
        reserved=reserved,
        uploads=uploads,
        version_rows=1,
    )
    return file


@rule(ListVersions)
async def list_page(tx: Tx, ask: ListVersions, env: Env) -> Page[Version]:
    """As ``ListVersions`` says.  If names are very long, a page has fewer than ``limit``."""
    rows.check_limit(ask.limit)
    file = (await resolve(tx, ask.by, ask.file_id, Verb.READ)).file
    scope = ("versions", file.id)
    before = 2**63 - 1 if ask.page is None else env.tokens.read(scope, ask.page)[0]
    found = await tx.all(_PAGE, file.id, before, ask.limit + 1)
    shown = found[: rows.that_fit(found, ask.limit, _TEXTS)]
    items = [_version(file, row) for row in shown]
    if len(shown) == len(found):
        return Page(items=items)
    return Page(items=items, next_page=env.tokens.make(scope, (shown[-1][_REVISION], items[-1].id)))


@rule(RestoreVersion, writes=True)
async def restore(tx: Tx, ask: RestoreVersion, env: Env) -> File:
    """As ``RestoreVersion`` says."""
    await tx.grow()
    found, row = await _find(tx, ask, Verb.EDIT)
    file = found.file
    current = rows.found(await tx.one(_ONE, file.version_id, file.id), "version")
    if row[_OBJECT_KEY] == current[_OBJECT_KEY]:
        return file
    content = msgspec.structs.replace(
        file,
        version_id=VersionId(new_id()),
        mime=row[2],
        size_bytes=row[3],
        sha256=row[4],
        modified_at=rows.any_instant(row[6]),
    )
    await changes.check_room(tx, file.owner_id, env.config.auth, versions=1, size=content.size_bytes)
    return await replace(tx, found, content, ObjectKey(row[_OBJECT_KEY]), env)


@rule(NameVersion, writes=True)
async def name_version(tx: Tx, ask: NameVersion, env: Env) -> Version:
    """As ``NameVersion`` says."""
    name = None if ask.name is None else _check_name(ask.name)
    found, row = await _find(tx, ask, Verb.EDIT)
    if row[1] != name:
        is_kept = name is not None or ask.version_id == found.file.version_id
        review_at = None if is_kept else rows.later(env.now, env.config.janitor.version_retention)
        await tx.run("UPDATE versions SET name = $2, review_at = $3 WHERE id = $1", ask.version_id, name, review_at)
        row = rows.found(await tx.one(_ONE, ask.version_id, ask.file_id), "version")
    return _version(found.file, row)


@rule(DeleteVersion, writes=True)
async def delete(tx: Tx, ask: DeleteVersion, env: Env) -> None:
    """As ``DeleteVersion`` says."""
    found, _ = await _find(tx, ask, Verb.DELETE)
    if ask.version_id == found.file.version_id:
        raise Conflict("This version is the current one. Restore another version first, or delete the file.")
    await tx.run(
        "UPDATE versions SET next_purge_at = $2, review_at = NULL WHERE id = $1", ask.version_id, rows.micros(env.now)
    )


async def _find(tx: Tx, ask: RestoreVersion | NameVersion | DeleteVersion, verb: Verb) -> tuple[Resolved, Row]:
    """Return the live file and the row of its version.  Raises ``NotFound``, ``PreconditionFailed``."""
    found = await resolve(tx, ask.by, ask.file_id, verb)
    if found.trashed:
        raise NotFound("There is no such file.")
    rows.check_match(found.file, ask.if_match)
    return found, rows.found(await tx.one(_ONE, ask.version_id, ask.file_id), "version")


def _check_name(name: str) -> str:
    try:
        fits = 1 <= len(name) <= _LONGEST_NAME and len(name.encode()) > 0 and name.isprintable()
    except UnicodeEncodeError:
        fits = False
    if not fits:
        raise Invalid(f"The name of a version has 1 to {_LONGEST_NAME} printable characters.", field="name")
    return name


def _version(file: File, row: Row) -> Version:
    id_, name, mime, size_bytes, sha256, created_at, modified_at, replaced_at, *_ = row
    current = id_ == file.version_id
    return Version(
        id=id_,
        file_id=file.id,
        current=current,
        name=name,
        mime=mime,
        size_bytes=size_bytes,
        sha256=sha256,
        created_at=rows.instant(created_at),
        modified_at=file.modified_at if current else rows.any_instant(modified_at),
        replaced_at=rows.maybe_instant(replaced_at),
    )
