"""The auth actor: who people are, and for how long.

Asks that hash a password may be slow and many; ``Authenticate`` comes with
every request and must never wait for them.  So hashing happens in threads of
its own, only so many askers wait for one, and the actor takes far more
messages at once than that.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NoReturn

from godrive import config
from godrive.actors.hashing import HashPool
from godrive.actors.rate_limit import RateLimiter, network
from godrive.actors.session_cache import SessionCache
from godrive.catalog import Catalog, Tx
from godrive.clock import Clock
from godrive.credentials import RefreshClaims, TokenSigner, check_new_password, clean_email, needs_rehash
from godrive.errors import Forbidden, Invalid, NotFound, TooManyRequests, Unauthenticated
from godrive.messages.auth import (
    Auth,
    Authenticate,
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
from godrive.model import Session, SessionId, Tokens, User, UserId, UserState
from godrive.principal import UserSession
from godrive.rules import sessions, users
from godrive.runtime import Actor

_CACHED_TOKENS = 16_384


class AuthActor(Actor[Auth]):
    """Owns users and sessions."""

    def __init__(self, catalog: Catalog, settings: config.Auth, clock: Clock, tokens: TokenSigner) -> None:
        self._catalog = catalog
        self._settings = settings
        self._clock = clock
        self._tokens = tokens
        self._hashes = HashPool(cost=settings.bcrypt_cost, threads=settings.hash_threads, waiting=settings.hash_waiting)
        self._by_address = RateLimiter(settings.attempts_per_address, settings.attempts_window, clock)
        self._by_account = RateLimiter(settings.attempts_per_account, settings.attempts_window, clock)
        self._liveness = SessionCache(self._is_alive, clock)
        self._verified: dict[str, tuple[UserSession, float]] = {}

    async def on_stop(self) -> None:
        self._hashes.close()

    @SignUp.handler
    async def sign_up(self, ask: SignUp) -> User:
        if self._settings.signup == "closed":
            raise Forbidden("Sign-up is closed on this server.")
        invite = ask.invite if self._settings.signup == "invite" else None
        if self._settings.signup == "invite" and not invite:
            raise Invalid("Signing up takes an invite.", field="invite")
        email = clean_email(ask.email)
        check_new_password(ask.password)
        self._count_address(ask.address)
        password_hash = await self._hashes.hash(ask.password)
        now, quota_bytes = self._clock.now(), self._settings.default_quota_bytes or None
        return await self._catalog.write(
            lambda tx: users.add(
                tx, email=email, password_hash=password_hash, now=now, quota_bytes=quota_bytes, invite=invite
            )
        )

    @LogIn.handler
    async def log_in(self, ask: LogIn) -> Tokens:
        self._count_address(ask.address)
        # The hash may be another one by the time it was checked, because the
        # password is, or because a log-in beside this one has hashed it anew.
        session = await self._begin(ask) or await self._begin(ask)
        if session is None:
            _refuse_log_in()
        return self._tokens_of(session)

    async def _begin(self, ask: LogIn) -> Session | None:
        """A session of whoever has that password; ``None`` when account or password were changed meanwhile."""
        try:
            email = clean_email(ask.email)
        except Invalid:
            account = None  # nobody has that address: no need to look for them, nor to say so
        else:
            account = await self._catalog.read(lambda tx: users.find(tx, email))
        account = await self._check_password(account, ask.email.strip(" ").casefold()[:254], ask.password)
        user_id, before, after = account.user.id, account.password_hash, account.password_hash
        if needs_rehash(before, self._settings.bcrypt_cost):
            with suppress(TooManyRequests):  # another time will do
                after = await self._hashes.hash(ask.password)
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
            self._liveness.forget(claims.session_id)
            raise Unauthenticated("The session has ended.")
        return self._tokens_of(session)

    @Authenticate.handler
    async def authenticate(self, ask: Authenticate) -> UserSession:
        now = self._clock.now()
        verified = self._verified.get(ask.token)
        if verified is None:
            principal, expires_at = self._tokens.verify_access(ask.token, now=now)
            if len(self._verified) >= _CACHED_TOKENS:
                del self._verified[next(iter(self._verified))]
            verified = self._verified[ask.token] = principal, expires_at.timestamp()
        principal, expires = verified
        if expires <= now.timestamp():
            del self._verified[ask.token]
            raise Unauthenticated("The token has expired.")
        if not self._liveness.is_fresh(principal.session_id) and not await self._liveness.check(principal):
            self._verified.pop(ask.token, None)
            raise Unauthenticated("The session has ended.")
        return principal

    @LogOut.handler
    async def log_out(self, ask: LogOut) -> None:
        await self._end(ask.by.user_id, ask.by.session_id)

    @GetUser.handler
    async def get_user(self, ask: GetUser) -> User:
        return await self._catalog.read(lambda tx: users.get(tx, ask.user_id))

    @UpdateUser.handler
    async def update_user(self, ask: UpdateUser) -> User:
        email = None if ask.email is None else clean_email(ask.email)
        if ask.password is not None:
            check_new_password(ask.password)
        await self._confirm(ask.by, ask.current_password, ask.address)
        password_hash = None if ask.password is None else await self._hashes.hash(ask.password)
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
        self._liveness.forget()
        return user

    @DeleteUser.handler
    async def delete_user(self, ask: DeleteUser) -> None:
        await self._confirm(ask.by, ask.password, ask.address)

        async def delete(tx: Tx) -> None:
            await self._check_alive(tx, ask.by)
            await users.delete(tx, ask.by.user_id, now=self._clock.now())

        await self._catalog.write(delete)
        self._liveness.forget()

    @ListSessions.handler
    async def list_sessions(self, ask: ListSessions) -> list[Session]:
        now = self._clock.now()
        return await self._catalog.read(lambda tx: sessions.list_alive(tx, ask.user_id, now=now))

    @EndSession.handler
    async def end_session(self, ask: EndSession) -> None:
        if not await self._end(ask.user_id, ask.session_id):
            raise NotFound("You have no such session.")

    async def _end(self, user_id: UserId, session_id: SessionId) -> bool:
        ended = await self._catalog.write(lambda tx: sessions.end(tx, user_id, session_id))
        self._liveness.forget(session_id)
        return ended

    async def _is_alive(self, principal: UserSession) -> bool:
        now = self._clock.now()
        return await self._catalog.read(lambda tx: sessions.is_alive(tx, principal, now=now))

    async def _check_alive(self, tx: Tx, principal: UserSession) -> None:
        """That the session has not ended while the password was checked: a new password ends those of the old one."""
        await tx.lock(principal.user_id)
        if not await sessions.is_alive(tx, principal, now=self._clock.now()):
            raise Unauthenticated("The session has ended.")

    async def _confirm(self, principal: UserSession, password: str, address: str) -> None:
        """That whoever acts knows the password, and not only has the token.  Raises ``Forbidden``.

        RateLimiter count by themselves, so that strangers who guess at log-in keep nobody from another password.
        """
        self._count_address(address)
        account = await self._catalog.read(lambda tx: users.account(tx, principal.user_id))
        try:
            await self._check_password(account, principal.user_id, password)
        except Unauthenticated:
            raise Forbidden("The password is wrong.", field="current_password") from None

    async def _check_password(self, account: users.Account | None, key: str, password: str) -> users.Account:
        """The account, if it is its password.  The attempt is counted by *key*.

        Raises ``Unauthenticated``, or ``TooManyRequests`` after too many of
        them, the same where there is no such account or it is disabled.  The
        attempt counts from its beginning, so that many at once are not more
        than many in a row.
        """
        self._by_account.note(key)
        try:
            matches = await self._hashes.check(password, account.password_hash if account else None)
        except TooManyRequests:
            self._by_account.take_back(key)
            raise
        if account is None or not matches or account.user.state is not UserState.ACTIVE:
            _refuse_log_in()
        self._by_account.take_back(key)
        return account

    def _count_address(self, address: str) -> None:
        if address:  # an application that embeds the drive need not have one
            self._by_address.note(network(address))

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


def _refuse_log_in() -> NoReturn:
    """The one answer to an unknown e-mail, a wrong password and a disabled user."""
    raise Unauthenticated("The e-mail address or the password is wrong.")
