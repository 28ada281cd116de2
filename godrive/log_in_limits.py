"""Limits on log-in attempts.  An attempt over a limit is refused without a check.

Three limits count failed attempts:

- for each address and account together;
- for each address and all accounts: for IPv6 the /64 of one client, and with a
  higher limit the /48 of one customer;
- for each account and all addresses, so that many addresses together cannot
  guess faster than a few.

An attacker can exhaust the last two for others: by failing at an account, or
from an address that many share.  So they are not enforced for an address from
which a session of the account came in the last 30 days, and the owner can log
in.  For such an address the first limit is as high as that of an address,
because the attacker may share the address with the owner.

Each process that runs the auth actor counts separately.  The counts survive a
crash of the actor, because they belong to the drive.
"""

from __future__ import annotations

from contextlib import AbstractContextManager

from godrive import config
from godrive.clock import Clock
from godrive.rate_limit import Attempt, Limit, RateLimiter, attempt
from godrive.rules.networks import networks

WIDER = 8
"""The limit of an IPv6 /48, as a multiple of that of a /64."""

STRANGERS = 3
"""The limit of an account for all addresses, as a multiple of that for one address."""


class LogInLimits:
    """Counts failed log-ins and sign-ups within ``auth.attempts_window``."""

    def __init__(self, settings: config.Auth, clock: Clock) -> None:
        def limiter() -> RateLimiter:
            return RateLimiter(settings.attempts_per_address, settings.attempts_window, clock)

        self._by_client, self._by_customer = limiter(), limiter()
        self._by_pair, self._by_known_pair = limiter(), limiter()
        self._by_account, self._by_session = limiter(), limiter()
        self.apply(settings)

    def apply(self, settings: config.Auth) -> None:
        """Use the limits of *settings* from now on.  Attempts that were counted stay counted."""
        address, account = settings.attempts_per_address, settings.attempts_per_account
        for limiter, limit in (
            (self._by_client, address),
            (self._by_customer, address * WIDER),
            (self._by_pair, account),
            (self._by_known_pair, max(account, address)),
            (self._by_account, account * STRANGERS),
            (self._by_session, account),
        ):
            limiter.limit, limiter.window = limit, settings.attempts_window

    def log_in(self, address: str, account: str, *, known: bool) -> AbstractContextManager[Attempt]:
        """Begin an attempt to log in to *account*, which need not exist.  *known* lifts the shared limits.

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
        """Begin an attempt to sign up.  Raises ``TooManyRequests``."""
        return attempt(self._of_address(address))

    def confirm(self, session_id: str) -> AbstractContextManager[Attempt]:
        """Begin a session's attempt to confirm the password.  Only the session itself can exhaust this limit.

        Raises ``TooManyRequests``.
        """
        return attempt([Limit(self._by_session, session_id)])

    def _of_address(self, address: str, *, enforced: bool = True) -> list[Limit]:
        if not address:  # an embedding application may not know it
            return []
        client, customer = networks(address)
        return [Limit(self._by_client, client, enforced), Limit(self._by_customer, customer, enforced)]
