"""Delete old changes from the log.

Changes are deleted from the oldest, and ``users.log_start`` is the number of the
last one that was deleted.  A call looks at some owners: to find the next owner
and their oldest change takes two look-ups, so the log needs no index by time.
"""

from __future__ import annotations

from godrive.catalog import Row, Tx
from godrive.messages.system import PrunedLog, PruneLog
from godrive.model import UserId, UserState
from godrive.rules import rows
from godrive.rules.registry import Env, rule

_OWNERS_AT_ONCE = 200
_OWNERS = (
    "WITH RECURSIVE next_owner (id, number) AS ("
    "SELECT (SELECT MIN(c.owner_id) FROM changes c WHERE c.owner_id > $1), 1 UNION ALL "
    "SELECT (SELECT MIN(c.owner_id) FROM changes c WHERE c.owner_id > o.id), number + 1 FROM next_owner o "
    f"WHERE o.id IS NOT NULL AND number < {_OWNERS_AT_ONCE}) SELECT o.id, u.state, u.log_rows, "
    "(SELECT c.at FROM changes c WHERE c.owner_id = o.id ORDER BY c.change LIMIT 1) "
    "FROM next_owner o LEFT JOIN users u ON u.id = o.id WHERE o.id IS NOT NULL"
)


@rule(PruneLog, writes=True)
async def prune(tx: Tx, ask: PruneLog, env: Env) -> PrunedLog:
    """As ``PruneLog`` says.  Keeps a change that NATS or the webhook for all users still waits for."""
    owners, left = sorted(await tx.all(_OWNERS, ask.after), key=lambda row: str(row[0])), ask.limit
    old = rows.later(ask.due_by or env.now, -env.config.janitor.change_retention)
    now = rows.micros(env.now) if ask.due_by is None else None
    for owner_id, state, log_rows, first_at in owners:
        is_ahead = now is not None and first_at > now
        if state is None or _keeps(env, state) < log_rows or first_at <= old or is_ahead:
            left -= await _prune_owner(tx, UserId(owner_id), env, left, old=old, now=now)
            if left <= 0:
                return PrunedLog(changes=ask.limit, after=_before(owners, owner_id, ask.after))
    is_last = len(owners) < _OWNERS_AT_ONCE
    return PrunedLog(changes=ask.limit - left, after=None if is_last else UserId(owners[-1][0]))


def _keeps(env: Env, state: str | None) -> int:
    """Return how many changes of a user in that state are kept."""
    return 0 if state in (None, UserState.DELETED.value) else env.config.janitor.changes_per_user


def _before(owners: list[Row], owner_id: str, after: UserId) -> UserId:
    """Return the owner before that one, so that the next call begins with it again."""
    ids = [after, *(row[0] for row in owners)]
    return UserId(ids[ids.index(owner_id) - 1])


async def _prune_owner(tx: Tx, owner_id: UserId, env: Env, limit: int, *, old: int, now: int | None) -> int:
    """Delete at most *limit* of the owner's oldest changes, up to the time *old*.  Returns their number.

    *now* is ``None`` while the clock is in doubt.
    """
    await tx.lock(owner_id)
    user = await tx.one("SELECT log_rows, state FROM users WHERE id = $1", owner_id)
    waiting = ("AND published = 1 " if tx.sinks.nats else "") + ("AND delivered = 1 " if tx.sinks.webhook else "")
    found = await tx.all(
        f"SELECT change, at FROM changes WHERE owner_id = $1 {waiting}ORDER BY change LIMIT $2", owner_id, limit
    )
    if now is not None:  # after the clock was set back, instants in the future would keep these rows for too long
        late = [(owner_id, change, now) for change, at in found if at > now]
        await tx.run_each("UPDATE changes SET at = $3 WHERE owner_id = $1 AND change = $2", late)
    excess = len(found) if user is None else user[0] - _keeps(env, user[1])
    due = 0
    while due < len(found) and (due < excess or found[due][1] <= old):
        due += 1
    if not due:
        return 0
    last = found[due - 1][0]
    deleted = await tx.run(f"DELETE FROM changes WHERE owner_id = $1 AND change <= $2 {waiting}", owner_id, last)
    await tx.run(
        "UPDATE users SET log_rows = log_rows - $2, log_start = CASE WHEN log_start < $3 THEN $3 ELSE log_start END "
        "WHERE id = $1",
        owner_id,
        deleted,
        last,
    )
    return deleted
