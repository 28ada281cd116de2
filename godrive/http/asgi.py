"""The HTTP API as an ASGI application, for a host such as FastAPI, Starlette or Django.

Theory of operation.  The API is an aiohttp application that needs its own
connections: it pauses senders, bounds memory and streams in both directions.
So :class:`Mount` serves it on a Unix socket in a private folder, and passes each
request of the host on to that socket, and the answer back, piece by piece.
Only this user can reach the socket, so what the mount says about the address of
the client is trusted there.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self, TypeAlias
from urllib.parse import quote

import aiohttp
import anyio
from aiohttp import hdrs
from yarl import URL

from godrive.drive import GoDrive
from godrive.http.wire.server import serve

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]

_HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade"}
)
"""Headers of one connection (RFC 9110, section 7.6.1)."""
_FORWARDED = frozenset({b"forwarded", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-real-ip"})
"""Headers that only the host may send on: the scope has what it believes of them."""
_OURS = [hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE, hdrs.USER_AGENT]


class Mount:
    """An ASGI 3 application that serves *drive* below the path at which a host mounts it::

        drive = GoDrive(config)
        mount = Mount(drive)

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncIterator[None]:
            async with drive, mount:
                yield

        app = Starlette(lifespan=lifespan)
        app.mount("/drive", mount)

    The drive must be open while the mount is.  Uploads and downloads stream; a
    client that leaves ends its request.  Set ``server.public_url`` to the URL of
    the mount, because the URLs that the drive hands out begin with it.
    """

    def __init__(self, drive: GoDrive) -> None:
        self._drive = drive
        self._stack: AsyncExitStack | None = None

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="godrive-"))  # its mode is 0700
            path = Path(folder) / "http"
            await stack.enter_async_context(serve(self._drive, path=path))
            self._http = await stack.enter_async_context(
                aiohttp.ClientSession(
                    connector=aiohttp.UnixConnector(str(path), limit=0),
                    cookie_jar=aiohttp.DummyCookieJar(),
                    auto_decompress=False,
                    timeout=aiohttp.ClientTimeout(total=None),
                )
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        stack, self._stack = self._stack, None
        if stack is not None:
            await stack.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        if scope["type"] != "http":
            raise ValueError(f"The mount cannot serve the protocol {scope['type']!r}.")
        if self._stack is None:
            raise RuntimeError("The mount is not open: enter it in the lifespan of the application.")
        await _Exchange(self._http, scope, receive, send).run()


class _Exchange:
    """One request on its way to the drive, and its answer on the way back."""

    def __init__(self, http: aiohttp.ClientSession, scope: Scope, receive: Receive, send: Send) -> None:
        self._http = http
        self._scope = scope
        self._receive = receive
        self._send = send
        self._cancel = anyio.CancelScope()
        self._has_body = False
        self._first: Message | None = None
        self._body_ended = asyncio.Event()

    async def run(self) -> None:
        """Pass the request on.  When the client leaves, it is cancelled."""
        headers = list(self._headers())
        with self._cancel:
            if not self._has_body and self._scope.get("http_version", "1.1") not in ("1.0", "1.1"):
                await self._look_for_body()
            watcher = asyncio.create_task(self._watch())
            try:
                await self._pass_on(headers)
            finally:
                watcher.cancel()

    async def _pass_on(self, headers: list[tuple[str, str]]) -> None:
        expects = any(name == "expect" for name, _ in headers)
        async with self._http.request(
            self._scope["method"],
            URL(f"http://drive{_target(self._scope)}", encoded=True),
            headers=[(name, value) for name, value in headers if name != "expect"],
            data=self._body() if self._has_body else None,
            expect100=expects and self._has_body,
            skip_auto_headers=_OURS,
            allow_redirects=False,
        ) as answer:
            if not self._has_body:
                self._body_ended.set()
            await self._send(
                {
                    "type": "http.response.start",
                    "status": answer.status,
                    "headers": [
                        (name.lower(), value) for name, value in answer.raw_headers if name.lower() not in _HOP_BY_HOP
                    ],
                }
            )
            async for piece in answer.content.iter_any():
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _look_for_body(self) -> None:
        """Find out whether the request has a body: from HTTP/2 on, its headers need not say so."""
        self._first = await self._receive()
        self._has_body = bool(self._first.get("body") or self._first.get("more_body"))
        if self._first["type"] == "http.disconnect":
            self._cancel.cancel()
            await anyio.sleep_forever()

    async def _body(self) -> AsyncIterator[bytes]:
        more = True
        while more:
            message, self._first = self._first or await self._receive(), None
            if message["type"] == "http.disconnect":
                self._cancel.cancel()
                await anyio.sleep_forever()
            if piece := message.get("body", b""):
                yield piece
            more = message.get("more_body", False)
        self._body_ended.set()

    async def _watch(self) -> None:
        """Cancel the exchange when the client leaves.  Only one reader may receive, so the body comes first."""
        await self._body_ended.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._cancel.cancel()

    def _headers(self) -> Iterable[tuple[str, str]]:
        for name, value in self._scope["headers"]:
            if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
                self._has_body = True
            if name not in _HOP_BY_HOP and name not in _FORWARDED:
                yield name.decode("latin-1"), value.decode("utf-8", "surrogateescape")
        if client := self._scope.get("client"):
            yield "x-forwarded-for", client[0]
        yield "x-forwarded-proto", self._scope.get("scheme", "http")


def _target(scope: Scope) -> str:
    """Return the path below the mount, as the client sent it, with the query."""
    path = scope.get("raw_path") or quote(scope["path"], safe="/:@!$&'()*+,;=~-._").encode()
    root = quote(scope.get("root_path", ""), safe="/:@!$&'()*+,;=~-._").encode()
    if root and path.startswith(root):
        path = path[len(root) :]
    query = scope.get("query_string", b"")
    return (b"/" + path.lstrip(b"/") + (b"?" + query if query else b"")).decode("latin-1")
