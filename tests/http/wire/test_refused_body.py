"""A body for which there is no memory while it waits for its handler: the client learns it, and nothing is stored."""

from __future__ import annotations

import os

import anyio
import pytest

from godrive.http.wire.connection import Connection
from godrive.http.wire.request_body import RequestBody, _Collected
from tests.http.client import Answer, Person, Site
from tests.http.routes.test_storing import names
from tests.http.wire.test_kept_connection import HEALTH, Line

pytestmark = pytest.mark.anyio

SIZE = 300_000


class Late:
    """Handlers that take no byte until :meth:`begin`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, site: Site) -> None:
        self.memory = site.drive.memory
        self._begun = anyio.Event()
        read, begun = RequestBody._next, self._begun

        async def wait(body: RequestBody) -> bytes | memoryview:
            await begun.wait()
            return await read(body)

        monkeypatch.setattr(RequestBody, "_next", wait)

    async def shed(self) -> None:
        """Take the memory of the body that waits."""
        await shed(self.memory._holders, Connection)

    def begin(self) -> None:
        self._begun.set()


async def shed(holders: object, kind: type[Connection | _Collected]) -> None:
    assert isinstance(holders, dict)
    with anyio.fail_after(30):
        while not (found := [holder for holder in holders if isinstance(holder, kind)]):
            await anyio.sleep(0.01)
    found[0].shed()
    with anyio.fail_after(30):
        while found[0] in holders:
            await anyio.sleep(0.01)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch, site: Site) -> Late:
    return Late(monkeypatch, site)


def check_refused(answer: Answer) -> None:
    assert (answer.status, answer.json["code"]) == (503, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_that_has_come_whole_is_refused_and_the_connection_goes_on(
    ann: Person, site: Site, late: Late, framing: str
) -> None:
    async with await anyio.connect_tcp("127.0.0.1", site.port) as stream:
        line = Line(stream, ann)
        head, body = line.put("a.bin", SIZE), os.urandom(SIZE)
        if framing == "chunked":
            head = head.replace(b"Content-Length: %d" % SIZE, b"Transfer-Encoding: chunked")
            body = b"%x\r\n%b\r\n0\r\n\r\n" % (SIZE, body)
        await line.send(head, body)
        await late.shed()
        late.begin()
        check_refused(await line.answer())
        await line.send(HEALTH)
        assert (await line.answer()).status == 200
    assert await names(ann) == []


async def test_the_rest_of_a_refused_body_is_read_and_dropped_before_the_connection_ends(
    ann: Person, site: Site, late: Late
) -> None:
    async with await anyio.connect_tcp("127.0.0.1", site.port) as stream:
        line = Line(stream, ann)
        await line.send(line.put("a.bin", 4 * SIZE), bytes(SIZE))
        await late.shed()
        await line.send(bytes(SIZE))
        await anyio.wait_all_tasks_blocked()
        with anyio.fail_after(30):
            while late.memory.held:
                await anyio.sleep(0.01)
        late.begin()
        answer = await line.answer()
        check_refused(answer)
        assert answer.headers["connection"] == "close"
        await line.send(bytes(SIZE), bytes(SIZE))
        assert await line.is_closed()
    assert await names(ann) == []


@pytest.mark.parametrize("rest", ["comes", "is missing"])
async def test_a_text_in_memory_is_refused_and_never_cut_short(ann: Person, site: Site, rest: str) -> None:
    text = b'{"name":"%b"}' % (b" " * 60_000)
    assert ann.token is not None
    head = b"POST /v1/folders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n" % ann.token.encode()
    head += b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text)
    async with await anyio.connect_tcp("127.0.0.1", site.port) as stream:
        line = Line(stream, ann)
        await line.send(head, text[:-1])
        await shed(site.drive.memory._holders, _Collected)
        if rest == "comes":
            await line.send(text[-1:])
        check_refused(await line.answer())
