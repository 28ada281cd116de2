"""Account routes: sign-up, log-in, tokens, sessions, and the account of the caller."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from godrive.errors import EmailTaken, Forbidden, Invalid, NotFound, TooManyRequests, Unauthenticated
from godrive.http.api.call import Call
from godrive.http.api.operations import PUBLIC, Routes
from godrive.messages.auth import (
    DeleteUser,
    EndSession,
    GetUser,
    ListSessions,
    LogIn,
    LogOut,
    Refresh,
    SignUp,
    UpdateUser,
)
from godrive.model import Counts, Session, SessionId, Tokens, User, UserId
from godrive.principal import Scope

routes = Routes("accounts")

Email = Annotated[
    str, Meta(min_length=3, max_length=254, description="An e-mail address.  Its domain may be internationalised.")
]
Password = Annotated[str, Meta(min_length=8, max_length=1024, description="8 to 1024 characters.")]
Secret = Annotated[str, Meta(min_length=1, max_length=1024)]


class SignUpBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A new account.  ``invite`` is required if sign-up is by invitation."""

    email: Email
    password: Password
    invite: Annotated[str, Meta(max_length=256)] | None = None


class LogInBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Log-in credentials."""

    email: Email
    password: Secret


class RefreshBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The refresh token of the log-in or of the last refresh."""

    refresh_token: Annotated[str, Meta(min_length=1, max_length=4096)]


class UpdateMeBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A new e-mail address, a new password, or both.  The current password is required."""

    current_password: Secret
    email: Email | None = None
    password: Password | None = None


class DeleteMeBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The current password is required."""

    password: Secret


class UsageView(msgspec.Struct, kw_only=True):
    """Bytes charged to a user.  ``used_bytes`` is the sum of the other fields."""

    used_bytes: int
    live_bytes: int
    trash_bytes: int
    version_bytes: int
    reserved_bytes: int


class UserView(msgspec.Struct, kw_only=True):
    """A user.  ``quota_bytes`` is ``null`` if there is no limit.  ``counts`` must not exceed ``limits``."""

    id: UserId
    email: str
    created_at: datetime
    quota_bytes: int | None
    usage: UsageView
    counts: Counts
    limits: Counts


class SessionView(msgspec.Struct, kw_only=True):
    """One log-in.  ``current`` marks the session of this request."""

    id: SessionId
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    address: str
    user_agent: str
    current: bool


class SessionList(msgspec.Struct, kw_only=True):
    """Active sessions, most recently used first."""

    sessions: list[SessionView]


@routes.post(
    "/v1/signup",
    needs=PUBLIC,
    original="/signup",
    status=201,
    secret=True,
    raises=[Invalid, EmailTaken, Forbidden, TooManyRequests],
)
async def sign_up(call: Call, body: SignUpBody) -> UserView:
    """Create an account.

    Returns `403 forbidden` if sign-up is closed.
    """
    user = await call.drive.auth.ask(
        SignUp(email=body.email, password=body.password, invite=body.invite, address=call.address)
    )
    call.locate("/v1/me")
    return _user(call, user)


@routes.post(
    "/v1/login", needs=PUBLIC, original="/login", secret=True, raises=[Unauthenticated, Invalid, TooManyRequests]
)
async def log_in(call: Call, body: LogInBody) -> Tokens:
    """Log in and begin a session.

    A wrong password and an unknown address get the same answer, `401 unauthenticated`, after the same time.
    After too many failed attempts the answer is `429 too_many_requests`.  Successful log-ins do not count.
    Send the access token in the `Authorization` header.  Renew it with the refresh token before `refresh_expires_at`.
    """
    return await call.drive.auth.ask(
        LogIn(
            email=body.email,
            password=body.password,
            address=call.address,
            user_agent=call.user_agent,
            forwarded=call.forwarded,
        )
    )


@routes.post("/v1/token/refresh", needs=PUBLIC, secret=True, raises=[Unauthenticated, Invalid, TooManyRequests])
async def refresh_token(call: Call, body: RefreshBody) -> Tokens:
    """Renew a session.

    The answer contains a new refresh token, which replaces the one you sent.  If the answer is lost, send the same
    token again within 30 seconds and with the same `User-Agent` to get the same new refresh token.  Any other reuse
    of a replaced token ends the session.
    """
    return await call.drive.auth.ask(
        Refresh(
            refresh_token=body.refresh_token,
            address=call.address,
            user_agent=call.user_agent,
            forwarded=call.forwarded,
        )
    )


@routes.post("/v1/logout", needs=Scope.ACCOUNT, status=204)
async def log_out(call: Call) -> None:
    """End this session.  Its tokens stop working at once."""
    await call.drive.auth.ask(LogOut(call.session))


@routes.get("/v1/me", needs=Scope.ACCOUNT)
async def get_me(call: Call) -> UserView:
    """Return the account and its usage."""
    return _user(call, await call.drive.auth.ask(GetUser(call.session)))


@routes.patch("/v1/me", needs=Scope.ACCOUNT, raises=[Invalid, EmailTaken, Forbidden, TooManyRequests])
async def update_me(call: Call, body: UpdateMeBody) -> UserView:
    """Change the e-mail address or the password.

    A new password ends every other session.  The answer to a wrong current password is `403 forbidden`.
    """
    user = await call.drive.auth.ask(
        UpdateUser(
            by=call.session,
            current_password=body.current_password,
            email=body.email,
            password=body.password,
            address=call.address,
        )
    )
    return _user(call, user)


@routes.delete(
    "/v1/me",
    needs=Scope.ACCOUNT,
    status=204,
    fields={"current_password": "password"},
    raises=[Invalid, Forbidden, TooManyRequests],
)
async def delete_me(call: Call, body: DeleteMeBody) -> None:
    """Delete the account and everything in it."""
    await call.drive.auth.ask(DeleteUser(by=call.session, password=body.password, address=call.address))


@routes.get("/v1/sessions", needs=Scope.ACCOUNT)
async def list_sessions(call: Call) -> SessionList:
    """List the active sessions."""
    sessions = await call.drive.auth.ask(ListSessions(call.session))
    current = call.session.session_id
    return SessionList(sessions=[_session(session, current) for session in sessions])


@routes.delete("/v1/sessions/{session_id}", needs=Scope.ACCOUNT, status=204, raises=[NotFound])
async def end_session(call: Call, session_id: SessionId) -> None:
    """End one session."""
    await call.drive.auth.ask(EndSession(by=call.session, session_id=session_id))


def _user(call: Call, user: User) -> UserView:
    usage, limits = user.usage, call.drive.config.auth
    return UserView(
        id=user.id,
        email=user.email,
        created_at=user.created_at,
        quota_bytes=user.quota_bytes,
        usage=UsageView(
            used_bytes=usage.used_bytes,
            live_bytes=usage.live_bytes,
            trash_bytes=usage.trash_bytes,
            version_bytes=usage.version_bytes,
            reserved_bytes=usage.reserved_bytes,
        ),
        counts=user.counts,
        limits=Counts(entries=limits.max_entries, uploads=limits.max_pending_uploads, versions=limits.max_versions),
    )


def _session(session: Session, current: SessionId) -> SessionView:
    return SessionView(
        id=session.id,
        created_at=session.created_at,
        last_used_at=session.last_used_at,
        expires_at=session.expires_at,
        address=session.address,
        user_agent=session.user_agent,
        current=session.id == current,
    )
