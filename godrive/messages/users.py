"""What an operator or a host application may say to the auth actor about all users.

They act as ``System``: the sign-up policy does not bind them, and no password
is asked for.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar

from godrive.messages.auth import Auth
from godrive.model import User, UserId, UserState
from godrive.principal import System
from godrive.runtime import Ask, Lane


class AddUser(Ask[Auth, User]):
    """Make a user with a password.  ``quota_bytes`` of ``None`` is no limit.  Raises ``Invalid``, ``EmailTaken``."""

    lane: ClassVar[Lane] = Lane.WRITE
    by: System
    email: str
    password: str
    quota_bytes: int | None = None


class EnsureUser(Ask[Auth, User]):
    """The user whom the host application knows as *external_id*, made when there is none.  Idempotent.

    *email* and *quota_bytes* count only when the user is made.  Without a
    password the user cannot log in: the host application authenticates them and
    acts as ``HostUser``.  Raises ``Invalid``; ``EmailTaken`` when another user
    has that address, because an address alone does not prove who someone is.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    by: System
    external_id: str
    email: str | None = None
    quota_bytes: int | None = None


class FindUser(Ask[Auth, User]):
    """The user with that e-mail address, in any spelling.  Raises ``NotFound``."""

    by: System
    email: str


class ListUsers(Ask[Auth, list[User]]):
    """Users by id, a page of those whose id is greater than *after*.  Empty after the last."""

    by: System
    after: str = ""
    limit: int = 500


class SetUserState(Ask[Auth, User]):
    """Enable a user, or disable them, which ends their sessions and uploads at once.  Idempotent.

    Raises ``NotFound``, ``Conflict`` (deleting is not a change of state).
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
    """Change the quota of a user; ``None`` is no limit.  Nothing is deleted.  Raises ``NotFound``, ``Invalid``."""

    lane: ClassVar[Lane] = Lane.WRITE
    by: System
    user_id: UserId
    quota_bytes: int | None


class RemoveUser(Ask[Auth, None]):
    """End a user: all sessions at once, all files to be purged.  Idempotent."""

    lane: ClassVar[Lane] = Lane.WRITE
    by: System
    user_id: UserId


class Invite(Ask[Auth, str]):
    """Make a code that lets one person sign up, until *expires_at*."""

    lane: ClassVar[Lane] = Lane.WRITE
    by: System
    expires_at: datetime | None = None
