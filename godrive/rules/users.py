"""Accounts: their e-mail addresses, passwords, quotas and states."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256

from godrive import email_address
from godrive.catalog import Tx
from godrive.errors import Conflict, EmailTaken, Invalid
from godrive.model import SessionId, UploadState, User, UserId, UserState, Value, new_id
from godrive.rules import changes, networks, rows, sessions

NO_ONE = UserId("")
"""An id that no user has."""

_LONGEST_EXTERNAL_ID = 255
_EXTERNAL = f"SELECT {rows.USER} FROM users WHERE external_id = $1"
_ACCOUNT = f"SELECT {rows.USER}, password_hash FROM users WHERE state <> 'deleted' AND "

_DELETE_LATER = (
    f"UPDATE users SET delete_at = COALESCE(delete_at, CAST($3 AS BIGINT) + {rows.BEHIND}) "
    f"WHERE id = $2 AND state <> 'deleted' RETURNING {rows.USER}"
)


class Account(Value):
    """A user and their password hash, which is empty for a user without a password."""

    user: User
    password_hash: str


async def add(
    tx: Tx, *, email: str, password_hash: str, now: datetime, quota_bytes: int | None = None, invite: str | None = None
) -> User:
    """Create a user.  The same transaction marks *invite* as used.

    Equivalent spellings of an e-mail address are one address (:mod:`godrive.email_address`).
    Raises ``Invalid`` (``email``, ``invite``), ``EmailTaken``.
    """
    await tx.grow()
    email = email_address.clean(email, utf8=True)
    user = User(id=UserId(new_id()), email=email, created_at=now, quota_bytes=_quota(quota_bytes))
    if invite is not None and not await tx.run(
        "UPDATE invites SET used_at = $2, used_by = $3 "
        "WHERE digest = $1 AND used_at IS NULL AND (expires_at IS NULL OR expires_at > $2)",
        _digest(invite),
        rows.micros(now),
        user.id,
    ):
        raise Invalid("The invitation is unknown, used or expired.", field="invite")
    if not await _insert(tx, user, password_hash):
        raise _taken()
    return user


async def ensure(
    tx: Tx, *, external_id: str, now: datetime, email: str | None = None, quota_bytes: int | None = None
) -> User:
    """Return the user with that id in the host application, and create it if it does not exist.

    Raises ``Invalid`` (``external_id``, ``email``, ``quota_bytes``), ``EmailTaken``.
    """
    if not 1 <= len(external_id) <= _LONGEST_EXTERNAL_ID or not external_id.isprintable():
        raise Invalid(f"An external id has 1 to {_LONGEST_EXTERNAL_ID} printable characters.", field="external_id")
    user = User(
        id=UserId(new_id()),
        email="" if email is None else email_address.clean(email, utf8=True),
        created_at=now,
        quota_bytes=_quota(quota_bytes),
        external_id=external_id,
    )
    row = await tx.one(_EXTERNAL, external_id)
    if row is None:
        if await _insert(tx, user, ""):
            return user
        row = await tx.one(_EXTERNAL, external_id)  # made meanwhile
        if row is None:
            raise _taken()
    return rows.user(row)


async def _insert(tx: Tx, user: User, password_hash: str) -> bool:
    """Insert the user.  Returns false if the e-mail address or the external id is taken."""
    added = await tx.run(
        "INSERT INTO users (id, external_id, email, email_key, password_hash, state, created_at, quota_bytes) "
        "VALUES ($1, $2, $3, $4, $5, 'active', $6, $7) ON CONFLICT DO NOTHING",
        user.id,
        user.external_id,
        user.email,
        email_address.key(user.email),
        password_hash,
        rows.micros(user.created_at),
        user.quota_bytes,
    )
    return added > 0


def _taken() -> EmailTaken:
    return EmailTaken("There is an account with that e-mail address.", field="email")


def _quota(quota_bytes: int | None) -> int | None:
    if quota_bytes is not None and not 0 <= quota_bytes <= rows.MOST_BYTES:
        raise Invalid(f"A quota is between 0 and {rows.MOST_BYTES} bytes.", field="quota_bytes")
    return quota_bytes


async def get(tx: Tx, user_id: UserId) -> User:
    """Return the user, with current usage.  Raises ``NotFound``, also for a deleted user."""
    return (await account(tx, user_id)).user


async def account(tx: Tx, user_id: UserId) -> Account:
    """Return the user with their password hash.  Raises ``NotFound``."""
    row = rows.found(await tx.one(_ACCOUNT + "id = $1", user_id), "user")
    return Account(user=rows.user(row), password_hash=row[-1])


async def find(tx: Tx, email: str) -> Account | None:
    """Return the account with that e-mail address, in any state except deleted, or ``None``."""
    try:
        email = email_address.clean(email, utf8=True)
    except Invalid:
        return None
    # The second condition repeats that of the index, because the query planner cannot infer it.
    row = await tx.one(_ACCOUNT + "email_key = $1 AND email_key <> ''", email_address.key(email))
    return None if row is None else Account(user=rows.user(row), password_hash=row[-1])


async def highest_cost(tx: Tx) -> int:
    """Return the highest cost of any stored password hash; 0 if no user has a password."""
    row = await tx.one(
        "SELECT substr(password_hash, 5, 2) FROM users ORDER BY substr(password_hash, 5, 2) DESC LIMIT 1"
    )
    return int(row[0]) if row and row[0].isdigit() else 0


async def list_after(tx: Tx, *, after: str = "", limit: int = 500) -> list[User]:
    """Return users with an id greater than *after*, in order of id, without deleted users."""
    found = await tx.all(
        f"SELECT {rows.USER} FROM users WHERE id > $1 AND state <> 'deleted' ORDER BY id LIMIT $2", after, limit
    )
    return [rows.user(row) for row in found]


async def set_state(tx: Tx, user_id: UserId, state: UserState, *, now: datetime) -> User:
    """Enable or disable a user.  Disabling ends every session and every pending upload.

    Enabling one who was to be deleted keeps them.  Raises ``NotFound``.
    """
    if state is UserState.DELETED:
        raise Conflict("The state cannot be set to deleted: delete the user instead.")
    if state is UserState.DISABLED:
        await _abort_uploads(tx, user_id, "The user was disabled.", now)
    user = await _change(tx, user_id, "state", state.value)
    if state is UserState.DISABLED:
        await sessions.end_all(tx, user_id)
    elif user.delete_at is not None:
        user = await _change(tx, user_id, "delete_at", None)
    return user


async def delete_later(tx: Tx, user_id: UserId, grace: float, *, now: datetime) -> User:
    """Disable a user, who is deleted after *grace* seconds unless they are enabled before.

    Idempotent: the first date stays.  Raises ``NotFound``.
    """
    await set_state(tx, user_id, UserState.DISABLED, now=now)
    row = await tx.one(_DELETE_LATER, rows.micros(now), user_id, rows.later(now, grace))
    return rows.user(rows.found(row, "user"))


async def delete_due(tx: Tx, limit: int, *, by: datetime, now: datetime) -> int:
    """Delete at most *limit* users whose grace period ended no later than *by*.  Returns how many."""
    due = await tx.all(
        "SELECT id FROM users WHERE delete_at <= $1 AND state = 'disabled' ORDER BY delete_at LIMIT $2",
        rows.micros(by),
        limit,
    )
    for row in due:
        await delete(tx, UserId(row[0]), now=now)
    return len(due)


async def _abort_uploads(tx: Tx, user_id: UserId, reason: str, now: datetime) -> None:
    """Abort pending uploads, because their signed URLs could still create files.

    What a copy of a tree has reserved stays: the rule that ends the copy gives it back.  This locks the user, and comes
    first, because every rule locks the row of an upload before that of its owner.
    """
    for _ in range(2):  # the second time those that began before the user was locked
        aborted = await tx.all(
            "UPDATE uploads SET state = $2, reason = $3, finished_at = $4, cleanup_at = $4, note = '' "
            "WHERE owner_id = $1 AND state = 'pending' RETURNING size_bytes",
            user_id,
            UploadState.ABORTED.value,
            reason,
            rows.micros(now),
        )
        await changes.charge(tx, user_id, reserved=-sum(row[0] for row in aborted), uploads=-len(aborted))


async def set_password(tx: Tx, user_id: UserId, password_hash: str, *, keep: SessionId | None = None) -> User:
    """Change the password and end every session but *keep*.  Raises ``NotFound``."""
    user = await _change(tx, user_id, "password_hash", password_hash)
    await sessions.end_all(tx, user_id, keep=keep)
    return user


async def refresh_hash(tx: Tx, user_id: UserId, *, before: str, after: str) -> None:
    """Store another hash of the same password.  Keeps sessions.  Does nothing if the password was changed meanwhile."""
    await tx.run(
        "UPDATE users SET password_hash = $3 WHERE id = $1 AND password_hash = $2",
        user_id,
        before,
        after,
    )


async def set_email(tx: Tx, user_id: UserId, email: str) -> User:
    """Change the e-mail address.  Raises ``NotFound``, ``Invalid``, ``EmailTaken``."""
    email = email_address.clean(email, utf8=True)
    await tx.lock(user_id)
    other = await find(tx, email)
    if other is not None and other.user.id != user_id:
        raise _taken()
    await _change(tx, user_id, "email_key", email_address.key(email))
    return await _change(tx, user_id, "email", email)


async def set_quota(tx: Tx, user_id: UserId, quota_bytes: int | None) -> User:
    """Change the quota (``None``: no limit).  Deletes nothing if usage exceeds it.  Raises ``NotFound``."""
    return await _change(tx, user_id, "quota_bytes", _quota(quota_bytes))


async def _change(tx: Tx, user_id: UserId, column: str, value: object) -> User:
    row = await tx.one(
        f"UPDATE users SET {column} = $2 WHERE id = $1 AND state <> 'deleted' RETURNING {rows.USER}", user_id, value
    )
    return rows.user(rows.found(row, "user"))


async def delete(tx: Tx, user_id: UserId, *, now: datetime) -> None:
    """Delete the user.  Idempotent.

    Sessions end, pending uploads are aborted, the e-mail address and the
    external id become free, and no file of the user can be read any more.
    Later sweeps purge the entries in batches, because there may be millions.
    """
    await _abort_uploads(tx, user_id, "The user was deleted.", now)
    if not await tx.run(
        "UPDATE users SET state = 'deleted', external_id = NULL, email = '', email_key = '', password_hash = '', "
        "delete_at = NULL "
        "WHERE id = $1 AND state <> 'deleted'",
        user_id,
    ):
        return
    await sessions.end_all(tx, user_id)
    await networks.forget(tx, user_id)
    await tx.run("DELETE FROM idempotency_keys WHERE owner_id = $1", user_id)
    await tx.run("DELETE FROM webhooks WHERE owner_id = $1", user_id)


async def add_invite(tx: Tx, code: str, *, now: datetime, expires_at: datetime | None = None) -> None:
    """Let one person sign up with *code*.  Only its digest is stored.  Raises ``Conflict`` for a code that exists."""
    if not await tx.run(
        "INSERT INTO invites (digest, created_at, expires_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        _digest(code),
        rows.micros(now),
        None if expires_at is None else rows.micros(expires_at),
    ):
        raise Conflict("There is an invitation with that code already.")


def _digest(code: str) -> str:
    return sha256(code.encode(errors="surrogatepass")).hexdigest()
