"""Which attempts to log in are refused unchecked.

Guessing is limited in three ways, and only failed attempts count:

- for each address and account together;
- for each address, whatever the account: for IPv6 the /64 that one client has,
  and more generously the /48 that one customer may have;
- for each account, whatever the address, so that many addresses guess together
  no faster than a few.

An attacker can use up the last two for others: by failing at an account, or
behind an address that many share.  So they are not enforced for an address
that sessions of the account came from in the last 30 days: its owner gets in
however many strangers fail.  At such an address the first limit is as high as
that of an address, because the attacker may share it with the owner.

Each process that runs the auth actor counts for itself.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from godrive import config
from godrive.actors.rate_limit import Attempt, Limit, RateLimiter, attempt
from godrive.clock import Clock
from godrive.rules.networks import networks

WIDER = 8
"""How many times more may fail from an IPv6 /48 than from one /64 of it."""

STRANGERS = 3
"""How many times more may fail at an account from all addresses than from one."""


class LogInLimits:
    """Counts failed log-ins, and sign-ups, within ``auth.attempts_window``."""

    def __init__(self, settings: config.Auth, clock: Clock) -> None:
        def limiter(limit: int) -> RateLimiter:
            return RateLimiter(limit, settings.attempts_window, clock)

        self._by_client = limiter(settings.attempts_per_address)
        self._by_customer = limiter(settings.attempts_per_address * WIDER)
        self._by_pair = limiter(settings.attempts_per_account)
        self._by_known_pair = limiter(max(settings.attempts_per_account, settings.attempts_per_address))
        self._by_account = limiter(settings.attempts_per_account * STRANGERS)
        self._by_session = limiter(settings.attempts_per_account)

    def log_in(self, address: str, account: str, *, known: bool) -> AbstractContextManager[Attempt]:
        """An attempt at *account*, which may be the e-mail address of no user; *known* lifts the shared limits.

        Raises ``TooManyRequests``.
        """
        pair = f"{networks(address)[0]} {account}"
        limits = [
            Limit(self._by_pair, pair, enforced=not known),
            Limit(self._by_known_pair, pair, enforced=known),
            Limit(self._by_account, account, enforced=not known),
        ]
        return attempt([*limits, *self._of_address(address, enforced=not known)])

    def sign_up(self, address: str) -> AbstractContextManager[Attempt]:
        """An attempt to sign up.  Raises ``TooManyRequests``."""
        return attempt(self._of_address(address))

    def confirm(self, session_id: str) -> AbstractContextManager[Attempt]:
        """A session's attempt to give its user's password.  No one outside of the session can use up this limit.

        Raises ``TooManyRequests``.
        """
        return attempt([Limit(self._by_session, session_id)])

    def _of_address(self, address: str, *, enforced: bool = True) -> list[Limit]:
        if not address:  # an application that embeds the drive may not know it
            return []
        client, customer = networks(address)
        return [Limit(self._by_client, client, enforced), Limit(self._by_customer, customer, enforced)]
