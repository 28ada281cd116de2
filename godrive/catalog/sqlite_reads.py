"""Reads of SQLite: small ones on the event loop, all others in threads.

A hop to a thread and back costs more than a key lookup, and in a thread the
``sqlite3`` module releases and takes the GIL at every row.  So a read begins on
the loop.  SQLite calls a progress handler every few hundred instructions; a
read that has used up its instructions, or its milliseconds because it waits for
the disk, is interrupted and begun again in a thread.  That is safe, because
operations have no effect except through their transaction.  If it was the disk,
all reads go to threads for a while.  So in the worst case the loop stands still
for a few milliseconds of every quarter of a second.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import aiosqlite

from godrive.catalog import Sinks, sqlite_file
from godrive.catalog.group_commit import Outcome
from godrive.catalog.sqlite_tx import Operation, SqliteTx, ThreadTx
from godrive.page_cache import disk_reads

_STEP = 1000
"""Instructions of SQLite's virtual machine between two progress calls.  A row of a list takes about 16."""

_MOST_STEPS = 20
_PATIENCE = 0.005
_REST = 0.25
_CHUNK = 64


class SmallReads(SqliteTx):
    """Reads on the thread of the event loop."""

    def __init__(self, connection: sqlite3.Connection, *, sinks: Sinks) -> None:
        super().__init__(connection, sinks=sinks)
        self._steps = 0
        self._until = 0.0
        self._limited = False
        self._rest_until = 0.0
        self._disk_reads = disk_reads()
        connection.set_progress_handler(self._interrupts, _STEP)

    def _interrupts(self) -> bool:
        self._steps += 1
        return self._limited and (self._steps > _MOST_STEPS or self._is_late())

    def _is_late(self) -> bool:
        """Whether the disk delays this read.  A busy processor does not count: a thread would wait for it too."""
        now = time.perf_counter()
        if now <= self._until:
            return False
        before, self._disk_reads = self._disk_reads, disk_reads()
        if self._disk_reads == before:
            self._until = now + _PATIENCE
            return False
        self._rest_until = now + _REST
        return True

    def try_read(self, operation: Operation) -> Outcome | None:
        """The value, or ``None`` if the read must run in a thread."""
        now = time.perf_counter()
        if now < self._rest_until:
            return None
        self._steps, self._until, self._limited = 0, now + _PATIENCE, True
        try:
            if self.connection.in_transaction:  # the last read could not be rolled back
                self.end()
            self.connection.execute("BEGIN")
            try:
                return self.perform(operation), None
            finally:
                self._limited = False
                self.end()
        except sqlite3.OperationalError as error:
            if sqlite_file.primary_code(error) not in (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_BUSY):
                raise
            return None
        finally:
            self._is_late()


class LargeReads:
    """Reads in threads, at most *most* at once, each on a connection made by *connect*."""

    def __init__(self, connect: Callable[[], sqlite3.Connection], *, most: int, sinks: Sinks) -> None:
        self._connect = connect
        self._most = most
        self._sinks = sinks
        self._places = asyncio.Semaphore(most)
        self._idle: list[aiosqlite.Connection] = []
        self._returns: set[asyncio.Task[None]] = set()

    async def read(self, operation: Operation) -> Any:
        """The value.  Raises what the operation raises, and ``sqlite3.Error``.

        Each statement is a transaction of its own, as a read needs no more (see ``Catalog.read``): to begin and to
        end one would be two more hops to the thread and back.
        """
        await self._places.acquire()
        loop = asyncio.get_running_loop()
        lent = loop.create_task(self._lend())
        try:
            await asyncio.wait([lent])
            connection = lent.result()
            value = await operation(ThreadTx(connection, sinks=self._sinks))
        except BaseException:
            self._returns.add(task := loop.create_task(self._give_back(lent)))
            task.add_done_callback(self._returns.discard)
            raise
        self._idle.append(connection)
        self._places.release()
        return value

    async def close(self) -> None:
        """Wait for the reads in progress, and disconnect."""
        for _ in range(self._most):
            await self._places.acquire()
        for connection in self._idle:
            await connection.close()

    async def _lend(self) -> aiosqlite.Connection:
        return self._idle.pop() if self._idle else await aiosqlite.Connection(self._connect, _CHUNK)

    async def _give_back(self, lent: asyncio.Task[aiosqlite.Connection]) -> None:
        """Keep the connection once its thread is idle, however often the reader was cancelled."""
        try:
            await asyncio.wait([lent])
            if lent.exception() is None:
                await self._keep(lent.result())
        finally:
            self._places.release()

    async def _keep(self, connection: aiosqlite.Connection) -> None:
        try:
            await connection.rollback()
        except sqlite3.Error:
            await connection.close()
        else:
            self._idle.append(connection)
