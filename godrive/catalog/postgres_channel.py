"""Passes notices on to other gateways through PostgreSQL (``LISTEN`` and ``NOTIFY``), on a connection of its own.

They are not part of the transactions that they tell of: a commit with a notice
waits for every other one (the queue of notices has one lock), so it would undo
what group commits gain.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import asyncpg

from godrive.catalog.postgres_errors import unavailable
from godrive.catalog.postgres_pool import Connection, connect

CHANNEL = "godrive_changed"

_FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


class PostgresChannel:
    """The channel :data:`CHANNEL` of one database."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: Connection | None = None

    async def tell(self, notice: bytes) -> None:
        """As ``Channel`` says."""
        if self._connection is not None:
            with suppress(*_FAILURES):
                await self._connection.execute("SELECT pg_notify($1, $2)", CHANNEL, b64encode(notice).decode())

    @asynccontextmanager
    async def listen(self, hear: Callable[[bytes], None]) -> AsyncIterator[Callable[[], Awaitable[None]]]:
        """As ``Channel`` says."""
        ended = asyncio.Event()

        def pass_on(connection: object, process: int, channel: str, payload: object) -> None:
            with suppress(ValueError):  # not one of ours
                hear(b64decode(str(payload), validate=True))

        async def lost() -> None:
            await ended.wait()

        try:
            connection = await connect(self._dsn)
        except _FAILURES as error:
            raise unavailable(error) from error
        try:
            connection.add_termination_listener(lambda _: ended.set())
            await connection.add_listener(CHANNEL, pass_on)
            self._connection = connection
            yield lost
        except _FAILURES as error:
            raise unavailable(error) from error
        finally:
            self._connection = None
            connection.terminate()
