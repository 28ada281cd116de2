"""Exponential back-off: how long to wait before the next attempt."""

from __future__ import annotations

import random
from dataclasses import dataclass

_MOST_DOUBLINGS = 60
"""Enough for any bound; more would overflow a float."""


@dataclass(frozen=True)
class Backoff:
    """Delays that begin at *shortest* seconds and are multiplied by *factor*, up to *longest*."""

    shortest: float
    longest: float
    factor: float = 2.0

    def after(self, failures: int) -> float:
        """Seconds to wait after that many failures in a row, at least one."""
        return min(self.longest, self.shortest * self.factor ** min(failures - 1, _MOST_DOUBLINGS))

    def jittered(self, failures: int) -> float:
        """Between half and all of :meth:`after`, at random, so that many who failed together do not retry together."""
        return self.after(failures) * random.uniform(0.5, 1.0)
