"""The engines that run transactions, on SQLite and on PostgreSQL.

A rule (``godrive.rules``) is written once, as an ``async`` function over a
:class:`Tx`.  An engine (``sqlite``, ``postgres``) decides how a transaction is
run::

    file = await catalog.read(lambda tx: files.get(tx, owner_id, file_id))

SQL is the subset that SQLite 3.40 and PostgreSQL 15 share, with ``$1``
placeholders.  Instants are stored as integer microseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import msgspec

from godrive.catalog.name_search import NameSearch
from godrive.errors import DriveError
from godrive.model import UserId

T = TypeVar("T")

Row = Sequence[Any]


class Sinks(msgspec.Struct, frozen=True):
    """Receivers of changes.  The catalog keeps a change until each has it."""

    nats: bool = False
    webhook: bool = False
    """The webhook of the operator, for all users."""


NO_SINKS = Sinks()


class Final(msgspec.Struct, frozen=True, gc=False):
    """Identifies the last statement of an operation by a *key* that no other has, and whose row it locks."""

    key: str
    owner_id: UserId


class Tx(Protocol):
    """One transaction.  A statement sees the effects of those before it.

    Raises ``Invalid`` for text or a number that the database cannot store.
    """

    @property
    def sinks(self) -> Sinks:
        """For whom changes are kept."""
        ...

    @property
    def changed(self) -> set[UserId]:
        """The owners of the recorded changes.  A hint for those who wait for changes, not part of the transaction."""
        ...

    @property
    def names(self) -> NameSearch:
        """How this database finds names by what they contain."""
        ...

    @property
    def joins(self) -> bool:
        """Whether one statement can change several tables (``catalog/chains.py``)."""
        ...

    async def one(self, sql: str, *values: Any) -> Row | None:
        """The first row, or ``None``."""
        ...

    async def final(self, final: Final, sql: str, *values: Any) -> Row | None:
        """Like :meth:`one`.  If it returns a row, the operation ends without another statement.

        The row begins with the key of *final*.  If there is
        no row, the statement has changed nothing.  So such statements of
        several operations can be sent and committed in one round trip.
        """
        ...

    async def all(self, sql: str, *values: Any) -> list[Row]:
        """Every row."""
        ...

    async def one_each(self, sql: str, rows: Sequence[Sequence[Any]]) -> list[Row]:
        """The row that the statement returns for each row of values, in one round trip if the database is remote.

        The statement must always return exactly one row.
        """
        ...

    async def run(self, sql: str, *values: Any) -> int:
        """The number of rows changed."""
        ...

    async def run_each(self, sql: str, rows: Sequence[Sequence[Any]]) -> None:
        """Run the statement with each row of values, in one round trip if the database is remote."""
        ...

    async def grow(self) -> None:
        """Declare that this operation adds data.  Raises ``StorageFull`` while what room is left is for freeing room.

        Rules that keep something new for a user begin with it; those that
        delete, or let people in, do not.
        """

    async def attempt(self, operation: Callable[[], Awaitable[T]]) -> T:
        """The value of *operation*, whose statements are of this transaction.

        If it raises a ``DriveError``, its statements are undone and those before it stay.
        """
        ...

    async def lock(self, *user_ids: UserId) -> None:
        """Let no other transaction change what these users own until this one ends.

        Rules that check before they write (names, quota) begin with it.
        """


class Catalog(Protocol):
    """Runs operations in transactions.

    Raises ``StoreUnavailable`` when the database is down, ``StorageFull`` when
    it has no room.  An operation may be run again from the start (a
    serialisation failure, a batch that could not be committed), so it must have
    no effect except through its ``Tx``.

    Reads, writes and chores do not wait for each other's connections.  *chore*
    marks the operations of housekeeping.
    """

    async def open(self) -> None:
        """Connect, and bring the schema up to date.  Raises ``ConfigError`` if that is impossible."""

    async def close(self) -> None:
        """Finish the operations in progress and disconnect.  Idempotent."""

    @property
    def problem(self) -> DriveError | None:
        """The reason why writes fail, if one is known: the last write failed, or there is no room.  Costs no query."""
        ...

    async def read(self, operation: Callable[[Tx], Awaitable[T]], *, chore: bool = False, large: bool = False) -> T:
        """Run a read-only operation.  It does not wait for writes.

        It sees every write that returned before it began.  Each of several
        statements sees at least what the one before it saw.  *large*: it takes
        milliseconds, so it must not run on the event loop.
        """
        ...

    async def write(self, operation: Callable[[Tx], Awaitable[T]], *, chore: bool = False, answers: int = 1) -> T:
        """Run an operation atomically.  When this returns, its effect is durable.

        Operations that wait together may share one commit; one that raises is
        rolled back alone.  After it, *answers* requests are answered, whose clients
        are likely to send the next ones.  If a server does not answer to a commit, the outcome is
        unknown and the error ``AskTimeout``.
        """
        ...


@runtime_checkable
class ReadsAtOnce(Protocol):
    """A capability of a catalog: a small read never suspends, so callers gain nothing by sharing one."""

    reads_at_once: Literal[True]


@runtime_checkable
class MayBeReadOnly(Protocol):
    """A capability of a catalog whose database may take no writes while it can be read, as a standby does."""

    async def check_writable(self) -> None:
        """Raises ``StoreUnavailable`` if the database cannot be read, or takes no writes.  Costs a query."""


class Channel(Protocol):
    """Passes short notices on to other processes.  Any may be lost."""

    async def tell(self, notice: bytes) -> None:
        """Send the notice, unless nothing is connected.  May raise ``DriveError``."""

    def listen(self, hear: Callable[[bytes], None]) -> AbstractAsyncContextManager[Callable[[], Awaitable[None]]]:
        """Call *hear* with each notice.  Gives a function that waits until the connection is lost.

        Raises ``StoreUnavailable``.
        """
        ...


@runtime_checkable
class HasChannel(Protocol):
    """A capability of a catalog that several processes share."""

    def channel(self) -> Channel:
        """Return a channel to the processes that have the same catalog."""
        ...
