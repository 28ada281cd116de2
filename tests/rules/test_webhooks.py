"""Webhooks in the catalog: when one is due, and what a delivery or a failure changes."""

from __future__ import annotations

import pytest

from godrive.messages.changes import ListChanges
from godrive.messages.system import DueWebhook, DueWebhooks, SettleWebhook
from godrive.messages.webhooks import AddWebhook, ListWebhooks
from godrive.model import UserId, UserState
from godrive.rules import rows, users
from tests.contracts.rig import Rig, host

pytestmark = pytest.mark.anyio


async def add(rig: Rig, owner: UserId) -> str:
    return (await rig.ask(AddWebhook(host(owner), "https://example.org/hook"))).id


async def due(rig: Rig) -> list[DueWebhook]:
    return await rig.ask(DueWebhooks(10))


async def test_a_webhook_is_due_while_changes_are_left(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    ids = {owner: await add(rig, owner), other: await add(rig, other)}
    assert await due(rig) == []
    await rig.folder(owner, "a")
    (webhook,) = await due(rig)
    assert (webhook.id, webhook.owner_id, webhook.failures) == (ids[owner], owner, 0)
    after = (await rig.ask(ListChanges(host(owner)))).cursor
    await rig.folder(owner, "b")  # while "a" is being delivered
    await rig.ask(SettleWebhook(webhook.id, webhook.cursor, after, seen=webhook.number))
    (again,) = await due(rig)
    assert again.cursor == after
    await rig.ask(SettleWebhook(webhook.id, webhook.cursor, "stale", seen=again.number))
    assert (await due(rig))[0].cursor == after
    await rig.ask(SettleWebhook(webhook.id, after, after, seen=again.number))
    assert await due(rig) == []


async def test_a_failure_postpones_the_next_attempt_also_if_the_clock_is_set_back(rig: Rig) -> None:
    owner = await rig.user()
    await add(rig, owner)
    await rig.folder(owner, "a")
    (webhook,) = await due(rig)
    await rig.ask(SettleWebhook(webhook.id, webhook.cursor, webhook.cursor, problem="x" * 5000))
    assert await due(rig) == []
    (state,) = await rig.ask(ListWebhooks(host(owner)))
    assert (state.failures, state.problem, state.failing_since) == (1, "x" * 500, rig.now)
    rig.clock.jump(-10_000)
    assert [each.id for each in await due(rig)] == [webhook.id]


async def test_no_more_are_due_than_fit_into_one_reply(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long URLs of one user must not keep the webhooks of others from being found."""
    owner = await rig.user()
    ids = [await add(rig, owner) for _ in range(3)]
    await rig.folder(owner, "a")
    monkeypatch.setattr(rows, "MOST_TEXT", 200)
    found = []
    while some := await due(rig):
        assert len(some) <= 2
        for webhook in some:
            await rig.ask(SettleWebhook(webhook.id, webhook.cursor, webhook.cursor, seen=webhook.number))
        found += [webhook.id for webhook in some]
    assert sorted(found) == sorted(ids)


async def test_a_busy_user_does_not_keep_the_webhooks_of_others_from_being_found(rig: Rig) -> None:
    busy, quiet = await rig.user(), await rig.user()
    for owner in (busy, busy, quiet):
        await add(rig, owner)
        await rig.folder(owner, f"a of {rig.now}")
        rig.clock.advance(1)
    served = []
    for number in range(6):
        (webhook,) = await rig.ask(DueWebhooks(1))
        served.append(webhook.owner_id)
        await rig.folder(busy, f"b{number}")
        await rig.ask(SettleWebhook(webhook.id, webhook.cursor, webhook.cursor, seen=webhook.number))
        rig.clock.advance(1)
    assert quiet in served[:3]
    assert served.count(busy) == 5


async def test_a_clock_that_is_set_back_delays_no_webhook_that_works(rig: Rig) -> None:
    owner = await rig.user()
    await add(rig, owner)
    await rig.folder(owner, "a")
    (webhook,) = await due(rig)
    await rig.ask(SettleWebhook(webhook.id, webhook.cursor, webhook.cursor, seen=webhook.number))
    rig.clock.jump(-60)
    await rig.folder(owner, "b")
    assert [each.id for each in await due(rig)] == [webhook.id]


async def test_webhooks_of_users_that_are_not_active_are_not_due(rig: Rig) -> None:
    disabled, deleted = await rig.user(), await rig.user()
    for owner in (disabled, deleted):
        await add(rig, owner)
        await rig.folder(owner, "a")
    assert len(await due(rig)) == 2
    await rig.write(users.set_state, disabled, UserState.DISABLED, now=rig.now)
    await rig.write(users.delete, deleted, now=rig.now)
    assert await due(rig) == []
    assert await rig.rows("SELECT owner_id FROM webhooks") == [(disabled,)]
