"""Clients that ask for much, again and again: a quiet user beside them is served within a few times the usual.

Each attack runs in a process of its own and prints what it tried.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cases import each
from tests.drive_server import DriveServer
from tests.hostile.crowd import ROWS, User

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
CONNECTIONS = 100
SAMPLES = 200
JITTER = 0.03
"""Seconds that the machine adds by itself: server, attackers and the quiet user share two processors."""

INTENT = '{"filename":"a.txt","size_bytes":1,"on_conflict":"rename"}'
ATTACKS = {
    "long lists": "GET /v1/files?limit=1000 HTTP/1.1\\r\\nHost: x\\r\\nAuthorization: Bearer {token}\\r\\n\\r\\n",
    "searches": "GET /v1/files?q=nnnnz HTTP/1.1\\r\\nHost: x\\r\\nAuthorization: Bearer {token}\\r\\n\\r\\n",
    "metrics": "GET /metrics HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n",
    "readiness": "GET /readyz HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n",
    "intents": "POST /v1/files/upload-intent HTTP/1.1\\r\\nHost: x\\r\\nAuthorization: Bearer {token}\\r\\n"
    f"Content-Length: {len(INTENT)}\\r\\n\\r\\n" + INTENT.replace("{", "{{").replace("}", "}}"),
}


@contextmanager
def attack(port: int, request: str) -> Iterator[None]:
    """Attack the server meanwhile."""
    arguments = [sys.executable, "-m", "tests.hostile.attack", str(port), str(CONNECTIONS), request]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "attacking\n"
        try:
            yield
        finally:
            process.stdin.close()


@pytest.fixture(scope="module")
def server() -> Iterator[DriveServer]:
    with DriveServer() as server:
        yield server


@each("kind", ATTACKS)
def test_a_quiet_user_waits_little_longer_beside_one_who_asks_for_much(server: DriveServer, kind: str) -> None:
    name = kind.replace(" ", "-")
    with (
        User(server.port, f"{name}@example.org") as attacker,
        User(server.port, f"quiet-{name}@example.org") as quiet,
    ):
        attacker.add_files(ROWS)
        quiet.add_files(20)
        p99 = round(SAMPLES * 0.99) - 1
        alone = quiet.latencies(SAMPLES)[p99]
        with attack(server.port, ATTACKS[kind].format(token=attacker.token)):
            quiet.latencies(20)
            beside = quiet.latencies(SAMPLES)[p99]
        print(f"{kind}, {CONNECTIONS} connections: p99 {alone * 1000:.1f} ms alone, {beside * 1000:.1f} ms beside")
        assert beside < 5 * alone + JITTER
