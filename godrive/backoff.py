"""Exponential back-off."""

from __future__ import annotations

import random

import msgspec

_MOST_DOUBLINGS = 60
"""Enough for any bound; more would overflow a float."""


class Backoff(msgspec.Struct, frozen=True):
    """Delays that begin at *shortest* seconds and grow by *factor* up to *longest* seconds."""

    shortest: float
    longest: float
    factor: float = 2.0

    def after(self, failures: int) -> float:
        """Return the seconds to wait after *failures* (1 or more) consecutive failures."""
        return min(self.longest, self.shortest * self.factor ** min(failures - 1, _MOST_DOUBLINGS))

    def jittered(self, failures: int) -> float:
        """Return a random delay between half and all of :meth:`after`, so that clients do not retry in step."""
        return self.after(failures) * random.uniform(0.5, 1.0)
