"""Background work for versions: retention, and the removal of those that were deleted or have served their time.

Theory of operation.  A version is removed like an entry of the trash: it is
marked, its bytes are deleted, its row goes last.  So after a crash in between,
the next claim deletes the bytes again, which is idempotent.

The time of a version's next review is in its row.  The first review is when its
retention time is over.  A version that is then among the newest of its file is
reviewed again after a day, so the work depends on the number of versions that
are kept, not on how often files change, and a new configuration applies within
a day.
"""

from __future__ import annotations

from collections.abc import Sequence

from godrive.backoff import Backoff
from godrive.catalog import Row, Tx
from godrive.messages.system import ClaimVersions, FinishVersion, ReviewVersions, VersionPurge
from godrive.model import ObjectKey, UserId, VersionId
from godrive.rules import changes, rows, versions
from godrive.rules.registry import Env, rule

_REVIEW_EVERY = 86_400.0
_LONGEST_PURGE_DELAY = 3600.0
_PURGE_BACKOFF = Backoff(60.0, _LONGEST_PURGE_DELAY)

_BOUND = (  # reviews that a clock which ran ahead, or another configuration, has put off too far
    "UPDATE versions SET review_at = $2, replaced_at = CASE WHEN replaced_at > $1 THEN $1 ELSE replaced_at END "
    "WHERE id IN (SELECT id FROM versions WHERE review_at > $2 LIMIT $3)"
)
_OWNED = "SELECT v.id, e.owner_id FROM versions v JOIN entries e ON e.id = v.file_id"
_DUE_REVIEWS = f"{_OWNED} WHERE v.review_at <= $1 ORDER BY v.review_at LIMIT $2"
_DUE_PURGES = f"{_OWNED} WHERE v.next_purge_at <= $1 ORDER BY v.next_purge_at LIMIT $2"
_SET_BACK = f"{_OWNED} WHERE v.next_purge_at > $1 LIMIT $2"
_REVIEWED = (  # OFFSET counts the current version, and then those that are kept
    "SELECT v.id, v.replaced_at, CASE WHEN v.revision < (SELECT n.revision FROM versions n WHERE n.file_id = v.file_id "
    f"AND n.next_purge_at IS NULL ORDER BY n.revision DESC LIMIT 1 OFFSET ${rows.AT_ONCE + 2}) THEN 1 ELSE 0 END "
    f"FROM versions v WHERE v.id IN ({rows.PLACES}) AND v.review_at <= ${rows.AT_ONCE + 1}"
)
_CLAIMABLE = (
    f"SELECT v.id, v.purge_attempts FROM versions v WHERE v.id IN ({rows.PLACES}) "
    f"AND (v.next_purge_at <= ${rows.AT_ONCE + 1} OR v.next_purge_at > ${rows.AT_ONCE + 2})"
)
_KEYS = (
    f"SELECT v.id, v.object_key, CASE WHEN {versions.IS_SHARED.format(key='v.object_key')} THEN 1 ELSE 0 END "
    f"FROM versions v WHERE v.id IN ({rows.PLACES})"
)


@rule(ReviewVersions, writes=True)
async def review(tx: Tx, ask: ReviewVersions, env: Env) -> int:
    """As ``ReviewVersions`` says."""
    now, retention = ask.due_by or env.now, env.config.janitor.version_retention
    at, again, bounded = rows.micros(now), rows.later(now, _REVIEW_EVERY), 0
    if ask.due_by is None:
        bounded = await tx.run(_BOUND, at, rows.later(now, max(retention, _REVIEW_EVERY)), ask.limit)
        if bounded >= ask.limit:
            return bounded
    ids = await _locked(tx, await tx.all(_DUE_REVIEWS, at, ask.limit))
    since = rows.later(now, -retention)
    over: list[tuple[object, ...]] = []
    kept: list[tuple[object, ...]] = []
    for id_, replaced_at, is_beyond in await rows.each(tx, _REVIEWED, ids, at, env.config.janitor.versions_kept):
        if replaced_at > since:  # the retention is longer now
            kept.append((id_, replaced_at - since + at))
        elif is_beyond:
            over.append((id_, at))
        else:
            kept.append((id_, again))
    await tx.run_each("UPDATE versions SET next_purge_at = $2, review_at = NULL WHERE id = $1", over)
    await tx.run_each("UPDATE versions SET review_at = $2 WHERE id = $1", kept)
    return max(bounded, len(ids))


@rule(ClaimVersions, writes=True)
async def claim(tx: Tx, ask: ClaimVersions, env: Env) -> list[VersionPurge]:
    """As ``ClaimVersions`` says.

    The object key is returned with a version only if every other version that
    refers to it is being removed too, so the blob is deleted with the last of them.
    """
    at, far = rows.micros(env.now), rows.later(env.now, _LONGEST_PURGE_DELAY)
    found = await tx.all(_DUE_PURGES, at, ask.limit)
    if len(found) < ask.limit:
        found = [*found, *await tx.all(_SET_BACK, far, ask.limit - len(found))]
    claimed = await rows.each(tx, _CLAIMABLE, await _locked(tx, found), at, far)
    await tx.run_each(
        "UPDATE versions SET purge_attempts = purge_attempts + 1, next_purge_at = $2 WHERE id = $1",
        [(id_, rows.later(env.now, _PURGE_BACKOFF.after(attempts + 1))) for id_, attempts in claimed],
    )
    return [
        VersionPurge(version_id=VersionId(id_), object_key=None if is_shared else ObjectKey(object_key))
        for id_, object_key, is_shared in await rows.each(tx, _KEYS, [VersionId(row[0]) for row in claimed])
    ]


@rule(FinishVersion, writes=True)
async def finish(tx: Tx, ask: FinishVersion, env: Env) -> None:
    """As ``FinishVersion`` says.  Does nothing for a version that is not being removed."""
    row = await tx.one(f"{_OWNED} WHERE v.id = $1 AND v.next_purge_at IS NOT NULL", ask.version_id)
    if row is None:
        return
    owner_id = UserId(row[1])
    await tx.lock(owner_id)
    gone = await tx.one("DELETE FROM versions WHERE id = $1 RETURNING size_bytes", ask.version_id)
    if gone is not None:
        await changes.charge(tx, owner_id, versions=-gone[0], version_rows=-1)


async def _locked(tx: Tx, found: Sequence[Row]) -> list[VersionId]:
    """Lock the owners of the versions (id, owner).  Returns the ids.

    Before the lock, a version may be named or claimed, so the caller reads it again.
    """
    if found:
        await tx.lock(*{UserId(owner_id) for _, owner_id in found})
    return list(dict.fromkeys(VersionId(id_) for id_, _ in found))
