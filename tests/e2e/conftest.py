"""A server for each test of the whole."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

import anyio
import pytest

from tests.drive_server import DriveServer
from tests.e2e.client import Client

T = TypeVar("T")


@pytest.fixture
def drive_server(tmp_path: Path) -> Iterator[DriveServer]:
    """A server that is not started yet, so that a test can change its tables.  Its log is shown when the test fails."""
    server = DriveServer(tmp_path / "drive")
    try:
        yield server
    finally:
        server.close()
        sys.stderr.write(server.log)


@pytest.fixture
def server(drive_server: DriveServer) -> DriveServer:
    """A server that runs."""
    drive_server.start()
    return drive_server


@pytest.fixture
async def client(server: DriveServer) -> AsyncIterator[Client]:
    """Ada, logged in."""
    async with Client.connect(server.url) as client:
        yield await client.enter()


class Eventually(Protocol):
    async def __call__(self, check: Callable[[], Awaitable[T]], *, within: float = ...) -> T: ...


@pytest.fixture
def eventually() -> Eventually:
    """Wait for what another process does in its own time: ask again until the answer is true."""

    async def ask(check: Callable[[], Awaitable[T]], *, within: float = 60.0) -> T:
        deadline = time.monotonic() + within
        while True:
            answer = await check()
            if answer:
                return answer
            assert time.monotonic() < deadline, f"still {answer!r} after {within} s"
            await anyio.sleep(0.05)

    return ask
