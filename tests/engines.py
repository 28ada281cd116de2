"""Fixtures of catalogs: each engine, open and empty, and the rig that runs rules on it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

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


_EMPTY = """
DO $$
DECLARE
    name text;
BEGIN
    FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'schema_versions' LOOP
        EXECUTE format('DELETE FROM %I', name);
    END LOOP;
    INSERT INTO catalog (nonce) VALUES (replace(gen_random_uuid()::text, '-', ''));
END $$
"""
"""SQL: delete all rows and keep the schema, and the row with which a new catalog begins.

TRUNCATE makes new files for all tables and indices, which takes seven times as long as deleting a few rows.
"""


async def empty(tx: Tx) -> None:
    """Make the catalog as it was when it was new."""
    await tx.all(_EMPTY)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.servers)])
async def catalog(request: pytest.FixtureRequest) -> AsyncIterator[Catalog]:
    """Each engine, open and empty."""
    made: Catalog
    with quick_folder() as folder:
        if request.param == "sqlite":
            lay_catalog(path := Path(folder) / "godrive.db")
            made = SqliteCatalog(path, sinks=Sinks(nats=True))
        else:
            made = PostgresCatalog(config.Catalog(dsn=request.getfixturevalue("database")), sinks=Sinks(nats=True))
        await made.open()
        try:
            if request.param == "postgres":
                await made.write(empty)
            yield made
        finally:
            await made.close()


@pytest.fixture
def rig(catalog: Catalog) -> Rig:
    return Rig(catalog)
