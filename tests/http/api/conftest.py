"""What the tests of the API framework share."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
import requests

from godrive.http.routes import changes
from godrive.http.wire.server import serve
from godrive.testing import open_drive


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server on a loop and thread of its own: schemathesis asks from this one, and waits."""
    listening: Future[str] = Future()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def run() -> None:
        limits = {"attempts_per_address": 100_000, "attempts_per_account": 100_000}
        async with open_drive(auth=limits) as drive, serve(drive, "127.0.0.1", 0) as (url,):
            listening.set_result(url)
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=[run()])
    thread.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(changes, "LONGEST_WAIT", 0.01)
        yield listening.result(20)
    loop.call_soon_threadsafe(stop.set)
    thread.join(20)
    loop.close()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """Connections that are kept, and no look at the environment for a proxy, which takes longer than a request."""
    with requests.Session() as session:
        session.trust_env = False
        yield session
