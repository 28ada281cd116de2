"""Fixtures of catalogs: each engine, open and empty, and the rig that runs rules on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from godrive import config
from godrive.catalog import Catalog, Sinks, Tx
from godrive.testing import quick_folder
from tests.contracts.rig import Rig
from tests.servers import PostgresServer


@pytest.fixture(scope="session")
def database(postgres_server: PostgresServer) -> str:
    """One database for all tests: emptying it takes less time than creating another."""
    return postgres_server.create_database()


async def empty(tx: Tx) -> None:
    """Delete all rows and keep the schema, and the row with which a new catalog begins."""
    tables = await tx.all("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    names = ", ".join(row[0] for row in tables if row[0] != "schema_versions")
    await tx.all(f"TRUNCATE {names}")
    await tx.run("INSERT INTO catalog (nonce) VALUES (replace(gen_random_uuid()::text, '-', ''))")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.servers)])
async def catalog(request: pytest.FixtureRequest) -> AsyncIterator[Catalog]:
    """Each engine, open and empty."""
    made: Catalog
    with quick_folder() as folder:
        if request.param == "sqlite":
            from godrive.catalog.sqlite import SqliteCatalog

            made = SqliteCatalog(Path(folder) / "godrive.db", sinks=Sinks(nats=True))
        else:
            from godrive.catalog.postgres import PostgresCatalog

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
