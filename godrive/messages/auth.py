"""What may be said to the auth actor by and for people: sign-up, log-in, sessions, the own account."""

from __future__ import annotations

from typing import ClassVar, TypeAlias

from godrive.model import Session, SessionId, Tokens, User
from godrive.principal import HostUser, UserSession
from godrive.runtime import Ask, Contract, Lane

AccountHolder: TypeAlias = UserSession | HostUser
"""Who may manage an account: no token and no link can."""


class Auth(Contract, name="auth"):
    """Owns users and sessions."""


class SignUp(Ask[Auth, User]):
    """Make a user, as the sign-up policy allows.

    Raises ``Invalid`` (e-mail, password, invite), ``EmailTaken``, ``Forbidden``
    (sign-up is closed), ``TooManyRequests``.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    email: str
    password: str
    invite: str | None = None
    address: str = ""


class LogIn(Ask[Auth, Tokens]):
    """Begin a session.

    *forwarded* says that the request named another client in headers of a
    proxy that is not trusted, so *address* may be the proxy's.  Raises
    ``Unauthenticated``, the same and after the same time whether the e-mail or
    the password is wrong, or ``TooManyRequests``.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    email: str
    password: str
    address: str = ""
    user_agent: str = ""
    forwarded: bool = False


class BeginSession(Ask[Auth, Tokens]):
    """Begin a session of a user whom the host application has authenticated.

    Raises ``Unauthenticated`` unless the user is active.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    by: HostUser
    address: str = ""
    user_agent: str = ""


class Refresh(Ask[Auth, Tokens]):
    """Renew a session; the refresh token is replaced by a new one.

    For 30 seconds the client that asked (by its User-Agent, from any address)
    may send the replaced token again, and gets the same refresh token.  Any
    other reuse ends the session.  Raises ``Unauthenticated``.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    refresh_token: str
    address: str = ""
    user_agent: str = ""
    forwarded: bool = False


class Authenticate(Ask[Auth, UserSession]):
    """Who the bearer of this access token is, now.  Raises ``Unauthenticated``."""

    token: str


class LogOut(Ask[Auth, None]):
    """End the session that asks.  Idempotent."""

    lane: ClassVar[Lane] = Lane.WRITE
    by: UserSession


class GetUser(Ask[Auth, User]):
    """The user that *by* acts for, with current usage.  Raises ``NotFound``."""

    by: AccountHolder


class UpdateUser(Ask[Auth, User]):
    """Change e-mail or password, given the current password.

    A new password ends every session but the one that asks.  Raises
    ``Forbidden`` (wrong password), ``Unauthenticated`` (the session has ended
    meanwhile), ``Invalid``, ``EmailTaken``, ``TooManyRequests``.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    by: UserSession
    current_password: str
    email: str | None = None
    password: str | None = None
    address: str = ""


class DeleteUser(Ask[Auth, None]):
    """End the user: all sessions at once, all files to be purged.

    Raises ``Forbidden`` (wrong password), ``Unauthenticated`` (the session has ended meanwhile), ``TooManyRequests``.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    by: UserSession
    password: str
    address: str = ""


class ListSessions(Ask[Auth, list[Session]]):
    """The user's sessions that are alive, most recently used first."""

    by: AccountHolder


class EndSession(Ask[Auth, None]):
    """End one session of the user.  Raises ``NotFound``."""

    lane: ClassVar[Lane] = Lane.WRITE
    by: AccountHolder
    session_id: SessionId
