"""Accounts: who may have a drive, how much, and whether they still may."""

from __future__ import annotations

from datetime import datetime

from godrive.catalog import Tx
from godrive.model import SessionId, User, UserId, UserState, Value


class Account(Value):
    """A user together with what a log-in is checked against."""

    user: User
    password_hash: str


async def add(
    tx: Tx, *, email: str, password_hash: str, now: datetime, quota_bytes: int | None = None, invite: str | None = None
) -> User:
    """Make a user; with *invite* that code is spent in the same transaction.

    The e-mail is kept as given but for white space around it, and is unique
    without regard to case.  Raises ``Invalid`` (``email``, ``invite``), ``EmailTaken``.
    """
    ...


async def get(tx: Tx, user_id: UserId) -> User:
    """The user, with current usage.  Raises ``NotFound``, also for a deleted one."""
    ...


async def account(tx: Tx, user_id: UserId) -> Account:
    """The user with their password hash.  Raises ``NotFound``."""
    ...


async def find(tx: Tx, email: str) -> Account | None:
    """The account of that e-mail address, in whatever state but deleted; ``None`` when there is none."""
    ...


async def list_after(tx: Tx, *, after: str = "", limit: int = 500) -> list[User]:
    """Users in order of id, those whose id is greater than *after*; deleted ones are left out."""
    ...


async def set_state(tx: Tx, user_id: UserId, state: UserState) -> User:
    """Enable or disable; disabling ends every session.  Raises ``NotFound``."""
    ...


async def set_password(tx: Tx, user_id: UserId, password_hash: str, *, keep: SessionId | None = None) -> User:
    """Change the password and end every session but *keep*.  Raises ``NotFound``."""
    ...


async def set_email(tx: Tx, user_id: UserId, email: str) -> User:
    """Change the e-mail address.  Raises ``NotFound``, ``Invalid``, ``EmailTaken``."""
    ...


async def set_quota(tx: Tx, user_id: UserId, quota_bytes: int | None) -> User:
    """Change the quota (``None``: no limit); nothing is deleted when usage is above it.  Raises ``NotFound``."""
    ...


async def delete(tx: Tx, user_id: UserId, *, now: datetime) -> None:
    """End the user: sessions at once, the e-mail freed, entries purging, pending uploads aborted; again is harmless."""
    ...


async def add_invite(tx: Tx, code: str, *, now: datetime, expires_at: datetime | None = None) -> None:
    """Let whoever shows *code* sign up, once.  Only its digest is kept."""
    ...
