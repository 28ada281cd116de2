"""Background work for uploads: checks of pending uploads, and cleanup after ended ones."""

from __future__ import annotations

from datetime import timedelta

from msgspec.structs import replace

from godrive.backoff import Backoff
from godrive.catalog import Tx
from godrive.messages.pending import UploadsWithoutFolder
from godrive.messages.system import (
    Cleanup,
    DueCleanups,
    DueUploads,
    FinishCleanup,
    PostponeUploads,
    UploadCounts,
)
from godrive.model import (
    ObjectKey,
    Upload,
    UploadId,
    UploadState,
)
from godrive.rules import rows
from godrive.rules.registry import Env, rule
from godrive.rules.uploads import life_of

_LONGEST_CHECK_DELAY = 60.0
_LONGEST_LIFE = 8 * 86_400.0
"""More than the longest life of an upload: at most a week is configurable, and a PUT may take a day."""
_LONGEST_CLEANUP_DELAY = 3600.0
_CLEANUP_BACKOFF = Backoff(60.0, _LONGEST_CLEANUP_DELAY)
URL_MARGIN = 3600.0
"""Seconds for which a PUT may still be running after its URL has expired."""

_WAITING = (  # two ranges of one index; a single OR condition would read all pending rows
    f"SELECT {rows.UPLOAD} FROM uploads WHERE state = 'pending' AND next_check_at {{}} $1 "
    "AND (created_at <= $2 OR created_at > $3) ORDER BY next_check_at LIMIT $4"
)
_DUE, _SET_BACK = _WAITING.format("<="), _WAITING.format(">")

_WITHOUT_FOLDER = (
    f"SELECT id FROM uploads WHERE id IN ({rows.PLACES}) AND state = 'pending' AND parent_id <> '' AND NOT EXISTS "
    "(SELECT 1 FROM entries e WHERE e.id = uploads.parent_id AND e.state <> 'purging')"
)


@rule(DueUploads, writes=True)
async def due(tx: Tx, ask: DueUploads, env: Env) -> list[Upload]:
    """As ``DueUploads`` says.  A write, because it counts attempts.

    If a check is further ahead than the longest delay, the clock has been set
    back since, so the check is due.  A deadline from before the clock was set
    back becomes a deadline of the same length from now.
    """
    at, far = rows.micros(env.now), rows.later(env.now, _LONGEST_CHECK_DELAY)
    begun = rows.later(env.now, -ask.after)
    await tx.run(
        "UPDATE uploads SET expires_at = $1 + (expires_at - created_at), created_at = $1 "
        "WHERE state = 'pending' AND next_check_at > $2 AND created_at > $2",
        at,
        far,
    )
    found = [*await tx.all(_DUE, at, begun, far, ask.limit)]
    found += await tx.all(_SET_BACK, far, begun, far, ask.limit - len(found))
    found = found[: rows.that_fit(found, ask.limit, rows.UPLOAD_TEXTS)]
    longest = rows.later(env.now, _LONGEST_LIFE)
    due = [_bounded(upload, longest, env) for upload in map(rows.upload, found)]
    backoff, checks = Backoff(max(ask.after, 1.0), _LONGEST_CHECK_DELAY), []
    for upload in due:
        next_at = rows.later(env.now, backoff.after(upload.attempts + 1))
        deadline = rows.micros(upload.expires_at)
        checks.append((upload.id, min(next_at, deadline) if deadline > at else next_at, longest, deadline))
    await tx.run_each(
        "UPDATE uploads SET attempts = attempts + 1, next_check_at = $2, "
        "expires_at = CASE WHEN expires_at > $3 THEN $4 ELSE expires_at END WHERE id = $1",
        checks,
    )
    return due


def _bounded(upload: Upload, longest: int, env: Env) -> Upload:
    """Return the upload, with a full life if bytes that came before the clock was set back extended it too far."""
    if rows.micros(upload.expires_at) <= longest:
        return upload
    return replace(upload, expires_at=env.now + timedelta(seconds=life_of(upload.kind, env)))


@rule(PostponeUploads, writes=True)
async def postpone(tx: Tx, ask: PostponeUploads, env: Env) -> None:
    """As ``PostponeUploads`` says."""
    next_at = rows.later(env.now, max(ask.after, 1.0))
    await tx.run_each(
        "UPDATE uploads SET attempts = attempts - 1, next_check_at = $2 WHERE id = $1 AND attempts > 0",
        [(upload_id, next_at) for upload_id in ask.upload_ids],
    )


@rule(UploadsWithoutFolder)
async def without_folder(tx: Tx, ask: UploadsWithoutFolder, env: Env) -> list[UploadId]:
    """As ``UploadsWithoutFolder`` says."""
    return [UploadId(row[0]) for row in await rows.each(tx, _WITHOUT_FOLDER, ask.upload_ids)]


@rule(DueCleanups, writes=True)
async def due_cleanups(tx: Tx, ask: DueCleanups, env: Env) -> list[Cleanup]:
    """As ``DueCleanups`` says.  A write, because it counts attempts.

    A cleanup further ahead than the longest delay, and after the end of its URL, was scheduled by a wrong clock.
    """
    staging = "CASE WHEN kind IN ('whole', 'once') THEN NULL ELSE staging END"
    columns = f"SELECT id, object_key, cleanup_attempts, {staging}, multipart FROM uploads WHERE cleanup_at"
    found = await tx.all(f"{columns} <= $1 ORDER BY cleanup_at LIMIT $2", rows.micros(env.now), ask.limit)
    found = [
        *found,
        *await tx.all(
            f"{columns} > $1 AND (cleanup_at > expires_at + $2 OR created_at > $1) ORDER BY cleanup_at LIMIT $3",
            rows.later(env.now, _LONGEST_CLEANUP_DELAY),
            round(URL_MARGIN * 1_000_000),
            ask.limit - len(found),
        ),
    ]
    await tx.run_each(
        "UPDATE uploads SET cleanup_attempts = cleanup_attempts + 1, cleanup_at = $2 WHERE id = $1",
        [(row[0], rows.later(env.now, _CLEANUP_BACKOFF.after(row[2] + 1))) for row in found],
    )
    return [
        Cleanup(upload_id=UploadId(row[0]), object_key=ObjectKey(row[1]), staging=row[3], multipart=row[4])
        for row in found
    ]


@rule(FinishCleanup, writes=True)
async def finish_cleanup(tx: Tx, ask: FinishCleanup, env: Env) -> None:
    """As ``FinishCleanup`` says.  The first call schedules a second cleanup after the URL expires; the second is final.

    If the upload began before the clock was set back, its URL is assumed to live its full length from now.
    """
    margin = round(URL_MARGIN * 1_000_000)
    await tx.run(
        "UPDATE uploads SET cleanup_attempts = 0, cleanup_at = CASE WHEN expires_at + $2 <= $3 THEN NULL "
        "WHEN created_at > $3 THEN $3 + (expires_at - created_at) + $2 ELSE expires_at + $2 END, "
        "expires_at = CASE WHEN created_at > $3 THEN $3 + (expires_at - created_at) ELSE expires_at END, "
        "created_at = CASE WHEN created_at > $3 THEN $3 ELSE created_at END "
        "WHERE id = $1 AND cleanup_at IS NOT NULL",
        ask.upload_id,
        margin,
        rows.micros(env.now),
    )


@rule(UploadCounts)
async def counts(tx: Tx, ask: UploadCounts, env: Env) -> dict[str, int]:
    """As ``UploadCounts`` says."""
    found = {row[0]: row[1] for row in await tx.all("SELECT state, COUNT(*) FROM uploads GROUP BY state")}
    return {state.value: found.get(state.value, 0) for state in UploadState}
