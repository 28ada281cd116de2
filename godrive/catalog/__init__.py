"""Users, sessions, files, uploads: rows, and the rules that hold between them.

A rule is written once, as an ``async`` function over a :class:`Tx` (modules
``users``, ``sessions``, ``files``, ``uploads``, ``trash``, ``housekeeping``).
An engine (``sqlite``, ``postgres``) decides how a transaction is run::

    file = await catalog.read(lambda tx: files.get(tx, owner_id, file_id))
    tombstone = await catalog.write(lambda tx: trash.put(tx, owner_id, file_id, now, purge_at))

SQL is the part that SQLite 3.40 and PostgreSQL 15 have in common, with
``$1`` placeholders.  Instants are stored as integer microseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from godrive.model import UserId

T = TypeVar("T")

Row = Sequence[Any]


class Tx(Protocol):
    """One transaction.  Statements see what came before them in the same one.

    Text or a number that the database cannot hold is ``Invalid``.
    """

    @property
    def outbox(self) -> bool:
        """Whether changes of files leave events."""
        ...

    async def one(self, sql: str, *values: Any) -> Row | None:
        """The first row, or ``None``."""
        ...

    async def all(self, sql: str, *values: Any) -> list[Row]:
        """Every row."""
        ...

    async def run(self, sql: str, *values: Any) -> int:
        """The number of rows changed."""
        ...

    async def run_each(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run the statement with each row of values, in one round trip where there is one to make."""
        ...

    async def lock(self, *user_ids: UserId) -> None:
        """Let no other transaction change what these users own until this one ends.

        Rules that check and then write (names, quota) begin with it.
        """


class Catalog(Protocol):
    """Runs operations in transactions.

    ``StoreUnavailable`` when the database is down, ``StorageFull`` when it has
    no room.  An operation may be run again from the start (a serialisation
    failure, a batch that could not be committed), so it must have no effect
    but through its ``Tx``.
    """

    async def open(self) -> None:
        """Connect, and bring the schema up to date.  ``ConfigError`` when that cannot be done."""

    async def close(self) -> None:
        """Finish what is under way and disconnect; again is harmless."""

    async def read(self, operation: Callable[[Tx], Awaitable[T]]) -> T:
        """Run a read-only operation; it does not wait for writes.

        It sees every write that returned before it.  Of several statements
        each sees at least what the one before it saw.
        """
        ...

    async def write(self, operation: Callable[[Tx], Awaitable[T]]) -> T:
        """Run an operation atomically.  When this returns, its effect is durable.

        Operations that wait together may share one commit; one that raises is
        rolled back alone.  When the database fails in the middle of a commit,
        the outcome is unknown and the answer ``StoreUnavailable``.
        """
        ...
