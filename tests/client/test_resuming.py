"""``godrive put`` and ``get`` go on where they were, whatever has ended them: the line, the server, a kill."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest

from tests.clients.line import Line
from tests.drive_server import DriveServer, environment

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

MIB = 1 << 20
LARGE = os.urandom(12 * MIB)
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def server() -> Iterator[DriveServer]:
    """Access tokens end before the client, which renews them half a minute before their end, expects it."""
    with DriveServer(tables={"auth": {"access_ttl": 3.0}}) as server:
        yield server


@dataclass
class Desk:
    """A person at a machine that reaches the server over a line."""

    server: DriveServer
    line: Line
    folder: Path

    @property
    def notes(self) -> list[Path]:
        """What is kept of unfinished copies."""
        return list((self.folder / "config" / "godrive").glob("*loads/*"))

    async def start(self, *arguments: str) -> asyncio.subprocess.Process:
        """Start ``godrive``."""
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "godrive", *arguments, "--server", self.line.url,
            cwd=self.folder, env={**environment(), "XDG_CONFIG_HOME": str(self.folder / "config")},
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip

    async def run(self, *arguments: str, stdin: str = "", code: int = 0) -> str:
        """Run ``godrive``.  Returns what it wrote."""
        process = await self.start(*arguments)
        output, _ = await process.communicate(stdin.encode())
        assert process.returncode == code, output.decode()
        return output.decode()

    async def stop(self, process: asyncio.subprocess.Process) -> None:
        """End it as a power cut would."""
        process.send_signal(signal.SIGKILL)
        await process.communicate()

    async def listed(self, path: str = "/") -> dict[str, str]:
        """The digests of the files of a folder."""
        output = await self.run("ls", path, "--json")
        return {entry["name"]: entry["sha256"] for entry in map(json.loads, output.splitlines()) if entry["sha256"]}


@asynccontextmanager
async def open_desk(server: DriveServer, folder: Path) -> AsyncIterator[Desk]:
    """Somebody who has an account and is logged in."""
    email = f"{os.urandom(8).hex()}@example.org"
    async with aiohttp.ClientSession() as http, Line.open(0, server.port) as line:
        async with http.post(f"{server.url}/v1/signup", json={"email": email, "password": PASSWORD}) as answer:
            assert answer.status == 201
        desk = Desk(server, line, folder)
        await desk.run("login", email, stdin=f"{PASSWORD}\n")
        yield desk


@pytest.fixture
async def desk(server: DriveServer, tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(server, tmp_path) as desk:
        yield desk


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()


async def test_a_file_arrives_over_a_line_that_is_cut_every_mebibyte(desk: Desk) -> None:
    """With at most 3 % more bytes than it has, although the access token ends on the way."""
    (desk.folder / "film").write_bytes(LARGE)
    desk.line.up.cut(MIB, times=10)
    desk.line.up.carried = 0
    assert await desk.run("put", "film", "/") == f"{len(LARGE):>14}  film\n"
    assert desk.line.up.was_cut == 10
    assert desk.line.up.carried <= len(LARGE) * 1.03
    assert await desk.listed() == {"film": digest(LARGE)}
    assert desk.notes == []


async def test_a_put_that_was_killed_goes_on_and_survives_a_killed_server(desk: Desk) -> None:
    (desk.folder / "film").write_bytes(LARGE)
    desk.line.up.hold(5 * MIB)
    desk.line.up.carried = 0
    process = await desk.start("put", "film", "/films/new/")
    await desk.line.up.held.wait()
    await desk.stop(process)
    desk.line.up.release()
    (note,) = desk.notes
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    assert stat.S_IMODE(note.parent.stat().st_mode) == 0o700
    desk.line.up.hold(4 * MIB)
    process = await desk.start("put", "film", "/films/new/")
    await desk.line.up.held.wait()
    await asyncio.to_thread(desk.server.kill9)
    desk.line.up.release()
    await asyncio.to_thread(desk.server.start)
    output, _ = await process.communicate()
    assert process.returncode == 0, output
    assert (
        desk.line.up.carried <= len(LARGE) + 4.5 * MIB
    )  # what the server had not noted is sent again, and nothing else
    assert await desk.listed("/films/new") == {"film": digest(LARGE)}
    assert desk.notes == []


async def test_a_get_continues_after_a_cut_and_after_a_kill(desk: Desk) -> None:
    (desk.folder / "film").write_bytes(LARGE)
    await desk.run("put", "film", "/")
    desk.line.down.carried = 0
    desk.line.down.hold(5 * MIB)
    process = await desk.start("get", "/film", "back")
    await desk.line.down.held.wait()
    (draft,) = desk.folder.glob(".back.*")
    while draft.stat().st_size < 4 * MIB:  # what has arrived is on its way to the file
        await asyncio.sleep(0.01)
    await desk.stop(process)
    desk.line.down.release()
    assert not (desk.folder / "back").exists()
    assert len(desk.notes) == 1
    desk.line.down.cut(MIB, times=4)
    await desk.run("get", "/film", "back")
    assert desk.line.down.was_cut == 4
    assert desk.line.down.carried <= len(LARGE) + 2 * MIB
    assert (desk.folder / "back").read_bytes() == LARGE
    assert sorted(path.name for path in desk.folder.iterdir()) == ["back", "config", "film"]
    assert desk.notes == []
