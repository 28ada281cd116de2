"""Connections that are too many, or whose clients want only to hold them."""

from __future__ import annotations

import asyncio
import resource
import socket
import sys
import time
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import anyio
import anyio.abc
import pytest

from godrive.http.wire import connection, connection_limit, direct_body, server
from godrive.http.wire.connection_limit import PATIENCE, ConnectionLimit
from godrive.http.wire.descriptors import MOST, RESERVE, most_connections, most_duplicates
from godrive.http.wire.request_body import LARGE
from tests.http.client import Person, parse

pytestmark = pytest.mark.anyio

HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"


class Fake:
    def __init__(
        self,
        client: str = "",
        *,
        idle: bool = True,
        stalled_for: float | None = None,
        arriving_for: float | None = None,
    ) -> None:
        self.client = client
        self.idle = idle
        self.since, self.begun = (
            None if seconds is None else time.monotonic() - seconds for seconds in (stalled_for, arriving_for)
        )
        self.closed = False
        self.is_cut = False

    def is_idle(self) -> bool:
        return self.idle

    def stalled_since(self, *, whole: bool = False) -> float | None:
        return self.begun if whole and self.begun is not None else self.since

    def force_close(self) -> None:
        self.closed = True

    def cut(self) -> None:
        self.is_cut = True


def test_one_too_many_ends_the_one_that_was_idle_longest() -> None:
    room = ConnectionLimit(2)
    first, second, third, fourth = (Fake() for _ in range(4))
    for guest in (first, second, third, fourth):
        room.enter(guest)
    assert (first.closed, second.closed, third.closed, fourth.closed) == (True, True, False, False)
    assert len(room) == 2


def test_a_busy_one_stays_and_while_all_are_busy_newcomers_are_sent_away() -> None:
    room = ConnectionLimit(2)
    busy, idle = Fake(idle=False), Fake()
    room.enter(busy)
    room.enter(idle)
    room.enter(other := Fake(idle=False))
    assert (busy.closed, idle.closed) == (False, True)
    room.enter(late := Fake())
    assert late.closed
    room.leave(late)
    room.leave(busy)
    room.enter(Fake())
    assert not other.closed


def test_of_busy_ones_the_one_that_kept_the_server_waiting_for_longest_is_cut() -> None:
    limit = ConnectionLimit(4)
    busy, quick, slow, slower = (
        Fake(idle=False, stalled_for=stalled) for stalled in (None, PATIENCE / 2, 2 * PATIENCE, 3 * PATIENCE)
    )
    late = [Fake(idle=False) for _ in range(3)]
    for each in (busy, quick, slow, slower, *late):
        limit.enter(each)
    assert [each.is_cut for each in (busy, quick, slow, slower)] == [False, False, True, True]
    assert [each.closed for each in late] == [False, False, True]


def test_one_client_that_opens_all_connections_displaces_its_own_and_gives_way_to_others() -> None:
    limit = ConnectionLimit(8)
    crowd = [Fake("crowd") for _ in range(6)]
    others = [Fake("a"), Fake("b", idle=False)]
    for each in (*others, *crowd):
        limit.enter(each)
    for number in range(12):
        limit.enter(Fake("crowd"))
        assert [each.closed for each in crowd] == [number >= each for each in range(6)]
    limit.enter(Fake("a"))
    limit.enter(late := Fake("c"))
    assert not any(each.closed for each in (*others, late))


def test_a_client_with_few_connections_displaces_what_one_with_many_lets_trickle_in() -> None:
    limit = ConnectionLimit(4)
    trickles = [Fake("crowd", idle=False, stalled_for=0.1, arriving_for=PATIENCE + number) for number in range(4)]
    for each in trickles:
        limit.enter(each)
    limit.enter(refused := Fake("crowd"))
    assert refused.closed
    limit.enter(few := Fake("few"))
    assert not few.closed
    assert [each.is_cut for each in trickles] == [False, False, False, True]


def test_an_idle_connection_gives_way_to_a_client_that_has_more_but_not_half_of_all() -> None:
    limit = ConnectionLimit(4)
    many = [Fake("many", idle=False) for _ in range(3)]
    limit.enter(many[0])
    for client in ("a", "b", "c"):
        limit.enter(Fake(client))
    limit.enter(many[1])
    assert not many[1].closed
    limit.enter(many[2])
    assert many[2].closed


async def test_log_ins_that_are_half_sent_and_answers_that_nobody_reads_do_not_keep_others_out(
    open_site: Any, exchange: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "most_connections", lambda: 2)
    monkeypatch.setattr(connection_limit, "PATIENCE", 0.0)
    half = b"POST /v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
    async with (
        open_site() as site,
        await anyio.connect_tcp("127.0.0.1", site.port) as one,
        await anyio.connect_tcp("127.0.0.1", site.port) as other,
    ):
        await one.send(half)
        await other.send(half)
        await anyio.wait_all_tasks_blocked()
        answer = await exchange(HEALTH[:-2] + b"Connection: close\r\n\r\n", port=site.port)
        assert parse(answer).status == 200


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
async def test_a_crowd_from_one_address_ends_no_connection_from_another(
    open_site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "most_connections", lambda: 4)
    async with open_site() as site, AsyncExitStack() as stack:
        with anyio.fail_after(30):
            quiet = await stack.enter_async_context(
                await anyio.connect_tcp("127.0.0.1", site.port, local_host="127.0.0.2")
            )
            crowd = []
            for _ in range(9):
                crowd.append(await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", site.port)))
                await crowd[-1].send(HEALTH[:-2])
            for each in crowd[:6]:
                with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                    await each.receive()
            await quiet.send(HEALTH)
            assert parse(await quiet.receive()).status == 200


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
async def test_of_a_crowd_the_body_that_trickles_ends_and_the_one_that_arrives_stays(
    open_site: Any, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    received, arrived = Counter[str](), asyncio.Event()

    class Watched(connection.Connection):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            received["all"] += len(data)
            arrived.set()

    async def has_received(size: int) -> None:
        while received["all"] < size:
            arrived.clear()
            await arrived.wait()
        await anyio.wait_all_tasks_blocked()

    monkeypatch.setattr(server, "Connection", Watched)
    monkeypatch.setattr(server, "most_connections", lambda: 3)
    monkeypatch.setattr(connection_limit, "PATIENCE", 0.0)
    async with open_site() as site, AsyncExitStack() as stack:

        async def connected(address: str) -> anyio.abc.SocketStream:
            return await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", site.port, local_host=address))

        token = (await Person(http, site.url).enter()).token
        await http.close()
        head = (
            f"POST /v1/files/upload-intent HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
            "Content-Length: 1000000\r\n\r\n"
        ).encode()
        with anyio.fail_after(30):
            received.clear()
            arrives, trickles, other = [await connected("127.0.0.1") for _ in range(3)]
            most = 900_000
            sent = 0
            for client, data in (
                (arrives, head), (trickles, head), (arrives, b" " * most), (other, head + b" " * most), (trickles, b" ")
            ):  # fmt: skip
                await client.send(data)
                sent += len(data)
                await has_received(sent)
            newcomer = await connected("127.0.0.2")
            await newcomer.send(HEALTH)
            assert parse(await newcomer.receive()).status == 200
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await trickles.receive()
            await arrives.send(b" " * 99_998 + b"{}")
            assert parse(await arrives.receive()).status == 422


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")
async def test_large_bodies_of_a_crowd_that_trickle_end(
    open_site: Any, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = 0
    all_begun = asyncio.Event()

    class Watched(direct_body.DirectBody):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            nonlocal begun
            super().__init__(*arguments, **options)
            begun += 1
            if begun == 3:
                all_begun.set()

    monkeypatch.setattr(direct_body, "DirectBody", Watched)
    monkeypatch.setattr(server, "most_connections", lambda: 3)
    monkeypatch.setattr(connection_limit, "PATIENCE", 0.0)
    async with open_site() as site, AsyncExitStack() as stack:
        token = (await Person(http, site.url).enter()).token
        await http.close()
        with anyio.fail_after(30):
            crowd = [await stack.enter_async_context(await anyio.connect_tcp("127.0.0.1", site.port)) for _ in range(3)]
            for number, each in enumerate(crowd):
                await each.send(
                    f"PUT /v1/files/by-path/{number} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
                    f"Content-Length: {2 * LARGE}\r\n\r\nx".encode()
                )
            await all_begun.wait()
            quiet = await stack.enter_async_context(
                await anyio.connect_tcp("127.0.0.1", site.port, local_host="127.0.0.2")
            )
            await quiet.send(HEALTH)
            assert parse(await quiet.receive()).status == 200
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await crowd[0].receive()


def test_a_crowd_of_busy_ones_is_looked_through_a_part_at_a_time() -> None:
    room = ConnectionLimit(100)
    guests = [Fake(idle=number >= 90) for number in range(100)]
    for guest in guests:
        room.enter(guest)
    for _ in range(3):
        room.enter(Fake())
    assert [guest.closed for guest in guests].count(True) == 1


def test_every_connection_has_a_descriptor_for_a_file_and_a_reserve_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for soft in (64, 128, 256, 1024, 20_000):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert 2 * most_connections() + most_duplicates() <= soft - min(RESERVE, soft // 2)
        assert most_connections() > soft // 8
    for soft, most in ((1 << 20, MOST), (resource.RLIM_INFINITY, MOST), (1, 1)):
        monkeypatch.setattr(resource, "getrlimit", lambda _, soft=soft: (soft, soft))
        assert most_connections() == most


async def test_idle_connections_make_room_for_who_has_something_to_ask(
    open_site: Any, exchange: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "most_connections", lambda: 2)
    async with open_site() as site:
        silent = await anyio.connect_tcp("127.0.0.1", site.port)
        begun = await anyio.connect_tcp("127.0.0.1", site.port)
        await begun.send(HEALTH[:-2])
        async with silent, begun:
            with anyio.fail_after(30):
                assert parse(await exchange(HEALTH, port=site.port, half_close=True)).status == 200
                with pytest.raises(anyio.EndOfStream):
                    await silent.receive()
                await begun.send(b"\r\n")
                assert parse(await begun.receive()).status == 200


async def test_an_answer_that_is_not_taken_keeps_its_connection_counted(
    open_site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed, it would keep its descriptor all the same, and any number of them all that there are."""
    answering = anyio.Event()

    class Watched(connection.Connection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            super().connection_made(transport)

        async def finish_response(self, *options: Any) -> Any:
            answering.set()
            return await super().finish_response(*options)

    monkeypatch.setattr(server, "Connection", Watched)
    monkeypatch.setattr(server, "most_connections", lambda: 1)
    loop = asyncio.get_running_loop()
    async with open_site() as site:
        with socket.socket() as slow, anyio.fail_after(30):
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            slow.connect(("127.0.0.1", site.port))
            slow.setblocking(False)
            asked = HEALTH.replace(b"health", b"openapi.json")
            await loop.sock_sendall(slow, asked[:-2] + b"Connection: close\r\n\r\n")
            await answering.wait()
            async with await anyio.connect_tcp("127.0.0.1", site.port) as late:
                with pytest.raises(anyio.EndOfStream):
                    await late.receive()
            received = b""
            while piece := await loop.sock_recv(slow, 65_536):
                received += piece
            assert parse(received).json["openapi"]
            async with await anyio.connect_tcp("127.0.0.1", site.port) as next_one:
                await next_one.send(HEALTH)
                assert parse(await next_one.receive()).status == 200


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's time-out is one of Linux")
async def test_who_takes_nothing_of_the_answers_is_given_up(open_site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = anyio.Event()

    class Watched(connection.Connection):
        def connection_lost(self, exc: BaseException | None) -> None:
            super().connection_lost(exc)
            lost.set()

    monkeypatch.setattr(server, "Connection", Watched)
    monkeypatch.setattr(connection, "STALLED", 0.2)
    async with open_site() as site:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", site.port))
            client.setblocking(False)
            asked = HEALTH.replace(b"health", b"openapi.json") * 50
            await asyncio.get_running_loop().sock_sendall(client, asked)
            with anyio.fail_after(30):
                await lost.wait()


@pytest.mark.parametrize("before", [b"", HEALTH, HEALTH * 3])
async def test_a_head_is_bounded_as_a_whole(exchange: Any, before: bytes) -> None:
    header = b"A%d: " + b"x" * 16_000 + b"\r\n"
    endless = HEALTH[:-2] + b"".join(header % number for number in range(100))
    received = await exchange(before + endless)
    assert received.startswith(b"HTTP/1.1 200 " if before else b"HTTP/1.0 431 ")


async def test_a_body_after_an_upgrade_that_was_declined_is_no_head(ann: Person, exchange: Any) -> None:
    body = b'{"email":"ann@example.org","password":"%s"}' % (b"x" * 1000)
    login = b"POST /v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    upgrade = HEALTH[:-2] + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    received = await exchange(upgrade + login * 100 + HEALTH[:-2] + b"Connection: close\r\n\r\n")
    assert [received.count(b"HTTP/1.1 %d " % status) for status in (200, 401)] == [2, 100]
