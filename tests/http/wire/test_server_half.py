"""A server imports the half of aiohttp that it needs, and the other half when it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
from importlib.metadata import version
from threading import Thread

from godrive.http.wire.server_half import postpone_client

postpone_client()
import godrive.http.wire.server
import aiohttp
from aiohttp import hdrs, web
from aiohttp.http import SERVER_SOFTWARE

assert "aiohttp.client" not in sys.modules
assert "aiohttp.connector" not in sys.modules
assert aiohttp.__version__ == version("aiohttp") and SERVER_SOFTWARE.endswith(aiohttp.__version__)

found = []
threads = [Thread(target=lambda: found.append(aiohttp.ClientSession)) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
import aiohttp.client
assert found == [aiohttp.client.ClientSession] * 8
assert aiohttp.web is web and aiohttp.hdrs is hdrs
assert {name for name in aiohttp.__all__ if not hasattr(aiohttp, name)} == set()
try:
    aiohttp.no_such_name
except AttributeError as error:
    assert "no_such_name" in str(error)
else:
    raise AssertionError("a name that does not exist was found")
before = aiohttp
postpone_client()
import aiohttp
assert aiohttp is before
"""


@pytest.mark.slow
def test_the_client_is_imported_on_first_use() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT], capture_output=True, text=True, check=False, timeout=60
    )
    assert run.returncode == 0, run.stderr
