"""A crowd that opens connections and asks for nothing: who comes with something to ask is served."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.drive_server import DriveServer
from tests.e2e.client import Client

pytestmark = pytest.mark.anyio


async def test_a_crowd_of_idle_connections_leaves_files_their_descriptors(tmp_path: Path) -> None:
    few = ("sh", "-c", 'ulimit -n 128 && exec "$@"', "sh")
    with DriveServer(tmp_path, prefix=few) as server, ExitStack() as crowd:
        for _ in range(200):
            crowd.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10))
        async with Client.connect(server.url) as ann:
            await ann.enter()
            content = b"x" * 1_000_000
            file = await ann.upload("a.bin", content)
            assert await ann.download(file["id"]) == content
            async with ann.http.get(f"{server.url}/docs") as page:
                assert page.status == 200
        assert '"level":"error"' not in server.log


def test_as_many_descriptors_are_used_as_are_allowed(tmp_path: Path) -> None:
    with DriveServer(tmp_path, prefix=("sh", "-c", 'ulimit -Sn 200 && ulimit -Hn 3000 && exec "$@"', "sh")) as server:
        limits = Path(f"/proc/{server.pid}/limits").read_text().splitlines()
    assert [line.split()[3:5] for line in limits if line.startswith("Max open files")] == [["3000", "3000"]]
