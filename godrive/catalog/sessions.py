"""Sessions: log-ins that are alive.  A session that ended has no row."""

from __future__ import annotations

from datetime import datetime

from godrive.catalog import Tx
from godrive.model import Principal, Session, SessionId, UserId


async def begin(
    tx: Tx, user_id: UserId, *, now: datetime, ttl: float, address: str = "", user_agent: str = ""
) -> Session:
    """Begin a session of *ttl* seconds.  Raises ``Unauthenticated`` unless the user is active."""
    ...


async def is_alive(tx: Tx, principal: Principal, *, now: datetime) -> bool:
    """Whether that session of that user has neither ended nor expired, and the user is active."""
    ...


async def refresh(
    tx: Tx, user_id: UserId, session_id: SessionId, generation: int, *, now: datetime, ttl: float, address: str = ""
) -> Session | None:
    """Move the session from *generation* to the next one and its end to *ttl* seconds from now.

    ``None`` when there is no such session, and when *generation* is not the
    current one: then the token was used before and the session is ended.  (An
    answer and not an error, since an error would undo the ending.)
    """
    ...


async def list_alive(tx: Tx, user_id: UserId, *, now: datetime) -> list[Session]:
    """The user's sessions that are alive, most recently used first."""
    ...


async def end(tx: Tx, user_id: UserId, session_id: SessionId) -> bool:
    """End one session of the user; whether there was one."""
    ...


async def end_all(tx: Tx, user_id: UserId, *, keep: SessionId | None = None) -> int:
    """End every session of the user but *keep*; how many."""
    ...
