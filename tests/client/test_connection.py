"""How a client tries again."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest
from multidict import CIMultiDict, CIMultiDictProxy

from godrive.client.connection import Answer, Connection, Patience
from godrive.client.logins import LogInFile
from godrive.client.remote import Remote
from godrive.errors import Conflict, DriveError, Invalid, NameTaken, StoreUnavailable
from tests.servers import free_port

pytestmark = pytest.mark.anyio


async def test_patience_ends_when_there_was_no_progress_for_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = 1000.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr("godrive.client.connection.asyncio.sleep", sleep)
    patience, error = Patience(300.0), StoreUnavailable("down", retry_after=0.0)
    for _ in range(8):
        await patience.wait(error)
    assert slept == sorted(slept)
    patience.progressed()
    now += 10_000.0  # a long request, which has brought something
    slept.clear()
    with pytest.raises(StoreUnavailable, match="down"):
        while True:
            await patience.wait(error)
    assert 280 < sum(slept) <= 300
    patience.progressed()
    slept.clear()
    await patience.wait(StoreUnavailable("busy", retry_after=7.0))
    assert slept == [7.0]
    with pytest.raises(StoreUnavailable, match="for long"):
        await patience.wait(StoreUnavailable("for long", retry_after=600.0))


@pytest.mark.parametrize(
    "answer", [None, b"", b"220 mail.example.org\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"]
)
async def test_a_server_that_does_not_answer_is_named(tmp_path: Path, answer: bytes | None) -> None:
    """Nobody is there, or somebody who does not speak HTTP, or not to the end."""

    async def speak(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer or b"")
        writer.close()

    async with AsyncExitStack() as stack:
        if answer is None:
            port = free_port()
        else:
            server = await stack.enter_async_context(await asyncio.start_server(speak, "127.0.0.1", 0))
            port = server.sockets[0].getsockname()[1]
        await check(tmp_path, f"http://127.0.0.1:{port}")


async def test_a_request_whose_earlier_attempt_is_still_served_is_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line broke, the server goes on with the request, and answers it later to the same key."""
    answers: list[Answer | DriveError] = []

    async def call_once(*_: object, **__: object) -> Answer:
        answer = answers.pop(0)
        if isinstance(answer, DriveError):
            raise answer
        return answer

    url, made = "http://127.0.0.1:1", Answer(b"", CIMultiDictProxy(CIMultiDict()))
    monkeypatch.setattr(Connection, "call_once", call_once)
    async with Connection(url, file=LogInFile(tmp_path / "log-ins.json")) as connection:
        served = Conflict("still being served", retry_after=0.01)
        answers[:] = [StoreUnavailable("lost", retry_after=0.01), served, served, made]
        assert await connection.call("POST", "/v1/folders") is made
        for refusal in (
            [served],  # to the first attempt it says something else
            [StoreUnavailable("lost", retry_after=0.01), Conflict("The upload has ended.", retry_after=0.0)],
            [StoreUnavailable("lost", retry_after=0.01), NameTaken("a", retry_after=0.0)],
        ):
            answers[:] = refusal
            with pytest.raises(Conflict) as raised:
                await connection.call("POST", "/v1/folders")
            assert raised.value is refusal[-1]


async def check(tmp_path: Path, url: str) -> None:
    async with Connection(url, file=LogInFile(tmp_path / "log-ins.json"), patience=0.0) as connection:
        with pytest.raises(StoreUnavailable, match=f"^{url} does not answer: .*[.]$"):
            await connection.log_in("ann@example.org", "correct horse")


async def test_a_name_that_is_not_utf_8_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    name = os.fsdecode(b"a\xff")
    async with Remote(f"http://127.0.0.1:{free_port()}", file=LogInFile(tmp_path / "log-ins.json")) as remote:
        for ask in (
            remote.get(name),
            remote.trash(name),
            remote.make_folder(name, parents=True),
            anext(aiter(remote.search(name))),
            remote.begin_upload(name, 1, sha256="", modified_at=datetime.now(UTC), on_conflict="fail"),
        ):
            with pytest.raises(Invalid, match=r"^'a\\udcff' is not UTF-8\.$"):
                await ask
