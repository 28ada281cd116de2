"""The auth actor: who gets in, who stays in, and who does not."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import anyio
import pytest

from godrive.actors import hashing
from godrive.actors.auth import AuthActor
from godrive.credentials import TokenSigner, check_password, cost_of, hash_password
from godrive.drive import GoDrive
from godrive.errors import (
    DriveError,
    EmailTaken,
    Forbidden,
    Invalid,
    NotFound,
    TooManyRequests,
    Unauthenticated,
)
from godrive.messages.auth import (
    Authenticate,
    DeleteUser,
    EndSession,
    GetUser,
    ListSessions,
    LogIn,
    LogOut,
    Refresh,
    SignUp,
    UpdateUser,
)
from godrive.model import SessionId, Tokens, User, UserId, UserState
from godrive.principal import HostUser, UserSession
from godrive.rules import users
from godrive.testing import ManualClock, open_drive, sign_up
from tests.cases import each

pytestmark = pytest.mark.anyio

EMAIL, PASSWORD = "ann@example.org", "correct horse"


async def log_in(drive: GoDrive, password: str = PASSWORD, email: str = EMAIL, **more: Any) -> Tokens:
    return await drive.auth.ask(LogIn(email, password, **more))


async def enter(drive: GoDrive, **more: Any) -> tuple[UserSession, Tokens]:
    tokens = await log_in(drive, **more)
    return await drive.auth.ask(Authenticate(tokens.token)), tokens


class Gate:
    """Holds every password check in its thread, from ``close`` until it is opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.opened.set()

    def close(self) -> None:
        self.opened.clear()
        self.busy = threading.Semaphore(0)

    def check(self, password: str, hashed: str) -> bool:
        if not self.opened.is_set():
            self.busy.release()
            assert self.opened.wait(30)
        return check_password(password, hashed)

    async def reached(self) -> None:
        """Return when one more check is held."""
        assert await anyio.to_thread.run_sync(self.busy.acquire, True, 30)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate()
    monkeypatch.setattr(hashing, "check_password", gate.check)
    yield gate
    gate.opened.set()


# Sign-up


async def test_who_signs_up_can_log_in_and_is_known_by_the_token(drive: GoDrive) -> None:
    user = await drive.auth.ask(SignUp(EMAIL, PASSWORD))
    assert (user.email, user.state, user.quota_bytes) == (EMAIL, UserState.ACTIVE, None)
    principal, _ = await enter(drive)
    assert principal.user_id == user.id
    assert await drive.auth.ask(GetUser(HostUser(user_id=user.id))) == user


@each(
    "email",
    ["", "ann", "@example.org", "ann@", "a nn@example.org", "ann@exa mple.org", "ann@@example.org", "ann@example..org",
     ".ann@example.org", "ann.@example.org", "a..n@example.org", "ann@-example.org", "ann@example-.org", "ann@.org",
     "ann@example.org\n", "ann\0@example.org", "ann@example.org\0", '"ann"@example.org', "ann@[127.0.0.1]",
     "ann <ann@example.org>", "a" * 65 + "@example.org", "a@" + "b" * 64 + ".org", "a@" + "b." * 127 + "org",
     "änn@example.org", "ann@ex\u202eample.org"],
)  # fmt: skip
async def test_what_is_not_an_email_address_is_refused_and_named(drive: GoDrive, email: str) -> None:
    with pytest.raises(Invalid) as caught:
        await drive.auth.ask(SignUp(email, PASSWORD))
    assert caught.value.field == "email"
    with pytest.raises(Unauthenticated):
        await log_in(drive, email=email)


@each(
    ("given", "kept"),
    [
        (" ann+drive@Example.ORG ", "ann+drive@example.org"),
        ("O'Brien@localhost", "O'Brien@localhost"),
        ("a" * 64 + "@" + ".".join(["b" * 61] * 3) + ".io", None),
        ("x@xn--bcher-kva.example", None),
    ],
)
async def test_address_is_kept_as_given_but_for_the_case_of_its_domain(
    drive: GoDrive, given: str, kept: str | None
) -> None:
    assert (await drive.auth.ask(SignUp(given, PASSWORD))).email == (kept or given)


async def test_address_is_taken_whatever_its_case(drive: GoDrive) -> None:
    await drive.auth.ask(SignUp("Ann@example.org", PASSWORD))
    with pytest.raises(EmailTaken):
        await drive.auth.ask(SignUp("aNN@EXAMPLE.org", PASSWORD))
    await log_in(drive, email="ANN@Example.Org")


@pytest.mark.parametrize("password", ["", "1234567", "é" * 7, "x" * 1025, "half a pair \ud800"])
async def test_password_that_is_too_short_or_long_or_no_text_is_refused_and_named(password: str) -> None:
    async with open_drive() as drive:
        with pytest.raises(Invalid) as caught:
            await drive.auth.ask(SignUp(EMAIL, password))
        assert caught.value.field == "password"


@pytest.mark.parametrize("password", ["12345678", "é" * 8, "é" * 1024, "nul\0inside", "\0" * 8, " spaces  "])
async def test_password_of_8_to_1024_characters_works_whole(drive: GoDrive, password: str) -> None:
    await drive.auth.ask(SignUp(EMAIL, password))
    await log_in(drive, password)
    with pytest.raises(Unauthenticated):
        await log_in(drive, password[:-1] + "!")


async def test_closed_sign_up_is_forbidden(drive_class: type[GoDrive]) -> None:
    async with open_drive(drive_class=drive_class, auth={"signup": "closed"}) as drive:
        with pytest.raises(Forbidden):
            await drive.auth.ask(SignUp(EMAIL, PASSWORD))


async def test_invite_lets_one_person_sign_up_once(drive_class: type[GoDrive], clock: ManualClock) -> None:
    async with open_drive(drive_class=drive_class, clock=clock, auth={"signup": "invite"}) as drive:
        code, now = secrets.token_urlsafe(16), clock.now()
        await drive.catalog.write(lambda tx: users.add_invite(tx, code, now=now, expires_at=now + timedelta(days=1)))
        for wrong in (None, "", "guess", code + "x"):
            with pytest.raises(Invalid) as caught:
                await drive.auth.ask(SignUp(EMAIL, PASSWORD, wrong))
            assert caught.value.field == "invite"
        await drive.auth.ask(SignUp(EMAIL, PASSWORD, code))
        with pytest.raises(Invalid):
            await drive.auth.ask(SignUp("bob@example.org", PASSWORD, code))


async def test_new_user_has_the_default_quota() -> None:
    async with open_drive(auth={"default_quota_bytes": 1000}) as drive:
        assert (await sign_up(drive)).quota_bytes == 1000


# Log-in


async def test_unknown_address_wrong_password_and_disabled_user_get_the_same_answer(
    drive: GoDrive, owner: User
) -> None:
    other = await drive.auth.ask(SignUp("bob@example.org", PASSWORD))
    await drive.catalog.write(lambda tx: users.set_state(tx, other.id, UserState.DISABLED, now=drive.clock.now()))
    answers = set()
    for email, password in (
        (EMAIL, "wrong horse"),
        ("nobody@example.org", PASSWORD),
        (other.email, PASSWORD),
        ("?", ""),
    ):
        with pytest.raises(Unauthenticated) as caught:
            await log_in(drive, password, email)
        answers.add((caught.value.detail, caught.value.field, caught.value.hint, caught.value.retry_after))
    assert len(answers) == 1


async def test_unknown_address_costs_as_many_rounds_of_the_hash_as_a_wrong_password(
    drive_class: type[GoDrive], monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: dict[str, int] = {}
    async with open_drive(drive_class=drive_class, auth={"bcrypt_cost": 6, "attempts_per_account": 1000}) as drive:
        await sign_up(drive)
        cheap = await drive.auth.ask(SignUp("cheap@example.org", PASSWORD))
        await drive.catalog.write(lambda tx: users.set_password(tx, cheap.id, hash_password(PASSWORD, 4)))
        for email in (EMAIL, cheap.email, "nobody@example.org", "nonsense"):
            rounds[email] = 0

            def count(password: str, hashed: str, email: str = email) -> bool:
                rounds[email] += 2 ** cost_of(hashed)
                return check_password(password, hashed)

            monkeypatch.setattr(hashing, "check_password", count)
            with pytest.raises(Unauthenticated):
                await log_in(drive, "wrong horse", email)
    assert set(rounds.values()) == {2**6}


async def test_password_over_a_megabyte_is_only_wrong(drive: GoDrive, owner: User) -> None:
    with pytest.raises(Unauthenticated):
        await log_in(drive, "x" * 1_000_000)


async def test_log_in_hashes_anew_when_the_cost_has_changed_and_keeps_sessions(drive: GoDrive) -> None:
    old = hash_password(PASSWORD, 5)
    now = drive.clock.now()
    user = await drive.catalog.write(lambda tx: users.add(tx, email=EMAIL, password_hash=old, now=now))
    _, first = await enter(drive)
    account = await drive.catalog.read(lambda tx: users.account(tx, user.id))
    assert account.password_hash.startswith("$2b$04$")
    assert check_password(PASSWORD, account.password_hash)
    await log_in(drive)
    await drive.auth.ask(Authenticate(first.token))


async def test_log_ins_at_once_after_a_change_of_cost_all_get_in(drive: GoDrive) -> None:
    old, now, entered = hash_password(PASSWORD, 5), drive.clock.now(), list[Tokens]()
    await drive.catalog.write(lambda tx: users.add(tx, email=EMAIL, password_hash=old, now=now))

    async def enter_at_once() -> None:
        entered.append(await log_in(drive))

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(enter_at_once)
    for tokens in entered:
        await drive.auth.ask(Authenticate(tokens.token))


async def test_password_changed_while_it_is_checked_opens_nothing(drive: GoDrive, owner: User, gate: Gate) -> None:
    gate.close()
    async with anyio.create_task_group() as tasks:

        async def refused() -> None:
            with pytest.raises(Unauthenticated):
                await log_in(drive)

        tasks.start_soon(refused)
        await gate.reached()
        await drive.catalog.write(lambda tx: users.set_password(tx, owner.id, hash_password("another horse", 4)))
        gate.opened.set()


# Limits


async def test_wrong_passwords_are_limited_by_account_with_the_exact_time_to_wait(
    drive: GoDrive, owner: User, clock: ManualClock
) -> None:
    for _ in range(10):
        with pytest.raises(Unauthenticated):
            await log_in(drive, "wrong horse")
        clock.advance(1.0)
    with pytest.raises(TooManyRequests) as caught:
        await log_in(drive)
    assert caught.value.retry_after == pytest.approx(50.0)
    clock.advance(49.5)
    with pytest.raises(TooManyRequests) as caught:
        await log_in(drive, email=EMAIL.upper())
    assert caught.value.retry_after == pytest.approx(0.5)
    clock.advance(0.5)
    await log_in(drive)


async def test_address_of_nobody_is_limited_like_that_of_somebody(drive: GoDrive) -> None:
    for _ in range(10):
        with pytest.raises(Unauthenticated):
            await log_in(drive, email="nobody@example.org")
    with pytest.raises(TooManyRequests):
        await log_in(drive, email="nobody@example.org")


async def test_right_password_does_not_count_against_the_account(drive: GoDrive, owner: User) -> None:
    for _ in range(15):
        await log_in(drive)


async def test_many_guesses_at_once_are_no_more_than_many_in_a_row(drive: GoDrive, owner: User) -> None:
    outcomes: list[type[DriveError]] = []

    async def guess_once() -> None:
        try:
            await log_in(drive, "wrong horse")
        except DriveError as error:
            outcomes.append(type(error))

    async with anyio.create_task_group() as tasks:
        for _ in range(40):
            tasks.start_soon(guess_once)
    assert outcomes.count(Unauthenticated) == 10
    assert outcomes.count(TooManyRequests) == 30


async def guess(drive: GoDrive, address: str, *, email: str = EMAIL, times: int = 1) -> None:
    """Fail to log in from that address."""
    for _ in range(times):
        with pytest.raises(Unauthenticated):
            await log_in(drive, "wrong horse", email, address=address)


async def test_failures_and_sign_ups_of_an_address_are_limited_and_right_passwords_are_not(
    drive_class: type[GoDrive], clock: ManualClock
) -> None:
    async with open_drive(drive_class=drive_class, clock=clock, auth={"attempts_per_address": 3}) as drive:
        await sign_up(drive)
        for _ in range(6):
            await log_in(drive, address="192.0.2.1")
        await drive.auth.ask(SignUp("bob@example.org", PASSWORD, address="192.0.2.1"))
        await guess(drive, "192.0.2.1", email="bob@example.org")
        await guess(drive, "::ffff:192.0.2.1", email="nobody@example.org")
        with pytest.raises(TooManyRequests):
            await drive.auth.ask(SignUp("c@example.org", PASSWORD, address="192.0.2.1"))
        with pytest.raises(TooManyRequests) as caught:
            await log_in(drive, email="bob@example.org", address="192.0.2.1")
        assert caught.value.retry_after == 60.0
        await log_in(drive, address="192.0.2.1")  # a session of this account came from there
        await log_in(drive, email="bob@example.org", address="192.0.2.2")
        clock.advance(60.0)
        await log_in(drive, email="bob@example.org", address="192.0.2.1")


async def test_addresses_of_one_ipv6_network_are_one_and_those_of_a_customer_are_limited_too(
    drive_class: type[GoDrive],
) -> None:
    settings = {"attempts_per_address": 2, "attempts_per_account": 100}
    async with open_drive(drive_class=drive_class, auth=settings) as drive:
        await sign_up(drive)
        await guess(drive, "2001:db8::1")
        await guess(drive, "2001:db8::ffff:2")
        with pytest.raises(TooManyRequests):
            await log_in(drive, address="2001:db8:0:0:1::")
        for number in range(1, 8):
            await guess(drive, f"2001:db8:0:{number:x}::1", times=2)
        with pytest.raises(TooManyRequests):
            await log_in(drive, address="2001:db8:0:ffff::1")
        await log_in(drive, address="2001:db8:1::1")


async def test_one_attacker_keeps_no_one_out_from_elsewhere(drive: GoDrive, owner: User, clock: ManualClock) -> None:
    for _ in range(30):
        with pytest.raises((Unauthenticated, TooManyRequests)):
            await log_in(drive, "wrong horse", address="203.0.113.9")
        await log_in(drive, address="192.0.2.1")
        clock.advance(5.5)


async def test_account_under_attack_from_many_addresses_delays_strangers_and_not_its_owner(
    drive: GoDrive, owner: User, clock: ManualClock
) -> None:
    principal, tokens = await enter(drive, address="2001:db8::1")
    clock.advance(86_400)
    renewed = await drive.auth.ask(Refresh(tokens.refresh_token, "192.0.2.1"))
    await drive.auth.ask(EndSession(principal, principal.session_id))
    clock.advance(29 * 86_400)
    await log_in(drive, address="198.51.100.1")

    async def attack() -> None:
        for number in range(10):
            await guess(drive, f"203.0.113.{number}", times=3)

    await attack()
    for stranger in ("198.51.100.2", "203.0.113.99", ""):
        with pytest.raises(TooManyRequests):
            await log_in(drive, address=stranger)
    for known in ("192.0.2.1", "198.51.100.1"):
        await log_in(drive, address=known)
    with pytest.raises(TooManyRequests):  # the last session from there was 30 days ago
        await log_in(drive, address="2001:db8::2")
    principal = await drive.auth.ask(Authenticate((await log_in(drive, address="192.0.2.1")).token))
    await drive.auth.ask(UpdateUser(principal, PASSWORD, password="another horse", address="203.0.113.1"))
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Refresh(renewed.refresh_token))
    clock.advance(60)
    await log_in(drive, "another horse", address="198.51.100.2")


async def test_known_address_may_guess_more_and_not_without_end(drive: GoDrive, owner: User) -> None:
    await log_in(drive, address="192.0.2.1")
    await guess(drive, "192.0.2.1", times=29)
    await log_in(drive, address="192.0.2.1")
    await guess(drive, "192.0.2.1")
    with pytest.raises(TooManyRequests):
        await log_in(drive, address="192.0.2.1")


async def test_stranger_address_may_guess_as_often_as_the_account_allows(drive: GoDrive, owner: User) -> None:
    await log_in(drive, address="192.0.2.1")
    await guess(drive, "192.0.2.2", times=10)
    with pytest.raises(TooManyRequests):
        await log_in(drive, address="192.0.2.2")
    for address in ("192.0.2.1", "192.0.2.3"):
        await log_in(drive, address=address)


async def test_all_spellings_of_an_address_share_one_limit(drive: GoDrive) -> None:
    spellings = ["ann@bücher.example", "ANN@BÜCHER.example", "ann@xn--bcher-kva.example", " Ann@XN--bcher-KVA.example "]
    await drive.auth.ask(SignUp(spellings[0], PASSWORD))
    for number in range(10):
        await guess(drive, "192.0.2.1", email=spellings[number % 4])
    for email in spellings:
        with pytest.raises(TooManyRequests):
            await log_in(drive, email=email, address="192.0.2.1")
        await log_in(drive, email=email, address="192.0.2.2")


async def test_confirming_with_a_wrong_password_is_limited_too(drive: GoDrive, owner: User) -> None:
    principal, _ = await enter(drive)
    for _ in range(10):
        with pytest.raises(Forbidden):
            await drive.auth.ask(DeleteUser(principal, "wrong horse"))
    with pytest.raises(TooManyRequests):
        await drive.auth.ask(UpdateUser(principal, PASSWORD, email="b@example.org"))


async def test_strangers_and_other_sessions_keep_nobody_from_another_password(drive: GoDrive, owner: User) -> None:
    principal, _ = await enter(drive)
    stolen, _ = await enter(drive)
    await guess(drive, "", times=10)
    for _ in range(10):
        with pytest.raises(Forbidden):
            await drive.auth.ask(UpdateUser(stolen, "wrong horse", password="another horse"))
    for refused in (log_in(drive), drive.auth.ask(UpdateUser(stolen, PASSWORD, password="another horse"))):
        with pytest.raises(TooManyRequests):
            await refused
    await drive.auth.ask(UpdateUser(principal, PASSWORD, password="another horse"))


async def test_right_password_of_a_disabled_account_counts_like_a_wrong_one(drive: GoDrive, owner: User) -> None:
    now = drive.clock.now()
    await drive.catalog.write(lambda tx: users.set_state(tx, owner.id, UserState.DISABLED, now=now))
    for _ in range(10):
        with pytest.raises(Unauthenticated):
            await log_in(drive)
    with pytest.raises(TooManyRequests):
        await log_in(drive)


# What the log says


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger="godrive.auth")
    return caplog


async def test_failed_log_in_is_one_line_with_address_and_reason(
    drive: GoDrive, owner: User, warnings: pytest.LogCaptureFixture
) -> None:
    disabled = await drive.auth.ask(SignUp("bob@example.org", PASSWORD))
    now = drive.clock.now()
    await drive.catalog.write(lambda tx: users.set_state(tx, disabled.id, UserState.DISABLED, now=now))
    await guess(drive, "203.0.113.9")
    await guess(drive, "2001:db8::9", email="nobody@example.org")
    await guess(drive, "203.0.113.9\nreason='forged'", email="not an address")
    with pytest.raises(Unauthenticated):
        await log_in(drive, email="bob@example.org", address="203.0.113.8")
    await guess(drive, "203.0.113.9", times=9)
    with pytest.raises(TooManyRequests):
        await log_in(drive, address="203.0.113.9")
    await log_in(drive, address="192.0.2.1")
    lines = [record.getMessage() for record in warnings.records]
    known = f"user='{owner.id}' tried='{EMAIL}'"
    assert lines == [
        f"event='log_in_failed' address='203.0.113.9' reason='wrong_password' {known}",
        "event='log_in_failed' address='2001:db8::9' reason='unknown_user' tried='nobody@example.org'",
        "event='log_in_failed' address='203.0.113.9?reason??forged?' reason='unknown_user'",
        f"event='log_in_failed' address='203.0.113.8' reason='user_disabled' "
        f"user='{disabled.id}' tried='bob@example.org'",
        *[f"event='log_in_failed' address='203.0.113.9' reason='wrong_password' {known}"] * 9,
        f"event='log_in_failed' address='203.0.113.9' reason='too_many_attempts' {known}",
    ]


async def test_proxy_that_is_not_trusted_is_reported_once(drive: GoDrive, warnings: pytest.LogCaptureFixture) -> None:
    for name in ("ann", "bob", "eve", "dan"):
        email = f"{name}@example.org"
        await drive.auth.ask(SignUp(email, PASSWORD))
        await log_in(drive, email=email, address="10.0.0.2")  # no header: many people behind one address
        for _ in range(2):
            await log_in(drive, email=email, address="10.0.0.1", forwarded=True)
        assert len(warnings.records) == (name in ("eve", "dan"))
    assert "event='proxy_not_trusted' address='10.0.0.1'" in warnings.text
    assert "server.trusted_proxies" in warnings.text


# Tokens and sessions


async def test_access_token_ends_when_it_says_so(drive: GoDrive, owner: User, clock: ManualClock) -> None:
    _, tokens = await enter(drive)
    clock.advance((tokens.expires_at - clock.now()).total_seconds() - 0.001)
    await drive.auth.ask(Authenticate(tokens.token))
    clock.advance(0.001)
    for _ in range(2):
        with pytest.raises(Unauthenticated):
            await drive.auth.ask(Authenticate(tokens.token))


@each("token", ["", "x", "a.b.c", "Bearer x", "\0", "é"])
async def test_token_that_is_none_is_refused(drive: GoDrive, token: str) -> None:
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Authenticate(token))
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Refresh(token))


async def test_token_of_one_use_is_refused_for_the_other(drive: GoDrive, owner: User) -> None:
    tokens = await log_in(drive)
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Authenticate(tokens.refresh_token))
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Refresh(tokens.token))


async def test_genuine_token_of_a_session_that_never_was_is_refused(drive: GoDrive, owner: User) -> None:
    signer = TokenSigner(drive.keyring, issuer="godrive", audience="godrive")
    principal = UserSession(user_id=owner.id, session_id=SessionId("never"))
    token, _ = signer.access(principal, now=drive.clock.now(), ttl=60)
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Authenticate(token))


async def test_refresh_renews_the_session_for_its_full_time(drive: GoDrive, owner: User, clock: ManualClock) -> None:
    principal, tokens = await enter(drive)
    clock.advance(29 * 86_400)
    renewed = await drive.auth.ask(Refresh(tokens.refresh_token))
    assert await drive.auth.ask(Authenticate(renewed.token)) == principal
    clock.advance(29 * 86_400)
    again = await drive.auth.ask(Refresh(renewed.refresh_token))
    assert again.refresh_expires_at - clock.now() > timedelta(days=29, hours=23)
    clock.advance(31 * 86_400)
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Refresh(again.refresh_token))


async def test_lost_answer_to_a_refresh_is_given_again_for_30_seconds(
    drive: GoDrive, owner: User, clock: ManualClock
) -> None:
    principal, tokens = await enter(drive)
    renewed = await drive.auth.ask(Refresh(tokens.refresh_token, "192.0.2.1", "browser"))
    clock.advance(29.5)
    again = await drive.auth.ask(Refresh(tokens.refresh_token, "198.51.100.9", "browser"))
    assert again.refresh_token == renewed.refresh_token
    assert await drive.auth.ask(Authenticate(again.token)) == principal
    assert await drive.auth.ask(Authenticate(renewed.token)) == principal
    await drive.auth.ask(Refresh(again.refresh_token, "192.0.2.1", "browser"))
    sessions = await drive.auth.ask(ListSessions(HostUser(user_id=owner.id)))
    assert [session.id for session in sessions] == [principal.session_id]


@pytest.mark.parametrize(("later", "user_agent"), [(31.0, "browser"), (0.0, "thief"), (0.0, "")])
async def test_refresh_token_reused_late_or_by_another_client_ends_the_whole_session(
    drive: GoDrive, owner: User, clock: ManualClock, later: float, user_agent: str
) -> None:
    _, tokens = await enter(drive)
    renewed = await drive.auth.ask(Refresh(tokens.refresh_token, user_agent="browser"))
    await drive.auth.ask(Authenticate(renewed.token))
    clock.advance(later)
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Refresh(tokens.refresh_token, user_agent=user_agent))
    for token in (tokens.token, renewed.token):
        with pytest.raises(Unauthenticated):
            await drive.auth.ask(Authenticate(token))
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Refresh(renewed.refresh_token, user_agent="browser"))


async def test_refresh_token_before_the_predecessor_ends_the_session(drive: GoDrive, owner: User) -> None:
    _, tokens = await enter(drive)
    second = await drive.auth.ask(Refresh(tokens.refresh_token))
    third = await drive.auth.ask(Refresh(second.refresh_token))
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Refresh(tokens.refresh_token))
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Refresh(third.refresh_token))


async def test_refreshes_at_once_get_the_same_refresh_token(drive: GoDrive, owner: User) -> None:
    _, tokens = await enter(drive)
    renewed: list[str] = []

    async def refresh() -> None:
        renewed.append((await drive.auth.ask(Refresh(tokens.refresh_token))).refresh_token)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(refresh)
    assert len(renewed) == 8
    assert len(set(renewed)) == 1
    await drive.auth.ask(Refresh(renewed[0]))


async def log_out(drive: GoDrive, principal: UserSession) -> None:
    await drive.auth.ask(LogOut(principal))


async def end_session(drive: GoDrive, principal: UserSession) -> None:
    await drive.auth.ask(EndSession(principal, principal.session_id))


async def change_password_elsewhere(drive: GoDrive, principal: UserSession) -> None:
    other = await drive.auth.ask(Authenticate((await log_in(drive)).token))
    await drive.auth.ask(UpdateUser(other, PASSWORD, password="another horse"))


async def delete_user(drive: GoDrive, principal: UserSession) -> None:
    await drive.auth.ask(DeleteUser(principal, PASSWORD))


@pytest.mark.parametrize("end", [log_out, end_session, change_password_elsewhere, delete_user])
async def test_session_that_is_ended_is_refused_at_once(
    drive: GoDrive, owner: User, end: Callable[[GoDrive, UserSession], Any]
) -> None:
    principal, tokens = await enter(drive)
    await end(drive, principal)
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Authenticate(tokens.token))
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Refresh(tokens.refresh_token))


@pytest.mark.parametrize("how", ["disable", "password"])
async def test_what_is_changed_behind_the_actor_s_back_counts_within_a_second(
    drive: GoDrive, owner: User, clock: ManualClock, how: str
) -> None:
    _, tokens = await enter(drive)
    if how == "disable":
        await drive.catalog.write(lambda tx: users.set_state(tx, owner.id, UserState.DISABLED, now=drive.clock.now()))
    else:
        await drive.catalog.write(lambda tx: users.set_password(tx, owner.id, hash_password("other one", 4)))
    clock.advance(1.0)
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Authenticate(tokens.token))


async def test_disabled_user_who_is_enabled_again_logs_in_anew(drive: GoDrive, owner: User, clock: ManualClock) -> None:
    _, tokens = await enter(drive)
    await drive.catalog.write(lambda tx: users.set_state(tx, owner.id, UserState.DISABLED, now=drive.clock.now()))
    await drive.catalog.write(lambda tx: users.set_state(tx, owner.id, UserState.ACTIVE, now=drive.clock.now()))
    clock.advance(1.0)
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Authenticate(tokens.token))
    await enter(drive)


async def test_logging_out_again_is_harmless(drive: GoDrive, owner: User) -> None:
    principal, _ = await enter(drive)
    await drive.auth.ask(LogOut(principal))
    await drive.auth.ask(LogOut(principal))


async def test_sessions_are_listed_most_recently_used_first(drive: GoDrive, owner: User, clock: ManualClock) -> None:
    first, tokens = await enter(drive, address="192.0.2.1", user_agent="one")
    clock.advance(1)
    second, _ = await enter(drive, address="192.0.2.2", user_agent="two")
    clock.advance(1)
    await drive.auth.ask(Refresh(tokens.refresh_token, "192.0.2.3"))
    sessions = await drive.auth.ask(ListSessions(HostUser(user_id=owner.id)))
    assert [session.id for session in sessions] == [first.session_id, second.session_id]
    assert [(session.address, session.user_agent) for session in sessions] == [
        ("192.0.2.3", "one"),
        ("192.0.2.2", "two"),
    ]


async def test_session_of_another_user_cannot_be_ended(drive: GoDrive, owner: User) -> None:
    principal, tokens = await enter(drive)
    other = await drive.auth.ask(SignUp("bob@example.org", PASSWORD))
    with pytest.raises(NotFound):
        await drive.auth.ask(EndSession(HostUser(user_id=other.id), principal.session_id))
    await drive.auth.ask(Authenticate(tokens.token))


# Changing and deleting


async def test_new_password_ends_every_session_but_the_one_that_changed_it(drive: GoDrive, owner: User) -> None:
    principal, tokens = await enter(drive)
    _, other = await enter(drive)
    await drive.auth.ask(UpdateUser(principal, PASSWORD, password="another horse"))
    assert await drive.auth.ask(Authenticate(tokens.token)) == principal
    await drive.auth.ask(Refresh(tokens.refresh_token))
    with pytest.raises(Unauthenticated):
        await drive.auth.ask(Authenticate(other.token))
    with pytest.raises(Unauthenticated):
        await log_in(drive)
    await log_in(drive, "another horse")


async def test_address_is_changed_unless_somebody_has_it(drive: GoDrive, owner: User) -> None:
    principal, tokens = await enter(drive)
    await drive.auth.ask(SignUp("bob@example.org", PASSWORD))
    with pytest.raises(EmailTaken):
        await drive.auth.ask(UpdateUser(principal, PASSWORD, email="BOB@example.org", password="another horse"))
    await log_in(drive)  # nothing has changed
    assert (await drive.auth.ask(UpdateUser(principal, PASSWORD, email="eve@example.org"))).email == "eve@example.org"
    await drive.auth.ask(Authenticate(tokens.token))
    await log_in(drive, email="eve@example.org")


@pytest.mark.parametrize(("change", "field"), [({"email": "nonsense"}, "email"), ({"password": "short"}, "password")])
async def test_change_to_something_invalid_names_the_field(
    drive: GoDrive, owner: User, change: dict[str, str], field: str
) -> None:
    principal, _ = await enter(drive)
    with pytest.raises(Invalid) as caught:
        await drive.auth.ask(UpdateUser(principal, PASSWORD, **change))
    assert caught.value.field == field


async def change_password(drive: GoDrive, principal: UserSession) -> None:
    await drive.auth.ask(UpdateUser(principal, PASSWORD, password="yet another horse"))


@pytest.mark.parametrize("act", [change_password, delete_user])
async def test_password_changed_while_it_is_confirmed_changes_and_deletes_nothing(
    drive: GoDrive, owner: User, act: Callable[[GoDrive, UserSession], Any], gate: Gate
) -> None:
    principal, _ = await enter(drive)
    gate.close()
    async with anyio.create_task_group() as tasks:

        async def refused() -> None:
            with pytest.raises(Unauthenticated):
                await act(drive, principal)

        tasks.start_soon(refused)
        await gate.reached()
        await drive.catalog.write(lambda tx: users.set_password(tx, owner.id, hash_password("another horse", 4)))
        gate.opened.set()
    await log_in(drive, "another horse")


async def test_wrong_password_changes_and_deletes_nothing(drive: GoDrive, owner: User) -> None:
    principal, tokens = await enter(drive)
    with pytest.raises(Forbidden):
        await drive.auth.ask(UpdateUser(principal, "wrong horse", password="another horse"))
    with pytest.raises(Forbidden):
        await drive.auth.ask(DeleteUser(principal, "wrong horse"))
    await drive.auth.ask(Authenticate(tokens.token))
    await log_in(drive)


async def test_deleted_user_is_gone_and_the_address_is_free(drive: GoDrive, owner: User) -> None:
    principal, _ = await enter(drive)
    await drive.auth.ask(DeleteUser(principal, PASSWORD))
    with pytest.raises(NotFound):
        await drive.auth.ask(GetUser(HostUser(user_id=owner.id)))
    with pytest.raises(Unauthenticated):
        await log_in(drive)
    assert (await sign_up(drive)).id != owner.id


async def test_user_who_is_unknown_is_not_found(drive: GoDrive) -> None:
    with pytest.raises(NotFound):
        await drive.auth.ask(GetUser(HostUser(user_id=UserId("nobody"))))


# Hashing


async def test_storm_of_log_ins_delays_nobody_who_is_in_and_is_bounded(drive_class: type[GoDrive], gate: Gate) -> None:
    settings = {"hash_threads": 2, "hash_waiting": 4, "attempts_per_account": 1000}
    async with open_drive(drive_class=drive_class, auth=settings) as drive:
        await sign_up(drive)
        principal, tokens = await enter(drive)
        gate.close()
        outcomes: list[type[DriveError] | None] = []
        turned_away = anyio.Event()

        async def try_to_log_in() -> None:
            try:
                await log_in(drive)
                outcomes.append(None)
            except DriveError as error:
                outcomes.append(type(error))
                if len(outcomes) == 44:
                    turned_away.set()

        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(try_to_log_in)
            for _ in range(2):  # both threads are taken
                await gate.reached()
            with anyio.fail_after(30):
                await turned_away.wait()
                assert outcomes == [TooManyRequests] * 44
                for _ in range(100):
                    assert await drive.auth.ask(Authenticate(tokens.token)) == principal
                assert await drive.auth.ask(ListSessions(HostUser(user_id=principal.user_id)))
            gate.opened.set()
        assert outcomes.count(None) == 6


async def test_attempt_that_was_turned_away_unchecked_does_not_count(gate: Gate) -> None:
    settings = {"hash_threads": 1, "hash_waiting": 0, "attempts_per_account": 2}
    async with open_drive(auth=settings) as drive, anyio.create_task_group() as tasks:
        await sign_up(drive)
        gate.close()
        tasks.start_soon(log_in, drive)
        await gate.reached()
        for _ in range(5):
            with pytest.raises(TooManyRequests, match="passwords"):
                await log_in(drive)
        gate.opened.set()


async def test_memory_of_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    actors: list[AuthActor] = []
    authenticate = AuthActor.handlers[Authenticate]

    async def watched(actor: AuthActor, ask: Authenticate) -> UserSession:
        actors.append(actor)
        session: UserSession = await authenticate(actor, ask)
        return session

    monkeypatch.setattr("godrive.actors.auth._CACHED_TOKENS", 3)
    handlers: dict[Any, Any] = AuthActor.handlers
    monkeypatch.setitem(handlers, Authenticate, watched)
    async with open_drive() as drive:
        await sign_up(drive)
        entered = [await enter(drive) for _ in range(5)]
        for principal, tokens in entered * 2:
            assert await drive.auth.ask(Authenticate(tokens.token)) == principal
    assert len(actors[0]._verified) == 3


async def test_hashing_runs_below_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    seen: list[int] = []

    def look(password: str, hashed: str) -> bool:
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        return check_password(password, hashed)

    monkeypatch.setattr(hashing, "check_password", look)
    async with open_drive() as drive:
        await sign_up(drive)
        await log_in(drive)
    ours = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    assert seen == [min(ours + 10, 19)]
