"""No request of any kind gets a 500: made of the right parts in wrong ways, byte by byte over a socket."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godrive.http.app import OPERATIONS
from tests.http.client import Person, Site, parse

pytestmark = pytest.mark.anyio

NAMES = st.sampled_from(
    sorted({name for o in OPERATIONS for type_ in (o.body, o.query) if type_ for name in type_.__struct_fields__})
)
_NAMES = """
If-Match If-None-Match If-Range Range Idempotency-Key Content-Type Content-Encoding Expect Origin Upgrade Connection
X-Forwarded-For X-Request-Id User-Agent Accept Cookie Access-Control-Request-Method Transfer-Encoding
"""
HEADERS = st.sampled_from(_NAMES.split())
OF_HEADERS = st.one_of(
    st.sampled_from(['"x"', "*", "bytes=0-", "bytes=5-2,-1", "application/json", "gzip", "100-continue", "GET"]),
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=40),
).map(lambda text: text.encode("latin-1"))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["a.txt", "fail"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
BODIES = st.one_of(
    st.just(b""),
    st.binary(max_size=60),
    st.dictionaries(NAMES, VALUES, max_size=5).map(lambda value: json.dumps(value).encode()),
    st.text(max_size=20).map(lambda text: json.dumps(text, ensure_ascii=False).encode(errors="surrogatepass")),
)
PARTS = st.one_of(st.text(max_size=12).map(quote), st.sampled_from(["%00", "%ff", "%zz", "..", "%2e%2e", "%2F", ""]))


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, list[str], list[tuple[str, bytes]], bytes, bool]:
    """A method and path with holes, what is to go into the holes, headers, a body, and whether to show the token."""
    operation = draw(st.sampled_from(OPERATIONS))
    method = draw(st.sampled_from([operation.method] * 3 + ["GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD"]))
    path = draw(st.sampled_from([operation.path, operation.original or operation.path]))
    ids = draw(st.lists(st.one_of(st.sampled_from(["file", "trashed", "upload"]), PARTS), min_size=3, max_size=3))
    query = draw(st.lists(st.tuples(st.one_of(NAMES, PARTS), PARTS), max_size=3))
    target = path + ("?" + "&".join(f"{name}={value}" for name, value in query) if query else "")
    headers = draw(st.lists(st.tuples(HEADERS, OF_HEADERS), max_size=4))
    return f"{method} {target}", ids, headers, draw(BODIES), draw(st.booleans())


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(request_=requests())
@pytest.mark.slow
async def test_no_request_gets_a_server_error(site: Site, known: dict[str, str], request_: Any) -> None:
    line, ids, headers, body, token = request_
    for operation in OPERATIONS:
        for name in operation.parameters:
            line = line.replace(f"{{{name}}}", known.get(ids[0], ids[0]))
    lines = [f"{line} HTTP/1.1".encode(), b"Host: x", b"Content-Length: %d" % len(body)]
    lines += [name.encode() + b": " + value for name, value in headers]
    if token:
        lines.append(f"Authorization: Bearer {known['token']}".encode())
    answer = await _send(site.port, b"\r\n".join(lines) + b"\r\n\r\n" + body)
    assert answer.status < 500, (lines, body, answer)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=200), st.sampled_from([b"", b"GET /health HTTP/1.1\r\n", b"POST /login HTTP/1.1\r\nHost: x\r\n"])
)
@pytest.mark.slow
async def test_no_bytes_get_a_server_error(site: Site, data: bytes, start: bytes) -> None:
    received = await _exchange(site.port, start + data)
    assert not received.partition(b"\r\n")[0].startswith(b"HTTP/1.1 5"), received


@pytest.fixture
async def known(ann: Person) -> dict[str, str]:
    """What there is: a file, one in the trash, an upload, a token."""
    file, trashed = await ann.upload("a.txt"), await ann.upload("b.txt")
    await ann("DELETE", f"/v1/files/{trashed['id']}")
    intent = await ann("POST", "/v1/files/upload-intent", {"filename": "c.txt", "size_bytes": 3})
    return {
        "file": file["id"],
        "trashed": trashed["id"],
        "upload": intent.json["upload_id"],
        "token": str(ann.token),
    }


async def _send(port: int, data: bytes) -> Any:
    received = await _exchange(port, data)
    while received.startswith(b"HTTP/1.1 100 "):
        received = received.partition(b"\r\n\r\n")[2]
    return parse(received)


async def _exchange(port: int, data: bytes) -> bytes:
    received = b""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        with anyio.fail_after(30):
            try:
                await stream.send(data)
                await stream.send_eof()
                while True:
                    received += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return received
