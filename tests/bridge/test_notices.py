"""A change in one process wakes those who wait in another, without waiting for the next look."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import anyio
import pytest

from godrive.bridge.connection import NatsLink
from godrive.bridge.notices import Notices
from godrive.messages.files import MakeFolder
from godrive.model import Root, SessionId, UserId
from godrive.principal import UserSession
from godrive.testing import open_drive, sign_up
from godrive.watch import ChangeWatch, Woken
from tests.principals import acting
from tests.servers import NatsServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def far(link: NatsLink, namespace: str) -> AsyncIterator[tuple[ChangeWatch, Notices]]:
    """Another process, which listens."""
    watch = ChangeWatch()
    notices = Notices(link, watch, namespace=namespace, on_event=lambda event: None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(notices.run)
        await anyio.wait_all_tasks_blocked()
        await (await link.client()).flush()
        yield watch, notices
        tasks.cancel_scope.cancel()


async def test_a_change_in_a_drive_wakes_those_who_wait_in_another_process(
    nats_server: NatsServer, namespace: str, far: tuple[ChangeWatch, Notices]
) -> None:
    watch, _ = far
    async with open_drive(serving=True, nats={"url": nats_server.url, "namespace": namespace}) as drive:
        owner = (await sign_up(drive)).id
        with watch.watch(UserSession(user_id=owner, session_id=SessionId("s"))) as waiting:
            await drive.metadata.ask(MakeFolder(acting(owner), Root(), "a"))
            assert await waiting.wait(20) is Woken.CHANGED


async def test_a_process_does_not_hear_itself_nor_what_is_no_notice(
    link: NatsLink, namespace: str, far: tuple[ChangeWatch, Notices]
) -> None:
    watch, notices = far
    other = Notices(link, ChangeWatch(), namespace=namespace, on_event=lambda event: None)
    heard: list[UserId] = []
    arrived = anyio.Event()

    def listen(owner_ids: Iterable[UserId]) -> None:
        heard.extend(owner_ids)
        arrived.set()

    watch.listeners.append(listen)
    await (await link.client()).publish(f"{namespace}.changed", b"no notice")
    notices.send([UserId("own")])
    await anyio.sleep(0.02)  # longer than notices gather
    other.send([UserId("ann")])
    other.send([UserId("bob")])
    with anyio.fail_after(20):
        await arrived.wait()
    assert sorted(heard) == ["ann", "bob"]
