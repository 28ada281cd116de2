"""How many connections there may be: never so many that no file could be opened.

A connection costs whoever opens it nothing, and each takes a descriptor of this
process, as every blob that is read or written does.  So connections get half
of the descriptors: a crowd of them, idle or not, leaves uploads and downloads
their files.
"""

from __future__ import annotations

import resource
from collections import OrderedDict
from itertools import islice
from typing import Protocol

MOST = 16_384
"""Connections, however many descriptors there are: memory has an end too."""

_LOOKED_AT = 32


class Guest(Protocol):
    """What takes up room."""

    def is_idle(self) -> bool:
        """Whether nobody waits for anything on it, and it ends as soon as it is closed."""
        ...

    def force_close(self) -> None:
        """End it now."""
        ...


def fitting() -> int:
    """How many connections this process has room for."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if soft == resource.RLIM_INFINITY else max(1, min(soft // 2, MOST))


class ConnectionLimit:
    """ConnectionLimit for *most* connections.

    For one more, one that is idle has to go: of those that came first, or were
    busy when last looked at, the first.  While none is, newcomers are sent away.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._guests: OrderedDict[Guest, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._guests)

    def count_busy(self) -> int:
        """How many connections have a request in hand."""
        return sum(not guest.is_idle() for guest in self._guests)

    def enter(self, guest: Guest) -> None:
        """Let it in, and close whatever is one too many: another, or the guest itself."""
        if len(self._guests) >= self._most:
            idle = self._find_idle()
            if idle is None:
                guest.force_close()
                return
            self.leave(idle)
            idle.force_close()
        self._guests[guest] = None

    def leave(self, guest: Guest) -> None:
        """It is gone; again is harmless."""
        self._guests.pop(guest, None)

    def _find_idle(self) -> Guest | None:
        for guest in list(islice(self._guests, _LOOKED_AT)):  # not all: a crowd comes fast
            if guest.is_idle():
                return guest
            self._guests.move_to_end(guest)
        return None
