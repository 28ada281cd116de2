"""What an operator and a host application ask of the auth actor."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from godrive.drive import GoDrive
from godrive.errors import Conflict, EmailTaken, Forbidden, Invalid, NotFound, Unauthenticated
from godrive.messages.auth import (
    Auth,
    Authenticate,
    BeginSession,
    EndSession,
    GetUser,
    ListSessions,
    LogIn,
    Refresh,
    SignUp,
    UpdateUser,
)
from godrive.messages.users import (
    AddUser,
    EnsureUser,
    FindUser,
    Invite,
    ListUsers,
    RemoveUser,
    SetPassword,
    SetQuota,
    SetUserState,
)
from godrive.model import User, UserId, UserState
from godrive.principal import HostUser, System
from godrive.runtime import Ask
from godrive.testing import ManualClock, open_drive

pytestmark = pytest.mark.anyio

EMAIL, PASSWORD = "ann@example.org", "correct horse"
OPERATOR = System(part="operator")
HOST = System(part="host")


async def ensure(drive: GoDrive, external_id: str = "42", email: str | None = None) -> User:
    return await drive.auth.ask(EnsureUser(HOST, external_id, email))


# The operator


async def test_added_user_can_log_in_where_sign_up_is_closed(drive_class: type[GoDrive]) -> None:
    async with open_drive(drive_class=drive_class, auth={"signup": "closed", "default_quota_bytes": 5}) as drive:
        user = await drive.auth.ask(AddUser(OPERATOR, f" {EMAIL} ", PASSWORD, quota_bytes=1000))
        assert (user.email, user.quota_bytes, user.external_id) == (EMAIL, 1000, None)
        await drive.auth.ask(LogIn(EMAIL, PASSWORD))
        with pytest.raises(EmailTaken):
            await drive.auth.ask(AddUser(OPERATOR, EMAIL.upper(), PASSWORD))
        for email, password, field in (("nonsense", PASSWORD, "email"), ("b@example.org", "short", "password")):
            with pytest.raises(Invalid) as caught:
                await drive.auth.ask(AddUser(OPERATOR, email, password))
            assert caught.value.field == field


async def test_letters_beyond_ascii_before_the_at_are_for_the_operator_to_allow(drive_class: type[GoDrive]) -> None:
    for allowed in (True, False):
        async with open_drive(drive_class=drive_class, auth={"unicode_emails": allowed}) as drive:
            asks: list[Ask[Auth, User]] = [
                SignUp("änn@example.org", PASSWORD),
                AddUser(OPERATOR, "ünn@example.org", PASSWORD),
                EnsureUser(HOST, "42", "önn@example.org"),
            ]
            for ask in asks:
                if allowed:
                    assert (await drive.auth.ask(ask)).email.endswith("nn@example.org")
                else:
                    with pytest.raises(Invalid, match="ASCII"):
                        await drive.auth.ask(ask)


async def test_user_is_found_by_any_spelling_of_the_address(drive: GoDrive) -> None:
    user = await drive.auth.ask(SignUp("ann@bücher.example", PASSWORD))
    for email in ("ann@bücher.example", "ANN@xn--bcher-kva.example"):
        assert await drive.auth.ask(FindUser(OPERATOR, email)) == user
    for email in ("bob@bücher.example", "ann", "", "\x00"):
        with pytest.raises(NotFound):
            await drive.auth.ask(FindUser(OPERATOR, email))


async def test_users_are_listed_in_pages(drive: GoDrive) -> None:
    made = sorted([(await ensure(drive, str(number))).id for number in range(5)])
    first = await drive.auth.ask(ListUsers(OPERATOR, limit=3))
    rest = await drive.auth.ask(ListUsers(OPERATOR, after=first[-1].id, limit=3))
    assert [user.id for user in first + rest] == made
    assert await drive.auth.ask(ListUsers(OPERATOR, after=rest[-1].id)) == []


async def test_disabled_user_is_out_at_once_and_back_in_after_a_new_log_in(drive: GoDrive, owner: User) -> None:
    tokens = await drive.auth.ask(LogIn(EMAIL, PASSWORD))
    await drive.auth.ask(Authenticate(tokens.token))
    for _ in range(2):
        user = await drive.auth.ask(SetUserState(OPERATOR, owner.id, UserState.DISABLED))
        assert user.state is UserState.DISABLED
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Authenticate(tokens.token))
    for refused in (Refresh(tokens.refresh_token), LogIn(EMAIL, PASSWORD)):
        with pytest.raises(Unauthenticated):
            await drive.auth.ask(refused)
    await drive.auth.ask(SetUserState(OPERATOR, owner.id, UserState.ACTIVE))
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Authenticate(tokens.token))
    await drive.auth.ask(LogIn(EMAIL, PASSWORD))
    with pytest.raises(Conflict):
        await drive.auth.ask(SetUserState(OPERATOR, owner.id, UserState.DELETED))


async def test_password_set_by_the_operator_ends_every_session(drive: GoDrive, owner: User) -> None:
    tokens = await drive.auth.ask(LogIn(EMAIL, PASSWORD))
    await drive.auth.ask(Authenticate(tokens.token))
    await drive.auth.ask(SetPassword(OPERATOR, owner.id, "another horse"))
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Authenticate(tokens.token))
    await drive.auth.ask(LogIn(EMAIL, "another horse"))
    with pytest.raises(Invalid):
        await drive.auth.ask(SetPassword(OPERATOR, owner.id, "short"))


async def test_quota_is_changed_and_lifted(drive: GoDrive, owner: User) -> None:
    assert (await drive.auth.ask(SetQuota(OPERATOR, owner.id, 10))).quota_bytes == 10
    assert (await drive.auth.ask(SetQuota(OPERATOR, owner.id, None))).quota_bytes is None
    with pytest.raises(Invalid):
        await drive.auth.ask(SetQuota(OPERATOR, owner.id, -1))


async def test_user_who_is_unknown_cannot_be_changed(drive: GoDrive) -> None:
    nobody = UserId("nobody")
    for ask in (
        SetUserState(OPERATOR, nobody, UserState.ACTIVE),
        SetPassword(OPERATOR, nobody, PASSWORD),
        SetQuota(OPERATOR, nobody, 1),
    ):
        with pytest.raises(NotFound):
            await drive.auth.ask(ask)
    await drive.auth.ask(RemoveUser(OPERATOR, nobody))


async def test_removed_user_is_gone_at_once(drive: GoDrive, owner: User) -> None:
    tokens = await drive.auth.ask(LogIn(EMAIL, PASSWORD))
    await drive.auth.ask(Authenticate(tokens.token))
    for _ in range(2):
        await drive.auth.ask(RemoveUser(OPERATOR, owner.id))
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Authenticate(tokens.token))
    with pytest.raises(NotFound):
        await drive.auth.ask(FindUser(OPERATOR, EMAIL))


async def test_invite_is_good_for_one_sign_up_until_it_expires(drive_class: type[GoDrive], clock: ManualClock) -> None:
    async with open_drive(drive_class=drive_class, clock=clock, auth={"signup": "invite"}) as drive:
        codes = [await drive.auth.ask(Invite(OPERATOR, clock.now() + timedelta(days=1))) for _ in range(2)]
        await drive.auth.ask(SignUp(EMAIL, PASSWORD, codes[0]))
        with pytest.raises(Invalid):
            await drive.auth.ask(SignUp("bob@example.org", PASSWORD, codes[0]))
        clock.advance(86_400)
        with pytest.raises(Invalid):
            await drive.auth.ask(SignUp("bob@example.org", PASSWORD, codes[1]))
        code = await drive.auth.ask(Invite(OPERATOR))
        await drive.auth.ask(SignUp("bob@example.org", PASSWORD, code))


# The host application


async def test_user_of_the_host_is_made_once(drive: GoDrive) -> None:
    made = await asyncio.gather(*(ensure(drive, email=EMAIL) for _ in range(8)))
    assert made == [made[0]] * 8
    assert (made[0].external_id, made[0].email) == ("42", EMAIL)
    assert await ensure(drive, email="other@example.org") == made[0]
    assert await drive.auth.ask(FindUser(HOST, EMAIL)) == made[0]
    assert await ensure(drive, "43") != made[0]
    assert (await ensure(drive, "43")).email == ""
    assert (await ensure(drive, "44")).email == ""


async def test_user_of_the_host_does_not_take_over_the_account_of_their_address(drive: GoDrive, owner: User) -> None:
    with pytest.raises(EmailTaken):
        await ensure(drive, email=EMAIL)
    assert await drive.auth.ask(FindUser(HOST, EMAIL)) == owner


@pytest.mark.parametrize("external_id", ["", "x" * 256, "\ud800", "a\x00b"])
async def test_external_id_has_1_to_255_characters_that_can_be_stored(external_id: str) -> None:
    async with open_drive() as drive:
        with pytest.raises(Invalid):
            await ensure(drive, external_id)
        assert (await ensure(drive, "é" * 255)).external_id == "é" * 255


async def test_user_without_a_password_gets_in_by_the_host_only(drive: GoDrive) -> None:
    user = await ensure(drive, email=EMAIL)
    for password in ("", PASSWORD):
        with pytest.raises(Unauthenticated):
            await drive.auth.ask(LogIn(EMAIL, password))
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(LogIn("", PASSWORD))
    by = HostUser(user_id=user.id)
    tokens = await drive.auth.ask(BeginSession(by, address="192.0.2.1", user_agent="browser"))
    session = await drive.auth.ask(Authenticate(tokens.token))
    assert session.user_id == user.id
    assert await drive.auth.ask(GetUser(by)) == await drive.auth.ask(GetUser(session)) == user
    (listed,) = await drive.auth.ask(ListSessions(by))
    assert (listed.id, listed.address, listed.user_agent) == (session.session_id, "192.0.2.1", "browser")
    await drive.auth.ask(Refresh(tokens.refresh_token))
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(BeginSession(HostUser(user_id=UserId("nobody"))))
    await drive.auth.ask(EndSession(by, session.session_id))
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Authenticate(tokens.token))
    await drive.auth.ask(SetPassword(HOST, user.id, PASSWORD))
    await drive.auth.ask(LogIn(EMAIL, PASSWORD))


async def test_user_without_a_password_cannot_change_the_account(drive: GoDrive) -> None:
    user = await ensure(drive)
    tokens = await drive.auth.ask(BeginSession(HostUser(user_id=user.id)))
    session = await drive.auth.ask(Authenticate(tokens.token))
    for password in ("", PASSWORD):
        with pytest.raises(Forbidden):
            await drive.auth.ask(UpdateUser(session, password, email=EMAIL))


async def test_external_id_of_a_removed_user_is_free(drive: GoDrive) -> None:
    user = await ensure(drive)
    await drive.auth.ask(RemoveUser(HOST, user.id))
    assert (await ensure(drive)).id != user.id
