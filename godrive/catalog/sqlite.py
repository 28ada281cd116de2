"""The catalog in one SQLite file.

Theory of operation.  SQLite itself is fast; the way to it is not.  A hop to a
thread and back costs more than most statements, so both paths avoid hops.

*Writes* go to one thread and one connection.  All writes that wait are handed
over in one hop: ``BEGIN IMMEDIATE``, the operations, one ``COMMIT``, and only
then the replies.  While that syncs, the next batch gathers, so the rate rises
with the load (32 writers at once: 9000 upload intents a second, with half of a
commit's time spent on the disk).  An operation that raises is undone alone.  Nearly
all that raise have changed nothing, so there is nothing to undo; if one has, the
batch is rolled back and run again with a savepoint for each operation.  A
savepoint costs 2 to 3 microseconds: two more calls, and SQLite keeps a copy of
each page that the operation changes.  If the database itself fails, the whole batch fails.
The log has room for the commits to come (``log_room``), because a commit that makes the file longer takes longer.
SQLite checkpoints its log in commits of the writer.  A thread of its own would spare
a commit that wait, but a checkpoint beside a commit that restarts the log is what
corrupts the database in releases before 3.51.3 (https://sqlite.org/wal.html#walresetbug).
Chores share the batches of other writes, since there is only one writer.

*Reads* run on the loop's own thread, on a connection of their own that sees
every acknowledged write and never waits for one; large ones run in threads
(``sqlite_reads``).  With 32 readers at once, pages of 20 files a second: 6400 on
the loop, 3900 in threads, and no more if one thread takes all reads that wait at
once, because then the loop and the thread contend for the GIL.  A key lookup
takes about 15 microseconds and a page of 20 files 100, less than parsing the
request for it.  Large reads of chores have a thread of their own, so a scan
delays no list.

The writer is not aiosqlite's, which hops to its thread for every statement: a
batch of 32 intents would be some 200 hops instead of one.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal, TypeVar, cast

from godrive.catalog import NO_SINKS, Sinks, Tx, sqlite_file
from godrive.catalog.group_commit import GroupCommit, Outcome
from godrive.catalog.log_room import LogRoom
from godrive.catalog.sqlite_reads import LargeReads, SmallReads
from godrive.catalog.sqlite_tx import Operation, SqliteTx
from godrive.errors import DriveError, StorageFull, StoreUnavailable
from godrive.reserve import Reserve
from godrive.undone import undone_if_cancelled
from godrive.wal_lock import WalLock

T = TypeVar("T")

_MOST_WRITES = 256
_MOST_LARGE_READS = 4
_MOST_LARGE_CHORES = 1


class SqliteCatalog:
    """A catalog in the file *path*, which is created if absent.

    It keeps changes for *sinks*.  A *guest* opens it beside a server, and leaves
    SQLite's log to the server (``wal_lock``).
    """

    reads_at_once: Literal[True] = True

    def __init__(
        self, path: Path, *, allow_network_fs: bool = False, sinks: Sinks = NO_SINKS, guest: bool = False
    ) -> None:
        self._path = path
        self._guest = guest
        self._wal_lock = WalLock(path, guest=guest)
        self._allow_network_fs = allow_network_fs
        self._sinks = sinks
        self._open = False
        self._reserve = Reserve(path)
        self._log_room: LogRoom | None = None
        self._is_tight = False
        self._last_failure: DriveError | None = None
        self._writer: SqliteTx | None = None
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="godrive-catalog-write")
        self._writes = GroupCommit(self._together, most=_MOST_WRITES)
        self._large = LargeReads(self._connect_reader, most=_MOST_LARGE_READS, sinks=sinks)
        self._large_chores = LargeReads(self._connect_reader, most=_MOST_LARGE_CHORES, sinks=sinks)

    async def open(self) -> None:
        try:
            connection = await undone_if_cancelled(self._write_thread, self._connect, self._close_connections)
        except BaseException:
            self._write_thread.shutdown(wait=False)
            raise
        self._small = SmallReads(connection, sinks=self._sinks)
        self._open = True

    def _connect(self) -> sqlite3.Connection:
        try:
            self._wal_lock.open()
        except OSError as error:
            raise sqlite_file.not_writable(self._path, error) from None
        with ExitStack() as opened:
            opened.callback(self._wal_lock.close)
            sqlite_file.prepare(self._path, allow_network_fs=self._allow_network_fs, guest=self._guest)
            self._is_tight = not self._reserve.make()
            try:
                writer = self._connect_writer()
                opened.callback(writer.connection.close)
                if not self._guest:
                    self._log_room = LogRoom(self._path)
                reader = sqlite_file.connect(self._path, timeout=0, cache_kib=16000, read_only=True, guest=self._guest)
            except sqlite3.Error as error:
                raise sqlite_file.translate(error, self._path) or error from error
            opened.pop_all()
        self._writer = writer
        return reader

    def _connect_writer(self) -> SqliteTx:
        return SqliteTx(sqlite_file.connect(self._path, cache_kib=8000, guest=self._guest), sinks=self._sinks)

    def _connect_reader(self) -> sqlite3.Connection:
        return sqlite_file.connect(self._path, read_only=True, guest=self._guest)

    async def close(self) -> None:
        if self._open:
            self._open = False
            await self._writes.drain()
            await self._large.close()
            await self._large_chores.close()
            await asyncio.to_thread(self._disconnect)

    def _disconnect(self) -> None:
        self._write_thread.shutdown()
        self._close_connections(self._small.connection)

    def _close_connections(self, reader: sqlite3.Connection) -> None:
        reader.close()
        if self._writer is not None:
            self._writer.connection.close()
        self._wal_lock.close()

    @property
    def problem(self) -> DriveError | None:
        is_full = self._is_tight and not self._reserve.has_room()
        return sqlite_file.full(self._path) if is_full else self._last_failure

    async def read(self, operation: Callable[[Tx], Awaitable[T]], *, chore: bool = False, large: bool = False) -> T:
        self._check_open()
        try:
            outcome = None if large else self._small.try_read(operation)
            if outcome is None:
                threads = self._large_chores if chore else self._large
                return cast("T", await threads.read(operation))
        except sqlite3.Error as error:
            raise sqlite_file.translate(error, self._path) or error from error
        return cast("T", outcome[0])

    async def write(self, operation: Callable[[Tx], Awaitable[T]], *, chore: bool = False, answers: int = 1) -> T:
        self._check_open()
        return await self._writes.run(operation, answers)

    def _check_open(self) -> None:
        if not self._open:
            raise StoreUnavailable("The catalog is closed.")

    async def _together(self, operations: list[Operation]) -> list[Outcome]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[list[Outcome]] = loop.create_future()

        def commit() -> None:
            loop.call_soon_threadsafe(done.set_result, self._commit(operations))

        self._write_thread.submit(commit)  # run_in_executor adds 20 microseconds; _commit never raises
        return await done

    def _commit(self, operations: list[Operation]) -> list[Outcome]:
        """Run the operations in one transaction, and return the value or error of each."""
        if self._is_tight:
            self._is_tight = not self._reserve.make()
        outcomes, error = self._transact(operations)
        if not self._is_tight and isinstance(self._known(error), StorageFull):
            self._make_room()
            outcomes, error = self._transact(operations)
        if self._is_tight or self._wal_lock.is_long:
            self._checkpoint()
        self._last_failure = self._known(error)
        return outcomes

    def _make_room(self) -> None:
        """Release the reserve.  From now on nothing may be added, until there is room for it again."""
        self._is_tight = True
        self._reserve.release()
        self._checkpoint()
        self._reserve.give_to_log()

    def _checkpoint(self) -> None:
        """Copy SQLite's log into the database, so that the next writes use the room of the log again."""
        if self._writer is None:
            return
        with self._wal_lock.turn() as may, suppress(sqlite3.Error):  # no room even for that
            if may:
                self._writer.connection.execute("PRAGMA wal_checkpoint(RESTART)")

    def _transact(self, operations: list[Operation]) -> tuple[list[Outcome], BaseException | None]:
        """The outcomes of one attempt, and the error that failed all of it, if there was one."""
        outcomes: list[Outcome] = []
        try:
            if self._writer is None:
                self._writer = self._connect_writer()
            self._writer.full = sqlite_file.full(self._path) if self._is_tight else None
            if not self._perform(self._writer, operations, outcomes, apart=False):
                self._writer.end()
                outcomes.clear()
                self._perform(self._writer, operations, outcomes, apart=True)
            self._writer.connection.execute("COMMIT")
        except BaseException as error:
            self._undo()
            failures = [own or self._failure(error) for _, own in outcomes]
            failures += [self._failure(error) for _ in operations[len(outcomes) :]]
            return [(None, failure) for failure in failures], error
        return outcomes, None

    def _perform(self, writer: SqliteTx, operations: list[Operation], outcomes: list[Outcome], *, apart: bool) -> bool:
        """Begin a transaction and add the outcome of each operation.

        Unless they are kept *apart*, returns False once one that raises has changed something.
        """
        execute = writer.connection.execute
        execute("BEGIN IMMEDIATE")
        if self._log_room is not None and not self._is_tight:
            self._log_room.keep()
        for operation in operations:
            if apart:
                execute("SAVEPOINT operation")
            changes = writer.connection.total_changes
            try:
                outcomes.append((writer.perform(operation), None))
            except Exception as error:
                if isinstance(error, sqlite3.Error) and sqlite_file.translate(error, self._path):
                    raise
                outcomes.append((None, error))
                if apart:
                    execute("ROLLBACK TO operation")
                elif writer.connection.total_changes != changes:
                    return False
            if apart:
                execute("RELEASE operation")
        return True

    def _failure(self, error: BaseException) -> BaseException:
        """The error of one operation whose batch failed."""
        return self._known(error) or error

    def _known(self, error: BaseException | None) -> DriveError | None:
        return sqlite_file.translate(error, self._path) if isinstance(error, sqlite3.Error) else None

    def _undo(self) -> None:
        """Roll back.  If even that fails, drop the connection; the next batch makes another."""
        if self._writer is None:
            return
        try:
            self._writer.end()
        except sqlite3.Error:
            self._writer.connection.close()
            self._writer = None
