"""Taking a body straight from the transport: whole, in order, held back, and never overwritten."""

from __future__ import annotations

import asyncio
import ctypes
import mmap
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from godrive.blobs.staged_write import share
from godrive.errors import MailboxFull
from godrive.http.wire.direct_body import AHEAD, PIECE, DirectBodies, DirectBody
from godrive.memory import MemoryBudget
from tests.cases import each
from tests.noise import noise

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


@pytest.fixture(params=[True, False], ids=["uvloop", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Applications that embed a drive may run on either."""
    return ("asyncio", {"use_uvloop": request.param})


class Behind(asyncio.Protocol):
    """The protocol that has the connection before and after, as aiohttp's does."""

    def __init__(self) -> None:
        self.connected = asyncio.get_running_loop().create_future()
        self.received = b""
        self.lost: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.connected.set_result(transport)

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)


class Line:
    """A client's end of a connection, and the protocol at the server's."""

    def __init__(self, stream: anyio.abc.SocketStream, behind: Behind, transport: asyncio.Transport) -> None:
        self.stream, self.behind, self.transport = stream, behind, transport
        self.bodies = DirectBodies(MemoryBudget(64 * MIB))

    def body(self, length: int, seen: int = 0, arrived: bytes = b"") -> DirectBody:
        return self.bodies.begin(self.transport, self.behind, length, seen, arrived)


@pytest.fixture
async def line() -> AsyncIterator[Line]:
    behind = Behind()
    server = await asyncio.get_running_loop().create_server(lambda: behind, "127.0.0.1", 0)
    stream = await anyio.connect_tcp("127.0.0.1", server.sockets[0].getsockname()[1])
    transport = await behind.connected
    async with stream:
        yield Line(stream, behind, transport)
    transport.abort()
    server.close()


async def take_all(body: DirectBody) -> list[memoryview | bytes]:
    pieces = []
    with anyio.fail_after(30):
        while not body.exhausted:
            pieces.append(await body.take(1.0))
    return pieces


@each("length", [1, PIECE - 1, PIECE, PIECE + 1, 9 * MIB + 5])
@each("seen", [0, 1, 4095, 4096, 70_000])
@pytest.mark.slow
async def test_what_is_left_comes_whole_and_in_order(line: Line, length: int, seen: int) -> None:
    content = noise(length)
    body = line.body(length + seen, seen)
    async with anyio.create_task_group() as client:
        client.start_soon(line.stream.send, content)
        pieces = await take_all(body)
    body.end()
    assert b"".join(pieces) == content


@each("arrived", [1, 70_000, PIECE - 4096, 3 * MIB])
@each("seen", [0, 4095, 70_000])
@pytest.mark.slow
async def test_what_has_arrived_comes_first_and_the_rest_is_in_step_with_pages(
    line: Line, arrived: int, seen: int
) -> None:
    content = noise(arrived + 5 * MIB)
    body = line.body(seen + len(content), seen, content[:arrived])
    assert body.held_bytes() == arrived
    async with anyio.create_task_group() as client:
        client.start_soon(line.stream.send, content[arrived:])
        pieces = await take_all(body)
    body.end()
    assert b"".join(pieces) == content
    at = seen
    for piece in pieces:
        if isinstance(piece.obj, mmap.mmap):  # type: ignore[union-attr]
            assert (at - _address(piece)) % mmap.PAGESIZE == 0
        at += len(piece)
    assert isinstance(pieces[-1].obj, mmap.mmap)  # type: ignore[union-attr]


def _address(piece: memoryview | bytes) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(piece))


async def test_a_piece_keeps_its_bytes_for_as_long_as_a_part_of_it_is_kept(line: Line) -> None:
    content = noise(12 * MIB)
    body = line.body(len(content))
    tails = []
    async with anyio.create_task_group() as client:
        client.start_soon(line.stream.send, content)
        offset = 0
        while not body.exhausted:
            piece = await body.take(1.0)
            offset += len(piece)
            tails.append((offset, memoryview(piece)[-100:]))
            del piece
    body.end()
    assert offset == len(content)
    for end, tail in tails:
        assert tail == content[end - 100 : end]


async def test_buffers_are_used_again_when_nobody_looks_at_them(line: Line) -> None:
    content = noise(40 * MIB)
    body = line.body(len(content))
    async with anyio.create_task_group() as client:
        client.start_soon(line.stream.send, content)
        taken = 0
        while not body.exhausted:
            taken += len(await body.take(1.0))
    body.end()
    assert taken == len(content)
    assert len(body._buffers) <= AHEAD + 2


async def test_the_next_body_uses_the_buffers_of_the_last_one_whatever_their_size(line: Line) -> None:
    content = noise(3 * MIB)
    crowd = [line.body(1) for _ in range(40)]  # while there are many, their buffers are small
    kept: set[int] = set()
    for largest in (PIECE // 16, PIECE):
        body = line.body(len(content))
        async with anyio.create_task_group() as client:
            client.start_soon(line.stream.send, content)
            pieces = await take_all(body)
        assert b"".join(pieces) == content
        assert max(map(len, pieces)) <= largest
        assert not kept or kept & set(map(id, body._buffers))
        del pieces
        for one in crowd:
            one.end()
        body.end()
        crowd, kept = [], set(map(id, line.bodies._spare))


@pytest.mark.skipif(not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this kernel has no huge pages")
@pytest.mark.parametrize("others", [0, 40])
async def test_a_large_buffer_is_of_huge_pages_and_a_small_one_is_not(line: Line, others: int) -> None:
    crowd = [line.body(1) for _ in range(others)]
    content = noise(3 * MIB)
    body = line.body(len(content))
    async with anyio.create_task_group() as client:
        client.start_soon(line.stream.send, content)
        pieces = await take_all(body)
    assert ("hg" in _flags_of(_address(pieces[0]))) is (not others)
    for one in [*crowd, body]:
        one.end()


def _flags_of(address: int) -> list[str]:
    """The flags of the mapping with that address, from ``smaps``."""
    is_inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, *rest = line.split()
        if "-" in first and ":" not in first:
            start, end = (int(bound, 16) for bound in first.split("-"))
            is_inside = start <= address < end
        elif is_inside and first == "VmFlags:":
            return rest
    raise AssertionError(address)


@pytest.mark.slow
async def test_a_client_is_held_back_while_nothing_is_taken(line: Line) -> None:
    content = noise(40 * MIB)
    body = line.body(len(content))
    async with anyio.create_task_group() as client:
        client.start_soon(line.stream.send, content)
        with anyio.fail_after(30):
            while line.transport.is_reading():
                await anyio.lowlevel.checkpoint()
        assert len(body._buffers) == AHEAD + 1
        assert b"".join(await take_all(body)) == content
    body.end()


async def test_nothing_beyond_the_body_is_taken(line: Line) -> None:
    await_more = noise(1000)
    body = line.body(PIECE + 10)
    async with anyio.create_task_group() as client:
        client.start_soon(line.stream.send, bytes(PIECE + 10) + await_more)
        assert sum(map(len, await take_all(body))) == PIECE + 10
    assert line.behind.received == b""
    assert body.has_come
    body.end()
    with anyio.fail_after(30):
        while len(line.behind.received) < len(await_more):
            await anyio.lowlevel.checkpoint()
    assert line.behind.received == await_more


async def test_a_slow_client_is_given_its_time_and_what_came_is_not_kept_waiting(line: Line) -> None:
    body = line.body(2 * PIECE)
    assert await body.take(0.01) == b""
    for number in range(3):
        await line.stream.send(bytes([number]) * 10)
        some = b""
        with anyio.fail_after(30):
            while len(some) < 10:
                some += await body.take(0.01)
        assert some == bytes([number]) * 10
    body.end()


async def test_what_has_come_can_be_had_without_waiting(line: Line) -> None:
    body = line.body(3 * PIECE)
    assert body.take_arrived() == b""
    await line.stream.send(bytes(PIECE) + b"12345")
    assert await body.take(10.0) == bytes(PIECE)
    some = b""
    with anyio.fail_after(30):
        while len(some) < 5:
            some += body.take_arrived()
            await anyio.lowlevel.checkpoint()
    assert some == b"12345"
    assert body.take_arrived() == b""
    body.end()


async def test_a_body_that_ends_half_way_gives_what_it_had_and_then_an_error(line: Line) -> None:
    body = line.body(3 * PIECE)
    await line.stream.send(bytes(PIECE + 5))
    await line.stream.send_eof()
    with anyio.fail_after(30):
        assert await body.take(10.0) == bytes(PIECE)
        assert await body.take(10.0) == bytes(5)
        with pytest.raises(EOFError):
            await body.take(10.0)
    assert not line.transport.is_closing()  # so that the answer can be sent
    body.end()


async def test_a_connection_that_breaks_is_known_to_those_behind(line: Line) -> None:
    body = line.body(3 * PIECE)
    line.transport.abort()
    with anyio.fail_after(30), pytest.raises(EOFError):
        await body.take(10.0)
    assert len(line.behind.lost) == 1
    body.end()


@pytest.mark.parametrize("sent", [PIECE // 2, 3 * PIECE], ids=["half-way", "whole"])
async def test_a_body_that_is_shed_holds_nothing_and_says_why_instead_of_its_end(line: Line, sent: int) -> None:
    body = line.body(3 * PIECE)
    async with anyio.create_task_group() as client:
        client.start_soon(line.stream.send, bytes(sent))
        with anyio.fail_after(30):
            while body.held_bytes() < min(sent, AHEAD * PIECE):
                await anyio.lowlevel.checkpoint()
            body.shed()
            assert (body.held_bytes(), body.exhausted) == (0, False)
            with pytest.raises(MailboxFull):
                await body.take(10.0)
        body.end()
        assert not line.transport.is_closing()  # so that the answer can be sent


async def test_a_body_may_be_shed_by_the_bytes_that_it_receives(line: Line) -> None:
    memory = MemoryBudget(PIECE)
    line.bodies = DirectBodies(memory)
    body = line.body(3 * PIECE)
    others = [Other() for _ in range(100)]
    for other in others:
        memory.report(other, other.held_bytes())
    await line.stream.send(bytes(PIECE // 8))
    with anyio.fail_after(30), pytest.raises(MailboxFull):
        await body.take(10.0)
    assert (body.held_bytes(), body._buffers) == (0, [])
    body.end()


class Other:
    """Another that holds bytes."""

    def held_bytes(self) -> int:
        return PIECE // 101

    def shed(self) -> None:
        """Release them."""


@pytest.mark.parametrize("users", [1, 4, 5, 10, 40, 1000])
def test_however_many_come_at_once_they_take_hardly_more_memory_than_a_few(users: int) -> None:
    piece = share(PIECE, users)
    assert piece % 4096 == 0
    assert PIECE // 16 <= piece <= PIECE
    assert piece * users <= max(2 * PIECE, users * PIECE // 16)
