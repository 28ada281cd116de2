"""Check passwords, limit failed attempts, and log them."""

from __future__ import annotations

from contextlib import suppress

from godrive import config, email_address
from godrive.actors.hashing import HashPool
from godrive.catalog import Catalog, Tx
from godrive.clock import Clock
from godrive.credentials import HIGHEST_COST
from godrive.errors import Forbidden, Invalid, TooManyRequests, Unauthenticated
from godrive.log_in_limits import LogInLimits
from godrive.logger import get_logger
from godrive.model import UserState
from godrive.principal import UserSession
from godrive.rules import networks, users


class Passwords:
    """Hashes and checks passwords in threads, within *limits*."""

    def __init__(self, catalog: Catalog, settings: config.Auth, clock: Clock, limits: LogInLimits) -> None:
        self._catalog = catalog
        self._clock = clock
        self._limits = limits
        self._hashes = HashPool(cost=settings.bcrypt_cost, threads=settings.hash_threads, waiting=settings.hash_waiting)

    def close(self) -> None:
        """Stop checking passwords."""
        self._hashes.close()

    async def hash(self, password: str, address: str = "") -> str:
        """Return a new hash of the password.  Raises ``TooManyRequests`` if the queue is full."""
        return await self._hashes.hash(password, client=networks.networks(address)[1])

    async def sign_up(self, password: str, address: str) -> str:
        """Like :meth:`hash`, and count the attempt for the address.  Raises ``TooManyRequests``."""
        with self._limits.sign_up(address) as attempt:
            hashed = await self.hash(password, address)
            attempt.counts = True
        return hashed

    async def log_in(self, email: str, password: str, address: str) -> users.Account:
        """Return the active account with that e-mail address and password.

        Raises ``TooManyRequests``, or ``Unauthenticated`` with the same text and
        after the same time, whether the account does not exist, is disabled or
        has another password.  Logs every failure.
        """

        async def look(tx: Tx) -> tuple[users.Account | None, bool, int]:
            account = await users.find(tx, email)
            user_id = account.user.id if account else users.NO_ONE  # the same reads, whether or not the account exists
            known = await networks.is_known(tx, user_id, address, now=self._clock.now())
            return account, known, await users.highest_cost(tx)

        account, known, cost = await self._catalog.read(look)
        try:
            limits = self._limits.log_in(address, email_address.key(email), known=known)
        except TooManyRequests:
            _report("too_many_attempts", address, email, account)
            raise
        with limits as attempt:
            matches = await self._matches(account, password, cost, address)
            if account is not None and matches and account.user.state is UserState.ACTIVE:
                return account
            attempt.counts = True
        if account is None:
            _report("unknown_user", address, email, account)
        else:
            _report("user_disabled" if matches else "wrong_password", address, email, account)
        raise refused()

    async def confirm(self, by: UserSession, password: str, address: str) -> None:
        """Require the user's current password, so that a stolen token alone cannot change the account.

        Each session has its own limit, which strangers cannot exhaust.  Raises
        ``Forbidden``, ``TooManyRequests``.
        """
        account = await self._catalog.read(lambda tx: users.account(tx, by.user_id))
        with self._limits.confirm(by.session_id) as attempt:
            matches = await self._matches(account, password, 0, address)
            attempt.counts = not matches
        if not matches:
            raise Forbidden("The password is wrong.", field="current_password")

    async def _matches(self, account: users.Account | None, password: str, cost: int, address: str) -> bool:
        return await self._hashes.check(
            password,
            account.password_hash if account else None,
            cost=min(cost, HIGHEST_COST),
            client=networks.networks(address)[1],
        )


def refused() -> Unauthenticated:
    """Return the error for an unknown e-mail address, a wrong password and a disabled user."""
    return Unauthenticated("The e-mail address or the password is wrong.")


def _report(reason: str, address: str, email: str, account: users.Account | None) -> None:
    """Log a failed log-in.  fail2ban reads this line, and docs/operations.md documents its format.

    Only what can be an e-mail address is logged as such: people type passwords into the wrong field.
    """
    who: dict[str, str] = {} if account is None else {"user": account.user.id}
    with suppress(Invalid):
        who["tried"] = _one_word(email_address.clean(email, utf8=True), 254)
    get_logger("godrive.auth").warning("log_in_failed", address=_one_word(address, 64), reason=reason, **who)


def _one_word(text: str, most: int) -> str:
    """Return the text without characters that could end or forge a field of the line."""
    return "".join(character if character.isalnum() or character in ".:%-_@+" else "?" for character in text[:most])
