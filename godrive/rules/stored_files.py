"""Files whose bytes were stored before their rows: small bodies that arrived with their requests.

They need no row of an upload, because nothing of them arrives later.  A blob
whose rows were not written is an orphan: the caller deletes it, and the janitor
finds it if the process was killed.
"""

from __future__ import annotations

from godrive.catalog import Tx
from godrive.errors import NameTaken
from godrive.messages.uploads import CheckRoom, Room, StoreFile
from godrive.model import File, FileId, OnConflict, Upload, new_id
from godrive.principal import Verb, user_of
from godrive.rules import folders, rows
from godrive.rules.access import check_scope
from godrive.rules.publishing import become_file
from godrive.rules.registry import Env, rule
from godrive.rules.room import HAS_ROOM, limits_of, no_room
from godrive.rules.uploads import check_offer

_CHECK = (
    "SELECT quota_bytes - live_bytes - trash_bytes - version_bytes - reserved_bytes, upload_count, entry_count, "
    f"version_count FROM users WHERE {HAS_ROOM}"
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


@rule(StoreFile, writes=True)
async def store(tx: Tx, ask: StoreFile, env: Env) -> File:
    """As ``StoreFile`` says."""
    await tx.grow()
    check_offer(ask)
    if ask.on_conflict is OnConflict.RENAME and (before := await _stored(tx, ask)) is not None:
        return before
    # As for an upload that begins: the root takes no lock, because it cannot be deleted.
    folder = await folders.target(tx, ask.by, ask.where, env, lock=False)
    upload = Upload(
        id=ask.upload_id,
        owner_id=folder.owner_id,
        object_key=ask.blob.key,
        name=ask.name,
        mime=ask.mime,
        size_bytes=ask.blob.size_bytes,
        created_at=env.now,
        expires_at=env.now,
        modified_at=ask.modified_at and rows.check_modified_at(ask.modified_at),
        parent_id=folder.id,
        on_conflict=ask.on_conflict,
        if_match=ask.if_match,
    )
    try:
        return await become_file(tx, upload, folder, ask.blob, env, file_id=FileId(new_id()), has_row=False)
    except NameTaken:
        if (before := await _stored(tx, ask)) is None:
            raise
        return before


async def _stored(tx: Tx, ask: StoreFile) -> File | None:
    """Return the file of the version, if the same message has been answered before."""
    row = await tx.one(_STORED, ask.upload_id)
    return None if row is None else rows.file(row)
