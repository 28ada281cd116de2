"""Callers that edges know without an ask."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from godrive.actors.auth import AuthActor
from godrive.config import Auth as Settings
from godrive.drive import GoDrive
from godrive.errors import Unauthenticated
from godrive.known_callers import KnownCallers
from godrive.log_in_limits import LogInLimits
from godrive.messages.auth import (
    Authenticate,
    EndSession,
    LogIn,
    LogOut,
    SignUp,
    UpdateUser,
)
from godrive.messages.users import RemoveUser, SetPassword, SetUserState
from godrive.model import SessionId, Tokens, UserId, UserState
from godrive.principal import UserSession
from godrive.testing import ManualClock, open_drive
from tests.principals import SYSTEM

pytestmark = pytest.mark.anyio

BY = UserSession(user_id=UserId("u"), session_id=SessionId("s"))
EMAIL, PASSWORD = "ann@example.org", "correct horse"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def drive(clock: ManualClock) -> AsyncIterator[GoDrive]:
    """A drive whose auth actor is near: others have nothing to know."""
    async with open_drive(clock=clock) as drive:
        yield drive


async def enter(drive: GoDrive) -> tuple[UserSession, Tokens]:
    tokens = await drive.auth.ask(LogIn(EMAIL, PASSWORD))
    return await drive.auth.ask(Authenticate(tokens.token)), tokens


def test_a_caller_is_known_until_a_moment() -> None:
    clock = ManualClock()
    known = KnownCallers(clock)
    known.keep("token", BY, until=clock.monotonic() + 1)
    assert (known.get("token"), known.get("other")) == (BY, None)
    clock.advance(0.999)
    assert known.get("token") == BY
    clock.advance(0.001)
    assert known.get("token") is None


def test_so_many_callers_are_known_and_the_latest_stay() -> None:
    clock = ManualClock()
    known = KnownCallers(clock, capacity=2)
    for token in ("a", "b", "a", "c"):
        known.keep(token, BY, until=clock.monotonic() + 1)
    assert len(known) == 2
    assert [known.get(token) is not None for token in "abc"] == [True, False, True]


async def test_a_caller_is_known_for_a_second_from_the_look_at_the_session(drive: GoDrive, clock: ManualClock) -> None:
    await drive.auth.ask(SignUp(EMAIL, PASSWORD))
    by, tokens = await enter(drive)
    assert drive.known_callers.get(tokens.token) == by
    clock.advance(0.9)
    await drive.auth.ask(Authenticate(tokens.token))  # the actor need not look again
    clock.advance(0.1)
    assert drive.known_callers.get(tokens.token) is None


async def test_no_caller_is_known_for_longer_than_the_token_is_valid(clock: ManualClock) -> None:
    async with open_drive(clock=clock, auth={"access_ttl": 60.0}) as drive:
        await drive.auth.ask(SignUp(EMAIL, PASSWORD))
        _, tokens = await enter(drive)
        left = (tokens.expires_at - clock.now()).total_seconds()
        clock.advance(left - 0.5)
        assert await drive.auth.ask(Authenticate(tokens.token))
        assert drive.known_callers.get(tokens.token) is not None
        clock.advance(0.5)
        assert drive.known_callers.get(tokens.token) is None


async def test_whatever_ends_a_session_ends_what_is_known(drive: GoDrive) -> None:
    user = await drive.auth.ask(SignUp(EMAIL, PASSWORD))
    for ending in ("log out", "end session", "set password", "update user", "disable", "remove"):
        by, tokens = await enter(drive)
        endings: dict[str, Any] = {
            "log out": LogOut(by),
            "end session": EndSession(by, by.session_id),
            "set password": SetPassword(SYSTEM, user.id, PASSWORD),
            "update user": UpdateUser(by, email=EMAIL, current_password=PASSWORD),
            "disable": SetUserState(SYSTEM, user.id, UserState.DISABLED),
            "remove": RemoveUser(SYSTEM, user.id),
        }
        assert drive.known_callers.get(tokens.token) == by, ending
        await drive.auth.ask(endings[ending])
        assert drive.known_callers.get(tokens.token) is None, ending
        if ending == "disable":
            await drive.auth.ask(SetUserState(SYSTEM, user.id, UserState.ACTIVE))


async def test_a_session_that_ends_during_the_look_at_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    is_alive = AuthActor._is_alive

    async def ends_meanwhile(actor: AuthActor, by: UserSession) -> bool:
        found = await is_alive(actor, by)
        await actor._end(by.user_id, by.session_id)
        return found

    monkeypatch.setattr(AuthActor, "_is_alive", ends_meanwhile)
    async with open_drive() as drive:
        await drive.auth.ask(SignUp(EMAIL, PASSWORD))
        _, tokens = await enter(drive)
        assert drive.known_callers.get(tokens.token) is None
        with pytest.raises(Unauthenticated, match="ended"):
            await drive.auth.ask(Authenticate(tokens.token))


async def test_a_new_life_of_the_actor_begins_without_known_callers(clock: ManualClock) -> None:
    known = KnownCallers(clock)
    known.keep("token", BY, until=clock.monotonic() + 1)
    AuthActor(None, Settings(), clock, None, known, limits=LogInLimits(Settings(), clock))  # type: ignore[arg-type]  # neither is used before a message
    assert len(known) == 0
