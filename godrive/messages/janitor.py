"""Messages to the janitor."""

from __future__ import annotations

from typing import ClassVar

from godrive.model import Value
from godrive.runtime import Ask, Contract, Lane


class Janitor(Contract, name="janitor", lane=Lane.CHORE):
    """Deletes what has expired."""


class Swept(Value):
    """Results of a sweep.

    ``failed`` counts the items that the next sweep retries, ``held`` the chores
    held back because the clock jumped, ``accounts`` the users whose grace period
    is over, ``users`` those whose last file is gone; ``problem`` is the first reason.
    """

    purged: int = 0
    versions: int = 0
    cleaned: int = 0
    staging: int = 0
    orphans: int = 0
    sessions: int = 0
    uploads: int = 0
    idempotency_keys: int = 0
    accounts: int = 0
    users: int = 0
    changes: int = 0
    failed: int = 0
    held: int = 0
    problem: str = ""


class Sweep(Ask[Janitor, Swept]):
    """Purge what is due (bytes first, then rows) and remove leftovers.  Safe at any time.

    *trust_clock* confirms that the clock is right although it seems to have jumped.
    """

    trust_clock: bool = False

    timeout: ClassVar[float] = 600.0
