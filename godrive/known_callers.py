"""Who sent a token, as the auth actor of this process has found out.

Every request with a token needs this, and an ask costs more than the look-up.
So the edges of the process look here first, and ask the actor if they find
nothing.  Only the actor writes.
"""

from __future__ import annotations

from collections import OrderedDict

from godrive.clock import Clock
from godrive.principal import Caller


class KnownCallers:
    """Callers by token.  An entry ends when the result of the actor is no longer recent, or the token expires."""

    def __init__(self, clock: Clock, *, capacity: int = 16_384) -> None:
        self._clock = clock
        self._capacity = capacity
        self._known: OrderedDict[str, tuple[Caller, float]] = OrderedDict()

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._known)

    def get(self, token: str) -> Caller | None:
        """Return who sent the token; ``None`` if the actor must be asked."""
        found = self._known.get(token)
        return None if found is None or found[1] <= self._clock.monotonic() else found[0]

    def keep(self, token: str, by: Caller, *, until: float) -> None:
        """Know the caller until that moment of the monotonic clock."""
        self._known.pop(token, None)  # the latest comes last
        self._known[token] = by, until
        if len(self._known) > self._capacity:
            self._known.popitem(last=False)

    def clear(self) -> None:
        """Forget all, because a session has ended."""
        self._known.clear()
