"""Servers that receive webhooks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from aiohttp import web

from tests.daemon import free_port


class Receiver:
    """A server that keeps what it gets and answers as told."""

    def __init__(self) -> None:
        self.port = free_port()
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.status = 204
        self.headers: dict[str, str] = {}
        self.arrived = anyio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    @property
    def data(self) -> list[dict[str, Any]]:
        """The data of what was accepted or not."""
        return [json.loads(body)["data"] for _, body in self.got]

    async def handle(self, request: web.Request) -> web.Response:
        self.got.append((dict(request.headers), await request.read()))
        self.arrived.set()
        return web.Response(status=self.status, headers=self.headers)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", self.handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        try:
            yield
        finally:
            await runner.cleanup()


class Hanging(Receiver):
    """A receiver that answers, with a failure, only when it is told to stop."""

    def __init__(self) -> None:
        super().__init__()
        self.stop = anyio.Event()
        self.hanging = anyio.Semaphore(0)

    async def handle(self, request: web.Request) -> web.Response:
        stop = self.stop
        self.hanging.release()
        await stop.wait()
        return web.Response(status=500)
