"""Publish an upload: the moment when its bytes become a file.

The rule that publishes moves the upload out of ``pending``, like those that end
it (:mod:`godrive.rules.upload_ends`).
"""

from __future__ import annotations

import msgspec

from godrive.catalog import Tx
from godrive.catalog.ancestors import held_depth
from godrive.catalog.chains import ChainStep
from godrive.errors import Conflict, DigestMismatch, Gone, LengthMismatch, NotFound, QuotaExceeded, TooDeep
from godrive.messages.files import UpdateFile
from godrive.messages.uploads import PublishUpload
from godrive.model import (
    BlobInfo,
    File,
    FileEventKind,
    FileId,
    FileKind,
    OnConflict,
    Upload,
    UploadKind,
    UploadState,
    VersionId,
    name_key,
    new_id,
    spot,
)
from godrive.principal import System, Verb
from godrive.rules import changes, entries, rows, versions
from godrive.rules.access import Folder, Resolved, check_upload, covers_all_of, resolve_folder
from godrive.rules.files import update
from godrive.rules.names import MOST_DEPTH
from godrive.rules.registry import Env, rule
from godrive.rules.room import hold_room
from godrive.rules.uploads import check_target, ended, load

_COMMIT = (
    "UPDATE uploads SET state = 'committed', finished_at = $2, received_bytes = size_bytes, file_id = $3 "
    f"WHERE id = $1 AND state = 'pending' RETURNING {rows.UPLOAD}"
)
_COMMIT_SIMPLE = (  # what becomes a new file because its name is free
    "UPDATE uploads SET state = 'committed', finished_at = $2, received_bytes = size_bytes, file_id = $3 "
    "WHERE id = $1 AND state = 'pending' AND owner_id = $4 AND parent_id = $5 AND name = $6 AND size_bytes = $7 "
    "AND NOT EXISTS (SELECT 1 FROM entries WHERE owner_id = $4 AND parent_id = $5 AND name_key = $8 "
    "AND entries.state = 'live')"
)
_COMMIT_IN_FOLDER = {
    locks: f"{_COMMIT_SIMPLE} AND {held_depth('$4', '$5', '$1', locks=locks)} <= {MOST_DEPTH - 2}"
    for locks in (False, True)
}
_REPLACED = "UPDATE uploads SET file_id = $2 WHERE id = $1"
_UNNEEDED = "UPDATE uploads SET file_id = $2, reason = $3, cleanup_at = $4 WHERE id = $1"
_NOT_PURGED = (  # the purge begins when the trash is emptied, and only the top of a tree is marked
    "WITH RECURSIVE up (parent_id, state, trashed_at) AS ("
    "SELECT e.parent_id, e.state, e.trashed_at FROM entries e WHERE e.id = $1 UNION "
    "SELECT p.parent_id, p.state, p.trashed_at FROM up JOIN entries p ON p.id = up.parent_id WHERE up.state = 'live') "
    f"SELECT {rows.FILE} FROM entries WHERE id = $1 AND NOT EXISTS (SELECT 1 FROM up WHERE state = 'purging' OR "
    "(state = 'trashed' AND trashed_at <= "
    "COALESCE((SELECT u.trash_cleared_at FROM users u WHERE u.id = entries.owner_id), -1)))"
)
_INGEST = System(part="ingest")


@rule(PublishUpload, writes=True)
async def publish(tx: Tx, ask: PublishUpload, env: Env) -> File:
    """As ``PublishUpload`` says.  Raises ``Gone`` also if the target folder no longer exists."""
    file = await publish_simple(tx, ask, env)
    if file is not None:
        return file
    file_id = FileId(new_id())
    row = await tx.one(_COMMIT, ask.upload_id, rows.micros(env.now), file_id)
    if row is None:
        return await _published(tx, await load(tx, ask.by, ask.upload_id))
    upload = rows.upload(row)
    await check_upload(tx, ask.by, Verb.CREATE, upload)
    return await _place(tx, upload, ask.blob, file_id, env)


def simple_file(ask: PublishUpload, env: Env) -> File | None:
    """Return the new file that the upload makes, if the row is as the message says and the name is free.

    ``None`` if it makes another one.
    """
    upload = ask.upload
    is_simple = (
        upload is not None
        and upload.id == ask.upload_id
        and upload.if_match is None
        and upload.kind is not UploadKind.PART
        and upload.size_bytes == ask.blob.size_bytes
        and (upload.sha256 is None or ask.blob.sha256 in (None, upload.sha256))
        and covers_all_of(ask.by, Verb.CREATE, upload)
    )
    if upload is None or not is_simple:
        return None
    return file_of(upload, ask.blob, Folder(upload.owner_id, upload.parent_id), FileId(new_id()), env)


async def publish_simple(tx: Tx, ask: PublishUpload, env: Env) -> File | None:
    """Publish in one statement what becomes a new file.  ``None`` for anything else."""
    upload, file = ask.upload, simple_file(ask, env)
    if upload is None or file is None:
        return None
    folder = Folder(upload.owner_id, upload.parent_id)
    committed = (
        upload.id,
        rows.micros(env.now),
        file.id,
        upload.owner_id,
        folder.key,
        upload.name,
        upload.size_bytes,
        name_key(upload.name),
    )
    sql = _COMMIT_SIMPLE if folder.id is None else _COMMIT_IN_FOLDER[tx.joins]
    # PostgreSQL runs what leads to the last step first: the owner is locked before the name is inserted (see _hold).
    made = await changes.record_created(
        tx,
        file,
        ChainStep("committed", sql, committed, "id"),
        entries.placing(file, after="committed"),
        versions.adding(file, upload.object_key, after="committed"),
        now=env.now,
        reserved=-file.size_bytes,
        uploads=-1,
    )
    return file if made else None


def _check_bytes(upload: Upload, blob: BlobInfo) -> None:
    if upload.kind is UploadKind.PART:
        raise Conflict("A part of an upload never becomes a file by itself.")
    if blob.size_bytes != upload.size_bytes:
        raise LengthMismatch(f"{upload.size_bytes} bytes were declared, and {blob.size_bytes} arrived.")
    if upload.sha256 is not None and blob.sha256 is not None and upload.sha256 != blob.sha256:
        raise DigestMismatch("The SHA-256 of the bytes differs from the declared one.")


def file_of(upload: Upload, blob: BlobInfo, folder: Folder, file_id: FileId, env: Env) -> File:
    """Return the new file that the bytes of the upload make."""
    # The version has the id of the upload, so its sender can tell whether the file has these bytes now.
    at = rows.micros(env.now)
    return File(
        id=file_id,
        owner_id=upload.owner_id,
        name=upload.name,
        created_at=env.now,
        updated_at=env.now,
        modified_at=upload.modified_at or env.now,
        kind=FileKind.FILE,
        parent_id=folder.id,
        mime=upload.mime or blob.mime or "application/octet-stream",
        size_bytes=upload.size_bytes,
        sha256=blob.sha256,  # verified by the store or by this server, never the declared value
        version_id=VersionId(upload.id),
        revision=at,
        etag=rows.etag(file_id, at),
    )


async def _place(tx: Tx, upload: Upload, blob: BlobInfo, file_id: FileId, env: Env) -> File:
    """Make the file of an upload that is committed in this transaction, or a version of the file that it replaces."""
    _check_bytes(upload, blob)
    return await become_file(tx, upload, await _meant_for(tx, upload), blob, env, file_id=file_id)


async def become_file(
    tx: Tx, upload: Upload, folder: Folder, blob: BlobInfo, env: Env, *, file_id: FileId, has_row: bool = True
) -> File:
    """Make *blob* the file, or the version of a file, that the upload is meant to be.

    An upload that *has_row* has reserved its bytes.  Raises ``NameTaken``,
    ``PreconditionFailed``, and ``QuotaExceeded`` if nothing was reserved.
    """
    file = file_of(upload, blob, folder, file_id, env)
    replaces = upload.on_conflict is OnConflict.REPLACE
    held = False
    while True:
        if replaces and (target := await _target(tx, upload, folder)) is not None:
            return await _replace(tx, upload, target, file, env, has_row=has_row)
        if not held:
            await _hold(tx, upload, folder, env, has_row=has_row)
            held = True
        if await entries.place(tx, folder, file):
            break
        if not replaces:
            name = await entries.free_name(tx, folder, upload.name, upload.on_conflict)
            file = msgspec.structs.replace(file, name=name)
    await versions.add(tx, file, upload.object_key)
    await changes.record(
        tx,
        FileEventKind.CREATED,
        file.owner_id,
        file.id,
        file,
        now=env.now,
        live=file.size_bytes,
        reserved=-file.size_bytes if has_row else 0,
        entries=1,
        uploads=-has_row,
    )
    return file


async def _hold(tx: Tx, upload: Upload, folder: Folder, env: Env, *, has_row: bool) -> None:
    """Lock the owner and hold the room for an upload that has no row.

    This comes before the name is inserted, as in all rules: a transaction that has a name and waits for the lock, and
    one that has the lock and waits for the name, would deadlock.  Raises ``NameTaken``, ``QuotaExceeded``.
    """
    if has_row:
        await tx.lock(upload.owner_id)
        return
    try:
        await hold_room(tx, upload, env.config.auth)
    except QuotaExceeded:
        if upload.on_conflict is OnConflict.FAIL:
            await entries.free_name(tx, folder, upload.name, upload.on_conflict)
        raise


async def _target(tx: Tx, upload: Upload, folder: Folder) -> Resolved | None:
    """Return the file to replace, with its owner locked; ``None`` if nothing has the name.

    Raises ``NameTaken``, ``PreconditionFailed``.
    """
    target = await entries.find(tx, folder, upload.name)
    if target is not None:
        await tx.lock(upload.owner_id)
        target = await entries.find(tx, folder, upload.name)
    check_target(target, upload.name, upload.if_match)
    return target


async def _replace(tx: Tx, upload: Upload, target: Resolved, content: File, env: Env, *, has_row: bool) -> File:
    """Put the bytes of the upload into the file *target*, as a new version, unless it has the same bytes and type."""
    reserved, uploads = (-upload.size_bytes, -1) if has_row else (0, 0)
    if (
        target.file.sha256 is not None
        and target.file.sha256 == content.sha256
        and upload.mime in ("", target.file.mime)
    ):
        if has_row:
            reason = "The file has these bytes already."
            await tx.run(_UNNEEDED, upload.id, target.file.id, reason, rows.micros(env.now))
            await changes.charge(tx, upload.owner_id, reserved=reserved, uploads=uploads)
        return await update(tx, UpdateFile(_INGEST, target.file.id, modified_at=upload.modified_at), env)
    if has_row:
        await tx.run(_REPLACED, upload.id, target.file.id)
    else:
        await hold_room(tx, upload, env.config.auth)
    return await versions.replace(tx, target, content, upload.object_key, env, reserved=reserved, uploads=uploads)


async def _meant_for(tx: Tx, upload: Upload) -> Folder:
    """Return the target folder.  The principal was checked when the upload began; now the folder must still exist."""
    if upload.parent_id is None:
        return Folder(upload.owner_id, None)
    try:
        return await resolve_folder(tx, _INGEST, spot(upload.parent_id), Verb.CREATE)
    except NotFound:
        raise Gone("The folder of the upload no longer exists.") from None
    except TooDeep:
        raise Gone("The folder of the upload was moved to where nothing can lie in it.") from None


async def _published(tx: Tx, upload: Upload) -> File:
    """Return the current state of the file that a committed upload became."""
    if upload.state is not UploadState.COMMITTED:
        raise ended(upload)
    row = await tx.one(_NOT_PURGED, upload.file_id)
    if row is None:
        raise Gone("The file of the upload was deleted.")
    return rows.file(row)
