"""Limits on attempts: at most so many within a sliding window, for each key."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

from godrive.clock import Clock
from godrive.errors import TooManyRequests


class RateLimiter:
    """Counts the attempts of each key (an address, an account) in the last *window* seconds.

    Remembers *capacity* keys, those that tried last, so memory is bounded
    however many keys there are.  Refused attempts do not count, so whoever
    comes back when told to is let in.
    """

    def __init__(self, limit: int, window: float, clock: Clock, *, capacity: int = 10_000) -> None:
        self._limit = limit
        self._window = window
        self._clock = clock
        self._capacity = capacity
        self._made: dict[str, list[float]] = {}

    def __len__(self) -> int:
        """How many keys are remembered."""
        return len(self._made)

    def note(self, key: str) -> None:
        """Count an attempt.  Raises ``TooManyRequests`` with the exact time after which one will be free."""
        now = self._clock.monotonic()
        made = [at for at in self._made.pop(key, ()) if at > now - self._window]
        self._made[key] = made  # put last: it tried last
        if len(made) >= self._limit:
            raise TooManyRequests("Too many attempts.", retry_after=made[-self._limit] + self._window - now)
        made.append(now)
        if len(self._made) > self._capacity:
            del self._made[next(iter(self._made))]

    def take_back(self, key: str) -> None:
        """Count the last attempt no more: it turned out to be none."""
        made = self._made.get(key)
        if made:
            made.pop()
            if not made:
                del self._made[key]


def network(address: str) -> str:
    """Who an address stands for: itself, or for IPv6 its /64, which is what one customer gets (RFC 6177)."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or parsed.exploded[:19])
    return str(parsed)
