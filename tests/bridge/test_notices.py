"""A change in one process wakes those who wait in another, without waiting for the next look."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from godrive.bridge.connection import NatsLink
from godrive.bridge.nats_channel import NatsChannel
from godrive.bridge.notices import AT_ONCE, Notices
from godrive.catalog import Channel
from godrive.catalog.postgres_channel import CHANNEL, PostgresChannel
from godrive.catalog.postgres_pool import connect
from godrive.messages.files import MakeFolder
from godrive.model import Root, SessionId, UserId, new_id
from godrive.principal import UserSession
from godrive.runtime.supervision_events import ChildWaiting
from godrive.testing import open_drive, sign_up
from godrive.watch import ChangeWatch, Woken
from tests.principals import acting
from tests.servers import NatsServer, PostgresServer

pytestmark = pytest.mark.anyio


class Way:
    """How notices travel: the channel of a process, the tables of a drive, and a way to send anything."""

    def __init__(
        self, make: Callable[[], Channel], tables: dict[str, Any], say: Callable[[bytes], Awaitable[Any]]
    ) -> None:
        self.make, self.tables, self.say = make, tables, say

    @asynccontextmanager
    async def process(self) -> AsyncIterator[tuple[ChangeWatch, Notices]]:
        """A process, which listens."""
        watch, channel = ChangeWatch(), self.make()
        notices = Notices(channel, watch, on_event=lambda event: None)
        heard = anyio.Event()
        watch.listeners.append(lambda owner_ids: heard.set())
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(notices.run)
            with anyio.fail_after(20):
                while not heard.is_set():  # nobody tells when it listens
                    await self.say(b"\x92\xa1x\x91\xa1y")
                    await anyio.sleep(0.01)
            yield watch, notices
            tasks.cancel_scope.cancel()


@pytest.fixture(params=["nats", pytest.param("postgres", marks=pytest.mark.servers)])
async def way(
    request: pytest.FixtureRequest, link: NatsLink, namespace: str, nats_server: NatsServer
) -> AsyncIterator[Way]:
    """Each way between two processes."""
    if request.param == "nats":

        async def publish(notice: bytes) -> None:
            await (await link.client()).publish(f"{namespace}.changed", notice)

        tables = {"nats": {"url": nats_server.url, "namespace": namespace}}
        yield Way(lambda: NatsChannel(link, namespace=namespace), tables, publish)
    else:
        dsn = request.getfixturevalue("postgres_server").create_database()
        connection = await connect(dsn)

        async def notify(notice: bytes) -> None:
            text = notice.decode() if notice.isascii() else b64encode(notice).decode()
            await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, text)

        yield Way(lambda: PostgresChannel(dsn), {"catalog": {"driver": "postgres", "dsn": dsn}}, notify)
        await connection.close()


async def test_a_change_in_a_drive_wakes_those_who_wait_in_another_process(way: Way) -> None:
    async with way.process() as (watch, _), open_drive(serving=True, **way.tables) as drive:
        owner = (await sign_up(drive)).id
        with watch.watch(UserSession(user_id=owner, session_id=SessionId("s"))) as waiting:
            for number in range(1000):  # until the drive is connected
                await drive.metadata.ask(MakeFolder(acting(owner), Root(), f"{number}"))
                if (why := await waiting.wait(0.05)) is Woken.CHANGED:
                    break
            assert why is Woken.CHANGED


async def test_a_process_does_not_hear_itself_nor_what_is_no_notice(way: Way) -> None:
    async with way.process() as (watch, notices), way.process() as (_, other):
        heard: set[UserId] = set()
        arrived = anyio.Event()
        all_owners = {UserId(new_id()) for _ in range(3 * AT_ONCE)}

        def listen(owner_ids: Iterable[UserId]) -> None:
            heard.update(owner_ids)
            if heard >= all_owners:
                arrived.set()

        watch.listeners.append(listen)
        await way.say(b"no notice")
        notices.send([UserId("own")])
        await anyio.sleep(0.02)  # longer than notices gather
        other.send(all_owners)
        with anyio.fail_after(20):
            await arrived.wait()
        assert heard - {UserId("y")} == all_owners


async def test_a_connection_to_postgresql_that_ends_is_made_again(postgres_server: PostgresServer) -> None:
    dsn = postgres_server.create_database()
    watch, events, heard = ChangeWatch(), list[Any](), anyio.Event()
    watch.listeners.append(lambda owner_ids: heard.set())
    notices = Notices(PostgresChannel(dsn), watch, on_event=events.append)
    rival = await connect(dsn)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(notices.run)
        for _ in range(2):
            heard = anyio.Event()
            with anyio.fail_after(20):
                while not heard.is_set():
                    await rival.execute("SELECT pg_notify($1, $2)", CHANNEL, b64encode(b"\x92\xa1x\x91\xa1y").decode())
                    await anyio.sleep(0.01)
            await rival.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        tasks.cancel_scope.cancel()
    await rival.close()
    missing = Notices(PostgresChannel(f"{dsn}-missing"), watch, on_event=events.append)
    with anyio.move_on_after(0.3):
        await missing.run()
    assert [type(event) for event in events] == [ChildWaiting]
