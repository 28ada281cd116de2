"""Idempotency keys: the stored answer to the first request with a key."""

from __future__ import annotations

from zlib import crc32

import msgspec

from godrive.catalog import Tx
from godrive.errors import Conflict, IdempotencyMismatch, Invalid, QuotaExceeded
from godrive.messages.idempotency import (
    ClaimKey,
    RenewKey,
    SettleKey,
    StoredReply,
)
from godrive.principal import ApiToken, Principal, ShareLink, user_of
from godrive.rules import rows
from godrive.rules.registry import Env, rule

_LONGEST_KEY = 255
PATIENCE = 60.0
"""Seconds after which a claimed key counts as abandoned, unless it is renewed."""
MOST_KEYS = 10_000
"""The most answers stored for one user, because the quota does not count their bytes."""
LARGE = 2048
"""Bytes from which an answer is large.  That of one entry without properties is not, however long its name is."""
MOST_LARGE_BYTES = 16 * 1024 * 1024
"""The bytes of large answers that are stored for one user, without the newest."""
_DROP_EVERY = 1024 * 1024
"""Bytes of large answers after which the oldest are dropped, on average: that reads the length of all of them."""
_DROP_LARGE = (
    "DELETE FROM idempotency_keys WHERE owner_id = $1 AND key IN (SELECT key FROM (SELECT key, SUM(LENGTH(body)) "
    "OVER (ORDER BY expires_at DESC, key ROWS UNBOUNDED PRECEDING) AS bytes FROM idempotency_keys "
    f"WHERE owner_id = $1 AND LENGTH(body) >= {LARGE} AND key <> $2) AS large WHERE bytes > {MOST_LARGE_BYTES})"
)
_FULL = (
    "SELECT 1 FROM idempotency_keys WHERE owner_id = $1 AND NOT EXISTS "
    "(SELECT 1 FROM idempotency_keys k WHERE k.owner_id = $1 AND k.key = $2) "
    f"LIMIT 1 OFFSET {MOST_KEYS - 1}"
)
KEPT_FOR = 86_400.0
"""Seconds for which an answer is kept."""

BOUND = "UPDATE idempotency_keys SET expires_at = CASE WHEN status IS NULL THEN $1 ELSE $2 END WHERE expires_at > $2"
"""SQL: shorten expiries that are too far ahead because the clock was set back."""


def _own(by: Principal, key: str) -> str:
    """Return the key as it is stored.  All sessions of a user share their keys.

    A token or a link may see less than its user, and less than another token, so it gets only answers to its own keys.
    """
    match by:
        case ApiToken():
            return f"token {by.token_id} {key}"
        case ShareLink():
            return f"link {by.link_id} {key}"
        case _:
            return key


@rule(ClaimKey, writes=True)
async def claim_key(tx: Tx, ask: ClaimKey, env: Env) -> StoredReply | None:
    """As ``ClaimKey`` says.  A claim that is not settled expires after a minute."""
    owner_id, key, fingerprint = user_of(ask.by), _own(ask.by, ask.key), ask.fingerprint
    if not 1 <= len(ask.key) <= _LONGEST_KEY:
        raise Invalid(f"An idempotency key has 1 to {_LONGEST_KEY} characters.", field="Idempotency-Key")
    expires_at = rows.later(env.now, PATIENCE)
    if await tx.one(_FULL, owner_id, key) is not None:
        raise QuotaExceeded(f"A user can have at most {MOST_KEYS} stored idempotency keys.", field="Idempotency-Key")
    if await tx.run(
        "INSERT INTO idempotency_keys (owner_id, key, fingerprint, expires_at) VALUES ($1, $2, $3, $4) "
        "ON CONFLICT (owner_id, key) DO UPDATE SET fingerprint = $3, expires_at = $4, status = NULL, headers = NULL, "
        "body = NULL WHERE idempotency_keys.expires_at <= $5",
        owner_id,
        key,
        fingerprint,
        expires_at,
        rows.micros(env.now),
    ):
        return None
    row = await tx.one(
        "SELECT fingerprint, status, headers, body FROM idempotency_keys WHERE owner_id = $1 AND key = $2",
        owner_id,
        key,
    )
    if row is None:  # released between the two statements
        raise Conflict("The first request with that idempotency key has just ended.", retry_after=1.0)
    kept, status, headers, body = row
    if kept != fingerprint:
        raise IdempotencyMismatch("The idempotency key was used for another request.", field="Idempotency-Key")
    if status is None:
        raise Conflict("The first request with that idempotency key is still being served.", retry_after=1.0)
    return StoredReply(status=status, headers=msgspec.json.decode(headers, type=dict[str, str]), body=bytes(body))


@rule(RenewKey, writes=True)
async def renew_key(tx: Tx, ask: RenewKey, env: Env) -> None:
    """As ``RenewKey`` says."""
    await tx.run(
        "UPDATE idempotency_keys SET expires_at = $3 WHERE owner_id = $1 AND key = $2 AND status IS NULL",
        user_of(ask.by),
        _own(ask.by, ask.key),
        rows.later(env.now, PATIENCE),
    )


@rule(SettleKey, writes=True)
async def settle_key(tx: Tx, ask: SettleKey, env: Env) -> None:
    """As ``SettleKey`` says.  A key that is not claimed is unchanged.

    The answer is kept for a day, a large one at most until newer ones displace it.
    """
    owner_id, key, stored = user_of(ask.by), _own(ask.by, ask.key), ask.stored
    expires_at = rows.later(env.now, KEPT_FOR)
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
        expires_at,
    )
    size = len(stored.body)
    if size >= LARGE and crc32(f"{key} {expires_at}".encode()) % _DROP_EVERY < size:  # no client can choose the instant
        await tx.run(_DROP_LARGE, owner_id, key)
