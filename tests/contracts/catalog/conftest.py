"""Every engine, empty, with somebody to act on it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from godrive import config
from godrive.catalog import Catalog
from godrive.testing import quick_folder
from tests.contracts.catalog.rig import Rig


@pytest.fixture(params=["sqlite", "postgres"])
async def catalog(request: pytest.FixtureRequest) -> AsyncIterator[Catalog]:
    """Each engine, open and empty."""
    made: Catalog
    with quick_folder() as folder:
        if request.param == "sqlite":
            from godrive.catalog.sqlite import SqliteCatalog

            made = SqliteCatalog(Path(folder) / "godrive.db", outbox=True)
        else:
            server = request.getfixturevalue("postgres_server")
            from godrive.catalog.postgres import PostgresCatalog

            made = PostgresCatalog(config.Catalog(dsn=server.create_database()), outbox=True)
        await made.open()
        try:
            yield made
        finally:
            await made.close()


@pytest.fixture
def rig(catalog: Catalog) -> Rig:
    return Rig(catalog)
