"""What the tests of all rules share."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.engines import Kept


@pytest.fixture(scope="package")
async def kept_catalog(anyio_backend: object) -> AsyncIterator[Kept]:
    """As that of one module: they run the same statements."""
    async with Kept() as kept:
        yield kept
