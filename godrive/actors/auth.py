"""The auth actor: who people are, and for how long.

Asks that hash a password may be slow and many; ``Authenticate`` comes with
every request and must never wait for them.  So hashing runs in threads of its
own with a short line before them, and the actor takes far more messages at
once than that.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from contextlib import suppress

from godrive import config, email_address
from godrive.actors.passwords import Passwords, refused
from godrive.actors.session_cache import SessionCache
from godrive.catalog import Catalog, Tx
from godrive.clock import Clock
from godrive.credentials import RefreshClaims, TokenSigner, check_hash, check_new_password, needs_rehash
from godrive.errors import Forbidden, Invalid, NotFound, TooManyRequests, Unauthenticated
from godrive.known_callers import KnownCallers
from godrive.log_in_limits import LogInLimits
from godrive.logger import get_logger
from godrive.messages.auth import (
    Auth,
    Authenticate,
    BeginSession,
    DeleteUser,
    EndSession,
    FindEnded,
    GetUser,
    ListSessions,
    LogIn,
    LogOut,
    Refresh,
    SignUp,
    UpdateUser,
)
from godrive.messages.users import (
    AddUser,
    EnsureUser,
    FindUser,
    ImportUser,
    Invite,
    ListUsers,
    RemoveUser,
    SetEmail,
    SetPassword,
    SetQuota,
    SetUserState,
)
from godrive.model import Session, SessionId, Tokens, User, UserId
from godrive.principal import UserSession
from godrive.rules import networks, sessions, users
from godrive.runtime import Actor

_CACHED_TOKENS = 16_384
_REPORTED_PROXIES = 100


class AuthActor(Actor[Auth]):
    """Owns users and sessions."""

    def __init__(
        self,
        catalog: Catalog,
        settings: config.Auth,
        clock: Clock,
        tokens: TokenSigner,
        known: KnownCallers,
        *,
        limits: LogInLimits,
    ) -> None:
        self._catalog = catalog
        self._settings = settings
        self._clock = clock
        self._tokens = tokens
        self._passwords = Passwords(catalog, settings, clock, limits)
        self._proxies: set[str] = set()
        self._known = known
        self._known.clear()
        self._liveness = SessionCache(self._is_alive, clock)
        self._verified: OrderedDict[str, tuple[UserSession, float]] = OrderedDict()

    async def on_stop(self) -> None:
        self._passwords.close()

    @SignUp.handler
    async def sign_up(self, ask: SignUp) -> User:
        if self._settings.signup == "closed":
            raise Forbidden("Sign-up is closed on this server.")
        invite = ask.invite if self._settings.signup == "invite" else None
        if self._settings.signup == "invite" and not invite:
            raise Invalid("Sign-up on this server requires an invitation.", field="invite")
        email = self._new_email(ask.email)
        check_new_password(ask.password)
        password_hash = await self._passwords.sign_up(ask.password, ask.address)
        now, quota_bytes = self._clock.now(), self._settings.default_quota_bytes or None
        return await self._catalog.write(
            lambda tx: users.add(
                tx, email=email, password_hash=password_hash, now=now, quota_bytes=quota_bytes, invite=invite
            )
        )

    def _new_email(self, email: str) -> str:
        """The address of a user to be, as this server accepts it.  Raises ``Invalid``."""
        return email_address.clean(email, utf8=self._settings.unicode_emails)

    @LogIn.handler
    async def log_in(self, ask: LogIn) -> Tokens:
        # The hash may change while it is checked: the password does, or another log-in renews the hash.
        session = await self._begin(ask) or await self._begin(ask)
        if session is None:
            raise refused()
        if ask.forwarded:
            await self._look_for_proxy(ask.address)
        return self._tokens_of(session)

    async def _begin(self, ask: LogIn) -> Session | None:
        """A session for the right password; ``None`` when the account or its hash changed meanwhile."""
        account = await self._passwords.log_in(ask.email, ask.password, ask.address)
        user_id, before, after = account.user.id, account.password_hash, account.password_hash
        if needs_rehash(before, self._settings.bcrypt_cost):
            with suppress(TooManyRequests):  # another log-in will do it
                after = await self._passwords.hash(ask.password, ask.address)
        now, ttl = self._clock.now(), self._settings.refresh_ttl

        async def begin(tx: Tx) -> Session:
            if after != before:
                await users.refresh_hash(tx, user_id, before=before, after=after)
            return await sessions.begin(
                tx,
                user_id,
                now=now,
                ttl=ttl,
                address=ask.address,
                user_agent=ask.user_agent,
                forwarded=ask.forwarded,
                password_hash=after,
            )

        try:
            return await self._catalog.write(begin)
        except Unauthenticated:
            return None

    async def _look_for_proxy(self, address: str) -> None:
        """Warn once of a proxy that is not trusted: to the limits, all that it brings are one client."""
        client = networks.network(address)
        if client in self._proxies or len(self._proxies) >= _REPORTED_PROXIES:
            return
        if not await self._catalog.read(lambda tx: networks.is_shared(tx, address)):
            return
        self._proxies.add(client)
        get_logger("godrive.auth").warning(
            "proxy_not_trusted",
            address=address,
            hint="Many accounts log in from this address, with forwarded headers that do not count. "
            "If it is your proxy, add it to server.trusted_proxies and let it send X-Forwarded-For.",
        )

    @BeginSession.handler
    async def begin_session(self, ask: BeginSession) -> Tokens:
        now, ttl = self._clock.now(), self._settings.refresh_ttl
        session = await self._catalog.write(
            lambda tx: sessions.begin(
                tx, ask.by.user_id, now=now, ttl=ttl, address=ask.address, user_agent=ask.user_agent
            )
        )
        return self._tokens_of(session)

    @Refresh.handler
    async def refresh(self, ask: Refresh) -> Tokens:
        now, ttl = self._clock.now(), self._settings.refresh_ttl
        claims = self._tokens.verify_refresh(ask.refresh_token, now=now)
        session = await self._catalog.write(
            lambda tx: sessions.refresh(
                tx,
                claims.user_id,
                claims.session_id,
                claims.generation,
                now=now,
                ttl=ttl,
                address=ask.address,
                user_agent=ask.user_agent,
                forwarded=ask.forwarded,
            )
        )
        if session is None:
            self._forget(claims.session_id)
            raise Unauthenticated("The session has ended.")
        return self._tokens_of(session)

    @Authenticate.handler
    async def authenticate(self, ask: Authenticate) -> UserSession:
        now = self._clock.now()
        verified = self._verified.get(ask.token)
        if verified is None:
            principal, expires_at = self._tokens.verify_access(ask.token, now=now)
            if len(self._verified) >= _CACHED_TOKENS:
                self._verified.popitem(last=False)
            verified = self._verified[ask.token] = principal, expires_at.timestamp()
        principal, expires = verified
        if expires <= now.timestamp():
            del self._verified[ask.token]
            raise Unauthenticated("The token has expired.")
        if not self._liveness.is_fresh(principal) and not await self._liveness.check(principal):
            self._verified.pop(ask.token, None)
            raise Unauthenticated("The session has ended.")
        valid_for = expires - now.timestamp()
        until = min(self._liveness.fresh_until(principal), self._clock.monotonic() + valid_for)
        self._known.keep(ask.token, principal, until=until)
        return principal

    @FindEnded.handler
    async def find_ended(self, ask: FindEnded) -> list[str]:
        now = self._clock.now()
        return await self._catalog.read(lambda tx: sessions.find_ended(tx, ask.callers, now=now))

    @LogOut.handler
    async def log_out(self, ask: LogOut) -> None:
        await self._end(ask.by.user_id, ask.by.session_id)

    @GetUser.handler
    async def get_user(self, ask: GetUser) -> User:
        return await self._catalog.read(lambda tx: users.get(tx, ask.by.user_id))

    @UpdateUser.handler
    async def update_user(self, ask: UpdateUser) -> User:
        email = None if ask.email is None else self._new_email(ask.email)
        if ask.password is not None:
            check_new_password(ask.password)
        await self._passwords.confirm(ask.by, ask.current_password, ask.address)
        password_hash = None if ask.password is None else await self._passwords.hash(ask.password, ask.address)
        user_id, keep = ask.by.user_id, ask.by.session_id

        async def change(tx: Tx) -> User:
            await self._check_alive(tx, ask.by)
            user = await users.get(tx, user_id)
            if email is not None and email != user.email:
                user = await users.set_email(tx, user_id, email)
            if password_hash is not None:
                user = await users.set_password(tx, user_id, password_hash, keep=keep)
            return user

        user = await self._catalog.write(change)
        self._forget()
        return user

    @DeleteUser.handler
    async def delete_user(self, ask: DeleteUser) -> None:
        await self._passwords.confirm(ask.by, ask.password, ask.address)

        async def delete(tx: Tx) -> None:
            await self._check_alive(tx, ask.by)
            await users.delete(tx, ask.by.user_id, now=self._clock.now())

        await self._catalog.write(delete)
        self._forget()

    @ListSessions.handler
    async def list_sessions(self, ask: ListSessions) -> list[Session]:
        now = self._clock.now()
        return await self._catalog.read(lambda tx: sessions.list_alive(tx, ask.by.user_id, now=now))

    @EndSession.handler
    async def end_session(self, ask: EndSession) -> None:
        if not await self._end(ask.by.user_id, ask.session_id):
            raise NotFound("You have no such session.")

    # What an operator or a host application asks

    @AddUser.handler
    async def add_user(self, ask: AddUser) -> User:
        email = self._new_email(ask.email)
        check_new_password(ask.password)
        password_hash, now = await self._passwords.hash(ask.password), self._clock.now()
        return await self._catalog.write(
            lambda tx: users.add(tx, email=email, password_hash=password_hash, now=now, quota_bytes=ask.quota_bytes)
        )

    @ImportUser.handler
    async def import_user(self, ask: ImportUser) -> User:
        email, now = self._new_email(ask.email), self._clock.now()
        check_hash(ask.password_hash)
        return await self._catalog.write(
            lambda tx: users.add(tx, email=email, password_hash=ask.password_hash, now=now, quota_bytes=ask.quota_bytes)
        )

    @EnsureUser.handler
    async def ensure_user(self, ask: EnsureUser) -> User:
        email, now = None if ask.email is None else self._new_email(ask.email), self._clock.now()
        quota = (self._settings.default_quota_bytes or None) if ask.quota_bytes is None else ask.quota_bytes
        return await self._catalog.write(
            lambda tx: users.ensure(tx, external_id=ask.external_id, email=email, now=now, quota_bytes=quota)
        )

    @FindUser.handler
    async def find_user(self, ask: FindUser) -> User:
        account = await self._catalog.read(lambda tx: users.find(tx, ask.email))
        if account is None:
            raise NotFound(f"No user has the e-mail address {ask.email}.")
        return account.user

    @ListUsers.handler
    async def list_users(self, ask: ListUsers) -> list[User]:
        return await self._catalog.read(lambda tx: users.list_after(tx, after=ask.after, limit=ask.limit))

    @SetUserState.handler
    async def set_user_state(self, ask: SetUserState) -> User:
        now = self._clock.now()
        user = await self._catalog.write(lambda tx: users.set_state(tx, ask.user_id, ask.state, now=now))
        self._forget()
        return user

    @SetPassword.handler
    async def set_password(self, ask: SetPassword) -> User:
        check_new_password(ask.password)
        await self._catalog.read(lambda tx: users.get(tx, ask.user_id))  # before the work of a hash
        password_hash = await self._passwords.hash(ask.password)
        user = await self._catalog.write(lambda tx: users.set_password(tx, ask.user_id, password_hash))
        self._forget()
        return user

    @SetEmail.handler
    async def set_email(self, ask: SetEmail) -> User:
        email = self._new_email(ask.email)
        return await self._catalog.write(lambda tx: users.set_email(tx, ask.user_id, email))

    @SetQuota.handler
    async def set_quota(self, ask: SetQuota) -> User:
        return await self._catalog.write(lambda tx: users.set_quota(tx, ask.user_id, ask.quota_bytes))

    @RemoveUser.handler
    async def remove_user(self, ask: RemoveUser) -> None:
        now = self._clock.now()
        if ask.grace > 0:
            await self._catalog.write(lambda tx: users.delete_later(tx, ask.user_id, ask.grace, now=now))
        else:
            await self._catalog.write(lambda tx: users.delete(tx, ask.user_id, now=now))
        self._forget()

    @Invite.handler
    async def invite(self, ask: Invite) -> str:
        code, now = secrets.token_urlsafe(16), self._clock.now()
        await self._catalog.write(lambda tx: users.add_invite(tx, code, now=now, expires_at=ask.expires_at))
        return code

    def _forget(self, session_id: SessionId | None = None) -> None:
        """Check that session, or all, again before the next use, because it may have ended."""
        self._liveness.forget(session_id)
        self._known.clear()

    async def _end(self, user_id: UserId, session_id: SessionId) -> bool:
        ended = await self._catalog.write(lambda tx: sessions.end(tx, user_id, session_id))
        self._forget(session_id)
        return ended

    async def _is_alive(self, principal: UserSession) -> bool:
        now = self._clock.now()
        return await self._catalog.read(lambda tx: sessions.is_alive(tx, principal, now=now))

    async def _check_alive(self, tx: Tx, principal: UserSession) -> None:
        """Require that the session did not end while the password was checked, as it does with a new password."""
        await tx.lock(principal.user_id)
        if not await sessions.is_alive(tx, principal, now=self._clock.now()):
            raise Unauthenticated("The session has ended.")

    def _tokens_of(self, session: Session) -> Tokens:
        now, principal = self._clock.now(), UserSession(user_id=session.user_id, session_id=session.id)
        token, expires_at = self._tokens.access(principal, now=now, ttl=self._settings.access_ttl)
        claims = RefreshClaims(session.user_id, session.id, session.generation)
        refresh_expires_at = session.expires_at.replace(microsecond=0)
        return Tokens(
            token=token,
            expires_at=expires_at,
            # Issued at the time of the refresh, not of this answer: a lost answer is repeated byte for byte.
            refresh_token=self._tokens.refresh(claims, now=session.last_used_at, expires_at=refresh_expires_at),
            refresh_expires_at=refresh_expires_at,
        )
