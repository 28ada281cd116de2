"""The API mounted in FastAPI, Starlette and Django, under uvicorn."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import anyio
import pytest

from godrive.drive import GoDrive
from godrive.http.asgi import Message, Mount
from godrive.messages.auth import BeginSession
from godrive.principal import HostUser
from godrive.testing import quick_config, sign_up
from tests.http.client import Person
from tests.noise import noise

pytestmark = pytest.mark.anyio


@dataclass
class Site:
    """A drive, and where the host serves it."""

    drive: GoDrive
    url: str


@pytest.fixture(params=["fastapi", "starlette", "django"])
async def site(request: pytest.FixtureRequest, tmp_path: Path, anyio_backend: object) -> AsyncIterator[Site]:
    """A drive that a host application mounts."""
    from tests.http import asgi_hosts

    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/drive"
    drive = GoDrive(quick_config(tmp_path, server={"public_url": url}, blobs={"driver": "disk"}), serving=True)
    server = asgi_hosts.server(request.param, drive, Mount(drive))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve, [listener])
        with anyio.fail_after(30):
            while not server.started:
                await anyio.sleep(0.01)
        yield Site(drive, url)
        server.should_exit = True


@pytest.fixture
async def ann(site: Site) -> AsyncIterator[Person]:
    async with aiohttp.ClientSession() as http:
        yield await Person(http, site.url).enter()


@pytest.mark.slow
async def test_files_go_up_and_come_down_in_pieces(ann: Person) -> None:
    large = noise(20_000_000)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(large), 1 << 20):
            yield large[start : start + (1 << 20)]

    for name, length in (("known", {"Content-Length": str(len(large))}), ("unknown", {})):
        path = f"/v1/files/by-path/a%20b/{name}%23.bin"
        sent = await ann("PUT", f"{path}?parents=true", data=pieces(), headers=length)
        assert sent.status == 201, sent.content
        assert sent.headers["Location"].startswith(ann.url)
        assert (await ann("GET", f"{path}?content")).content == large
        part = await ann("GET", f"{path}?content", headers={"Range": "bytes=5-9"})
        assert (part.status, part.content) == (206, large[5:10])
    intent = (await ann("POST", "/v1/files/upload-intent", {"filename": "c", "size_bytes": 3})).json
    assert intent["upload_url"].startswith(ann.url)
    assert (await ann("PUT", intent["upload_url"], data=b"abc", headers=intent["headers"])).status == 201
    assert (await ann("GET", "/v1/files/by-path/x%2Fy")).status == 422
    assert (await ann("GET", ann.url.removesuffix("/drive") + "/")).content in (b"home", b'"home"')


async def test_a_refusal_comes_before_the_body_and_errors_are_the_same(ann: Person) -> None:
    async def never() -> AsyncIterator[bytes]:
        yield b"x"
        await anyio.sleep_forever()

    refused = await ann(
        "PUT", "/v1/files/by-path/missing/file", data=never(), headers={"Content-Length": "5"}, expect100=True
    )
    assert (refused.status, refused.json["code"]) == (404, "not_found")
    unknown = await ann("GET", "/nothing")
    assert (unknown.status, unknown.json["code"]) == (404, "not_found")


async def test_changes_come_as_they_are_made_and_a_reader_that_leaves_is_forgotten(ann: Person, site: Site) -> None:
    headers = {"Authorization": f"Bearer {ann.token}"}
    async with ann.http.get(f"{ann.url}/v1/events", headers=headers) as events:
        assert (await events.content.readline()).startswith(b"retry:")
        await ann("POST", "/v1/folders", {"name": "folder"})
        async with asyncio.timeout(20):
            while not (line := await events.content.readline()).startswith(b"data:"):
                pass
        assert json.loads(line.removeprefix(b"data:"))["change"] == "created"
        assert len(site.drive.watch) == 1
    with anyio.fail_after(30):
        while len(site.drive.watch):
            await anyio.sleep(0.01)


async def test_the_session_has_the_address_of_the_client(ann: Person) -> None:
    spoofed = await ann("GET", "/v1/sessions", headers={"X-Forwarded-For": "198.51.100.7"})
    assert {session["address"] for session in spoofed.json["sessions"]} == {"127.0.0.1"}


@pytest.mark.parametrize("pieces", [[b"hello"], [b"", b"hel", b"lo"], [b""], []], ids=["one", "three", "empty", "none"])
async def test_a_body_of_http_2_needs_no_header_that_announces_it(tmp_path: Path, pieces: list[bytes]) -> None:
    """As hypercorn passes it on.  An upload whose length nobody knows must not become an empty file."""
    config = quick_config(tmp_path, server={"public_url": "http://drive.test"}, blobs={"driver": "disk"})
    async with GoDrive(config) as drive, Mount(drive) as mount:
        user = await sign_up(drive)
        tokens = await drive.auth.ask(BeginSession(HostUser(user_id=user.id)))
        last = len(pieces) - 1
        coming = [{"body": piece, "more_body": at < last} for at, piece in enumerate(pieces)] or [{}]
        sent: list[Message] = []

        async def receive() -> Message:
            if not coming:
                await anyio.sleep_forever()
            return {"type": "http.request", **coming.pop(0)}

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"host", b"drive.test"), (b"authorization", f"Bearer {tokens.token}".encode())]
        path = "/v1/files/by-path/a.txt"
        scope = {"type": "http", "http_version": "2", "method": "PUT", "path": path, "headers": headers}
        with anyio.fail_after(30):
            await mount(scope, receive, send)
        assert sent[0]["status"] == 201
        assert await drive.files(user.id).read("a.txt") == b"".join(pieces)
