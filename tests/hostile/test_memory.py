"""Clients that make the server keep bytes: resident memory is bounded whatever their number.

``GODRIVE_TEST_CONNECTIONS=10000 scripts/test tests/hostile/test_memory.py -s``
is the full size; both ends need as many descriptors (``ulimit -n 20000``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cases import each
from tests.drive_server import DriveServer
from tests.hostile.crowd import ROWS, User, crowd

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

MIB = 1 << 20
CONNECTIONS = int(os.environ.get("GODRIVE_TEST_CONNECTIONS", "500"))
KINDS = ("idle", "head_8k", "head_60k", "stalled_body", "unread_answer")
BUDGET = 8 * MIB if CONNECTIONS < 5_000 else 64 * MIB
"""A small crowd shows that the budget holds only against a small budget."""

MOST = 256 * MIB if CONNECTIONS >= 5_000 else 120 * MIB


@pytest.fixture
def server_with() -> Iterator[DriveServer]:
    """A server whose budget is small, unless the crowd is large, and that sleeps when it has nothing to answer."""
    seldom = {"ingest": {"reconcile_every": 3600.0}, "janitor": {"sweep_every": 3600.0}}
    with DriveServer(tables={"server": {"memory_bytes": BUDGET}, **seldom}, anew=True) as server:
        yield server


def test_a_crowd_of_every_kind_is_kept_in_bounded_memory_and_a_quiet_user_is_served(server_with: DriveServer) -> None:
    server = server_with
    with (
        User(server.port, "attacker@example.org") as attacker,
        User(server.port, "quiet@example.org") as quiet,
        crowd(server.port, attacker) as clients,
    ):
        attacker.add_files(ROWS)
        quiet.add_files(20)
        before = server.resident_bytes()
        for kind in KINDS:
            clients.open(kind, CONNECTIONS // len(KINDS))
        assert len(quiet("GET", "/v1/files")["files"]) == 20
        clients.wait_until_served(server)
        resident = server.resident_bytes()
        print(
            f"resident: {before / MIB:.0f} MiB alone, {resident / MIB:.0f} MiB beside {len(clients)} connections, "
            f"{clients.are_open()} of them open"
        )
        assert resident < MOST
        assert len(quiet("GET", "/v1/files")["files"]) == 20
    assert '"level":"error"' not in server.log


@each("kind", ["stalled_put", "stalled_store", "stalled_json", "unread_answer", "pipelined_heads", "kept_head"])
def test_many_of_one_kind_are_kept_in_bounded_memory(server_with: DriveServer, kind: str) -> None:
    count = CONNECTIONS // 5
    server = server_with
    with User(server.port, f"{kind}@example.org") as attacker, crowd(server.port, attacker) as clients:
        if kind in {"unread_answer", "pipelined_heads"}:
            attacker.add_files(ROWS)
        before = server.resident_bytes()
        clients.open(kind, count)
        clients.wait_until_served(server)
        resident = server.resident_bytes()
        print(f"resident: {before / MIB:.0f} MiB before, {resident / MIB:.0f} MiB beside")
        assert resident < MOST
        with User(server.port, f"quiet-{kind}@example.org") as quiet:
            assert quiet("GET", "/v1/files")["files"] == []
