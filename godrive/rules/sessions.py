"""Sessions: log-ins that have not ended.  A session that ended has no row."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from godrive.catalog import Tx
from godrive.errors import Unauthenticated
from godrive.model import Session, SessionId, UserId, new_id
from godrive.principal import Follower, UserSession, credential_id
from godrive.rules import networks, rows

MOST = 1000
"""The most sessions of one user.  A new session ends the least recently used one."""

GRACE = timedelta(seconds=30)
"""How long after a refresh the same client may repeat it, because the answer may have been lost."""

_LONGEST_NOTE = 512
_AT_ONCE = 50
_PLACES = ", ".join(f"${number}" for number in range(2, _AT_ONCE + 2))
_ALIVE = (
    "SELECT s.id FROM sessions s JOIN users u ON u.id = s.user_id "
    f"WHERE s.id IN ({_PLACES}) AND s.expires_at > $1 AND u.state = 'active' "
    f"UNION ALL SELECT u.id FROM users u WHERE u.id IN ({_PLACES}) AND u.state = 'active'"
)
"""The active ones of some sessions and users.  Their ids differ."""


def _note(text: str) -> str:
    """Return client text that the catalog can store: valid Unicode without NUL, cut to 512 characters."""
    return text.encode(errors="replace").decode().replace("\0", "")[:_LONGEST_NOTE]


async def begin(
    tx: Tx,
    user_id: UserId,
    *,
    now: datetime,
    ttl: float,
    address: str = "",
    user_agent: str = "",
    forwarded: bool = False,
    password_hash: str | None = None,
) -> Session:
    """Begin a session of *ttl* seconds.

    Raises ``Unauthenticated`` if the user is not active, or if the stored hash
    is no longer *password_hash*: a log-in fails if the password was changed
    while the old one was being checked.
    """
    await tx.lock(user_id)
    row = await tx.one("SELECT password_hash FROM users WHERE id = $1 AND state = 'active'", user_id)
    if row is None or password_hash not in (None, row[0]):
        raise Unauthenticated("The account cannot be used.")
    await tx.run(
        "DELETE FROM sessions WHERE user_id = $1 AND id IN (SELECT id FROM sessions WHERE user_id = $1 "
        "ORDER BY last_used_at DESC, id DESC LIMIT $2 OFFSET $3)",
        user_id,
        MOST,
        MOST - 1,
    )
    address = _note(address)
    row = await tx.one(
        f"INSERT INTO sessions ({rows.SESSION}) VALUES ($1, $2, $3, $3, $4, 0, $5, $6) RETURNING {rows.SESSION}",
        new_id(),
        user_id,
        rows.micros(now),
        rows.later(now, ttl),
        address,
        _note(user_agent),
    )
    await networks.remember(tx, user_id, address, now=now, forwarded=forwarded)
    return rows.session(rows.found(row, "session"))


async def is_alive(tx: Tx, principal: UserSession, *, now: datetime) -> bool:
    """Whether the session has neither ended nor expired, and its user is active."""
    row = await tx.one(
        "SELECT 1 FROM sessions s JOIN users u ON u.id = s.user_id "
        "WHERE s.id = $1 AND s.user_id = $2 AND s.expires_at > $3 AND u.state = 'active'",
        principal.session_id,
        principal.user_id,
        rows.micros(now),
    )
    return row is not None


async def find_ended(tx: Tx, callers: Sequence[Follower], *, now: datetime) -> list[str]:
    """Return the ids of the credentials that have ended or whose user is not active."""
    keys = [caller.session_id if isinstance(caller, UserSession) else caller.user_id for caller in callers]
    alive: set[str] = set()
    for start in range(0, len(keys), _AT_ONCE):
        some = [*keys[start : start + _AT_ONCE]]
        some += some[-1:] * (_AT_ONCE - len(some))
        alive.update(row[0] for row in await tx.all(_ALIVE, rows.micros(now), *some))
    return [credential_id(caller) for caller, key in zip(callers, keys, strict=True) if key not in alive]


async def refresh(
    tx: Tx,
    user_id: UserId,
    session_id: SessionId,
    generation: int,
    *,
    now: datetime,
    ttl: float,
    address: str = "",
    user_agent: str = "",
    forwarded: bool = False,
) -> Session | None:
    """Advance the session from *generation* to the next, and extend it to *ttl* seconds from now.

    If the previous generation is used again by the same *user_agent* within
    :data:`GRACE` of the refresh, the session is returned unchanged, because the
    answer may have been lost or two tabs may have refreshed at once.  Any other
    reuse ends the session.  Returns ``None`` if the session has ended or ends
    now; raising would roll back the end.
    """
    address, user_agent = _note(address), _note(user_agent)
    row = await tx.one(
        "UPDATE sessions SET generation = generation + 1, last_used_at = $4, expires_at = $5, address = $6, "
        "refreshed_by = $7, user_agent = CASE WHEN $7 = '' THEN user_agent ELSE $7 END "
        "WHERE id = $1 AND user_id = $2 AND generation = $3 AND expires_at > $4 "
        "AND EXISTS (SELECT 1 FROM users u WHERE u.id = $2 AND u.state = 'active') "
        f"RETURNING {rows.SESSION}",
        session_id,
        user_id,
        generation,
        rows.micros(now),
        rows.later(now, ttl),
        address,
        user_agent,
    )
    if row is not None:
        await networks.remember(tx, user_id, address, now=now, forwarded=forwarded)
        return rows.session(row)
    row = await tx.one(
        f"SELECT {rows.SESSION} FROM sessions WHERE id = $1 AND user_id = $2 AND generation = $3 "
        "AND refreshed_by = $4 AND last_used_at BETWEEN $5 AND $6 AND expires_at > $7 "
        "AND EXISTS (SELECT 1 FROM users u WHERE u.id = $2 AND u.state = 'active')",
        session_id,
        user_id,
        generation + 1,
        user_agent,
        rows.micros(now - GRACE),
        rows.micros(now + GRACE),  # the clock may have been set back, but not by much
        rows.micros(now),
    )
    if row is not None:
        return rows.session(row)
    await end(tx, user_id, session_id)
    return None


async def list_alive(tx: Tx, user_id: UserId, *, now: datetime) -> list[Session]:
    """Return the active sessions of the user, most recently used first."""
    found = await tx.all(
        f"SELECT {rows.SESSION} FROM sessions WHERE user_id = $1 AND expires_at > $2 "
        "ORDER BY last_used_at DESC, id DESC LIMIT 1000",
        user_id,
        rows.micros(now),
    )
    return [rows.session(row) for row in found]


async def end(tx: Tx, user_id: UserId, session_id: SessionId) -> bool:
    """End one session of the user.  Returns whether there was one."""
    return await tx.run("DELETE FROM sessions WHERE id = $1 AND user_id = $2", session_id, user_id) > 0


async def end_all(tx: Tx, user_id: UserId, *, keep: SessionId | None = None) -> int:
    """End every session of the user except *keep*.  Returns their number."""
    return await tx.run("DELETE FROM sessions WHERE user_id = $1 AND id <> $2", user_id, keep or "")
