"""Uploads: from intent to file, or to their end.

An upload is pending until exactly one of publish, fail and abort changes its
row; the same statement that leaves ``pending`` tells who did it, so there is
no moment between looking and doing.
"""

from __future__ import annotations

import re
from datetime import datetime

import msgspec

from godrive.catalog import Tx
from godrive.errors import DigestMismatch, Gone, Invalid, LengthMismatch, NotFound, QuotaExceeded, UploadFinished
from godrive.model import (
    BlobInfo,
    Cleanup,
    File,
    FileEventKind,
    FileId,
    FileKind,
    ObjectKey,
    OnConflict,
    Page,
    Upload,
    UploadId,
    UploadState,
    UserId,
    VersionId,
    name_key,
    new_id,
)
from godrive.rules import entries, outbox, rows
from godrive.rules.names import check_name, search_key
from godrive.rules.page_tokens import PageTokens

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MIME = re.compile(r"[!-~]+/[!-~]([ -~]*[!-~])?")
_LONGEST_CHECK_DELAY = 60.0
_LONGEST_CLEANUP_DELAY = 3600.0
URL_MARGIN = 3600.0
"""Seconds for which a request may still be sending after its URL expired."""
_MOST_TEXT = 500_000
"""Bytes of names, types and reasons in a page; all else in a thousand rows is as much, and a reply has 1 MiB."""

_GET = f"SELECT {rows.UPLOAD} FROM uploads WHERE id = $1"
_RESERVE = (
    "UPDATE users SET reserved_bytes = reserved_bytes + $2 WHERE id = $1 AND state = 'active' AND (quota_bytes IS NULL "
    "OR live_bytes + trash_bytes + version_bytes + reserved_bytes + $2 <= quota_bytes)"
)
_BEGIN = (  # one statement, where the database is a network away
    "INSERT INTO uploads (id, owner_id, object_key, name, mime, size_bytes, created_at, expires_at, sha256, parent_id, "
    "on_conflict, state, next_check_at) SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'pending', $7 "
    "WHERE ($11 = 'rename' OR NOT EXISTS (SELECT 1 FROM entries "
    "WHERE owner_id = $2 AND parent_id = $10 AND name_key = $12 AND state = 'live')) "
    "AND ($10 = '' OR EXISTS (SELECT 1 FROM entries "
    "WHERE id = $10 AND owner_id = $2 AND state = 'live' AND kind = 'folder'))"
)
_END = (
    "UPDATE uploads SET state = $2, reason = $3, finished_at = $4, cleanup_at = $4 "
    f"WHERE id = $1 AND state = 'pending' RETURNING {rows.UPLOAD}"
)
_WAITING = (  # two ranges of one index: a single condition for both would read all that is pending
    f"SELECT {rows.UPLOAD} FROM uploads WHERE state = 'pending' AND next_check_at {{}} $1 "
    "AND (created_at <= $2 OR created_at > $3) ORDER BY next_check_at LIMIT $4"
)
_DUE, _SET_BACK = _WAITING.format("<="), _WAITING.format(">")
_UNRESERVE = "UPDATE users SET reserved_bytes = reserved_bytes - $2 WHERE id = $1"
_COMMIT = (
    "UPDATE uploads SET state = 'committed', finished_at = $2, received_bytes = size_bytes, file_id = $3 "
    f"WHERE id = $1 AND state = 'pending' RETURNING {rows.UPLOAD}"
)
_CHARGE = (
    "UPDATE users SET reserved_bytes = reserved_bytes - $2, live_bytes = live_bytes + $2, changes = changes + 1 "
    "WHERE id = $1"
)
_ENTRY = (
    "INSERT INTO entries (id, owner_id, parent_id, kind, name, name_key, search_key, mime, size_bytes, sha256, "
    "version_id, created_at, updated_at, revision, state) "
    "VALUES ($1, $2, $3, 'file', $4, $5, $6, $7, $8, $9, $10, $11, $11, 1, 'live') "
    "ON CONFLICT DO NOTHING"
)
_VERSION = (
    "INSERT INTO versions (id, file_id, object_key, mime, size_bytes, sha256, created_at) "
    "VALUES ($1, $2, $3, $4, $5, $6, $7)"
)


async def begin(
    tx: Tx,
    owner_id: UserId,
    *,
    name: str,
    mime: str,
    size_bytes: int,
    now: datetime,
    ttl: float,
    sha256: str | None = None,
    parent_id: FileId | None = None,
    on_conflict: OnConflict = OnConflict.FAIL,
) -> Upload:
    """As ``BeginUpload`` says; the upload and its URL live *ttl* seconds.  An empty *mime* is found out later."""
    check_name(name)
    if not 0 <= size_bytes <= rows.MOST_BYTES:
        raise Invalid("That is not a size.", field="size_bytes")
    if mime and (len(mime) > 255 or not _MIME.fullmatch(mime)):
        raise Invalid("That is not a media type.", field="mime")
    if sha256 is not None and not _SHA256.fullmatch(sha256):
        raise Invalid("A SHA-256 digest is 64 hexadecimal digits in lower case.", field="sha256")
    upload_id, blob_id = new_id(), new_id()
    upload = Upload(
        id=UploadId(upload_id),
        owner_id=owner_id,
        object_key=ObjectKey(f"{blob_id[:8]}/{blob_id}"),
        name=name,
        mime=mime,
        size_bytes=size_bytes,
        created_at=now,
        expires_at=rows.instant(rows.later(now, ttl)),
        sha256=sha256,
        parent_id=parent_id,
        on_conflict=on_conflict,
    )
    begun = await tx.run(
        _BEGIN,
        upload.id,
        owner_id,
        upload.object_key,
        name,
        mime,
        size_bytes,
        rows.micros(now),
        rows.later(now, ttl),
        sha256,
        parent_id or "",
        on_conflict.value,
        name_key(name),
    )
    if not begun:
        if not await entries.is_folder(tx, owner_id, parent_id):
            raise NotFound("There is no such folder.", field="parent_id")
        raise entries.name_taken(name)
    # Last, for it locks the owner's row: another upload of theirs waits no longer than this commit takes.
    if not await tx.run(_RESERVE, owner_id, size_bytes):
        raise await _no_room(tx, owner_id)
    return upload


async def _no_room(tx: Tx, owner_id: UserId) -> NotFound | QuotaExceeded:
    if await tx.one("SELECT 1 FROM users WHERE id = $1 AND state = 'active'", owner_id) is None:
        return NotFound("There is no such user.")
    return QuotaExceeded("The file does not fit into what is left of the quota.", field="size_bytes")


async def get(tx: Tx, upload_id: UploadId, *, owner_id: UserId | None = None) -> Upload:
    """As ``GetUpload`` says."""
    upload = rows.upload(rows.found(await tx.one(_GET, upload_id), "upload"))
    if owner_id not in (None, upload.owner_id):
        raise NotFound("There is no such upload.")
    return upload


async def find(tx: Tx, object_key: ObjectKey) -> Upload:
    """As ``FindUpload`` says."""
    row = await tx.one(f"SELECT {rows.UPLOAD} FROM uploads WHERE object_key = $1", object_key)
    return rows.upload(rows.found(row, "upload"))


async def list_page(
    tx: Tx,
    owner_id: UserId,
    *,
    tokens: PageTokens,
    limit: int = 100,
    page: str | None = None,
    state: UploadState | None = None,
) -> Page[Upload]:
    """As ``ListUploads`` says; a page of rows that are very long has fewer than *limit*."""
    rows.check_limit(limit)
    scope = ("uploads", owner_id, state)
    values: list[object] = [owner_id]
    where = "owner_id = $1"
    if state is not None:
        values.append(state.value)
        where += " AND state = $2"
    if page is not None:
        values += tokens.read(scope, page)
        where += f" AND (created_at, id) < (${len(values) - 1}, ${len(values)})"
    found = await tx.all(
        f"SELECT {rows.UPLOAD} FROM uploads WHERE {where} ORDER BY created_at DESC, id DESC LIMIT ${len(values) + 1}",
        *values,
        limit + 1,
    )
    items = _that_fit([rows.upload(row) for row in found[:limit]])
    if len(items) == len(found):
        return Page(items=items)
    return Page(items=items, next_page=tokens.make(scope, (rows.micros(items[-1].created_at), items[-1].id)))


def _that_fit(items: list[Upload]) -> list[Upload]:
    """The first, as many as one reply takes."""
    room = _MOST_TEXT
    for number, upload in enumerate(items):
        room -= sum(len(text.encode()) for text in (upload.name, upload.mime, upload.reason or ""))
        if room < 0:
            return items[:number]
    return items


async def touch(tx: Tx, upload_id: UploadId, received_bytes: int, *, now: datetime, ttl: float) -> Upload:
    """As ``TouchUpload`` says; the deadline becomes *ttl* seconds from now, never earlier than it was."""
    row = await tx.one(
        "UPDATE uploads SET received_bytes = CASE WHEN received_bytes < $2 THEN $2 ELSE received_bytes END, "
        "expires_at = CASE WHEN expires_at < $3 THEN $3 ELSE expires_at END "
        f"WHERE id = $1 AND state = 'pending' RETURNING {rows.UPLOAD}",
        upload_id,
        received_bytes,
        rows.later(now, ttl),
    )
    if row is None:
        raise _ended(await get(tx, upload_id))
    return rows.upload(row)


def _ended(upload: Upload) -> UploadFinished | Gone:
    if upload.state is UploadState.COMMITTED:
        return UploadFinished("The upload already has its bytes.")
    return Gone(f"The upload has ended ({upload.state.value}): {upload.reason or 'no reason was given'}")


async def publish(tx: Tx, upload_id: UploadId, blob: BlobInfo, *, now: datetime) -> File:
    """As ``PublishUpload`` says; ``Gone`` also when the folder it was meant for is."""
    file_id, version_id = FileId(new_id()), VersionId(new_id())
    at = rows.micros(now)
    row = await tx.one(_COMMIT, upload_id, at, file_id)
    if row is None:
        return await _published(tx, await get(tx, upload_id))
    upload = rows.upload(row)
    if blob.size_bytes != upload.size_bytes:
        raise LengthMismatch(f"{upload.size_bytes} bytes were declared, and {blob.size_bytes} arrived.")
    if upload.sha256 is not None and blob.sha256 is not None and upload.sha256 != blob.sha256:
        raise DigestMismatch("The bytes are not those whose digest was declared.")
    owner_id, parent_id = upload.owner_id, upload.parent_id
    if parent_id is not None:
        await tx.lock(owner_id)
        if not await entries.is_folder(tx, owner_id, parent_id):
            raise Gone("The folder that the upload was meant for is gone.")
    file = File(
        id=file_id,
        owner_id=owner_id,
        name=upload.name,
        created_at=now,
        updated_at=now,
        kind=FileKind.FILE,
        parent_id=parent_id,
        mime=upload.mime or blob.mime or "application/octet-stream",
        size_bytes=upload.size_bytes,
        sha256=blob.sha256,  # what the store or we have seen, never what was only claimed
        version_id=version_id,
    )
    while not await _place(tx, file):  # the index decides who has a name, so the owner need not be locked for it
        name = await entries.free_name(tx, owner_id, parent_id, upload.name, upload.on_conflict)
        file = msgspec.structs.replace(file, name=name)
    await tx.run(_VERSION, version_id, file_id, upload.object_key, file.mime, file.size_bytes, file.sha256, at)
    await tx.run(_CHARGE, owner_id, upload.size_bytes)
    await outbox.note(tx, FileEventKind.CREATED, owner_id, file_id, file, now=now)
    return file


async def _place(tx: Tx, file: File) -> bool:
    """Make the entry of a new file, unless another has its name."""
    placed = await tx.run(
        _ENTRY,
        file.id,
        file.owner_id,
        file.parent_id or "",
        file.name,
        name_key(file.name),
        search_key(file.name),
        file.mime,
        file.size_bytes,
        file.sha256,
        file.version_id,
        rows.micros(file.created_at),
    )
    return placed > 0


async def _published(tx: Tx, upload: Upload) -> File:
    """The file that an ended upload became, as it is now."""
    if upload.state is not UploadState.COMMITTED:
        raise _ended(upload)
    row = await tx.one(f"SELECT {rows.FILE} FROM entries WHERE id = $1 AND state <> 'purging'", upload.file_id)
    if row is None:
        raise Gone("The upload became a file that is no more.")
    return rows.file(row)


async def fail(
    tx: Tx, upload_id: UploadId, reason: str, *, now: datetime, state: UploadState = UploadState.FAILED
) -> Upload:
    """As ``FailUpload`` says."""
    row = await tx.one(_END, upload_id, state.value, reason, rows.micros(now))
    if row is None:
        return await get(tx, upload_id)
    upload = rows.upload(row)
    await tx.run(_UNRESERVE, upload.owner_id, upload.size_bytes)
    return upload


async def abort(tx: Tx, owner_id: UserId, upload_id: UploadId, *, now: datetime) -> Upload:
    """As ``AbortUpload`` says."""
    await get(tx, upload_id, owner_id=owner_id)
    upload = await fail(tx, upload_id, "The owner aborted it.", now=now, state=UploadState.ABORTED)
    if upload.state is UploadState.COMMITTED:
        raise _ended(upload)
    return upload


async def due(tx: Tx, *, after: float, limit: int, now: datetime) -> list[Upload]:
    """As ``DueUploads`` says.  A write: it counts the attempts.

    What lies further ahead than any delay was written by a clock that has
    since been set back: it does not wait until that time comes again.
    """
    at, far, begun = rows.micros(now), rows.later(now, _LONGEST_CHECK_DELAY), rows.later(now, -after)
    found = [*await tx.all(_DUE, at, begun, far, limit)]
    found += await tx.all(_SET_BACK, far, begun, far, limit - len(found))
    due = [rows.upload(row) for row in found]
    checks = []
    for upload in due:
        next_at = rows.later(now, _backoff(max(after, 1.0), upload.attempts, _LONGEST_CHECK_DELAY))
        deadline = rows.micros(upload.expires_at)
        checks.append((upload.id, min(next_at, deadline) if deadline > at else next_at))
    await tx.run_each("UPDATE uploads SET attempts = attempts + 1, next_check_at = $2 WHERE id = $1", checks)
    return due


async def postpone(tx: Tx, upload_ids: list[UploadId], *, after: float, now: datetime) -> None:
    """As ``PostponeUploads`` says."""
    next_at = rows.later(now, max(after, 1.0))
    await tx.run_each(
        "UPDATE uploads SET attempts = attempts - 1, next_check_at = $2 WHERE id = $1 AND attempts > 0",
        [(upload_id, next_at) for upload_id in upload_ids],
    )


async def due_cleanups(tx: Tx, *, limit: int, now: datetime) -> list[Cleanup]:
    """As ``DueCleanups`` says.  A write: it counts the attempts."""
    found = await tx.all(
        "SELECT id, object_key, cleanup_attempts FROM uploads WHERE cleanup_at <= $1 ORDER BY cleanup_at LIMIT $2",
        rows.micros(now),
        limit,
    )
    await tx.run_each(
        "UPDATE uploads SET cleanup_attempts = cleanup_attempts + 1, cleanup_at = $2 WHERE id = $1",
        [(id_, rows.later(now, _backoff(60.0, attempts, _LONGEST_CLEANUP_DELAY))) for id_, _, attempts in found],
    )
    return [Cleanup(upload_id=UploadId(row[0]), object_key=ObjectKey(row[1])) for row in found]


async def finish_cleanup(tx: Tx, upload_id: UploadId, *, now: datetime) -> None:
    """As ``FinishCleanup`` says: the first time due again when the URL is dead, then never."""
    margin = round(URL_MARGIN * 1_000_000)
    await tx.run(
        "UPDATE uploads SET cleanup_attempts = 0, "
        "cleanup_at = CASE WHEN expires_at + $2 <= $3 THEN NULL ELSE expires_at + $2 END "
        "WHERE id = $1 AND cleanup_at IS NOT NULL",
        upload_id,
        margin,
        rows.micros(now),
    )


async def counts(tx: Tx) -> dict[str, int]:
    """As ``UploadCounts`` says."""
    found = {row[0]: row[1] for row in await tx.all("SELECT state, COUNT(*) FROM uploads GROUP BY state")}
    return {state.value: found.get(state.value, 0) for state in UploadState}


def _backoff(shortest: float, attempts: int, longest: float) -> float:
    """Seconds to wait after so many attempts: doubling, within bounds."""
    return min(longest, shortest * 2.0 ** min(attempts, 30))
