"""Idempotency keys, leases, pruning, drift."""

from __future__ import annotations

from datetime import timedelta

import anyio
import pytest

from godrive.errors import Conflict, IdempotencyMismatch, Invalid, NotFound, QuotaExceeded
from godrive.messages.idempotency import (
    ClaimKey,
    SettleKey,
    StoredReply,
)
from godrive.messages.system import AcquireLease, FinishCleanup, Prune, Pruned, RecountUsage, ReleaseLease
from godrive.messages.uploads import FailUpload, GetUpload
from godrive.model import (
    UserId,
)
from godrive.rules import rows, sessions, upload_chores, users
from godrive.rules.housekeeping import check_usage
from godrive.rules.idempotency import MOST_KEYS
from tests.contracts.rig import RETENTION, SERVER, TTL, Rig, host

pytestmark = pytest.mark.anyio

REPLY = StoredReply(status=201, headers={"Location": "/é"}, body=b"\x00\xff{}")


async def claim(rig: Rig, owner: UserId, key: str = "key", fingerprint: str = "one") -> StoredReply | None:
    return await rig.ask(ClaimKey(by=host(owner), key=key, fingerprint=fingerprint))


async def settle(rig: Rig, owner: UserId, stored: StoredReply | None, key: str = "key") -> None:
    await rig.ask(SettleKey(by=host(owner), key=key, stored=stored))


async def test_the_first_request_claims_a_key_and_the_next_get_its_answer(rig: Rig) -> None:
    owner = await rig.user()
    assert await claim(rig, owner) is None
    with pytest.raises(Conflict):
        await claim(rig, owner)
    await settle(rig, owner, REPLY)
    assert await claim(rig, owner) == REPLY
    with pytest.raises(IdempotencyMismatch):
        await claim(rig, owner, fingerprint="two")


async def test_a_settled_answer_stays(rig: Rig) -> None:
    owner = await rig.user()
    await claim(rig, owner)
    await settle(rig, owner, REPLY)
    await settle(rig, owner, None)
    await settle(rig, owner, StoredReply(status=500, headers={}, body=b""))
    assert await claim(rig, owner) == REPLY
    await settle(rig, owner, REPLY, key="never claimed")
    assert await claim(rig, owner, "never claimed") is None


async def test_so_many_answers_are_kept_for_a_user_and_no_more(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    kept = [(owner, str(number), rows.later(rig.now, 60)) for number in range(MOST_KEYS - 1)]
    insert = "INSERT INTO idempotency_keys (owner_id, key, fingerprint, expires_at) VALUES ($1, $2, 'one', $3)"
    await rig.catalog.write(lambda tx: tx.run_each(insert, kept))
    assert await claim(rig, owner, "last") is None
    with pytest.raises(QuotaExceeded) as caught:
        await claim(rig, owner, "one too many")
    assert caught.value.field == "Idempotency-Key"
    await settle(rig, owner, REPLY, "last")
    assert await claim(rig, owner, "last") == REPLY
    assert await claim(rig, other) is None


async def test_a_key_let_go_is_new_again(rig: Rig) -> None:
    owner = await rig.user()
    await claim(rig, owner)
    await settle(rig, owner, None)
    assert await claim(rig, owner, fingerprint="two") is None


async def test_a_key_is_of_one_owner(rig: Rig) -> None:
    assert await claim(rig, await rig.user()) is None
    assert await claim(rig, await rig.user()) is None


async def test_a_claim_that_is_never_settled_lapses(rig: Rig) -> None:
    owner = await rig.user()
    await claim(rig, owner)
    rig.clock.advance(60)
    assert await claim(rig, owner, fingerprint="two") is None


async def test_an_answer_is_forgotten_after_a_day(rig: Rig) -> None:
    owner = await rig.user()
    await claim(rig, owner)
    await settle(rig, owner, REPLY)
    rig.clock.advance(86_399)
    assert await claim(rig, owner) == REPLY
    rig.clock.advance(1)
    assert await claim(rig, owner) is None
    with pytest.raises(Conflict):
        await claim(rig, owner)


async def test_of_many_requests_with_one_key_one_is_served(rig: Rig) -> None:
    owner = await rig.user()
    outcomes = []

    async def one() -> None:
        try:
            outcomes.append(await claim(rig, owner))
        except Conflict:
            outcomes.append(REPLY)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(one)
    assert outcomes.count(None) == 1


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_a_key_has_bounds(rig: Rig, key: str) -> None:
    with pytest.raises(Invalid):
        await claim(rig, await rig.user(), key)


async def acquire(rig: Rig, holder: str, ttl: float = 10) -> bool:
    return await rig.ask(AcquireLease(name="sweep", holder=holder, ttl=ttl))


async def test_a_lease_has_one_holder_until_it_is_given_back_or_lapses(rig: Rig) -> None:
    assert await acquire(rig, "a")
    assert not await acquire(rig, "b")
    rig.clock.advance(5)
    assert await acquire(rig, "a")
    rig.clock.advance(9)
    assert not await acquire(rig, "b")
    rig.clock.advance(1)
    assert await acquire(rig, "b")
    await rig.ask(ReleaseLease(name="sweep", holder="a"))
    assert not await acquire(rig, "a")
    await rig.ask(ReleaseLease(name="sweep", holder="b"))
    assert await acquire(rig, "a")


async def test_a_lease_of_a_clock_that_was_set_back_holds_nobody_up(rig: Rig) -> None:
    assert await acquire(rig, "a")
    rig.clock.jump(-timedelta(days=365).total_seconds())
    assert await acquire(rig, "b")
    assert not await acquire(rig, "a")


async def test_of_many_who_want_a_lease_one_gets_it(rig: Rig) -> None:
    got = []

    async def one(holder: str) -> None:
        got.append(await acquire(rig, holder))

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(one, str(number))
    assert got.count(True) == 1


async def prune(rig: Rig, limit: int = 100) -> Pruned:
    return await rig.ask(Prune(limit=limit))


async def test_pruning_drops_what_has_outlived_its_use_and_nothing_else(rig: Rig) -> None:
    owner = await rig.user()
    await rig.write(sessions.begin, owner, now=rig.now, ttl=10)
    kept = await rig.write(sessions.begin, owner, now=rig.now, ttl=10**9)
    await claim(rig, owner)
    pending = await rig.begin(owner, "pending")
    published = await rig.begin(owner, "published")
    await rig.publish(published)
    failed = await rig.begin(owner, "failed")
    await rig.ask(FailUpload(by=SERVER, upload_id=failed.id, reason="x"))
    rig.clock.advance(RETENTION - 1)
    assert await prune(rig) == Pruned(sessions=1, idempotency_keys=1)
    rig.clock.advance(1)
    assert await prune(rig) == Pruned(uploads=1)  # the failed one still has bytes to be removed
    await rig.ask(GetUpload(by=SERVER, upload_id=failed.id))
    rig.clock.advance(TTL + upload_chores.URL_MARGIN)
    await rig.ask(FinishCleanup(upload_id=failed.id))
    assert await prune(rig) == Pruned(uploads=1)
    for upload in (published, failed):
        with pytest.raises(NotFound):
            await rig.ask(GetUpload(by=SERVER, upload_id=upload.id))
    await rig.ask(GetUpload(by=SERVER, upload_id=pending.id))
    assert await rig.names(owner) == ["published"]
    assert [session.id for session in await rig.read(sessions.list_alive, owner, now=rig.now)] == [kept.id]
    assert await prune(rig) == Pruned()


async def test_pruning_takes_no_more_than_asked_for(rig: Rig) -> None:
    owner = await rig.user()
    for _ in range(3):
        await rig.write(sessions.begin, owner, now=rig.now, ttl=10)
    rig.clock.advance(10)
    assert (await prune(rig, 2)).sessions == 2
    assert (await prune(rig, 2)).sessions == 1


async def test_drift_is_found_and_mended(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    await rig.file(owner, "a", size=10)
    await rig.trash(await rig.file(owner, "b", size=20))
    await rig.begin(owner, "c", size=40)
    await rig.folder(owner, "d")
    await rig.file(other, "a", size=80)
    kept = "SELECT live_bytes, trash_bytes, version_bytes, reserved_bytes, entry_count, upload_count FROM users"
    before = await rig.rows(f"{kept} ORDER BY id")
    assert sorted(before) == [(10, 20, 0, 40, 3, 1), (80, 0, 0, 0, 1, 0)]
    assert await rig.drift() == 0
    await rig.read(check_usage)
    assert await rig.ask(RecountUsage()) == 0

    await rig.run(
        "UPDATE users SET live_bytes = live_bytes + 1, trash_bytes = trash_bytes - 2, version_bytes = 4, "
        "reserved_bytes = reserved_bytes + 8, entry_count = entry_count - 1, upload_count = upload_count + 16"
    )
    assert await rig.drift() == 2 * (1 + 2 + 4 + 8 + 1 + 16)
    with pytest.raises(Conflict, match="30 bytes and 34 rows"):
        await rig.read(check_usage)
    assert [await rig.ask(RecountUsage(limit=1)) for _ in range(3)] == [1, 1, 0]
    assert await rig.drift() == 0
    assert await rig.rows(f"{kept} ORDER BY id") == before


async def test_invitations_are_forgotten_when_the_retention_after_their_use_or_end_is_over(rig: Rig) -> None:
    await rig.write(users.add_invite, "unused", now=rig.now)
    await rig.write(users.add_invite, "expired", now=rig.now, expires_at=rig.now + timedelta(seconds=1))
    await rig.write(users.add_invite, "used", now=rig.now)
    rig.clock.advance(1)
    await rig.write(users.add, email="a@b.c", password_hash="x", now=rig.now, invite="used")
    for seconds, forgotten in ((RETENTION - 1, False), (1, True)):
        rig.clock.advance(seconds)
        await prune(rig)
        for code in ("expired", "used"):
            if forgotten:
                await rig.write(users.add_invite, code, now=rig.now)
            else:
                with pytest.raises(Conflict):
                    await rig.write(users.add_invite, code, now=rig.now)
    with pytest.raises(Conflict):
        await rig.write(users.add_invite, "unused", now=rig.now)
