"""A server that is none, or that does harm: the client refuses what it says, and ends."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import anyio
import pytest
from aiohttp import web

from godrive import cli
from tests.client.test_resuming import MIB

pytestmark = pytest.mark.anyio

Answers = Callable[[web.Request], Awaitable[web.StreamResponse]]
Run = Callable[..., Awaitable[str]]

TOKENS = {"token": "access", "expires_at": "2999-01-01T00:00:00Z", "refresh_token": "refresh"}
ROOT = {"id": "root", "kind": "folder", "name": ""}
FILE = {"id": "1", "kind": "file", "name": "a.txt", "size_bytes": 5, "version_id": "2", "sha256": "0" * 64}


@asynccontextmanager
async def served(answer: Answers) -> AsyncIterator[str]:
    """Serve the answers, and yield the URL."""
    runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1)  # type: ignore[arg-type]
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command with these arguments against a server, after a log-in.  Returns what it wrote."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)

    async def run(answer: Answers, *arguments: str, code: int = 1) -> str:
        async def log_in_or(request: web.Request) -> web.StreamResponse:
            if request.path in ("/v1/login", "/v1/token/refresh"):
                return web.json_response(TOKENS)
            return await answer(request)

        output = io.TextIOWrapper(io.BytesIO(), write_through=True)
        with anyio.fail_after(30), redirect_stdout(output), redirect_stderr(output):
            async with served(log_in_or) as url:
                monkeypatch.setattr("sys.stdin", io.StringIO("correct horse\n"))
                assert await asyncio.to_thread(cli.main, ["login", "ann@example.org", "--server", url]) == 0
                logged_in = output.tell()
                ended_with = await asyncio.to_thread(cli.main, list(arguments))
        output.seek(logged_in)
        said = output.read()
        assert ended_with == code, said
        assert "Traceback" not in said
        return said

    return run


def always(*answers: Any) -> Answers:
    """Return a server that gives each answer in turn, and the last one from then on."""
    waiting = list(answers)

    async def answer(_request: web.Request) -> web.StreamResponse:
        made = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        return web.Response(**made) if isinstance(made, dict) else web.json_response(made[0])

    return answer


async def endless(request: web.Request) -> web.StreamResponse:
    """Send bytes until the client leaves."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(MIB))


async def test_a_file_that_does_not_end_fills_no_disk(run: Run, tmp_path: Path) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        return await endless(request) if "/versions/" in request.path else web.json_response(FILE)

    assert "More than its 5 bytes arrived." in await run(answer, "get", "/a.txt", "copy.txt")
    assert "More than its 5 bytes arrived." in await run(answer, "get", "/a.txt", "-")
    assert [path.name for path in tmp_path.iterdir()] == ["config"]


async def test_an_answer_that_does_not_end_fills_no_memory(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("godrive.client.connection.MOST_JSON", 4 * MIB)
    assert "The answer has more than 4194304 bytes." in await run(endless, "ls")


@pytest.mark.parametrize(
    "body",
    [b"<html>Welcome to our hotel</html>", b"", b"\xff", b'{"id":"\\ud800"}', b'{"x":' + b"[" * 100_000],
    ids=["page", "nothing", "binary", "surrogate", "deep"],
)
async def test_what_is_no_answer_of_a_drive_is_one_line(run: Run, tmp_path: Path, body: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(b"hello")
    for command in (["ls"], ["put", "a.txt", "/"], ["find", "a"], ["mkdir", "a"]):
        said = await run(always({"body": body}), *command)
        assert said.count("\n") == 1
        assert "not the answer of a GoDrive server" in said


@pytest.mark.parametrize(
    "headers",
    [{}, {"Upload-Offset": "many"}, {"Upload-Offset": "99999999999"}, {"Upload-Offset": "-1"}],
    ids=["none", "word", "beyond", "negative"],
)
async def test_an_upload_whose_offset_nobody_knows_is_not_sent(
    run: Run, tmp_path: Path, headers: dict[str, str]
) -> None:
    (tmp_path / "large").write_bytes(bytes(9 * MIB))

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        if request.method == "PATCH":
            return web.Response(status=204, headers=headers)
        if request.path.startswith("/v1/tus") and headers:
            return web.Response(status=201, headers={"Location": "/v1/tus/3"})
        return web.json_response(ROOT)

    assert "not the answer of a GoDrive server" in await run(answer, "put", "large", "/to/")


async def test_no_password_token_or_file_goes_to_another_server(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_bytes(b"hello")
    reached: list[str] = []

    async def other(request: web.Request) -> web.StreamResponse:
        reached.append(request.path)
        return web.json_response(TOKENS)

    async with served(other) as url:
        there = url.replace("127.0.0.1", "localhost")

        async def redirect(request: web.Request) -> web.StreamResponse:
            return web.Response(status=307, headers={"Location": f"{there}{request.path}"})

        monkeypatch.setattr("sys.stdin", io.StringIO("correct horse\n"))
        async with served(redirect) as first:
            assert await asyncio.to_thread(cli.main, ["login", "ann@example.org", "--server", first]) == 1
        assert f"redirects to {there}/v1/files/by-path/a.txt" in await run(redirect, "put", "a.txt", "/a.txt")
        assert "log in there" in await run(redirect, "ls")
    assert not reached


async def test_what_a_server_says_does_nothing_to_a_terminal(run: Run) -> None:
    refusal = {"status": 404, "text": '{"code":"not_found","detail":"No\\u001b[2J\\nsuch"}'}
    for command in (["ls", "/a"], ["rm", "/a"], ["get", "/a", "b"]):
        said = await run(always(refusal), *command)
        assert "No\\u001b[2J\\u000asuch" in said
        assert said.count("\n") == 1
    assert "a\\u001b]0;b" in await run(always(({**FILE, "name": "a\x1b]0;b"},)), "ls", "/a", code=0)


@pytest.mark.parametrize(("zone", "at"), [("UTC-9", "9999-12-31 23:59"), ("UTC+5", "0001-01-01 00:00")])
async def test_a_time_that_the_clock_of_this_machine_does_not_have_is_listed_in_utc(
    run: Run, monkeypatch: pytest.MonkeyPatch, zone: str, at: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        entry = {**FILE, "modified_at": f"{at.replace(' ', 'T')}:59Z"}
        assert at.lstrip("0") in await run(always((entry,)), "ls", "/a.txt", code=0)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "/etc/a", "a\\b", "a\0b"])
async def test_a_name_that_no_entry_has_is_no_file_here(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    assert "This system cannot have a file of that name." in await run(
        always(({**FILE, "name": name},)), "get", "/a", "in/"
    )
    listed = {"files": [{**FILE, "name": name}]}
    assert "This system cannot have a file of that name." in await run(always((ROOT,), (listed,)), "get", "/", "in/")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and "config" not in path.parts]


@pytest.mark.parametrize(("top", "code"), [(None, 0), ("1", 1)])
async def test_find_names_the_deepest_entry_and_goes_round_in_no_circle(run: Run, top: str | None, code: int) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/search":
            return web.json_response({"files": [{**FILE, "parent_id": "1023"}]})
        number = int(request.path.rpartition("/")[2])
        return web.json_response({**ROOT, "id": "", "name": "d", "parent_id": str(number - 1) if number > 1 else top})

    said = await run(answer, "find", "a", code=code)
    assert said.endswith("/d" * 1023 + "/a.txt\n" if top is None else "not the answer of a GoDrive server.\n"), said
