"""Messages to the auth actor for administration, from an operator or a host application.

They act as ``System``: the sign-up policy does not apply, and no password is
required.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from godrive.messages.auth import Auth
from godrive.model import User, UserId, UserState
from godrive.principal import System
from godrive.runtime import Ask, Lane


class AddUser(Ask[Auth, User]):
    """Create a user with a password.  ``quota_bytes`` ``None`` means no limit.  Raises ``Invalid``, ``EmailTaken``."""

    lane: ClassVar[Lane] = Lane.WRITE
    by: System
    email: str
    password: str
    quota_bytes: int | None = None


class ImportUser(Ask[Auth, User]):
    """Create a user whose password was hashed elsewhere with bcrypt; an empty *password_hash*: without a password.

    ``quota_bytes`` ``None`` means no limit.  Raises ``Invalid``, ``EmailTaken``.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    by: System
    email: str
    password_hash: str
    quota_bytes: int | None = None


class EnsureUser(Ask[Auth, User]):
    """Return the user with *external_id*, the host application's id, and create it if it does not exist.  Idempotent.

    *email* and *quota_bytes* (by default ``auth.default_quota_bytes``) only apply
    when the user is created.  The user has no password and cannot log in: the host application authenticates them and
    acts as ``HostUser``.  Raises ``Invalid``, ``EmailTaken`` (another user has
    that address, and an address alone does not prove an identity).
    """

    lane: ClassVar[Lane] = Lane.WRITE
    by: System
    external_id: str
    email: str | None = None
    quota_bytes: int | None = None


class FindUser(Ask[Auth, User]):
    """Return the user with that e-mail address, in any equivalent spelling.  Raises ``NotFound``."""

    by: System
    email: str


class ListUsers(Ask[Auth, list[User]]):
    """List users in order of id, starting after *after*.  Returns an empty list after the last user."""

    by: System
    after: str = ""
    limit: int = 500


class SetUserState(Ask[Auth, User]):
    """Enable or disable a user.  Disabling ends all sessions and uploads at once.  Idempotent.

    Raises ``NotFound``, ``Conflict`` (the state ``deleted`` cannot be set here).
    """

    lane: ClassVar[Lane] = Lane.WRITE
    by: System
    user_id: UserId
    state: UserState


class SetPassword(Ask[Auth, User]):
    """Change the password of a user and end all their sessions.  Raises ``NotFound``, ``Invalid``."""

    lane: ClassVar[Lane] = Lane.WRITE
    by: System
    user_id: UserId
    password: str


class SetQuota(Ask[Auth, User]):
    """Change the quota of a user; ``None`` means no limit.  Nothing is deleted.  Raises ``NotFound``, ``Invalid``."""

    lane: ClassVar[Lane] = Lane.WRITE
    by: System
    user_id: UserId
    quota_bytes: int | None


class SetEmail(Ask[Auth, User]):
    """Change the e-mail address of a user.  Sessions are kept.  Raises ``NotFound``, ``Invalid``, ``EmailTaken``."""

    lane: ClassVar[Lane] = Lane.WRITE
    by: System
    user_id: UserId
    email: str


class RemoveUser(Ask[Auth, None]):
    """Delete a user: end all sessions at once and schedule the purge of all files.  Idempotent.

    With *grace*, they are disabled at once and deleted after that many seconds:
    ``SetUserState`` enables them until then.  Raises ``NotFound`` only with *grace*.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    by: System
    user_id: UserId
    grace: float = 0.0


class Invite(Ask[Auth, str]):
    """Create an invitation code.  One person can sign up with it, until *expires_at*."""

    lane: ClassVar[Lane] = Lane.WRITE
    by: System
    expires_at: datetime | None = None
