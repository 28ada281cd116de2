"""The API mounted in FastAPI, Starlette and Django, under uvicorn."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import anyio
import django
import pytest
import uvicorn
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path as route
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount as StarletteMount
from starlette.routing import Route

from godrive.drive import GoDrive
from godrive.http.asgi import Mount, Receive, Scope, Send
from godrive.testing import quick_config
from tests.http.client import Person

pytestmark = pytest.mark.anyio

LARGE = os.urandom(20_000_000)
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def fastapi_app(drive: GoDrive, mount: Mount) -> App:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with drive, mount:
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def home() -> str:
        return "home"

    app.mount("/drive", mount)
    return app


def starlette_app(drive: GoDrive, mount: Mount) -> App:
    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        async with drive, mount:
            yield

    async def home(_request: Any) -> PlainTextResponse:
        return PlainTextResponse("home")

    return Starlette(lifespan=lifespan, routes=[Route("/", home), StarletteMount("/drive", mount)])


def home_view(_request: HttpRequest) -> HttpResponse:
    return HttpResponse("home")


urlpatterns = [route("", home_view)]


def django_app(drive: GoDrive, mount: Mount) -> App:
    """Django serves no lifespan and mounts nothing, so a function in front of it does both."""
    if not settings.configured:
        settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x")
        django.setup()
    pages = get_asgi_application()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            assert (await receive())["type"] == "lifespan.startup"
            async with drive, mount:
                await send({"type": "lifespan.startup.complete"})
                await receive()
            await send({"type": "lifespan.shutdown.complete"})
        elif scope["path"].startswith("/drive/"):
            await mount({**scope, "root_path": "/drive"}, receive, send)
        else:
            await pages(scope, receive, send)

    return application


@dataclass
class Site:
    """A drive, and where the host serves it."""

    drive: GoDrive
    url: str


APPS = {"fastapi": fastapi_app, "starlette": starlette_app, "django": django_app}


@pytest.fixture(params=list(APPS))
async def site(request: pytest.FixtureRequest, tmp_path: Path, anyio_backend: object) -> AsyncIterator[Site]:
    """A drive that a host application mounts."""
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/drive"
    drive = GoDrive(quick_config(tmp_path, server={"public_url": url}, blobs={"driver": "disk"}), serving=True)
    app = APPS[request.param](drive, Mount(drive))
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=5))
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
    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(LARGE), 1 << 20):
            yield LARGE[start : start + (1 << 20)]

    for name, length in (("known", {"Content-Length": str(len(LARGE))}), ("unknown", {})):
        path = f"/v1/files/by-path/a%20b/{name}%23.bin"
        sent = await ann("PUT", f"{path}?parents=true", data=pieces(), headers=length)
        assert sent.status == 201, sent.content
        assert sent.headers["Location"].startswith(ann.url)
        assert (await ann("GET", f"{path}?content")).content == LARGE
        part = await ann("GET", f"{path}?content", headers={"Range": "bytes=5-9"})
        assert (part.status, part.content) == (206, LARGE[5:10])
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
