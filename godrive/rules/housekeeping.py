"""What keeps the catalog small and honest: keys, leases, pruning, drift."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec

from godrive.catalog import Tx
from godrive.errors import Conflict, IdempotencyMismatch, Invalid
from godrive.model import ObjectKey, Pruned, StoredReply, UserId
from godrive.rules import networks, rows

_KEYS_AT_ONCE = 50
_LONGEST_KEY = 255


async def claim_key(
    tx: Tx, owner_id: UserId, key: str, fingerprint: str, *, now: datetime, patience: float = 60.0
) -> StoredReply | None:
    """As ``ClaimKey`` says; one never settled may be claimed again after *patience* seconds."""
    if not 1 <= len(key) <= _LONGEST_KEY:
        raise Invalid(f"An idempotency key has 1 to {_LONGEST_KEY} characters.", field="Idempotency-Key")
    expires_at = rows.later(now, patience)
    if await tx.run(
        "INSERT INTO idempotency_keys (owner_id, key, fingerprint, expires_at) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT (owner_id, key) DO UPDATE SET fingerprint = $3, expires_at = $4, status = NULL, headers = NULL, "
        "body = NULL WHERE idempotency_keys.expires_at <= $5",
        owner_id,
        key,
        fingerprint,
        expires_at,
        rows.micros(now),
    ):
        return None
    row = await tx.one(
        "SELECT fingerprint, status, headers, body FROM idempotency_keys WHERE owner_id = $1 AND key = $2",
        owner_id,
        key,
    )
    if row is None:  # let go between the two statements
        raise Conflict("The first request with that idempotency key has just ended.", retry_after=1.0)
    kept, status, headers, body = row
    if kept != fingerprint:
        raise IdempotencyMismatch("The idempotency key was used for another request.", field="Idempotency-Key")
    if status is None:
        raise Conflict("The first request with that idempotency key is still being served.", retry_after=1.0)
    return StoredReply(status=status, headers=msgspec.json.decode(headers, type=dict[str, str]), body=bytes(body))


async def settle_key(
    tx: Tx, owner_id: UserId, key: str, stored: StoredReply | None, *, now: datetime, ttl: float = 86_400.0
) -> None:
    """As ``SettleKey`` says; the answer is kept *ttl* seconds.  Of a key that is not claimed, a no-op."""
    if stored is None:
        await tx.run("DELETE FROM idempotency_keys WHERE owner_id = $1 AND key = $2 AND status IS NULL", owner_id, key)
        return
    await tx.run(
        "UPDATE idempotency_keys SET status = $3, headers = $4, body = $5, expires_at = $6 "
        "WHERE owner_id = $1 AND key = $2 AND status IS NULL",
        owner_id,
        key,
        stored.status,
        msgspec.json.encode(stored.headers).decode(),
        stored.body,
        rows.later(now, ttl),
    )


async def known_keys(tx: Tx, object_keys: Sequence[ObjectKey]) -> list[ObjectKey]:
    """As ``KnownKeys`` says: keys of versions, of pending uploads, and of ended ones whose bytes are still to go."""
    places = ", ".join(f"${number}" for number in range(1, _KEYS_AT_ONCE + 1))
    sql = (
        f"SELECT object_key FROM versions WHERE object_key IN ({places}) UNION "
        f"SELECT object_key FROM uploads WHERE object_key IN ({places}) "
        "AND (state = 'pending' OR cleanup_at IS NOT NULL)"
    )
    known: set[str] = set()
    for start in range(0, len(object_keys), _KEYS_AT_ONCE):
        some = [*object_keys[start : start + _KEYS_AT_ONCE]]
        some += some[-1:] * (_KEYS_AT_ONCE - len(some))
        known.update(row[0] for row in await tx.all(sql, *some))
    return [key for key in object_keys if key in known]


async def prune(tx: Tx, *, limit: int, now: datetime, retention: float) -> Pruned:
    """As ``Prune`` says; ended uploads stay *retention* seconds.  At most *limit* rows of each kind."""
    at = rows.micros(now)

    async def drop(table: str, keys: str, where: str, before: int = at) -> int:
        return await tx.run(
            f"DELETE FROM {table} WHERE ({keys}) IN (SELECT {keys} FROM {table} WHERE {where} LIMIT $2)", before, limit
        )

    known_since = rows.later(now, -networks.KNOWN_FOR)
    await drop("session_networks", "user_id, network", "last_seen_at <= $1", known_since)
    await drop("invites", "digest", "(expires_at <= $1 OR used_at <= $1)", rows.later(now, -retention))
    return Pruned(
        sessions=await drop("sessions", "id", "expires_at <= $1"),
        idempotency_keys=await drop("idempotency_keys", "owner_id, key", "expires_at <= $1"),
        uploads=await drop("uploads", "id", "finished_at <= $1 AND cleanup_at IS NULL", rows.later(now, -retention)),
        users=await drop(
            "users",
            "id",
            "state = 'deleted' AND created_at <= $1 "
            "AND NOT EXISTS (SELECT 1 FROM uploads u WHERE u.owner_id = users.id) "
            "AND NOT EXISTS (SELECT 1 FROM entries e WHERE e.owner_id = users.id AND e.state = 'live') "
            "AND NOT EXISTS (SELECT 1 FROM entries e WHERE e.owner_id = users.id AND e.state = 'trashed') "
            "AND live_bytes + trash_bytes + version_bytes = 0",
        ),
    )


_SUMS = (
    "FROM users u LEFT JOIN (SELECT e.owner_id, "
    "SUM(CASE WHEN v.id = e.version_id AND e.state = 'live' THEN v.size_bytes ELSE 0 END) AS live, "
    "SUM(CASE WHEN v.id = e.version_id AND e.state <> 'live' THEN v.size_bytes ELSE 0 END) AS trash, "
    "SUM(CASE WHEN v.id = e.version_id THEN 0 ELSE v.size_bytes END) AS version "
    "FROM entries e JOIN versions v ON v.file_id = e.id GROUP BY e.owner_id) s ON s.owner_id = u.id "
    "LEFT JOIN (SELECT owner_id, SUM(size_bytes) AS reserved FROM uploads WHERE state = 'pending' GROUP BY owner_id) r "
    "ON r.owner_id = u.id"
)


async def usage_drift(tx: Tx) -> int:
    """As ``UsageDrift`` says."""
    row = await tx.one(
        "SELECT CAST(COALESCE(SUM(ABS(u.live_bytes - COALESCE(s.live, 0)) + ABS(u.trash_bytes - COALESCE(s.trash, 0)) "
        "+ ABS(u.version_bytes - COALESCE(s.version, 0)) + ABS(u.reserved_bytes - COALESCE(r.reserved, 0))), 0) "
        f"AS BIGINT) {_SUMS}"
    )
    return int(rows.found(row, "sum")[0])


async def check_usage(tx: Tx) -> None:
    """Raises ``Conflict`` when the kept usage differs from the rows."""
    if drift := await usage_drift(tx):
        raise Conflict(f"The usage of the users differs from their files by {drift} bytes.")


async def recount_usage(tx: Tx, user_id: UserId) -> None:
    """Set the user's usage to what the rows add up to."""
    await tx.lock(user_id)
    row = await tx.one(
        "SELECT CAST(COALESCE(s.live, 0) AS BIGINT), CAST(COALESCE(s.trash, 0) AS BIGINT), "
        f"CAST(COALESCE(s.version, 0) AS BIGINT), CAST(COALESCE(r.reserved, 0) AS BIGINT) {_SUMS} WHERE u.id = $1",
        user_id,
    )
    await tx.run(
        "UPDATE users SET live_bytes = $2, trash_bytes = $3, version_bytes = $4, reserved_bytes = $5 WHERE id = $1",
        user_id,
        *rows.found(row, "user"),
    )


async def acquire_lease(tx: Tx, name: str, holder: str, *, now: datetime, ttl: float) -> bool:
    """Whether *holder* has the lease called *name* for the next *ttl* seconds; its own it renews.

    One that ends much later than that was given by a clock that has since been
    set back, and does not count: it might last for years.
    """
    changed = await tx.run(
        "INSERT INTO leases (name, holder, expires_at) VALUES ($1, $2, $3) "
        "ON CONFLICT (name) DO UPDATE SET holder = $2, expires_at = $3 "
        "WHERE leases.holder = $2 OR leases.expires_at <= $4 OR leases.expires_at > $5",
        name,
        holder,
        rows.later(now, ttl),
        rows.micros(now),
        rows.later(now, 2 * ttl),
    )
    return changed > 0


async def release_lease(tx: Tx, name: str, holder: str) -> None:
    """Give the lease back; one that is not held is left as it is."""
    await tx.run("DELETE FROM leases WHERE name = $1 AND holder = $2", name, holder)
