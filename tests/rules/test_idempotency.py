"""What a user's stored answers may take: the quota does not count them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from godrive.messages.idempotency import ClaimKey, SettleKey, StoredReply
from godrive.model import FileId, SessionId, UserId
from godrive.principal import ApiToken, HostUser, Principal, Scope, ShareLink, UserSession
from godrive.rules.idempotency import LARGE, MOST_LARGE_BYTES
from godrive.testing import ManualClock
from tests.contracts.rig import Rig
from tests.principals import acting

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


async def store(rig: Rig, owner: UserId, key: str, size: int) -> None:
    """Carry out a request with that key, whose answer has *size* bytes, a second after the one before."""
    rig.clock.advance(1)
    assert await rig.ask(ClaimKey(acting(owner), key, "f")) is None
    await rig.ask(SettleKey(acting(owner), key, StoredReply(status=200, headers={}, body=bytes(size))))


async def stored_bytes(rig: Rig, owner: UserId) -> int:
    ((total,),) = await rig.rows("SELECT SUM(LENGTH(body)) FROM idempotency_keys WHERE owner_id = $1", owner)
    return int(total)


async def test_the_newest_large_answers_displace_the_oldest(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    await store(rig, owner, "small", LARGE - 1)
    await store(rig, other, "large", MIB)
    for number in range(24):
        await store(rig, owner, f"{number}", MIB)
    assert await stored_bytes(rig, owner) == LARGE - 1 + MOST_LARGE_BYTES + MIB
    for person, key, size in (
        (owner, "small", LARGE - 1),
        (owner, "23", MIB),
        (owner, "7", MIB),
        (other, "large", MIB),
    ):
        again = await rig.ask(ClaimKey(acting(person), key, "f"))
        assert again is not None, key
        assert len(again.body) == size
    assert await rig.ask(ClaimKey(acting(owner), "6", "f")) is None


async def test_an_answer_that_is_larger_than_all_may_be_is_stored_until_the_next_one(rig: Rig) -> None:
    owner = await rig.user()
    await store(rig, owner, "first", MOST_LARGE_BYTES + MIB)
    assert await rig.ask(ClaimKey(acting(owner), "first", "f")) is not None
    await store(rig, owner, "second", MIB)
    assert await stored_bytes(rig, owner) == MIB


async def test_many_answers_of_a_few_kilobytes_are_bounded_too(rig: Rig) -> None:
    rig.clock = ManualClock(datetime(2026, 1, 1, tzinfo=UTC))  # which decides when the oldest are dropped
    owner = await rig.user()
    for number in range(500):
        await store(rig, owner, f"{number}", 65_000)
    assert MOST_LARGE_BYTES - MIB < await stored_bytes(rig, owner) < MOST_LARGE_BYTES + 4 * MIB


async def test_no_token_or_link_gets_an_answer_that_was_not_given_to_itself(rig: Rig) -> None:
    owner = await rig.user()
    callers: dict[str, Principal] = {
        "session": UserSession(user_id=owner, session_id=SessionId("s")),
        "token": ApiToken(user_id=owner, token_id="t", scopes=frozenset(Scope)),
        "token of a folder": ApiToken(user_id=owner, token_id="u", scopes=frozenset(Scope), folder_id=FileId("f")),
        "link": ShareLink(user_id=owner, link_id="t", entry_id=FileId("f"), verbs=frozenset()),
    }
    for name, by in callers.items():
        assert await rig.ask(ClaimKey(by, "k", "f")) is None, name
        await rig.ask(SettleKey(by, "k", StoredReply(status=200, headers={}, body=name.encode())))
    callers["another session"] = UserSession(user_id=owner, session_id=SessionId("other"))
    callers["host"] = HostUser(user_id=owner)
    for name, by in callers.items():
        again = await rig.ask(ClaimKey(by, "k", "f"))
        assert again is not None, name
        assert again.body.decode() == ("session" if name in ("another session", "host") else name)
