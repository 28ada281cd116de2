"""What comes after a chunked body is never taken for a header of the next request."""

from __future__ import annotations

import anyio
import pytest

from tests.cases import each
from tests.http.client import Person, Site
from tests.http.conftest import Exchange
from tests.http.wire.test_kept_connection import HEALTH, Line

pytestmark = pytest.mark.anyio

ME = b"GET /v1/me HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = HEALTH[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"


def put(person: Person, *trailers: str, content: str = "5\r\nhello\r\n") -> bytes:
    """A request that stores a file, with a chunked body."""
    lines = [
        "PUT /v1/files/by-path/a.txt HTTP/1.1", "Host: x", f"Authorization: Bearer {person.token}",
        "Transfer-Encoding: chunked", "", f"{content}0", *trailers, "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode()


def credential(person: Person) -> str:
    return f"Authorization: Bearer {person.token}"


async def test_a_connection_ends_with_the_answer_to_a_request_with_trailers(site: Site, ann: Person) -> None:
    for trailers in ([credential(ann)], ["A: b", credential(ann)], ["A: 0"], ["A:", "0: 0"]):
        whole = put(ann, *trailers)
        for cut in (len(whole), *range(len(whole) - 14, len(whole))):
            async with await anyio.connect_tcp("127.0.0.1", site.port) as stream:
                line = Line(stream, ann)
                await line.send(whole[:cut], *[whole[cut:]][: len(whole) - cut])
                stored = await line.answer()
                assert (stored.status // 100, stored.headers["connection"]) == (2, "close")
                assert await line.is_closed()


@each("before", [b"", UPGRADE, HEALTH * 31, HEALTH * 30 + UPGRADE])
@each("after", [ME, ME * 40])
async def test_nothing_that_follows_trailers_is_carried_out(
    exchange: Exchange, ann: Person, before: bytes, after: bytes
) -> None:
    received = await exchange(before + put(ann, credential(ann)) + after + put(ann))
    assert b"ann@example.org" not in received


async def test_a_connection_goes_on_after_a_chunked_body_wherever_it_is_cut(site: Site, ann: Person) -> None:
    async with await anyio.connect_tcp("127.0.0.1", site.port) as stream:
        line = Line(stream, ann)
        for whole in (put(ann), put(ann, content=""), put(ann, content="5\r\nhello\r\n" * 30_000)):
            for cut in range(len(whole) - 9, len(whole)):
                await line.send(whole[:cut], whole[cut:])
                stored = await line.answer()
                assert (stored.status // 100, stored.headers.get("connection")) == (2, None), stored.content
        await line.send(HEALTH)
        assert (await line.answer()).status == 200


async def test_what_follows_a_chunked_body_at_once_is_not_carried_out(exchange: Exchange, ann: Person) -> None:
    received = await exchange(HEALTH + put(ann) + HEALTH)
    assert received.count(b"HTTP/1.1 ") <= 2
    assert b"Connection: close" in received
