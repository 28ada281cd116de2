"""Applications in FastAPI, Starlette and Django that mount the API, under uvicorn.

A module of its own, because the four take a second to import: only the processes that use them import it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import django
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


_APPS = {"fastapi": fastapi_app, "starlette": starlette_app, "django": django_app}


def server(host: str, drive: GoDrive, mount: Mount) -> uvicorn.Server:
    """The server of the *host* with that name, which opens *drive* as it starts."""
    app = _APPS[host](drive, mount)
    return uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="on", timeout_graceful_shutdown=5))
