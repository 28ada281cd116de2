"""Uploads: from the intent to a file, or to a failure.

Exactly one of publish, fail and abort moves an upload out of ``pending``.  One
statement checks the state and changes it, so two of them cannot race.
"""

from __future__ import annotations

import re

from godrive.catalog import Final, Tx
from godrive.catalog.ancestors import depth_of
from godrive.catalog.chains import ChainStep, chain
from godrive.config import Auth
from godrive.errors import (
    Gone,
    Invalid,
    NameTaken,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    UploadFinished,
)
from godrive.messages.uploads import (
    BeginUpload,
    FindUpload,
    GetUpload,
    ListUploads,
    StoreFile,
    TouchUpload,
)
from godrive.model import (
    IN_APPENDS,
    ETag,
    FileKind,
    ObjectKey,
    OnConflict,
    Page,
    Upload,
    UploadId,
    UploadKind,
    UploadState,
    name_key,
    new_id,
)
from godrive.principal import Principal, Verb
from godrive.rules import entries, folders, rows
from godrive.rules.access import Folder, Resolved, check_scope, check_upload, owner_of, presume
from godrive.rules.names import MOST_DEPTH, check_name
from godrive.rules.registry import Env, rule
from godrive.rules.room import HAS_ROOM, limits_of, no_room

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MIME = re.compile(r"[!-~]+/[!-~]([ -~]*[!-~])?")

_GET = f"SELECT {rows.UPLOAD} FROM uploads WHERE id = $1"
_FIND_OR_NONE = f"SELECT {rows.UPLOAD} FROM (SELECT 1 AS one) always LEFT JOIN uploads ON object_key = $1"
_RESERVE = (
    f"UPDATE users SET reserved_bytes = reserved_bytes + $2, upload_count = upload_count + 1 WHERE {HAS_ROOM} "
    "AND ($6 = 'rename' OR NOT EXISTS (SELECT 1 FROM entries WHERE owner_id = $1 AND parent_id = $7 "
    "AND name_key = $8 AND entries.state = 'live' AND ($6 = 'fail' OR kind = 'folder')))"
)
_IN_FOLDER = f"{_RESERVE} AND {depth_of('$1', '$7')} <= {MOST_DEPTH - 2}"
_BEGIN = (
    "INSERT INTO uploads (id, owner_id, object_key, name, mime, size_bytes, created_at, expires_at, sha256, parent_id, "
    "on_conflict, state, next_check_at, modified_at, if_match, kind, deferred, note) "
    "SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'pending', $7, $12, $13, $14, $15, $16 "
    "FROM reserved"
)


@rule(BeginUpload, writes=True)
async def begin(tx: Tx, ask: BeginUpload, env: Env) -> Upload:
    """As ``BeginUpload`` says.  An empty ``mime`` is determined from the bytes later."""
    await tx.grow()
    check_offer(ask)
    if not 0 <= ask.size_bytes <= rows.MOST_BYTES:
        raise Invalid(f"A size is between 0 and {rows.MOST_BYTES} bytes.", field="size_bytes")
    if ask.sha256 is not None and not _SHA256.fullmatch(ask.sha256):
        raise Invalid("A SHA-256 digest is 64 hexadecimal digits in lower case.", field="sha256")
    replaces = ask.on_conflict is OnConflict.REPLACE
    presumed = presume(ask.by, ask.where, Verb.CREATE) if ask.if_match is None else None
    # An upload into the root takes no lock, because the root cannot be deleted.
    folder = presumed or await folders.target(tx, ask.by, ask.where, env, lock=False)
    if ask.if_match is not None:
        check_target(await entries.find(tx, folder, ask.name), ask.name, ask.if_match)
    upload_id, blob_id = new_id(), new_id()
    expires_at = rows.later(env.now, life_of(ask.kind, env) + ask.in_transit)
    upload = Upload(
        id=UploadId(upload_id),
        owner_id=folder.owner_id,
        object_key=ObjectKey(f"{blob_id[:8]}/{blob_id}"),
        name=ask.name,
        mime=ask.mime,
        size_bytes=ask.size_bytes,
        created_at=env.now,
        expires_at=rows.instant(expires_at),
        sha256=ask.sha256,
        modified_at=ask.modified_at and rows.in_utc(ask.modified_at),
        parent_id=folder.id,
        on_conflict=ask.on_conflict,
        if_match=ask.if_match,
        kind=ask.kind,
        deferred=ask.deferred,
        note=ask.note,
    )
    limits = env.config.auth
    reserved = (
        upload.owner_id,
        upload.size_bytes,
        *limits_of(limits, replaces=replaces),
        str(upload.on_conflict),
        folder.key,
        name_key(upload.name),
    )
    begun = (
        upload.id,
        upload.owner_id,
        upload.object_key,
        upload.name,
        upload.mime,
        upload.size_bytes,
        rows.micros(env.now),
        expires_at,
        upload.sha256,
        folder.key,
        str(upload.on_conflict),
        None if upload.modified_at is None else rows.micros(upload.modified_at),
        upload.if_match,
        str(upload.kind),
        int(upload.deferred),
        upload.note,
    )
    reserve = ChainStep("reserved", _RESERVE if folder.id is None else _IN_FOLDER, reserved, "id")
    # Last, because it locks the owner's row: their other uploads wait only for this commit.
    begun_step = ChainStep("begun", _BEGIN, begun, "id")
    while not await chain(tx, reserve, begun_step, final=Final(upload.id, upload.owner_id)):
        if presumed is None or presumed.id is None:
            raise await _refusal(tx, upload, limits)
        await folders.target(tx, ask.by, ask.where, env)  # raises if the folder is the reason
        presumed = None
    return upload


def life_of(kind: UploadKind, env: Env) -> float:
    """Return the seconds for which an upload may pause."""
    config = env.config.blobs
    return config.resume_ttl if kind in IN_APPENDS else config.upload_ttl


def check_offer(ask: BeginUpload | StoreFile) -> None:
    """Check what is offered, apart from the bytes.  Raises ``Invalid``, ``Forbidden``."""
    check_name(ask.name)
    if ask.mime and (len(ask.mime) > 255 or not _MIME.fullmatch(ask.mime)):
        raise Invalid("A media type looks like text/plain and has at most 255 characters.", field="mime")
    if ask.on_conflict is OnConflict.REPLACE:
        check_scope(ask.by, Verb.EDIT)
    elif ask.if_match is not None:
        raise Invalid("Only an upload with the on_conflict `replace` can have If-Match.", field="on_conflict")


def check_target(target: Resolved | None, name: str, if_match: ETag | None) -> None:
    """Check what has the name, for an upload that replaces.  Raises ``NameTaken``, ``PreconditionFailed``."""
    if target is None:
        if if_match is not None:
            raise PreconditionFailed("There is no file of that name.")
    elif target.file.kind is FileKind.FOLDER:
        raise _folder_in_the_way(name)
    else:
        rows.check_match(target.file, if_match)


def _folder_in_the_way(name: str) -> NameTaken:
    return NameTaken(f"{name!r} is a folder, which a file cannot replace.", field="name")


async def _refusal(tx: Tx, upload: Upload, limits: Auth) -> NameTaken | NotFound | QuotaExceeded:
    """Return the reason why nothing was reserved."""
    replaces = upload.on_conflict is OnConflict.REPLACE
    if upload.on_conflict is not OnConflict.RENAME:
        target = await entries.find(tx, Folder(upload.owner_id, upload.parent_id), upload.name)
        if target is not None and not replaces:
            return entries.name_taken(upload.name)
        if target is not None and target.file.kind is FileKind.FOLDER:
            return _folder_in_the_way(upload.name)
    return await no_room(tx, upload.owner_id, upload.size_bytes, limits, replaces=replaces)


async def load(tx: Tx, by: Principal, upload_id: UploadId, verb: Verb = Verb.CREATE) -> Upload:
    """Return the upload if *by* may perform *verb* on it.  Raises ``NotFound``, ``Forbidden``."""
    upload = rows.upload(rows.found(await tx.one(_GET, upload_id), "upload"))
    await check_upload(tx, by, verb, upload)
    return upload


@rule(GetUpload)
async def get(tx: Tx, ask: GetUpload, env: Env) -> Upload:
    """As ``GetUpload`` says."""
    return await load(tx, ask.by, ask.upload_id)


@rule(FindUpload)
async def find(tx: Tx, ask: FindUpload, env: Env) -> Upload:
    """As ``FindUpload`` says."""
    row = await tx.one(f"SELECT {rows.UPLOAD} FROM uploads WHERE object_key = $1", ask.object_key)
    upload = rows.upload(rows.found(row, "upload"))
    await check_upload(tx, ask.by, Verb.CREATE, upload)
    return upload


async def find_each(tx: Tx, keys: list[ObjectKey]) -> list[Upload | None]:
    """Return the upload of each key, in one round trip.  The caller must be the server."""
    found = await tx.one_each(_FIND_OR_NONE, [(key,) for key in keys])
    return [None if row[0] is None else rows.upload(row) for row in found]


@rule(ListUploads)
async def list_page(tx: Tx, ask: ListUploads, env: Env) -> Page[Upload]:
    """As ``ListUploads`` says.  If rows are very long, a page has fewer than ``limit``."""
    rows.check_limit(ask.limit)
    owner_id = await owner_of(tx, ask.by, Verb.CREATE)
    scope = ("uploads", owner_id, ask.state)
    values: list[object] = [owner_id]
    where = "owner_id = $1"
    if ask.state is not None:
        values.append(ask.state.value)
        where += " AND state = $2"
    if ask.page is not None:
        values += env.tokens.read(scope, ask.page)
        where += f" AND (created_at, id) < (${len(values) - 1}, ${len(values)})"
    found = await tx.all(
        f"SELECT {rows.UPLOAD} FROM uploads WHERE {where} ORDER BY created_at DESC, id DESC LIMIT ${len(values) + 1}",
        *values,
        ask.limit + 1,
    )
    items = [rows.upload(row) for row in found[: rows.that_fit(found, ask.limit, rows.UPLOAD_TEXTS)]]
    if len(items) == len(found):
        return Page(items=items)
    return Page(items=items, next_page=env.tokens.make(scope, (rows.micros(items[-1].created_at), items[-1].id)))


@rule(TouchUpload, writes=True)
async def touch(tx: Tx, ask: TouchUpload, env: Env) -> Upload:
    """As ``TouchUpload`` says.  The new deadline is a full lifetime from now, but never earlier than the old one."""
    upload = await load(tx, ask.by, ask.upload_id)
    row = await tx.one(
        "UPDATE uploads SET "
        "received_bytes = CASE WHEN received_bytes < $2 AND kind IN ('whole', 'once') THEN $2 ELSE received_bytes END, "
        "expires_at = CASE WHEN expires_at < $3 THEN $3 ELSE expires_at END "
        f"WHERE id = $1 AND state = 'pending' RETURNING {rows.UPLOAD}",
        upload.id,
        ask.received_bytes,
        rows.later(env.now, life_of(upload.kind, env)),
    )
    if row is None:
        raise ended(await load(tx, ask.by, ask.upload_id))
    return rows.upload(row)


def ended(upload: Upload) -> UploadFinished | Gone:
    """Return the error for an upload that is not pending."""
    if upload.state is UploadState.COMMITTED:
        return UploadFinished("The upload already has its bytes.")
    return Gone(f"The upload has ended ({upload.state.value}): {upload.reason or 'no reason was given'}")
