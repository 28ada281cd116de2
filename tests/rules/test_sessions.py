"""Sessions: alive until they expire, are ended, or their refresh token is reused."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from godrive.errors import Unauthenticated
from godrive.model import Session, SessionId, UserId, UserState
from godrive.principal import ApiToken, Caller, UserSession, credential_id
from godrive.rules import sessions, users
from tests.contracts.rig import Rig

pytestmark = pytest.mark.anyio


async def begin(rig: Rig, owner: UserId, **options: Any) -> Session:
    return await rig.write(sessions.begin, owner, now=rig.now, ttl=100, **options)


async def alive(rig: Rig, session: Session) -> bool:
    principal = UserSession(user_id=session.user_id, session_id=session.id)
    return await rig.read(sessions.is_alive, principal, now=rig.now)


async def refresh(rig: Rig, session: Session, generation: int, **client: Any) -> Session | None:
    return await rig.write(sessions.refresh, session.user_id, session.id, generation, now=rig.now, ttl=100, **client)


async def test_a_session_lives_until_it_expires(rig: Rig) -> None:
    session = await begin(rig, await rig.user())
    assert await alive(rig, session)
    rig.clock.advance(100)
    assert not await alive(rig, session)


async def test_a_session_is_of_one_user_only(rig: Rig) -> None:
    session = await begin(rig, await rig.user())
    foreign = UserSession(user_id=await rig.user(), session_id=session.id)
    assert not await rig.read(sessions.is_alive, foreign, now=rig.now)
    assert not await rig.write(sessions.end, foreign.user_id, session.id)
    assert await rig.write(sessions.refresh, foreign.user_id, session.id, 0, now=rig.now, ttl=100) is None
    assert await alive(rig, session)
    assert await refresh(rig, session, 0) is not None


async def test_rights_are_looked_up_at_every_use(rig: Rig) -> None:
    """Also those that somebody took away by a statement of their own, which ends no session."""
    session = await begin(rig, await rig.user())
    await rig.run("UPDATE users SET state = 'disabled' WHERE id = $1", session.user_id)
    assert not await alive(rig, session)
    assert await refresh(rig, session, 0) is None


async def test_nobody_but_an_active_user_begins_a_session(rig: Rig) -> None:
    owner = await rig.user()
    await rig.write(users.set_state, owner, UserState.DISABLED, now=rig.now)
    for user_id in (owner, UserId("nobody")):
        with pytest.raises(Unauthenticated):
            await begin(rig, user_id)


async def test_a_password_changed_while_it_was_checked_begins_no_session(rig: Rig) -> None:
    owner = await rig.user()
    await rig.write(users.set_password, owner, "new")
    with pytest.raises(Unauthenticated):
        await begin(rig, owner, password_hash="hash")
    await begin(rig, owner, password_hash="new")


async def test_a_refresh_moves_the_end_and_the_generation(rig: Rig) -> None:
    session = await begin(rig, await rig.user())
    rig.clock.advance(60)
    renewed = await refresh(rig, session, 0)
    assert renewed is not None
    assert (renewed.generation, renewed.last_used_at) == (1, rig.now)
    rig.clock.advance(60)
    assert await alive(rig, session)


async def test_the_predecessor_gets_the_same_session_for_30_seconds(rig: Rig) -> None:
    session = await begin(rig, await rig.user(), user_agent="browser", address="192.0.2.1")
    renewed = await refresh(rig, session, 0, user_agent="browser", address="192.0.2.1")
    rig.clock.advance(30)
    assert await refresh(rig, session, 0, user_agent="browser", address="198.51.100.1") == renewed
    assert await refresh(rig, session, 0, user_agent="browser") == renewed
    rig.clock.advance(0.001)
    assert await refresh(rig, session, 0, user_agent="browser") is None
    assert not await alive(rig, session)


@pytest.mark.parametrize("user_agent", ["", "other", "browser "])
async def test_a_predecessor_of_another_user_agent_ends_the_session(rig: Rig, user_agent: str) -> None:
    session = await begin(rig, await rig.user(), user_agent=user_agent)
    assert await refresh(rig, session, 0, user_agent="browser") is not None
    assert await refresh(rig, session, 0, user_agent=user_agent) is None
    assert not await alive(rig, session)


async def test_an_older_generation_ends_the_session_at_once(rig: Rig) -> None:
    session = await begin(rig, await rig.user())
    for generation in (0, 1):
        assert await refresh(rig, session, generation) is not None
    assert await refresh(rig, session, 0) is None
    assert not await alive(rig, session)
    assert await refresh(rig, session, 2) is None


async def test_a_generation_to_come_ends_the_session(rig: Rig) -> None:
    session = await begin(rig, await rig.user())
    assert await refresh(rig, session, 1) is None
    assert not await alive(rig, session)


async def test_refreshes_at_once_all_get_the_same_session(rig: Rig) -> None:
    session = await begin(rig, await rig.user())
    renewed = await asyncio.gather(*(refresh(rig, session, 0, user_agent="browser") for _ in range(8)))
    assert renewed == [renewed[0]] * 8
    assert renewed[0] is not None
    assert renewed[0].generation == 1
    assert await refresh(rig, session, 1, user_agent="browser") is not None


async def test_a_predecessor_of_a_disabled_user_gets_nothing(rig: Rig) -> None:
    session = await begin(rig, await rig.user())
    assert await refresh(rig, session, 0) is not None
    await rig.run("UPDATE users SET state = 'disabled' WHERE id = $1", session.user_id)
    assert await refresh(rig, session, 0) is None


@pytest.mark.parametrize(("set_back", "works"), [(20, True), (40, False)])
async def test_a_clock_set_back_lengthens_the_grace_by_no_more_than_itself(
    rig: Rig, set_back: int, works: bool
) -> None:
    session = await begin(rig, await rig.user())
    assert await refresh(rig, session, 0) is not None
    before = rig.now - timedelta(seconds=set_back)
    again = await rig.write(sessions.refresh, session.user_id, session.id, 0, now=before, ttl=100)
    assert (again is not None) == works


async def test_a_refresh_updates_the_user_agent_where_the_client_sends_one(rig: Rig) -> None:
    session = await begin(rig, await rig.user(), user_agent="browser 1")
    renewed = await refresh(rig, session, 0)
    assert renewed is not None
    assert renewed.user_agent == "browser 1"
    renewed = await refresh(rig, session, 1, user_agent="browser 2")
    assert renewed is not None
    assert renewed.user_agent == "browser 2"


async def test_a_session_too_many_ends_the_one_unused_for_longest(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MOST", 3)
    owner, other = await rig.user(), await rig.user()
    foreign = await begin(rig, other)
    begun = []
    for _ in range(4):
        rig.clock.advance(1)
        begun.append(await begin(rig, owner))
    assert [await alive(rig, session) for session in begun] == [False, True, True, True]
    assert await alive(rig, foreign)


async def test_an_expired_session_is_not_refreshed(rig: Rig) -> None:
    session = await begin(rig, await rig.user())
    rig.clock.advance(100)
    assert await refresh(rig, session, 0) is None


async def test_sessions_are_listed_most_recently_used_first_and_only_while_alive(rig: Rig) -> None:
    owner = await rig.user()
    old = await begin(rig, owner)
    rig.clock.advance(60)
    first, second = await begin(rig, owner), await begin(rig, owner)
    rig.clock.advance(1)
    await refresh(rig, first, 0)
    rig.clock.advance(50)
    listed = await rig.read(sessions.list_alive, owner, now=rig.now)
    assert [session.id for session in listed] == [first.id, second.id]
    assert not await alive(rig, old)


async def test_a_new_password_ends_all_sessions_but_the_one_that_set_it(rig: Rig) -> None:
    owner = await rig.user()
    mine, other = await begin(rig, owner), await begin(rig, owner)
    await rig.write(users.set_password, owner, "new", keep=mine.id)
    assert (await alive(rig, mine), await alive(rig, other)) == (True, False)


async def test_ending_a_session_twice_is_told_apart(rig: Rig) -> None:
    session = await begin(rig, await rig.user())
    assert await rig.write(sessions.end, session.user_id, session.id)
    assert not await rig.write(sessions.end, session.user_id, session.id)


async def test_what_a_client_says_of_itself_is_kept_in_a_form_that_can_be_kept(rig: Rig) -> None:
    session = await begin(rig, await rig.user(), user_agent="a\x00b\udc80" + "x" * 1000, address="::1")
    assert session.user_agent.startswith("ab?xxx")
    assert len(session.user_agent) == 512
    assert session.address == "::1"


async def test_of_many_credentials_those_that_have_ended_are_found(rig: Rig) -> None:
    alive, other, disabled = await rig.user(), await rig.user(), await rig.user()
    callers: list[Caller] = []
    for owner in (alive, other, disabled):
        for _ in range(40):
            session = await rig.write(
                sessions.begin, owner, now=rig.now, ttl=100 if owner == other else 1000, address="", user_agent=""
            )
            callers.append(UserSession(user_id=owner, session_id=session.id))
        callers.append(ApiToken(user_id=owner, token_id=f"token of {owner}", scopes=frozenset()))
    ended = credential_id(callers[0])
    await rig.write(sessions.end, alive, SessionId(ended))
    await rig.write(users.set_state, disabled, UserState.DISABLED, now=rig.now)
    rig.clock.advance(100)
    found = await rig.read(sessions.find_ended, callers, now=rig.now)
    sessions_of_other = [credential_id(caller) for caller in callers[41:81]]
    assert found == [ended, *sessions_of_other, *map(credential_id, callers[82:])]
    assert await rig.read(sessions.find_ended, [], now=rig.now) == []
