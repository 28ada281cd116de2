"""Changes delivered to webhooks: signed, in order, at least once, and never where they must not go."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import groupby
from typing import Any

import anyio
import pytest

from godrive.backoff import Backoff
from godrive.bridge import broadcast_turns, webhooks
from godrive.bridge.webhooks import LEASE_TTL, PER_USER, SLOW, Dispatcher
from godrive.callbacks import Failed
from godrive.drive import GoDrive
from godrive.errors import CursorReset, Invalid, NotFound, QuotaExceeded, StorageFull
from godrive.messages.changes import ListChanges
from godrive.messages.files import MakeFolder, UpdateFile
from godrive.messages.system import AcquireLease, DueWebhooks, PruneLog, SettleWebhook
from godrive.messages.users import SetUserState
from godrive.messages.webhooks import AddWebhook, ListWebhooks, RemoveWebhook, ReplayWebhook, Webhook
from godrive.model import Root, UserId, UserState
from godrive.testing import FaultPoints, ManualClock, open_drive, sign_up
from tests.bridge.receivers import Hanging, Receiver
from tests.principals import SYSTEM, acting

pytestmark = pytest.mark.anyio

LOCAL = {"allow_networks": ["127.0.0.0/8"], "timeout": 2.0}


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    async with receiver.serving():
        yield receiver


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.servers)])
def catalog_tables(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The tables of the configuration for each database."""
    if request.param == "sqlite":
        return {}
    return {"catalog": {"driver": "postgres", "dsn": request.getfixturevalue("postgres_server").create_database()}}


@pytest.fixture
async def drive(catalog_tables: dict[str, Any]) -> AsyncIterator[GoDrive]:
    async with open_drive(webhooks=LOCAL, **catalog_tables) as drive:
        yield drive


@pytest.fixture
async def owner(drive: GoDrive) -> UserId:
    return (await sign_up(drive)).id


def dispatcher_of(drive: GoDrive) -> Dispatcher:
    return Dispatcher(drive.config, drive.clock, drive.watch, counts=Counter(), on_event=lambda event: None)


async def deliver(drive: GoDrive) -> int:
    """One turn of every webhook that is due."""
    due = await drive.metadata.ask(DueWebhooks(100))
    dispatcher = dispatcher_of(drive)
    for webhook in due:
        await dispatcher.deliver(drive.metadata, webhook)
    await dispatcher.close()
    return len(due)


async def make(drive: GoDrive, owner: UserId, *names: str) -> None:
    for name in names:
        await drive.metadata.ask(MakeFolder(acting(owner), Root(), name))


async def state_of(drive: GoDrive, owner: UserId) -> Webhook:
    (webhook,) = await drive.metadata.ask(ListWebhooks(acting(owner)))
    return webhook


async def test_each_change_is_one_signed_post_in_order(drive: GoDrive, receiver: Receiver, owner: UserId) -> None:
    await make(drive, owner, "before")
    webhook = await drive.metadata.ask(AddWebhook(acting(owner), receiver.url))
    assert await deliver(drive) == 0
    folder = await drive.metadata.ask(MakeFolder(acting(owner), Root(), "folder"))
    await drive.metadata.ask(UpdateFile(acting(owner), folder.id, name="renamed"))
    assert await deliver(drive) == 1
    assert await deliver(drive) == 0
    assert [(data["change"], data["id"], data["owner_id"], data["entry"]["name"]) for data in receiver.data] == [
        ("created", folder.id, owner, "renamed"),
        ("moved", folder.id, owner, "renamed"),
    ]
    assert [json.loads(body)["type"] for _, body in receiver.got] == ["folder.created", "folder.moved"]
    assert webhook.secret is not None
    for headers, body in receiver.got:
        assert headers["Content-Type"] == "application/json"
        signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        key = base64.b64decode(webhook.secret.removeprefix("whsec_"))
        signature = base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
        assert headers["webhook-signature"] == f"v1,{signature}"
        assert int(headers["webhook-timestamp"]) == int(drive.clock.now().timestamp())
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 2
    assert (await state_of(drive, owner)).secret is None


async def test_a_delivery_that_fails_is_repeated_with_the_same_id_and_later_ones_wait(
    drive: GoDrive, receiver: Receiver, owner: UserId
) -> None:
    assert isinstance(drive.clock, ManualClock)
    await drive.metadata.ask(AddWebhook(acting(owner), receiver.url))
    await make(drive, owner, "a", "b")
    receiver.status = 500
    assert await deliver(drive) == 1
    assert await deliver(drive) == 0
    state = await state_of(drive, owner)
    assert (state.failures, state.problem, state.disabled) == (1, "The answer was 500.", False)
    drive.clock.advance(5)
    assert await deliver(drive) == 1
    assert (await state_of(drive, owner)).failures == 2
    receiver.status = 200
    drive.clock.advance(10)
    assert await deliver(drive) == 1
    assert [data["entry"]["name"] for data in receiver.data] == ["a", "a", "a", "b"]
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 2
    state = await state_of(drive, owner)
    assert (state.failures, state.problem, state.failing_since) == (0, None, None)


async def test_a_webhook_that_fails_for_long_is_disabled_until_it_is_replayed(
    drive: GoDrive, receiver: Receiver, owner: UserId
) -> None:
    assert isinstance(drive.clock, ManualClock)
    webhook = await drive.metadata.ask(AddWebhook(acting(owner), receiver.url))
    await make(drive, owner, "a")
    receiver.status = 500
    await deliver(drive)
    drive.clock.advance(300_000)  # a jump of the clock alone disables nothing
    await deliver(drive)
    assert not (await state_of(drive, owner)).disabled
    for _ in range(8):
        drive.clock.advance(3600)
        assert await deliver(drive) == 1
    assert (await state_of(drive, owner)).disabled
    drive.clock.advance(10**6)
    assert await deliver(drive) == 0
    receiver.status, receiver.got = 200, []
    replayed = await drive.metadata.ask(ReplayWebhook(acting(owner), webhook.id))
    assert (replayed.disabled, replayed.problem) == (False, None)
    assert await deliver(drive) == 1
    assert [data["entry"]["name"] for data in receiver.data] == ["a"]


async def test_a_receiver_that_is_gone_disables_the_webhook_at_once(
    drive: GoDrive, receiver: Receiver, owner: UserId
) -> None:
    await drive.metadata.ask(AddWebhook(acting(owner), receiver.url))
    await make(drive, owner, "a")
    receiver.status = 410
    await deliver(drive)
    state = await state_of(drive, owner)
    assert (state.disabled, state.problem) == (True, "The answer was 410.")


async def test_a_replay_sends_what_comes_after_the_cursor(drive: GoDrive, receiver: Receiver, owner: UserId) -> None:
    webhook = await drive.metadata.ask(AddWebhook(acting(owner), receiver.url))
    await make(drive, owner, "a")
    cursor = (await drive.metadata.ask(ListChanges(acting(owner)))).cursor
    await make(drive, owner, "b", "c")
    await deliver(drive)
    receiver.got = []
    await drive.metadata.ask(ReplayWebhook(acting(owner), webhook.id, cursor))
    await deliver(drive)
    assert [data["entry"]["name"] for data in receiver.data] == ["b", "c"]
    with pytest.raises(Invalid):
        await drive.metadata.ask(ReplayWebhook(acting(owner), webhook.id, "x"))


async def test_changes_that_were_deleted_before_their_delivery_are_told_as_a_reset(
    receiver: Receiver, catalog_tables: dict[str, Any]
) -> None:
    async with open_drive(webhooks=LOCAL, janitor={"changes_per_user": 1}, **catalog_tables) as drive:
        owner = (await sign_up(drive)).id
        foreign = (await drive.metadata.ask(ListChanges(acting((await sign_up(drive, "bob@example.org")).id)))).cursor
        webhook = await drive.metadata.ask(AddWebhook(acting(owner), receiver.url))
        await make(drive, owner, "a", "b", "c")
        await drive.metadata.ask(PruneLog(UserId(""), 100))
        await deliver(drive)
        await make(drive, owner, "d")
        await deliver(drive)
        assert [json.loads(body)["type"] for _, body in receiver.got] == ["cursor_reset", "folder.created"]
        with pytest.raises(CursorReset):
            await drive.metadata.ask(ReplayWebhook(acting(owner), webhook.id, foreign))


async def test_webhooks_are_their_owners_and_few(drive: GoDrive, receiver: Receiver, owner: UserId) -> None:
    other = (await sign_up(drive, "bob@example.org")).id
    webhook = await drive.metadata.ask(AddWebhook(acting(owner), receiver.url))
    assert await drive.metadata.ask(ListWebhooks(acting(other))) == []
    with pytest.raises(NotFound):
        await drive.metadata.ask(RemoveWebhook(acting(other), webhook.id))
    with pytest.raises(NotFound):
        await drive.metadata.ask(ReplayWebhook(acting(other), webhook.id))
    for _ in range(9):
        await drive.metadata.ask(AddWebhook(acting(owner), receiver.url))
    with pytest.raises(QuotaExceeded) as raised:
        await drive.metadata.ask(AddWebhook(acting(owner), receiver.url))
    assert raised.value.field == "webhooks"
    await drive.metadata.ask(RemoveWebhook(acting(owner), webhook.id))
    left = await drive.metadata.ask(ListWebhooks(acting(owner)))
    assert len(left) == 9


async def test_a_secret_may_be_brought_along_if_it_is_strong(drive: GoDrive, owner: UserId) -> None:
    url, good = "https://example.org/hook", "whsec_" + base64.b64encode(b"k" * 24).decode()
    assert (await drive.metadata.ask(AddWebhook(acting(owner), url, good))).secret == good
    for weak in ("", "whsec_", "x" * 40, "whsec_" + base64.b64encode(b"k" * 23).decode(), good + "!", "whsec_é"):
        with pytest.raises(Invalid) as raised:
            await drive.metadata.ask(AddWebhook(acting(owner), url, weak))
        assert raised.value.field == "secret"


async def test_a_disabled_user_gets_nothing(drive: GoDrive, receiver: Receiver, owner: UserId) -> None:
    await drive.metadata.ask(AddWebhook(acting(owner), receiver.url))
    await make(drive, owner, "a")
    (due,) = await drive.metadata.ask(DueWebhooks(100))
    await drive.auth.ask(SetUserState(SYSTEM, owner, UserState.DISABLED))
    await dispatcher_of(drive).deliver(drive.metadata, due)
    assert await deliver(drive) == 0
    assert receiver.got == []


async def test_one_process_delivers_and_one_user_has_few_slots(
    drive: GoDrive, receiver: Receiver, owner: UserId
) -> None:
    for _ in range(PER_USER + 2):
        await drive.metadata.ask(AddWebhook(acting(owner), receiver.url))
    await make(drive, owner, "a")
    first, second = dispatcher_of(drive), dispatcher_of(drive)
    async with anyio.create_task_group() as tasks:
        await first.begin(drive.metadata, tasks)
        await second.begin(drive.metadata, tasks)
    assert len(receiver.got) == PER_USER
    async with anyio.create_task_group() as tasks:
        await first.begin(drive.metadata, tasks)
    assert len(receiver.got) == PER_USER + 2
    assert isinstance(drive.clock, ManualClock)
    drive.clock.advance(LEASE_TTL)
    assert await drive.metadata.ask(AcquireLease("webhooks", "another", LEASE_TTL))
    await first.close()


async def test_a_process_that_stops_lets_another_deliver_at_once(
    drive: GoDrive, receiver: Receiver, owner: UserId
) -> None:
    await drive.metadata.ask(AddWebhook(acting(owner), receiver.url))
    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(dispatcher_of(drive).run, drive.metadata)
            await make(drive, owner, "a")
            await receiver.arrived.wait()
            tasks.cancel_scope.cancel()
    assert await drive.metadata.ask(AcquireLease("webhooks", "another", LEASE_TTL))


async def test_webhooks_of_a_busy_user_do_not_keep_the_slots(
    drive: GoDrive, receiver: Receiver, owner: UserId, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do those of a user who makes a new one for every change."""
    monkeypatch.setattr("godrive.bridge.webhooks.AT_ONCE", 1)
    owners = [owner, (await sign_up(drive, "other@example.org")).id]
    webhooks = [await drive.metadata.ask(AddWebhook(acting(each), receiver.url)) for each in owners]
    dispatcher = dispatcher_of(drive)
    for turn in range(4):
        await drive.metadata.ask(RemoveWebhook(acting(owner), webhooks[0].id))
        webhooks[0] = await drive.metadata.ask(AddWebhook(acting(owner), receiver.url))
        for each in owners:
            await make(drive, each, f"{turn}")
        async with anyio.create_task_group() as tasks:
            await dispatcher.begin(drive.metadata, tasks)
    served = [owner_id for owner_id, _ in groupby(data["owner_id"] for data in receiver.data)]
    assert served in (owners * 2, owners[::-1] * 2)
    await dispatcher.close()


async def test_users_whose_receivers_hung_lately_use_few_slots(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if they have their webhooks replayed, which forgets failures."""
    monkeypatch.setattr("godrive.bridge.webhooks.AT_ONCE", 2)
    monkeypatch.setattr("godrive.bridge.webhooks.DOUBTFUL_AT_ONCE", 1)
    hanging, clock = Hanging(), ManualClock()
    async with hanging.serving(), open_drive(webhooks={**LOCAL, "timeout": 60.0}, clock=clock) as drive:
        one, *others = [(await sign_up(drive, f"{name}@example.org")).id for name in ("one", "two", "three")]
        await drive.metadata.ask(AddWebhook(acting(one), receiver.url))
        webhooks = [await drive.metadata.ask(AddWebhook(acting(each), hanging.url)) for each in others]
        dispatcher = dispatcher_of(drive)
        for each in others:
            await make(drive, each, "a")
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                await dispatcher.begin(drive.metadata, tasks)
                await hanging.hanging.acquire()
                await hanging.hanging.acquire()
                clock.advance(SLOW)
                hanging.stop.set()
            hanging.stop = anyio.Event()
            for each, webhook in zip(others, webhooks, strict=True):
                await drive.metadata.ask(ReplayWebhook(acting(each), webhook.id))
            async with anyio.create_task_group() as tasks:
                await dispatcher.begin(drive.metadata, tasks)
                await hanging.hanging.acquire()
                await make(drive, one, "a")
                await dispatcher.begin(drive.metadata, tasks)
                await receiver.arrived.wait()
                hanging.stop.set()
        await dispatcher.close()


async def test_a_turn_that_the_catalog_fails_is_not_repeated_at_once(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiver would get the same changes again and again: what was delivered could not be noted."""
    monkeypatch.setattr("godrive.bridge.webhooks.BACKOFF", Backoff(3600.0, 3600.0))
    faults, failed = FaultPoints(), anyio.Event()
    faults.refuse(SettleWebhook, StorageFull("The disk is full."))
    async with open_drive(webhooks=LOCAL, faults=faults) as drive:
        one, other = [(await sign_up(drive, f"{name}@example.org")).id for name in ("one", "other")]
        for each in (one, other):
            await drive.metadata.ask(AddWebhook(acting(each), receiver.url))
        dispatcher = Dispatcher(
            drive.config, drive.clock, drive.watch, counts=Counter(), on_event=lambda event: failed.set()
        )
        with anyio.fail_after(30):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(dispatcher.run, drive.metadata)
                await make(drive, one, "a")
                await failed.wait()
                for name in "bcd":
                    receiver.arrived = anyio.Event()
                    await make(drive, other, name)
                    await receiver.arrived.wait()
                tasks.cancel_scope.cancel()
    assert [data["entry"]["name"] for data in receiver.data] == ["a", "b", "c", "d"]


async def test_a_webhook_that_hangs_delays_no_other(receiver: Receiver, catalog_tables: dict[str, Any]) -> None:
    """A serving drive, with one receiver that never answers."""
    hanging = Hanging()
    async with (
        hanging.serving(),
        open_drive(serving=True, webhooks={**LOCAL, "timeout": 60.0}, **catalog_tables) as drive,
    ):
        owner = (await sign_up(drive)).id
        await drive.metadata.ask(AddWebhook(acting(owner), hanging.url))
        await drive.metadata.ask(AddWebhook(acting(owner), receiver.url))
        with anyio.fail_after(30):
            await make(drive, owner, "a")
            await hanging.hanging.acquire()
            await receiver.arrived.wait()
            receiver.arrived = anyio.Event()
            await make(drive, owner, "b")
            await receiver.arrived.wait()
        assert [data["entry"]["name"] for data in receiver.data] == ["a", "b"]
        hanging.stop.set()


async def test_the_operators_webhook_gets_the_changes_of_all_users(
    receiver: Receiver, catalog_tables: dict[str, Any]
) -> None:
    secret = "whsec_" + base64.b64encode(b"o" * 32).decode()
    tables = {"url": receiver.url, "secret": secret, "timeout": 2.0}
    async with open_drive(webhooks=tables, **catalog_tables) as drive:
        owners = [(await sign_up(drive, f"{name}@example.org")).id for name in ("ann", "bob")]
        for owner in owners:
            await make(drive, owner, "a", "b")
        dispatcher = dispatcher_of(drive)
        receiver.status = 500
        with pytest.raises(Exception, match="500"):
            await dispatcher.broadcast(drive.metadata)
        receiver.status, receiver.got = 200, []
        assert await dispatcher.broadcast(drive.metadata) == 4
        assert await dispatcher.broadcast(drive.metadata) == 0
        for owner in owners:
            names = [data["entry"]["name"] for data in receiver.data if data["owner_id"] == owner]
            assert names == ["a", "b"]
        assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 4
        await dispatcher.close()


async def test_the_operators_webhook_lets_users_take_turns(
    receiver: Receiver, catalog_tables: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each user numbers the changes on their own, so low numbers are no older than others."""
    monkeypatch.setattr(webhooks, "BATCH", 4)
    secret = "whsec_" + base64.b64encode(b"o" * 32).decode()
    tables = {"url": receiver.url, "secret": secret, "timeout": 2.0}
    async with open_drive(webhooks=tables, **catalog_tables) as drive:
        old = (await sign_up(drive, "old@example.org")).id
        await make(drive, old, *[f"{number}" for number in range(20)])
        dispatcher = dispatcher_of(drive)
        while await dispatcher.broadcast(drive.metadata):
            pass
        receiver.got = []
        new = (await sign_up(drive, "new@example.org")).id
        await make(drive, new, *[f"{number}" for number in range(12)])
        await make(drive, old, "late")
        await dispatcher.broadcast(drive.metadata)
        assert Counter(data["owner_id"] for data in receiver.data) == {new: 2, old: 1}
        while await dispatcher.broadcast(drive.metadata):
            pass
        names = [data["entry"]["name"] for data in receiver.data if data["owner_id"] == new]
        assert names == [f"{number}" for number in range(12)]
        await dispatcher.close()


async def test_a_change_that_the_operators_webhook_refuses_is_sent_again_and_none_is_skipped(
    receiver: Receiver, catalog_tables: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "BATCH", 4)
    monkeypatch.setattr(broadcast_turns, "USERS", 2)
    secret = "whsec_" + base64.b64encode(b"o" * 32).decode()
    tables = {"url": receiver.url, "secret": secret, "timeout": 2.0}
    async with open_drive(webhooks=tables, **catalog_tables) as drive:
        owners = [(await sign_up(drive, f"{number}@example.org")).id for number in range(5)]
        for owner in owners:
            await make(drive, owner, *"abcdef")
        dispatcher = dispatcher_of(drive)
        accepted: list[dict[str, Any]] = []
        for turn in range(100):
            receiver.got, receiver.status = [], 500 if turn % 3 == 2 else 204
            with suppress(Failed):
                await dispatcher.broadcast(drive.metadata)
            accepted += receiver.data if receiver.status == 204 else []
        assert await dispatcher.broadcast(drive.metadata) == 0
        assert len(accepted) == 30
        for owner in owners:
            assert [data["entry"]["name"] for data in accepted if data["owner_id"] == owner] == [*"abcdef"]
        await dispatcher.close()
