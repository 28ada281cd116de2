"""What happens to files, told to the world: at least once, in order for each owner, from the transaction it is of."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest
from nats.aio.msg import Msg

from godrive.bridge.connection import NatsLink
from godrive.bridge.nats_internals import PromptClient
from godrive.bridge.publisher import ACKNOWLEDGED, BATCH, LEASE_TTL, REMEMBERED, Publisher, _Batch
from godrive.config import Nats
from godrive.drive import GoDrive
from godrive.errors import NameTaken, StoreUnavailable
from godrive.messages.files import PurgeFile, RestoreFile, TrashFile, UpdateFile
from godrive.messages.janitor import Sweep
from godrive.messages.metadata import Metadata
from godrive.messages.system import AcquireLease, DueEvents, MarkPublished
from godrive.runtime import Ask, Event, Ref
from godrive.runtime.supervision_events import ChildWaiting
from godrive.testing import ManualClock, open_drive, sign_up, upload
from tests.conftest import require
from tests.principals import acting
from tests.servers import NatsServer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def drive(nats_server: NatsServer, namespace: str) -> AsyncIterator[GoDrive]:
    async with open_drive(nats={"url": nats_server.url, "namespace": namespace}) as drive:
        yield drive


@pytest.fixture
def outbox(link: NatsLink, namespace: str) -> Publisher:
    return Publisher(link, namespace=namespace, on_event=lambda event: None)


async def published(link: NatsLink, namespace: str) -> list[tuple[str, dict[str, Any]]]:
    """All that the stream keeps, oldest first: the kind of the subject, and the event."""
    js = (await link.client()).jetstream()
    stream = f"{namespace}_EVENTS".upper()
    info = await js.stream_info(stream)
    found = [await js.get_msg(stream, seq) for seq in range(info.state.first_seq, info.state.last_seq + 1)]
    return [((each.subject or "").removeprefix(f"{namespace}.events."), json.loads(each.data or b"")) for each in found]


async def test_the_whole_life_of_a_file_is_told(
    drive: GoDrive, outbox: Publisher, link: NatsLink, namespace: str
) -> None:
    owner = (await sign_up(drive)).id
    file = await upload(drive, owner, "a.txt", b"hello")
    await drive.metadata.ask(UpdateFile(acting(owner), file.id, "b.txt"))
    await drive.metadata.ask(TrashFile(acting(owner), file.id))
    await drive.metadata.ask(RestoreFile(acting(owner), file.id))
    await drive.metadata.ask(TrashFile(acting(owner), file.id))
    await drive.metadata.ask(PurgeFile(acting(owner), file.id))
    await drive.janitor.ask(Sweep())
    assert await outbox.publish(drive.metadata) == 6
    events = await published(link, namespace)
    assert [kind for kind, _ in events] == ["created", "renamed", "trashed", "restored", "trashed", "purged"]
    assert all(event["kind"] == kind for kind, event in events)
    assert {event["file_id"] for _, event in events} == {file.id}
    assert {event["owner_id"] for _, event in events} == {owner}
    assert events[0][1]["file"]["name"] == "a.txt"
    assert events[1][1]["file"]["name"] == "b.txt"
    assert events[-1][1]["file"] is None
    assert await drive.metadata.ask(DueEvents(10)) == []


async def test_a_change_that_was_refused_is_not_told(
    drive: GoDrive, outbox: Publisher, link: NatsLink, namespace: str
) -> None:
    owner = (await sign_up(drive)).id
    await upload(drive, owner, "a.txt")
    file = await upload(drive, owner, "b.txt")
    with pytest.raises(NameTaken):
        await drive.metadata.ask(UpdateFile(acting(owner), file.id, "a.txt"))
    assert await outbox.publish(drive.metadata) == 2
    assert [kind for kind, _ in await published(link, namespace)] == ["created", "created"]


async def test_what_was_published_but_not_dropped_is_published_again_and_kept_once(
    drive: GoDrive, outbox: Publisher, link: NatsLink, namespace: str
) -> None:
    owner = (await sign_up(drive)).id
    await upload(drive, owner, "a.txt")

    class Dying:
        """The process ends between the two."""

        async def ask(self, message: Ask[Metadata, Any], *, timeout: float | None = None) -> Any:
            if isinstance(message, MarkPublished):
                raise StoreUnavailable
            return await drive.metadata.ask(message, timeout=timeout)

    with pytest.raises(StoreUnavailable):
        await outbox.publish(Dying())
    due = await drive.metadata.ask(DueEvents(10))
    assert len(due) == 1
    assert await outbox.publish(drive.metadata) == 1
    assert len(await published(link, namespace)) == 1


async def test_an_event_that_was_not_stored_is_sent_again_before_those_after_it(
    drive: GoDrive, outbox: Publisher, link: NatsLink, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = (await sign_up(drive)).id
    for name in ("a.txt", "b.txt", "c.txt", "d.txt"):
        await upload(drive, owner, name)
    publish, lost = PromptClient.publish, [""]

    async def lose_the_second(self: PromptClient, subject: str, payload: bytes = b"", **options: Any) -> None:
        if b"b.txt" in payload and lost == [""]:
            lost[0] = (options["headers"] or {})["Nats-Msg-Id"]
        else:
            await publish(self, subject, payload, **options)

    monkeypatch.setattr(PromptClient, "publish", lose_the_second)
    with pytest.raises(StoreUnavailable) as refused:
        await outbox.publish(drive.metadata)
    assert lost[0] in (refused.value.hint or "") or "last msg ID" in (refused.value.hint or "")
    assert [event.file.name for event in await drive.metadata.ask(DueEvents(10)) if event.file] == [
        "b.txt",
        "c.txt",
        "d.txt",
    ]
    assert await outbox.publish(drive.metadata) == 3
    names = [event["file"]["name"] for _, event in await published(link, namespace)]
    assert names == ["a.txt", "b.txt", "c.txt", "d.txt"]


async def test_events_whose_acknowledgements_were_lost_are_sent_again_and_kept_once(
    drive: GoDrive, outbox: Publisher, link: NatsLink, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = (await sign_up(drive)).id
    for name in ("a.txt", "b.txt", "c.txt", "d.txt"):
        await upload(drive, owner, name)

    async def hear_the_first(self: _Batch, answer: Msg) -> None:
        if answer.subject.endswith(".0"):
            await note(self, answer)
        else:
            self._complete.set()

    note = _Batch._note
    with monkeypatch.context() as patch:
        patch.setattr(_Batch, "_note", hear_the_first)
        with pytest.raises(StoreUnavailable):
            await outbox.publish(drive.metadata)
    await upload(drive, owner, "e.txt")
    assert await outbox.publish(drive.metadata) == 4
    names = [event["file"]["name"] for _, event in await published(link, namespace)]
    assert names == ["a.txt", "b.txt", "c.txt", "d.txt", "e.txt"]


async def test_a_batch_waits_for_no_acknowledgement_before_it_is_sent_and_for_few_then(
    drive: GoDrive, outbox: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = (await sign_up(drive)).id
    for number in range(ACKNOWLEDGED + 3):
        await upload(drive, owner, f"{number}.txt")
    publish, heard = PromptClient.publish, list[int]()
    answers = list[Msg]()

    async def count(self: PromptClient, subject: str, payload: bytes = b"", **options: Any) -> None:
        if ".events." in subject:
            heard.append(len(answers))
        await publish(self, subject, payload, **options)

    async def note_and_keep(self: _Batch, answer: Msg) -> None:
        answers.append(answer)
        await note(self, answer)

    note = _Batch._note
    monkeypatch.setattr(PromptClient, "publish", count)
    monkeypatch.setattr(_Batch, "_note", note_and_keep)
    assert await outbox.publish(drive.metadata) == ACKNOWLEDGED + 3
    assert heard == [0] * (ACKNOWLEDGED + 3)
    assert [answer.subject.rpartition(".")[2] for answer in answers] == ["0", f"{ACKNOWLEDGED}", f"{ACKNOWLEDGED + 2}"]
    assert await drive.metadata.ask(DueEvents(10)) == []


async def test_the_stream_is_made_also_where_somebody_listens_without_one(
    drive: GoDrive, outbox: Publisher, link: NatsLink, namespace: str
) -> None:
    """The server then says of no event that nobody keeps it."""
    heard = anyio.Event()

    async def hear(_message: Msg) -> None:
        heard.set()

    await (await link.client()).subscribe(f"{namespace}.events.>", cb=hear)
    await upload(drive, (await sign_up(drive)).id, "a.txt")
    assert await outbox.publish(drive.metadata) == 1
    assert len(await published(link, namespace)) == 1
    await heard.wait()


async def test_a_stream_that_was_deleted_is_made_again(
    drive: GoDrive, outbox: Publisher, link: NatsLink, namespace: str
) -> None:
    owner = (await sign_up(drive)).id
    await upload(drive, owner, "a.txt")
    assert await outbox.publish(drive.metadata) == 1
    await (await link.client()).jetstream().delete_stream(f"{namespace}_EVENTS".upper())
    await upload(drive, owner, "b.txt")
    with pytest.raises(StoreUnavailable):
        await outbox.publish(drive.metadata)
    assert await outbox.publish(drive.metadata) == 1
    assert [event["file"]["name"] for _, event in await published(link, namespace)] == ["b.txt"]


async def test_the_server_knows_an_event_again_for_as_long_as_is_said(
    drive: GoDrive, outbox: Publisher, link: NatsLink, namespace: str
) -> None:
    await upload(drive, (await sign_up(drive)).id, "a.txt")
    await outbox.publish(drive.metadata)
    info = await (await link.client()).jetstream().stream_info(f"{namespace}_EVENTS".upper())
    assert info.config.duplicate_window == REMEMBERED


async def test_the_events_of_each_owner_are_in_order(
    drive: GoDrive, outbox: Publisher, link: NatsLink, namespace: str
) -> None:
    owners = [(await sign_up(drive, f"{name}@example.org")).id for name in ("ann", "bob", "cid")]

    async def live(owner: Any) -> None:
        file = await upload(drive, owner, "0.txt")
        for number in range(1, 40):
            await drive.metadata.ask(UpdateFile(acting(owner), file.id, f"{number}.txt"))

    async with anyio.create_task_group() as tasks:
        for owner in owners:
            tasks.start_soon(live, owner)
    assert await outbox.publish(drive.metadata) == BATCH
    assert await outbox.publish(drive.metadata) == 20
    events = [event for _, event in await published(link, namespace)]
    for owner in owners:
        names = [event["file"]["name"] for event in events if event["owner_id"] == owner]
        assert names == [f"{number}.txt" for number in range(40)]


async def test_one_process_publishes_at_a_time(
    drive: GoDrive, outbox: Publisher, link: NatsLink, namespace: str
) -> None:
    owner = (await sign_up(drive)).id
    other = Publisher(link, namespace=namespace, on_event=lambda event: None)
    await upload(drive, owner, "a.txt")
    assert await outbox.publish(drive.metadata) == 1
    await upload(drive, owner, "b.txt")
    assert await other.publish(drive.metadata) == 0
    assert await outbox.publish(drive.metadata) == 1


async def test_a_process_that_stops_lets_another_publish_at_once(
    drive: GoDrive, outbox: Publisher, link: NatsLink, namespace: str
) -> None:
    owner = (await sign_up(drive)).id
    await upload(drive, owner, "a.txt")
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outbox.run, drive.metadata)
            while await drive.metadata.ask(DueEvents(10)):
                await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()
    await upload(drive, owner, "b.txt")
    another = Publisher(link, namespace=namespace, on_event=lambda event: None)
    assert await another.publish(drive.metadata) == 1


class Leases:
    """The metadata actor; it counts how often the lease was asked for."""

    def __init__(self, metadata: Ref[Metadata]) -> None:
        self._metadata = metadata
        self.asked = 0

    async def ask(self, message: Ask[Metadata, Any], *, timeout: float | None = None) -> Any:
        self.asked += isinstance(message, AcquireLease)
        return await self._metadata.ask(message, timeout=timeout)


async def test_a_lease_is_renewed_at_half_its_time_and_not_before(
    drive: GoDrive, outbox: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, metadata, began = (await sign_up(drive)).id, Leases(drive.metadata), anyio.current_time()
    asked = []
    for seconds in (0.0, LEASE_TTL / 2 - 0.1, LEASE_TTL / 2 + 0.1, LEASE_TTL - 0.1, LEASE_TTL + 0.2):
        await upload(drive, owner, f"{seconds}.txt")
        monkeypatch.setattr("anyio.current_time", lambda now=began + seconds: now)
        assert await outbox.publish(metadata) == 1
        asked.append(metadata.asked)
    assert asked == [1, 1, 2, 2, 3]


async def test_who_lost_the_lease_publishes_no_more(
    drive: GoDrive, outbox: Publisher, link: NatsLink, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a process does that stood still for longer than its lease: it must not mix its events with another's."""
    owner, began = (await sign_up(drive)).id, anyio.current_time()
    other = Publisher(link, namespace=namespace, on_event=lambda event: None)
    await upload(drive, owner, "a.txt")
    assert await outbox.publish(drive.metadata) == 1
    assert isinstance(drive.clock, ManualClock)
    drive.clock.advance(LEASE_TTL)
    monkeypatch.setattr("anyio.current_time", lambda: began + LEASE_TTL)
    await upload(drive, owner, "b.txt")
    assert await other.publish(drive.metadata) == 1
    await upload(drive, owner, "c.txt")
    assert await outbox.publish(drive.metadata) == 0
    assert await other.publish(drive.metadata) == 1


async def test_without_nats_nothing_is_kept_for_it() -> None:
    async with open_drive() as drive:
        await upload(drive, (await sign_up(drive)).id, "a.txt")
        assert await drive.metadata.ask(DueEvents(10)) == []


@pytest.mark.servers
async def test_a_serving_drive_publishes_by_itself_also_after_an_outage(namespace: str) -> None:
    require(NatsServer)
    told: list[Event] = []
    waiting = anyio.Event()

    def on_event(event: Event) -> None:
        told.append(event)
        if isinstance(event, ChildWaiting) and event.child == "outbox":
            waiting.set()

    with NatsServer() as server:
        link = NatsLink(Nats(url=server.url))
        tables = {"url": server.url, "namespace": namespace}
        async with open_drive(serving=True, on_event=on_event, nats=tables) as drive:
            owner = (await sign_up(drive)).id
            await upload(drive, owner, "a.txt")
            with anyio.fail_after(30):
                while await drive.metadata.ask(DueEvents(1)):
                    await anyio.sleep(0.05)  # nobody tells
            assert len(await published(link, namespace)) == 1
            server.wipe()
            await upload(drive, owner, "b.txt")
            with anyio.fail_after(30):
                await waiting.wait()
            server.start()
            with anyio.fail_after(30):
                while await drive.metadata.ask(DueEvents(1)):
                    await anyio.sleep(0.05)
            await link.close()
            link = NatsLink(Nats(url=server.url))
            assert [event["file"]["name"] for _, event in await published(link, namespace)] == ["b.txt"]
            await link.close()
