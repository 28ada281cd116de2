"""``godrive deadletters``, as an operator uses it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from godrive.bridge.connection import NatsLink
from godrive.bridge.deadletters import DeadLetters
from godrive.bridge.streams import ensure_stream
from godrive.cli import main
from godrive.config import Nats
from tests.servers import NatsServer

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(
    nats_server: NatsServer,
    namespace: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GODRIVE_NATS_URL", nats_server.url)
    monkeypatch.setenv("GODRIVE_NATS_NAMESPACE", namespace)
    monkeypatch.setenv("GODRIVE_INGEST_STREAM", f"{namespace}_UPLOADS")

    def run(*arguments: str) -> tuple[int, str, str]:
        try:
            code = main(["deadletters", *arguments])
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def stream(nats_server: NatsServer, namespace: str) -> str:
    """A stream with two dead letters."""

    async def make() -> None:
        link = NatsLink(Nats(url=nats_server.url))
        js = (await link.client()).jetstream()
        await ensure_stream(js, f"{namespace}_UPLOADS", f"{namespace}.uploaded", max_age=60, max_msgs=10)
        await DeadLetters(link, stream=f"{namespace}_UPLOADS", namespace=namespace).prepare()
        for body in (b"not\x1b[31mJSON", b"{}"):
            headers = {"Godrive-Reason": "It is odd.\x1b[2J", "Godrive-Subject": f"{namespace}.uploaded"}
            await js.publish(f"{namespace}.dead.{namespace}_UPLOADS", body, headers=headers)
        await link.close()

    asyncio.run(make())
    return f"{namespace}_UPLOADS"


def kept(nats_server: NatsServer, stream: str) -> int:
    async def count() -> int:
        link = NatsLink(Nats(url=nats_server.url))
        info = await (await link.client()).jetstream().stream_info(stream)
        await link.close()
        return info.state.messages

    return asyncio.run(count())


def test_letters_are_listed_with_their_reason_and_nothing_that_moves_the_cursor(run: Run, stream: str) -> None:
    code, out, err = run("list")
    assert (code, err) == (0, "")
    assert out.count("It is odd.") == 2
    assert "\x1b" not in out
    code, out, _ = run("list", "--json")
    assert [json.loads(line)["body"] for line in out.splitlines()] == ["not\x1b[31mJSON", "{}"]


def test_a_letter_is_replayed_once(run: Run, stream: str, nats_server: NatsServer) -> None:
    assert run("replay", "2")[:2] == (0, "2 sent again\n")
    assert kept(nats_server, stream) == 1
    code, _, err = run("replay", "2")
    assert code == 1
    assert "no dead letter 2" in err


@pytest.mark.parametrize("number", ["0", "99", "99999999999999999999999"])
def test_a_number_that_no_letter_has_is_named(run: Run, stream: str, number: str) -> None:
    for command in ("replay", "drop"):
        code, _, err = run(command, number)
        assert code == 1
        assert f"no dead letter {number}" in err


def test_without_a_number_nothing_happens(run: Run, stream: str, nats_server: NatsServer) -> None:
    assert run("drop")[0] == 2
    assert len(run("list")[1].splitlines()) == 4


def test_all_letters_can_be_dropped(run: Run, stream: str, nats_server: NatsServer) -> None:
    assert run("drop", "--all")[:2] == (0, "1 dropped\n2 dropped\n")
    assert run("list")[:2] == (0, "")
    assert kept(nats_server, stream) == 0


def test_where_nothing_ever_died_there_is_nothing_to_list(run: Run) -> None:
    assert run("list") == (0, "", "")


def test_without_nats_the_mistake_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GODRIVE_NATS_URL", "")
    code, _, err = run("list")
    assert (code, err.count("\n")) == (2, 1)
    assert "nats.url" in err
