"""Fixtures of catalogs: each engine, open and empty, and the rig that runs rules on it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self

import pytest

from godrive import config
from godrive.catalog import Catalog, Sinks, Tx
from godrive.catalog.postgres import PostgresCatalog
from godrive.catalog.sqlite import SqliteCatalog
from godrive.testing import lay_catalog, quick_folder
from tests.contracts.rig import Rig
from tests.servers import PostgresServer


@pytest.fixture(scope="session")
def database(postgres_server: PostgresServer) -> str:
    """One database for all tests: emptying it takes less time than creating another."""
    return postgres_server.create_database()


@pytest.fixture(scope="session")
def template(postgres_server: PostgresServer) -> str:
    """The name of a database that has the schema and that nobody is connected to."""
    name = f"template{os.getpid()}"
    dsn = postgres_server.create_database(name)

    async def migrate() -> None:
        catalog = PostgresCatalog(config.Catalog(dsn=dsn))
        await catalog.open()
        await catalog.close()

    # In a thread of its own, because the test that is the first to ask may have a loop in this one.
    thread = threading.Thread(target=asyncio.run, args=[migrate()])
    thread.start()
    thread.join()
    return name


@pytest.fixture
def own_database(postgres_server: PostgresServer, template: str) -> str:
    """A database of the test's own that has the schema: a copy takes a fifth of the time that making it does."""
    return postgres_server.create_database(template=template)


_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_versions' ORDER BY 1"
_NEW = "INSERT INTO catalog (nonce) VALUES (replace(gen_random_uuid()::text, '-', ''))"
"""SQL: the row with which a new catalog begins."""


async def empty(tx: Tx) -> None:
    """Make the catalog as it was when it was new.

    All rows are deleted by one statement, which a connection plans once.  TRUNCATE makes new files for all
    tables and indices, which takes seven times as long as deleting a few rows.
    """
    names = [row[0] for row in await tx.all(_TABLES)]
    await tx.run(f"WITH {', '.join(f'of_{name} AS (DELETE FROM {name})' for name in names)} SELECT")
    await tx.run(_NEW)


class Kept:
    """A catalog in PostgreSQL that tests use one after the other, because a new connection has to plan all anew."""

    def __init__(self) -> None:
        self._catalog: PostgresCatalog | None = None
        self._dsn = ""

    async def open(self, dsn: str) -> PostgresCatalog:
        """The catalog, open and empty."""
        if dsn != self._dsn:
            await self.close()
        if self._catalog is None:
            self._catalog, self._dsn = PostgresCatalog(config.Catalog(dsn=dsn), sinks=Sinks(nats=True)), dsn
            await self._catalog.open()
        await self._catalog.write(empty)
        return self._catalog

    async def leave(self) -> None:
        """The test has ended: keep the catalog for the next one, unless this one has closed it or left work in it."""
        used = self._catalog
        if used is not None and (used.problem or used._pool.closed or used._pool._busy):
            await self.close()

    async def close(self) -> None:
        """Close the catalog.  Idempotent."""
        if self._catalog is not None:
            await self._catalog.close()
            self._catalog = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


@pytest.fixture(scope="module")
async def kept_catalog(anyio_backend: object) -> AsyncIterator[Kept]:
    """What the tests of a module share: they run in one event loop, which is the one of its connections."""
    async with Kept() as kept:
        yield kept


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.servers)])
async def catalog(request: pytest.FixtureRequest, kept_catalog: Kept) -> AsyncIterator[Catalog]:
    """Each engine, open and empty."""
    if request.param == "postgres":
        yield await kept_catalog.open(request.getfixturevalue("database"))
        await kept_catalog.leave()
        return
    with quick_folder() as folder:
        lay_catalog(path := Path(folder) / "godrive.db")
        made = SqliteCatalog(path, sinks=Sinks(nats=True))
        await made.open()
        yield made
        await made.close()


@pytest.fixture
def rig(catalog: Catalog) -> Rig:
    return Rig(catalog)
