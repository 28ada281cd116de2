"""What may be said to the janitor: sweep."""

from __future__ import annotations

from typing import ClassVar

from godrive.model import Value
from godrive.runtime import Ask, Contract


class Janitor(Contract, name="janitor"):
    """Removes what has outlived its use."""


class Swept(Value):
    """What a sweep did; ``failed`` counts what the next one has to try again, ``problem`` says why the first of it."""

    purged: int = 0
    cleaned: int = 0
    staging: int = 0
    orphans: int = 0
    sessions: int = 0
    uploads: int = 0
    idempotency_keys: int = 0
    users: int = 0
    failed: int = 0
    problem: str = ""


class Sweep(Ask[Janitor, Swept]):
    """Purge what is due (bytes first, then row), and clear away leftovers.  Safe to ask at any time."""

    timeout: ClassVar[float] = 600.0
