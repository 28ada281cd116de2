"""An answer is sent as aiohttp sends a response."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from godrive.http.wire.bytes_response import BytesResponse
from tests.cases import each

pytestmark = pytest.mark.anyio

HEADERS = {"Content-Type": "text/plain", "X-Own": "yes"}

Change = Callable[[web.Response], object]
CHANGES: dict[str, Change] = {
    "nothing": lambda _: None,
    "close": lambda response: response.force_close(),
    "cookie": lambda response: response.set_cookie("a", "b"),
    "compressed": lambda response: response.enable_compression(web.ContentCoding.gzip),
    "chunked": lambda response: response.enable_chunked_encoding(),
    "reason": lambda response: response.set_status(201, "Made"),
    "no content": lambda response: response.set_status(204),
    "without a body": lambda response: setattr(response, "body", None),
    "an empty body": lambda response: setattr(response, "body", b""),
}
REQUESTS = {
    "get": "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "the last": "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "head": "HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",
    "old": "GET / HTTP/1.0\r\n\r\n",
    "old and kept": "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
}


async def sent(kind: type[web.Response], change: Change, request: str) -> tuple[str, list[str], list[bytes]]:
    """What two requests get: the status line, the headers in order of their names, and the lines of what follows."""

    async def handle(_: web.Request) -> web.Response:
        response = kind(body=b"some text", headers=HEADERS)
        change(response)
        return response

    async def mark(_: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = "ours"  # as the application of GoDrive does

    app = web.Application()
    app.router.add_get("/", handle)
    app.on_response_prepare.append(mark)
    async with TestServer(app) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request.encode() + b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        head, _, rest = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
    status, *lines = head.decode().split("\r\n")
    return status, sorted(lines), sorted(rest.split(b"\r\n"))


@each("request_", REQUESTS)
@each("change", CHANGES)
async def test_an_answer_is_sent_as_any_response(change: str, request_: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("aiohttp.web_response", "godrive.http.wire.bytes_response"):
        monkeypatch.setattr(f"{module}.rfc822_formatted_time", lambda: "now")
    made = [await sent(kind, CHANGES[change], REQUESTS[request_]) for kind in (BytesResponse, web.Response)]
    assert made[0] == made[1]
