"""Housekeeping of the catalog: known object keys, leases, pruning, and drift of the usage."""

from __future__ import annotations

from godrive.catalog import Row, Tx
from godrive.errors import Conflict
from godrive.messages.clock import AcceptClock, NoteClock, NotedClock, ReadClock
from godrive.messages.expected import ExpectedBlob, ExpectedBlobs, NamedSizes
from godrive.messages.system import (
    AcquireLease,
    Drift,
    KnownKeys,
    Prune,
    Pruned,
    RecountUsage,
    ReleaseLease,
    UsageDrift,
)
from godrive.model import FileId, ObjectKey, UserId
from godrive.rules import idempotency, networks, rows, users
from godrive.rules.registry import Env, rule

_KEYS_AT_ONCE = 50
_PLACES = ", ".join(f"${number}" for number in range(1, _KEYS_AT_ONCE + 1))
_USERS_AT_ONCE = 50


@rule(KnownKeys)
async def known_keys(tx: Tx, ask: KnownKeys, env: Env) -> list[ObjectKey]:
    """As ``KnownKeys`` says: keys of versions, of pending uploads, and of ended uploads with bytes to delete."""
    sql = (
        f"SELECT object_key FROM versions WHERE object_key IN ({_PLACES}) UNION "
        f"SELECT object_key FROM uploads WHERE object_key IN ({_PLACES}) "
        "AND (state = 'pending' OR cleanup_at IS NOT NULL)"
    )
    known = {row[0] for row in await _by_keys(tx, sql, ask.object_keys)}
    return [key for key in ask.object_keys if key in known]


async def _by_keys(tx: Tx, sql: str, keys: list[ObjectKey]) -> list[Row]:
    """Run the statement, which has ``_PLACES``, for all keys."""
    found: list[Row] = []
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = [*keys[start : start + _KEYS_AT_ONCE]]
        found += await tx.all(sql, *some, *some[-1:] * (_KEYS_AT_ONCE - len(some)))
    return found


_EXPECTED = (
    "SELECT v.object_key, MIN(v.size_bytes), MIN(v.sha256), MIN(v.file_id) FROM versions v "
    "JOIN entries e ON e.id = v.file_id WHERE {} AND v.next_purge_at IS NULL AND e.state <> 'purging' "
    "GROUP BY v.object_key ORDER BY v.object_key"
)
_EXPECTED_AFTER = _EXPECTED.format("v.object_key > $1") + " LIMIT $2"
_EXPECTED_ONLY = _EXPECTED.format(f"v.object_key IN ({_PLACES})")
_SIZES = (
    "SELECT object_key, MIN(size_bytes) FROM versions WHERE object_key > $1 "
    "GROUP BY object_key ORDER BY object_key LIMIT $2"
)


@rule(ExpectedBlobs, large=True)
async def expected_blobs(tx: Tx, ask: ExpectedBlobs, env: Env) -> list[ExpectedBlob]:
    """As ``ExpectedBlobs`` says.  Bytes are deleted before rows, so what is being purged may be missing."""
    if ask.only is None:
        found = await tx.all(_EXPECTED_AFTER, ask.after, ask.limit)
    else:
        found = await _by_keys(tx, _EXPECTED_ONLY, sorted(set(ask.only)))
    return [
        ExpectedBlob(object_key=ObjectKey(key), size_bytes=size, sha256=sha256, file_id=FileId(file))
        for key, size, sha256, file in found
    ]


@rule(NamedSizes)
async def named_sizes(tx: Tx, ask: NamedSizes, env: Env) -> dict[ObjectKey, int]:
    """As ``NamedSizes`` says."""
    return dict(await tx.all(_SIZES, ask.after, ask.limit))  # type: ignore[arg-type]


@rule(Prune, writes=True)
async def prune(tx: Tx, ask: Prune, env: Env) -> Pruned:
    """As ``Prune`` says.  At most ``limit`` rows of each kind."""
    now, limit, retention = ask.due_by or env.now, ask.limit, env.config.janitor.upload_retention
    at = rows.micros(now)

    async def drop(table: str, keys: str, where: str, before: int = at) -> int:
        return await tx.run(
            f"DELETE FROM {table} WHERE ({keys}) IN (SELECT {keys} FROM {table} WHERE {where} LIMIT $2)", before, limit
        )

    if ask.due_by is None:  # if the clock has been set back, instants in the future would keep these rows for too long
        await tx.run("UPDATE uploads SET finished_at = $1 WHERE finished_at > $1", at)
        await tx.run(idempotency.BOUND, rows.later(now, idempotency.PATIENCE), rows.later(now, idempotency.KEPT_FOR))
    accounts = await users.delete_due(tx, min(limit, _USERS_AT_ONCE), by=now, now=env.now)
    known_since = rows.later(now, -networks.KNOWN_FOR)
    await drop("session_networks", "user_id, network", "last_seen_at <= $1", known_since)
    await drop("invites", "digest", "(expires_at <= $1 OR used_at <= $1)", rows.later(now, -retention))
    return Pruned(
        accounts=accounts,
        sessions=await drop("sessions", "id", "expires_at <= $1"),
        idempotency_keys=await drop("idempotency_keys", "owner_id, key", "expires_at <= $1"),
        uploads=await drop("uploads", "id", "finished_at <= $1 AND cleanup_at IS NULL", rows.later(now, -retention)),
        users=await drop(
            "users",
            "id",
            "state = 'deleted' AND created_at <= $1 "
            "AND NOT EXISTS (SELECT 1 FROM uploads u WHERE u.owner_id = users.id) "
            "AND NOT EXISTS (SELECT 1 FROM entries e WHERE e.owner_id = users.id) "
            "AND live_bytes + trash_bytes + version_bytes = 0",
        ),
    )


_SUMS = (
    "FROM users u LEFT JOIN (SELECT e.owner_id, "
    "SUM(CASE WHEN v.id = e.version_id AND e.list_state <> 'hidden' THEN v.size_bytes ELSE 0 END) AS live, "
    "SUM(CASE WHEN v.id = e.version_id AND e.list_state = 'hidden' THEN v.size_bytes ELSE 0 END) AS trash, "
    "SUM(CASE WHEN v.id = e.version_id THEN 0 ELSE v.size_bytes END) AS version, "
    "SUM(CASE WHEN v.id = e.version_id THEN 0 ELSE 1 END) AS number "
    "FROM entries e JOIN versions v ON v.file_id = e.id {where} GROUP BY e.owner_id) s ON s.owner_id = u.id "
    "LEFT JOIN (SELECT e.owner_id, COUNT(*) AS number FROM entries e {where} GROUP BY e.owner_id) n "
    "ON n.owner_id = u.id "
    "LEFT JOIN (SELECT e.owner_id, SUM(e.size_bytes) AS reserved, COUNT(*) AS number FROM uploads e "
    "{where} {and_} e.state = 'pending' GROUP BY e.owner_id) r ON r.owner_id = u.id "
    "LEFT JOIN (SELECT e.owner_id, SUM(e.reserved_bytes) AS reserved, SUM(e.built_bytes) AS built, "
    "SUM(e.reserved_entries - e.built_entries) AS missing FROM copies e {where} GROUP BY e.owner_id) c "
    "ON c.owner_id = u.id"
)
_ALL = _SUMS.format(where="", and_="WHERE")
_ONE = _SUMS.format(where="WHERE e.owner_id = $1", and_="AND") + " WHERE u.id = $1"
_KEPT = {
    "live_bytes": "s.live",
    "trash_bytes": "s.trash - COALESCE(c.built, 0)",  # what is built of a copy counts as reserved
    "version_bytes": "s.version",
    "reserved_bytes": "COALESCE(r.reserved, 0) + COALESCE(c.reserved, 0)",
    "entry_count": "n.number + COALESCE(c.missing, 0)",
    "upload_count": "r.number",
    "version_count": "s.number",
}
"""The stored columns of a user, and the sum that each must equal."""
_DIFFERENCE = {
    unit: " + ".join(f"ABS(u.{kept} - COALESCE({sum_}, 0))" for kept, sum_ in _KEPT.items() if kept.endswith(unit))
    for unit in ("bytes", "count")
}
_WRONG = f"SELECT u.id {_ALL} WHERE {' + '.join(_DIFFERENCE.values())} > 0 ORDER BY u.id LIMIT $1"


@rule(UsageDrift)
async def usage_drift(tx: Tx, ask: UsageDrift, env: Env) -> Drift:
    """As ``UsageDrift`` says."""
    return await _drift(tx)


async def _drift(tx: Tx) -> Drift:
    sums = ", ".join(f"CAST(COALESCE(SUM({difference}), 0) AS BIGINT)" for difference in _DIFFERENCE.values())
    row = rows.found(await tx.one(f"SELECT {sums} {_ALL}"), "sum")
    return Drift(bytes=row[0], rows=row[1])


async def check_usage(tx: Tx) -> None:
    """Raises ``Conflict`` if the stored usage differs from the rows."""
    if drift := await _drift(tx):
        raise Conflict(f"The usage of the users differs from their files by {drift.bytes} bytes and {drift.rows} rows.")


@rule(RecountUsage, writes=True)
async def recount_usage(tx: Tx, ask: RecountUsage, env: Env) -> int:
    """As ``RecountUsage`` says, at most ``limit`` users at a time."""
    wrong = await tx.all(_WRONG, ask.limit)
    for (user_id,) in wrong:
        await tx.lock(UserId(user_id))
        counted = ", ".join(f"CAST(COALESCE({value}, 0) AS BIGINT)" for value in _KEPT.values())
        row = await tx.one(f"SELECT {counted} {_ONE}", user_id)
        kept = ", ".join(f"{column} = ${number}" for number, column in enumerate(_KEPT, 2))
        await tx.run(f"UPDATE users SET {kept} WHERE id = $1", user_id, *rows.found(row, "user"))
    return len(wrong)


@rule(ReadClock)
async def read_clock(tx: Tx, ask: ReadClock, env: Env) -> NotedClock:
    """As ``ReadClock`` says."""
    row = await tx.one("SELECT time_noted_at, clock_doubt, clock_due_by, clock_accepted_at FROM catalog")
    at, doubt, due_by, accepted_at = rows.found(row, "catalog")
    return NotedClock(
        at=rows.instant(at) if at else None,
        doubt=doubt / 1_000_000,
        due_by=rows.maybe_instant(due_by),
        accepted_at=rows.maybe_instant(accepted_at),
    )


@rule(NoteClock, writes=True)
async def note_clock(tx: Tx, ask: NoteClock, env: Env) -> None:
    """As ``NoteClock`` says."""
    await tx.run(
        "UPDATE catalog SET time_noted_at = $1, clock_doubt = $2, clock_due_by = CAST($3 AS BIGINT), "
        "clock_latest = CASE WHEN CAST($3 AS BIGINT) IS NULL OR clock_latest < $1 THEN $1 ELSE clock_latest END",
        rows.micros(ask.at),
        round(ask.doubt * 1_000_000),
        None if ask.due_by is None else rows.micros(ask.due_by),
    )


@rule(AcceptClock, writes=True)
async def accept_clock(tx: Tx, ask: AcceptClock, env: Env) -> None:
    """As ``AcceptClock`` says."""
    at = rows.micros(env.now)
    await tx.run(
        "UPDATE catalog SET time_noted_at = $1, clock_doubt = 0, clock_due_by = NULL, clock_accepted_at = $1, "
        "clock_latest = $1",
        at,
    )


@rule(AcquireLease, writes=True)
async def acquire_lease(tx: Tx, ask: AcquireLease, env: Env) -> bool:
    """As ``AcquireLease`` says.

    A lease that ends much later than *ttl* from now was written before the
    clock was set back.  It is ignored, because it could last for years.
    """
    changed = await tx.run(
        "INSERT INTO leases (name, holder, expires_at) VALUES ($1, $2, $3) "
        "ON CONFLICT (name) DO UPDATE SET holder = $2, expires_at = $3 "
        "WHERE leases.holder = $2 OR leases.expires_at <= $4 OR leases.expires_at > $5",
        ask.name,
        ask.holder,
        rows.later(env.now, ask.ttl),
        rows.micros(env.now),
        rows.later(env.now, 2 * ask.ttl),
    )
    return changed > 0


@rule(ReleaseLease, writes=True)
async def release_lease(tx: Tx, ask: ReleaseLease, env: Env) -> None:
    """As ``ReleaseLease`` says."""
    await tx.run("DELETE FROM leases WHERE name = $1 AND holder = $2", ask.name, ask.holder)
