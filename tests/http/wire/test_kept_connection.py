"""A connection goes on after a large body, which came past aiohttp's parser: no byte is lost, or read twice."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
import pytest
from aiohttp import web

from godrive.http.app import create_app
from godrive.http.wire import server as wire_server
from godrive.http.wire.request_body import LARGE
from godrive.model import UploadId
from godrive.testing import open_drive
from tests.daemon import free_port
from tests.http import tus
from tests.http.client import Answer, Person, Site, parse
from tests.http.wire.test_tls import client, https, trusting

pytestmark = pytest.mark.anyio

LENGTH = LARGE + 300_001
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


class Line:
    """One connection, on which requests are written and answers are read."""

    def __init__(self, stream: anyio.abc.ByteStream, person: Person) -> None:
        self.stream = stream
        self._person = person
        self._received = b""

    def put(self, name: str, length: int = LENGTH, **headers: str) -> bytes:
        """The head of a request that stores a file."""
        lines = [f"PUT /v1/files/by-path/{name} HTTP/1.1", "Host: x", f"Authorization: Bearer {self._person.token}"]
        lines += [f"{header.replace('_', '-')}: {value}" for header, value in headers.items()]
        return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            await self.stream.send(part)

    async def answer(self) -> Answer:
        """The next answer."""
        with anyio.fail_after(30):
            while b"\r\n\r\n" not in self._received:
                self._received += await self.stream.receive()
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 1"):
                return parse(head + b"\r\n\r\n")
            length = int(parse(head + b"\r\n\r\n").headers.get("content-length", 0))
            while len(self._received) < length:
                self._received += await self.stream.receive()
            content, self._received = self._received[:length], self._received[length:]
            return parse(head + b"\r\n\r\n" + content)

    async def is_closed(self) -> bool:
        """Whether the server closes the connection without another byte."""
        with anyio.fail_after(30):
            try:
                return not self._received and not await self.stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return True


@pytest.fixture(params=["http", "https"])
async def line(request: pytest.FixtureRequest, site: Site, ann: Person, tmp_path: Path) -> AsyncIterator[Line]:
    """A connection of somebody who is logged in."""
    if request.param == "http":
        async with await anyio.connect_tcp("127.0.0.1", site.port) as stream:
            yield Line(stream, ann)
        return
    async with https(tmp_path) as (url, certificate, _), client(url, certificate) as person:
        port = int(url.rpartition(":")[2])
        options: dict[str, Any] = {"ssl_context": trusting(certificate), "tls_standard_compatible": False}
        async with await anyio.connect_tcp("127.0.0.1", port, tls=True, **options) as stream:
            yield Line(stream, person)


def check_stored(answer: Answer, content: bytes) -> None:
    assert answer.status == 201, answer.content
    assert answer.json["sha256"] == hashlib.sha256(content).hexdigest()
    assert answer.headers.get("connection") != "close"


async def test_one_large_body_after_another_over_one_connection(line: Line) -> None:
    for number in range(3):
        content = os.urandom(LENGTH + number)
        await line.send(line.put(f"{number}.bin", len(content)), content)
        check_stored(await line.answer(), content)
    await line.send(HEALTH)
    assert (await line.answer()).json["ok"] is True


async def test_requests_that_follow_a_large_body_at_once_are_answered_in_order(line: Line) -> None:
    first, second = os.urandom(LENGTH), os.urandom(LENGTH)
    rest = second + HEALTH + line.put("small.txt", 5) + b"hello" + HEALTH
    async with anyio.create_task_group() as sending:
        sending.start_soon(line.send, line.put("1.bin") + first + line.put("2.bin") + rest)
        check_stored(await line.answer(), first)
        check_stored(await line.answer(), second)
        assert (await line.answer()).json["ok"] is True
        check_stored(await line.answer(), b"hello")
        assert (await line.answer()).json["ok"] is True


async def test_what_follows_a_large_body_and_is_no_request_is_malformed(line: Line) -> None:
    content = os.urandom(LENGTH)
    async with anyio.create_task_group() as sending:
        sending.start_soon(line.send, line.put("a.bin") + content + b"one byte too many\r\n\r\n")
        check_stored(await line.answer(), content)
        answer = await line.answer()
        assert (answer.status, answer.json["code"]) == (400, "malformed")
    assert await line.is_closed()


async def test_a_large_body_that_stops_half_way_ends_the_connection(line: Line) -> None:
    await line.send(line.put("a.bin"), bytes(LENGTH - 1))
    if isinstance(line.stream, anyio.abc.SocketStream):
        await line.stream.send_eof()
        answer = await line.answer()
        assert (answer.status, answer.json["code"]) == (400, "malformed")
        assert answer.headers["connection"] == "close"
    await line.stream.aclose()


async def test_after_an_error_about_a_whole_body_the_connection_goes_on(line: Line) -> None:
    wrong = "sha-256=:" + "A" * 43 + "=:"
    await line.send(line.put("a.bin", Content_Digest=wrong), bytes(LENGTH))
    answer = await line.answer()
    assert (answer.status, answer.json["code"]) == (422, "digest_mismatch")
    assert answer.headers.get("connection") != "close"
    content = os.urandom(LENGTH)
    await line.send(line.put("a.bin"), content)
    check_stored(await line.answer(), content)


async def test_a_client_that_waits_for_100_continue_keeps_its_connection(line: Line) -> None:
    for name in ("1.bin", "2.bin"):
        content = os.urandom(LENGTH)
        await line.send(line.put(name, Expect="100-continue"))
        assert (await line.answer()).status == 100
        await line.send(content)
        check_stored(await line.answer(), content)


async def test_a_client_that_wants_to_close_the_connection_is_obeyed(line: Line) -> None:
    await line.send(line.put("a.bin", Connection="close"), bytes(LENGTH))
    answer = await line.answer()
    assert (answer.status, answer.headers["connection"]) == (201, "close")
    assert await line.is_closed()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not wait long for an unwanted body."""
    monkeypatch.setattr(wire_server, "LINGERING", 0.1)


async def test_after_a_part_of_a_large_body_no_byte_of_it_is_taken_for_a_request(
    hasty: None, site: Site, ann: Person
) -> None:
    url = await tus.create(ann, 2 * LENGTH)
    head = "\r\n".join(
        [
            f"PATCH {urlsplit(url).path} HTTP/1.1",
            "Host: x",
            f"Authorization: Bearer {ann.token}",
            "Tus-Resumable: 1.0.0",
            "Upload-Offset: 0",
            f"Content-Type: {tus.CHUNK}",
            f"Content-Length: {LENGTH}",
            "",
            "",
        ]
    )
    async with await anyio.connect_tcp("127.0.0.1", site.port) as stream:
        line = Line(stream, ann)
        await line.send(head.encode(), bytes(100_000))
        while not site.drive.append_turns.is_taken(UploadId(url.rpartition("/")[2])):
            await anyio.lowlevel.checkpoint()
        await tus.offset_of(ann, url)  # ends the request
        answer = await line.answer()
        assert (answer.status, answer.json["code"]) == (409, "upload_taken_over")
        assert answer.headers["connection"] == "close"
        with suppress(anyio.BrokenResourceError):
            await line.send(HEALTH * ((LENGTH - 100_000) // len(HEALTH) + 1))
        assert await line.is_closed()


async def test_in_the_server_of_a_host_large_bodies_are_stored_too() -> None:
    port = free_port()
    server = {"public_url": f"http://127.0.0.1:{port}"}
    async with open_drive(server=server) as drive, aiohttp.ClientSession() as session:
        runner = web.AppRunner(create_app(drive))
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", port).start()
            person = await Person(session, f"http://127.0.0.1:{port}").enter()
            for name in ("1.bin", "2.bin"):
                content = os.urandom(LENGTH)
                answer = await person("PUT", f"/v1/files/by-path/{name}", data=content)
                assert answer.status == 201, answer.content
                assert answer.json["sha256"] == hashlib.sha256(content).hexdigest()
        finally:
            await runner.cleanup()
