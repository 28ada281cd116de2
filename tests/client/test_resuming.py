"""``godrive put`` and ``get`` go on where they were, whatever has ended them: the line, the server, a kill."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest

from godrive import cli
from godrive.client.logins import LogInFile
from godrive.client.remote import Remote
from tests.clients.line import Flow, Line
from tests.conftest import require
from tests.drive_server import DriveServer, environment
from tests.noise import noise
from tests.proxies import Caddy, Nginx, caddy_site, nginx_server
from tests.servers import CephGateway, free_port

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

MIB = 1 << 20
LARGE = noise(12 * MIB)
SIZE = int(os.environ.get("GODRIVE_TEST_FILE_BYTES", 12 * MIB))
"""Of the file that goes over a line that is cut again and again: scripts/soak has it at 1 GiB."""
PASSWORD = "correct horse"


@pytest.fixture(scope="module")
def server() -> Iterator[DriveServer]:
    with DriveServer() as server:
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
        """Run ``godrive`` in this process.  Returns what it wrote."""
        output = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(output), redirect_stderr(output):
            patch.setattr("sys.stdin", io.StringIO(stdin))
            patch.setenv("XDG_CONFIG_HOME", str(self.folder / "config"))
            patch.chdir(self.folder)
            assert await asyncio.to_thread(cli.main, [*arguments, "--server", self.line.url]) == code, output.getvalue()
        return output.getvalue()

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


async def killed_in(desk: Desk, flow: Flow, *arguments: str) -> None:
    """Have ``godrive`` end in the middle of what it does, when 5 MiB have gone over the line."""
    flow.hold(5 * MIB)
    process = await desk.start(*arguments)
    await flow.held.wait()
    for draft in desk.folder.glob(".back.*"):
        while draft.stat().st_size < 4 * MIB:  # what has arrived is on its way to the file
            await asyncio.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    await process.communicate()
    flow.release()


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()


async def test_a_file_arrives_over_a_line_that_is_cut_sixteen_times(desk: Desk) -> None:
    """With at most 3 % more bytes than it has."""
    expected = sha256()
    with (desk.folder / "film").open("wb") as film:
        for _ in range(0, SIZE, MIB):
            film.write(piece := noise(MIB))
            expected.update(piece)
    desk.line.up.carried = 0
    desk.line.up.cut(SIZE // 16, times=16)
    assert await desk.run("put", "film", "/") == f"{SIZE:>14}  film\n"
    assert desk.line.up.was_cut == 16
    assert desk.line.up.carried <= SIZE * 1.03
    sys.stderr.write(f"{desk.line.up.carried / SIZE - 1:.2%} more than {SIZE} bytes\n")
    assert await desk.listed() == {"film": expected.hexdigest()}
    assert desk.notes == []


async def test_a_put_that_was_killed_goes_on_and_survives_a_killed_server(desk: Desk) -> None:
    (desk.folder / "film").write_bytes(LARGE)
    await killed_in(desk, desk.line.up, "put", "film", "/films/new/")
    (note,) = desk.notes
    assert stat.S_IMODE(note.stat().st_mode) == 0o600
    assert stat.S_IMODE(note.parent.stat().st_mode) == 0o700
    desk.line.up.hold(4 * MIB)
    again = asyncio.create_task(desk.run("put", "film", "/films/new/"))
    await desk.line.up.held.wait()
    refused = await desk.start("put", "film", "/films/new/")
    assert (await refused.communicate())[0] == b"godrive: film: Another command is copying this file.\n"
    await asyncio.to_thread(desk.server.kill9)
    desk.line.up.release()
    await asyncio.to_thread(desk.server.start)
    await again
    assert desk.line.up.carried <= len(LARGE) + 4.5 * MIB  # what the server had not noted is sent again
    assert await desk.listed("/films/new") == {"film": digest(LARGE)}
    assert desk.notes == []


async def test_copies_to_an_s3_store_and_from_it_go_on_too(ceph_gateway: CephGateway, tmp_path: Path) -> None:
    """The bytes go up through the server, and come down from the store."""
    async with Line.open(0, ceph_gateway.port) as store:
        s3 = {
            "endpoint": ceph_gateway.endpoint,
            "public_endpoint": store.url,
            "bucket": f"resuming-{os.urandom(8).hex()}",
            "region": ceph_gateway.region,
            "access_key": ceph_gateway.access_key,
            "secret_key": ceph_gateway.secret_key,
        }
        with DriveServer(tables={"blobs": {"driver": "s3", "s3": s3}}) as server:
            async with open_desk(server, tmp_path) as desk:
                (desk.folder / "film").write_bytes(LARGE)
                await killed_in(desk, desk.line.up, "put", "film", "/")
                await desk.run("put", "film", "/")
                assert desk.line.up.carried <= len(LARGE) + MIB
                assert await desk.listed() == {"film": digest(LARGE)}
                await killed_in(desk, store.down, "get", "/film", "back")
                store.down.cut(MIB, times=2)
                await desk.run("get", "/film", "back")
                assert store.down.was_cut == 2
                assert store.down.carried <= len(LARGE) + 2 * MIB
                assert (desk.folder / "back").read_bytes() == LARGE


async def test_a_file_that_has_changed_begins_anew(desk: Desk) -> None:
    film = desk.folder / "film"
    film.write_bytes(LARGE)
    await killed_in(desk, desk.line.up, "put", "film", "/")
    film.write_bytes(LARGE[::-1])
    await desk.run("put", "film", "/")
    assert await desk.listed() == {"film": digest(LARGE[::-1])}
    film.write_bytes(LARGE)
    await killed_in(desk, desk.line.down, "get", "/film", "back")  # the film of before
    await desk.run("put", "film", "/")
    await desk.run("get", "/film", "back")
    assert (desk.folder / "back").read_bytes() == LARGE


async def test_a_file_that_changes_while_it_is_sent_is_refused(desk: Desk) -> None:
    """Shorter, or other bytes.  Neither becomes a file."""
    film = desk.folder / "film"
    film.write_bytes(LARGE)

    def change() -> None:
        with film.open("r+b") as file:
            file.seek(11 * MIB)
            file.write(b"change")

    acts: dict[str, Callable[[], None]] = {
        "The file became shorter while it was sent.": lambda: os.truncate(film, 6 * MIB),
        "The file changed while it was sent.": change,
    }
    for reason, act in acts.items():
        film.write_bytes(LARGE)
        desk.line.up.hold(5 * MIB)
        process = await desk.start("put", "film", "/")
        await desk.line.up.held.wait()
        act()
        desk.line.up.release()
        output, _ = await process.communicate()
        assert output.decode() == f"godrive: film: {reason}\n"
        assert process.returncode == 1
    assert await desk.listed() == {}


async def test_a_get_continues_after_a_cut_and_after_a_kill(desk: Desk) -> None:
    (desk.folder / "film").write_bytes(LARGE)
    await desk.run("put", "film", "/")
    desk.line.down.carried = 0
    await killed_in(desk, desk.line.down, "get", "/film", "back")
    assert not (desk.folder / "back").exists()
    assert len(desk.notes) == 1
    desk.line.down.cut(MIB, times=4)
    await desk.run("get", "/film", "back")
    assert desk.line.down.was_cut == 4
    assert desk.line.down.carried <= len(LARGE) + 2 * MIB
    assert (desk.folder / "back").read_bytes() == LARGE
    assert sorted(path.name for path in desk.folder.iterdir()) == ["back", "config", "film"]
    assert desk.notes == []


async def test_what_is_kept_of_a_download_is_compared_with_the_digest(desk: Desk) -> None:
    (desk.folder / "film").write_bytes(LARGE)
    await desk.run("put", "film", "/")
    await killed_in(desk, desk.line.down, "get", "/film", "back")
    (draft,) = desk.folder.glob(".back.*")
    with draft.open("r+b") as file:
        file.write(b"damaged")
    await desk.run("get", "/film", "back")
    assert (desk.folder / "back").read_bytes() == LARGE
    assert sorted(path.name for path in desk.folder.iterdir()) == ["back", "config", "film"]


async def test_a_file_that_is_called_as_a_draft_could_be_replaces_no_draft(desk: Desk) -> None:
    (desk.folder / "films").mkdir()
    films = {"film": LARGE, ".film.godrive.part": LARGE[: 9 * MIB]}
    for name, content in films.items():
        (desk.folder / "films" / name).write_bytes(content)
    await desk.run("put", "films", "/")
    await desk.run("get", "/films", "back")
    assert {path.name: path.read_bytes() for path in (desk.folder / "back").iterdir()} == films
    await killed_in(desk, desk.line.down, "get", "/films/film", "films/again")
    assert "A name must not contain a slash or a backslash." in await desk.run("put", "films", "/", code=1)
    assert sorted(await desk.listed("/films")) == sorted(films)


async def test_an_access_token_that_ends_on_the_way_is_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that has begun goes on, the next one is refused, and the upload stays."""
    monkeypatch.setattr("godrive.client.connection._EARLY", -1000.0)  # the client expects it to last
    may_end = asyncio.Event()

    async def begin() -> AsyncIterator[bytes]:
        yield b"12345"
        await may_end.wait()
        yield b"67890"

    async def end() -> AsyncIterator[bytes]:
        yield b"!"

    with DriveServer(tables={"auth": {"access_ttl": 1.0}}) as server:
        async with open_desk(server, tmp_path) as desk:
            file = LogInFile(tmp_path / "config" / "godrive" / "log-ins.json")
            async with Remote(desk.line.url, file=file) as remote, aiohttp.ClientSession() as http:
                now = datetime.now(UTC)
                state = await remote.begin_upload(
                    "/a", 11, sha256=digest(b"1234567890!"), modified_at=now, on_conflict="fail"
                )
                first = {"Authorization": f"Bearer {await remote.access_token()}"}
                sending = asyncio.create_task(remote.append(state.id, 0, begin, 10))
                status = 200
                while status == 200:
                    async with http.get(f"{desk.server.url}/v1/me", headers=first) as answer:
                        status = answer.status
                assert status == 401
                may_end.set()
                assert (await sending).received_bytes == 10
                state = await remote.append(state.id, 10, end, 1)
                assert f"Bearer {await remote.access_token()}" != first["Authorization"]
                assert state.file_id is not None
            assert await desk.listed() == {"a": digest(b"1234567890!")}


@pytest.mark.parametrize(("kind", "configured", "limit"), [(Nginx, nginx_server, "1m"), (Caddy, caddy_site, "1MB")])
async def test_a_proxy_with_a_limit_of_a_megabyte_lets_every_file_pass(
    desk: Desk, tmp_path: Path, kind: type[Nginx | Caddy], configured: Callable[..., str], limit: str
) -> None:
    """In smaller requests.  It is the limit of nginx by default, which says 413 or cuts the line; Caddy says 502."""
    require(kind)
    (desk.folder / "film").write_bytes(LARGE)
    (desk.folder / "song").write_bytes(LARGE[: 3 * MIB])
    port = free_port()
    with kind(configured(port, desk.server.port, buffers=True, limit=limit), tmp_path / "proxy", port):
        desk.line.to = port
        await desk.run("put", "film", "song", "/")
        assert await desk.listed() == {"film": digest(LARGE), "song": digest(LARGE[: 3 * MIB])}
