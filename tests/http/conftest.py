"""A drive behind a real socket, people who use it, and a wire for what no HTTP library would send."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import aiohttp
import anyio
import pytest

from godrive.blobs import BlobStore
from godrive.http.wire.server import serve
from godrive.testing import ManualClock, open_drive
from tests.daemon import free_port
from tests.http.client import Person, Site


class OpenSite(Protocol):
    def __call__(self, **tables: Any) -> Any: ...


@asynccontextmanager
async def _open_site(*, blob_store: BlobStore | None = None, **tables: Any) -> AsyncIterator[Site]:
    port = free_port()
    clock = ManualClock()
    settings: dict[str, Any] = {
        "auth": {"attempts_per_address": 10_000, "attempts_per_account": 10_000},
        "server": {"public_url": f"http://127.0.0.1:{port}"},
    }
    for name, table in tables.items():
        settings[name] = {**settings.get(name, {}), **table}
    async with (
        open_drive(clock=clock, blob_store=blob_store, **settings) as drive,
        serve(drive, "127.0.0.1", port) as (url,),
    ):
        yield Site(drive, url, clock)


@pytest.fixture
def open_site() -> OpenSite:
    """Serve a drive with other tables of config.toml, as an async context manager."""
    return _open_site


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    """A drive that is served."""
    async with _open_site() as site:
        yield site


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that changes nothing of what it is told to send."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


@pytest.fixture
def stranger(http: aiohttp.ClientSession, site: Site) -> Person:
    """Somebody without an account."""
    return Person(http, site.url)


@pytest.fixture
async def ann(http: aiohttp.ClientSession, site: Site) -> Person:
    """Somebody with an account."""
    return await Person(http, site.url).enter()


@pytest.fixture
async def bob(http: aiohttp.ClientSession, site: Site) -> Person:
    """Somebody else with an account."""
    return await Person(http, site.url).enter("bob@example.org")


Exchange = Callable[..., Awaitable[bytes]]


@pytest.fixture
def exchange(site: Site) -> Exchange:
    """Send bytes, and all that comes back until the server closes.  With *half_close*, say that no more will come."""

    async def send(data: bytes, *, half_close: bool = False, port: int | None = None) -> bytes:
        stream = await anyio.connect_tcp("127.0.0.1", port or site.port)
        received = b""
        async with stream:
            with anyio.fail_after(30):
                await stream.send(data)
                if half_close:
                    await stream.send_eof()
                try:
                    while True:
                        received += await stream.receive()
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    return received

    return send
