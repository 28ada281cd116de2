"""Files whose bytes were stored before their rows: small bodies that arrived with their requests.

They need no row of an upload, because all their bytes have arrived.  A blob
whose rows were not written is an orphan: the caller deletes it, and the janitor
finds it if the process was killed.
"""

from __future__ import annotations

from godrive.catalog import Tx
from godrive.catalog.ancestors import held_depth
from godrive.errors import DriveError, NameTaken
from godrive.messages.uploads import CheckRoom, MakeFiles, Room, StoreFile
from godrive.model import File, FileId, OnConflict, Upload, name_key, new_id
from godrive.principal import Verb, user_of
from godrive.rules import changes, entries, folders, rows, versions
from godrive.rules.access import Folder, check_scope, presume, resolve_folder
from godrive.rules.names import MOST_DEPTH
from godrive.rules.new_files import NewFile, make_together
from godrive.rules.publishing import become_file, file_of, publish_simple, simple_file
from godrive.rules.registry import Env, Question, rule
from godrive.rules.room import HAS_ROOM, limits_of, no_room, room_for
from godrive.rules.seen_paths import ask_for_path, is_held, seen_path
from godrive.rules.uploads import check_offer

_CHECK = (
    "SELECT quota_bytes - live_bytes - trash_bytes - version_bytes - reserved_bytes, upload_count, entry_count, "
    f"version_count FROM users WHERE {HAS_ROOM}"
)
_FIRST = changes.FIRST_PROVIDED
_IS_NEW = (
    f"{room_for(_FIRST)} AND NOT EXISTS (SELECT 1 FROM entries WHERE owner_id = $1 AND parent_id = ${_FIRST + 4} "
    f"AND name_key = ${_FIRST + 5} AND entries.state = 'live') "
    f"AND NOT EXISTS (SELECT 1 FROM versions WHERE id = ${_FIRST + 6})"
)
_IS_NEW_IN_FOLDER = {
    locks: f"{_IS_NEW} AND {held_depth('$1', f'${_FIRST + 4}', locks=locks)} <= {MOST_DEPTH - 2}"
    for locks in (False, True)
}
_IS_NEW_ON_PATH = (  # for PostgreSQL, where the function locks the owner before the rest looks
    f"{_IS_NEW} AND CASE WHEN {held_depth('$1', f'${_FIRST + 4}', locks=True)} <= {MOST_DEPTH - 2} "
    f"THEN {is_held(f'${_FIRST + 7}', f'${_FIRST + 8}')} ELSE FALSE END"
)
_STORED = f"SELECT {rows.FILE} FROM entries WHERE id = (SELECT file_id FROM versions WHERE id = $1)"


@rule(CheckRoom)
async def check_room(tx: Tx, ask: CheckRoom, env: Env) -> Room:
    """As ``CheckRoom`` says."""
    check_scope(ask.by, Verb.CREATE)
    owner_id, replaces = user_of(ask.by), ask.on_conflict is OnConflict.REPLACE
    limits = limits_of(env.config.auth, replaces=replaces)
    row = await tx.one(_CHECK, owner_id, ask.size_bytes, *limits)
    if row is None:
        raise await no_room(tx, owner_id, ask.size_bytes, env.config.auth, replaces=replaces)
    left, pending, entries, versions = row
    most_pending, most_entries, most_versions = limits
    room = min(most_pending - pending, most_entries - entries - pending, most_versions - versions - pending)
    return Room(size_bytes=rows.MOST_BYTES if left is None else left, rows=room)


def see(ask: StoreFile) -> Question | None:
    """Ask for the folder before the transaction if it is that of a path."""
    return ask_for_path(ask.by, ask.where) if ask.if_match is None else None


@rule(StoreFile, writes=True, sees=see)
async def store(tx: Tx, ask: StoreFile, env: Env) -> File:
    """As ``StoreFile`` says."""
    file = await _store_simple(tx, ask, env)
    if file is not None:
        return file
    if (before := await _stored(tx, ask)) is not None:
        return before
    # As for an upload that begins: the root takes no lock, because it cannot be deleted.
    folder = await folders.target(tx, ask.by, ask.where, env, lock=False)
    upload = _upload(ask, folder, env)
    try:
        return await become_file(tx, upload, folder, ask.blob, env, file_id=FileId(new_id()), has_row=False)
    except NameTaken:
        if (before := await _stored(tx, ask)) is None:
            raise
        return before


def uploads_of(ask: MakeFiles) -> int:
    """Each of the files answers the request of one upload."""
    return len(ask.stored) + len(ask.published)


@rule(MakeFiles, writes=True, answers=uploads_of)
async def make(tx: Tx, ask: MakeFiles, env: Env) -> list[File | None]:
    """As ``MakeFiles`` says."""
    if tx.joins:  # alone, each is one statement, and those share a round trip
        return [None] * uploads_of(ask)
    if uploads_of(ask) == 1 and (file := await _one(tx, ask, env)) is not None:
        return [file]
    wanted = [await _wanted(tx, each, env) for each in ask.stored]
    for each in ask.published:
        upload, file = each.upload, simple_file(each, env)
        simple = None if upload is None or file is None else NewFile(file, upload.object_key, is_published=True)
        wanted.append(simple)
    return await make_together(tx, wanted, env)


async def _one(tx: Tx, ask: MakeFiles, env: Env) -> File | None:
    """Make the only file, which takes fewer statements."""
    try:
        if ask.stored:
            return await _store_simple(tx, ask.stored[0], env)
        return await publish_simple(tx, ask.published[0], env)
    except DriveError:  # before anything has changed
        return None


async def _wanted(tx: Tx, ask: StoreFile, env: Env) -> NewFile | None:
    """Return the new file to be made, if that is simple and not refused."""
    try:
        await tx.grow()
        check_offer(ask)
        if ask.if_match is not None:
            return None
        folder = presume(ask.by, ask.where, Verb.CREATE) or await resolve_folder(tx, ask.by, ask.where, Verb.CREATE)
        file = file_of(_upload(ask, folder, env), ask.blob, folder, FileId(new_id()), env)
    except DriveError:
        return None
    return NewFile(file, ask.blob.key, replaces=ask.on_conflict is OnConflict.REPLACE)


def _upload(ask: StoreFile, folder: Folder, env: Env) -> Upload:
    return Upload(
        id=ask.upload_id,
        owner_id=folder.owner_id,
        object_key=ask.blob.key,
        name=ask.name,
        mime=ask.mime,
        size_bytes=ask.blob.size_bytes,
        created_at=env.now,
        expires_at=env.now,
        modified_at=ask.modified_at and rows.in_utc(ask.modified_at),
        parent_id=folder.id,
        on_conflict=ask.on_conflict,
        if_match=ask.if_match,
    )


async def _store_simple(tx: Tx, ask: StoreFile, env: Env) -> File | None:
    """Store in one statement what becomes a new file.  ``None`` for anything else."""
    await tx.grow()
    check_offer(ask)
    if ask.if_match is not None:
        return None
    folder, path = presume(ask.by, ask.where, Verb.CREATE), None
    if folder is None:
        if (found := seen_path(ask.by, env.seen)) is None:
            return None
        check_scope(ask.by, Verb.CREATE)
        folder, path = found
    file = file_of(_upload(ask, folder, env), ask.blob, folder, FileId(new_id()), env)
    limits = limits_of(env.config.auth, replaces=ask.on_conflict is OnConflict.REPLACE)
    values: tuple[object, ...] = (file.size_bytes, *limits, folder.key, name_key(file.name), file.version_id)
    condition = _IS_NEW if folder.id is None else _IS_NEW_IN_FOLDER[tx.joins]
    if path is not None:
        condition, values = _IS_NEW_ON_PATH, (*values, *path)
    made = await changes.record_created(
        tx,
        file,
        entries.placing(file, after="charged"),
        versions.adding(file, ask.blob.key, after="charged"),
        now=env.now,
        reserved=0,
        uploads=0,
        provided=(condition, values),
    )
    return file if made else None


async def _stored(tx: Tx, ask: StoreFile) -> File | None:
    """Return the file of the version, if the same message has been answered before."""
    row = await tx.one(_STORED, ask.upload_id)
    return None if row is None else rows.file(row)
