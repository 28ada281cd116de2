"""Fixtures that every test may ask for."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, bool]]:
    """GoDrive runs on asyncio: aiohttp does."""
    return ("asyncio", {"use_uvloop": True})
