"""Messages to the auth actor about one user: sign-up, log-in, sessions, account."""

from __future__ import annotations

from typing import ClassVar, TypeAlias

from godrive.model import Session, SessionId, Tokens, User
from godrive.principal import Follower, HostUser, UserSession
from godrive.runtime import Ask, Contract, Lane

AccountHolder: TypeAlias = UserSession | HostUser
"""A principal that may manage an account.  API tokens and links may not."""


class Auth(Contract, name="auth"):
    """Owns users and sessions."""


class SignUp(Ask[Auth, User]):
    """Create a user, subject to the sign-up policy.

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

    *forwarded* means that an untrusted proxy named another client in its
    headers, so *address* may be the address of the proxy.  Raises
    ``Unauthenticated`` (with the same text and after the same time for an
    unknown address and for a wrong password), ``TooManyRequests``.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    email: str
    password: str
    address: str = ""
    user_agent: str = ""
    forwarded: bool = False


class BeginSession(Ask[Auth, Tokens]):
    """Begin a session of a user that the host application has authenticated.

    Raises ``Unauthenticated`` unless the user is active.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    by: HostUser
    address: str = ""
    user_agent: str = ""


class Refresh(Ask[Auth, Tokens]):
    """Renew a session and replace its refresh token.

    For 30 seconds, the same User-Agent (from any address) may send the replaced
    token again and gets the same new refresh token.  Any other reuse ends the
    session.  Raises ``Unauthenticated``.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    refresh_token: str
    address: str = ""
    user_agent: str = ""
    forwarded: bool = False


class Authenticate(Ask[Auth, UserSession]):
    """Return the session that this access token belongs to.  Raises ``Unauthenticated`` once it has ended."""

    token: str


class FindEnded(Ask[Auth, list[str]]):
    """Return the ids of those sessions, tokens and users that have ended or whose user is not active."""

    callers: list[Follower]


class LogOut(Ask[Auth, None]):
    """End the session *by*.  Idempotent."""

    lane: ClassVar[Lane] = Lane.WRITE
    by: UserSession


class GetUser(Ask[Auth, User]):
    """Return the user behind *by*, with current usage.  Raises ``NotFound``."""

    by: AccountHolder


class UpdateUser(Ask[Auth, User]):
    """Change the e-mail address or the password.  Requires the current password.

    A new password ends every session except *by*.  Raises ``Forbidden`` (wrong
    password), ``Unauthenticated`` (the session has ended), ``Invalid``,
    ``EmailTaken``, ``TooManyRequests``.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    by: UserSession
    current_password: str
    email: str | None = None
    password: str | None = None
    address: str = ""


class DeleteUser(Ask[Auth, None]):
    """Delete the user: end all sessions at once and schedule the purge of all files.

    Raises ``Forbidden`` (wrong password), ``Unauthenticated`` (the session has ended), ``TooManyRequests``.
    """

    lane: ClassVar[Lane] = Lane.WRITE
    by: UserSession
    password: str
    address: str = ""


class ListSessions(Ask[Auth, list[Session]]):
    """List the active sessions of the user, most recently used first."""

    by: AccountHolder


class EndSession(Ask[Auth, None]):
    """End one session of the user.  Raises ``NotFound``."""

    lane: ClassVar[Lane] = Lane.WRITE
    by: AccountHolder
    session_id: SessionId
