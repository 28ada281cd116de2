"""Accounts: one for each address, and what ends with them."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from godrive.catalog import Row, Tx
from godrive.catalog.sqlite import SqliteCatalog
from godrive.errors import Conflict, EmailTaken, Gone, Invalid, NotFound
from godrive.messages.clock import NoteClock
from godrive.messages.files import GetFile, OpenContent
from godrive.messages.idempotency import ClaimKey
from godrive.messages.system import ClaimPurges, DueCleanups, FinishCleanup, Prune
from godrive.messages.uploads import AbortUpload, GetUpload, TouchUpload
from godrive.model import FileId, UploadId, UserId, UserState
from godrive.principal import SignedUrl, UserSession, Verb
from godrive.rules import networks, sessions, upload_chores, users
from tests.cases import each
from tests.contracts.rig import GRACE, SERVER, TTL, Rig, host

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("given", "kept", "other"),
    [
        (" Ann@Example.org ", "Ann@example.org", "aNN@example.ORG"),
        ("ann@bücher.example", "ann@xn--bcher-kva.example", "ANN@XN--BCHER-KVA.example"),
        ("ann@xn--bcher-kva.example", "ann@xn--bcher-kva.example", "ann@bu\u0308cher.example"),
        ("Änn@example.org", "Änn@example.org", "a\u0308nn@example.org"),
    ],
)
async def test_all_spellings_of_an_address_are_one_account(rig: Rig, given: str, kept: str, other: str) -> None:
    owner = await rig.user(given)
    assert (await rig.read(users.get, owner)).email == kept
    with pytest.raises(EmailTaken):
        await rig.user(other)
    bob = await rig.user("bob@example.org")
    with pytest.raises(EmailTaken):
        await rig.write(users.set_email, bob, other)
    account = await rig.read(users.find, other)
    assert account is not None
    assert account.user.id == owner


async def test_of_two_users_who_take_one_address_at_once_one_gets_it(rig: Rig) -> None:
    owners = [await rig.user() for _ in range(8)]
    changes = (rig.write(users.set_email, owner, "ann@example.org") for owner in owners)
    outcomes = await asyncio.gather(*changes, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes].count(EmailTaken) == len(owners) - 1
    account = await rig.read(users.find, "ann@example.org")
    assert account is not None
    assert account.user in outcomes


async def test_what_is_no_address_finds_nobody(rig: Rig) -> None:
    await rig.user("ann@example.org")
    for text in ("", "ann", "@", "ann@", "\x00", "\ud800@b.c", "x" * 10_000):
        assert await rig.read(users.find, text) is None


async def test_a_user_of_the_host_application_is_made_once(rig: Rig) -> None:
    made = await asyncio.gather(
        *(rig.write(users.ensure, external_id="42", email="ann@example.org", now=rig.now) for _ in range(8))
    )
    assert made == [made[0]] * 8
    assert [user.id for user in await rig.read(users.list_after)] == [made[0].id]
    with pytest.raises(EmailTaken):
        await rig.write(users.ensure, external_id="43", email="ANN@example.org", now=rig.now)
    for external_id in ("44", "45"):  # without an address
        assert (await rig.write(users.ensure, external_id=external_id, now=rig.now)).email == ""
    await rig.write(users.delete, made[0].id, now=rig.now)
    assert (await rig.write(users.ensure, external_id="42", now=rig.now)).id != made[0].id


async def test_the_highest_cost_is_that_of_any_hash(rig: Rig) -> None:
    assert await rig.read(users.highest_cost) == 0
    for cost in (4, 12, 9):
        user = await rig.user()
        await rig.write(users.set_password, user, f"$2b${cost:02}$rest")
    await rig.user()
    assert await rig.read(users.highest_cost) == 12


@each("email", ["", "a", "a@", "@b", "a b@c.d", "a@b@c", "a@b..c", "a@b\n.c", "x" * 65 + "@b.c", "a\x00@b.c"])
async def test_what_is_no_address_is_refused(rig: Rig, email: str) -> None:
    with pytest.raises(Invalid) as caught:
        await rig.user(email)
    assert caught.value.field == "email"


async def test_an_invitation_works_once_and_only_until_it_expires(rig: Rig) -> None:
    soon = rig.now + timedelta(seconds=10)
    await rig.write(users.add_invite, "code", now=rig.now)
    await rig.write(users.add_invite, "short", now=rig.now, expires_at=soon)
    await rig.write(users.add, email="a@b.c", password_hash="x", now=rig.now, invite="code")
    for code in ("code", "nonsense"):
        with pytest.raises(Invalid) as caught:
            await rig.write(users.add, email="d@e.f", password_hash="x", now=rig.now, invite=code)
        assert caught.value.field == "invite"
    rig.clock.advance(10)
    with pytest.raises(Invalid):
        await rig.write(users.add, email="d@e.f", password_hash="x", now=rig.now, invite="short")


async def test_an_invitation_is_not_spent_by_a_sign_up_that_fails(rig: Rig) -> None:
    await rig.user("a@b.c")
    await rig.write(users.add_invite, "code", now=rig.now)
    with pytest.raises(EmailTaken):
        await rig.write(users.add, email="a@b.c", password_hash="x", now=rig.now, invite="code")
    await rig.write(users.add, email="d@e.f", password_hash="x", now=rig.now, invite="code")


async def test_an_invitation_code_is_given_out_once(rig: Rig) -> None:
    await rig.write(users.add_invite, "code", now=rig.now)
    with pytest.raises(Conflict):
        await rig.write(users.add_invite, "code", now=rig.now)


async def test_users_are_listed_in_pages(rig: Rig) -> None:
    made = sorted([await rig.user() for _ in range(5)])
    first = await rig.read(users.list_after, limit=3)
    rest = await rig.read(users.list_after, after=first[-1].id, limit=3)
    assert [user.id for user in first + rest] == made


async def test_a_changed_address_frees_the_old_one(rig: Rig) -> None:
    ann, bob = await rig.user("ann@b.c"), await rig.user("bob@b.c")
    with pytest.raises(EmailTaken):
        await rig.write(users.set_email, ann, "BOB@b.c")
    assert (await rig.write(users.set_email, ann, "Ann@b.c")).email == "Ann@b.c"
    await rig.write(users.set_email, ann, "anna@b.c")
    assert (await rig.write(users.set_email, bob, "ann@b.c")).email == "ann@b.c"


async def test_disabling_ends_sessions_and_hides_content_until_enabled(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    session = await rig.write(sessions.begin, owner, now=rig.now, ttl=100)
    assert (await rig.write(users.set_state, owner, UserState.DISABLED, now=rig.now)).state is UserState.DISABLED
    principal = UserSession(user_id=owner, session_id=session.id)
    assert not await rig.read(sessions.is_alive, principal, now=rig.now)
    url = SignedUrl(user_id=owner, verb=Verb.READ, target_id=file.id)
    for by in (host(owner), url):
        with pytest.raises(NotFound):
            await rig.ask(OpenContent(by=by, file_id=file.id, version_id=file.version_id))
    with pytest.raises(NotFound):
        await rig.begin(owner, "b.txt")
    await rig.write(users.set_state, owner, UserState.ACTIVE, now=rig.now)
    assert (await rig.ask(OpenContent(by=url, file_id=file.id, version_id=file.version_id))).file == file
    assert not await rig.read(sessions.is_alive, principal, now=rig.now)


async def test_disabling_ends_the_uploads_whose_signed_urls_are_out(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    upload, foreign = await rig.begin(owner), await rig.begin(other)
    await rig.write(users.set_state, owner, UserState.DISABLED, now=rig.now)
    assert await rig.ask(GetUpload(by=SERVER, upload_id=foreign.id)) == foreign
    with pytest.raises(Gone):
        await rig.ask(TouchUpload(by=SERVER, upload_id=upload.id, received_bytes=1))
    with pytest.raises(Gone):
        await rig.publish(upload)
    assert (await rig.usage(owner)).reserved_bytes == await rig.drift() == 0
    assert [cleanup.upload_id for cleanup in await rig.ask(DueCleanups(limit=9))] == [upload.id]


async def test_a_state_cannot_be_set_to_deleted(rig: Rig) -> None:
    owner = await rig.user()
    with pytest.raises(Conflict):
        await rig.write(users.set_state, owner, UserState.DELETED, now=rig.now)


async def test_a_quota_below_the_usage_deletes_nothing(rig: Rig) -> None:
    owner = await rig.user()
    await rig.file(owner, size=100)
    assert (await rig.write(users.set_quota, owner, 10)).quota_bytes == 10
    assert await rig.names(owner) == ["a.txt"]
    with pytest.raises(Invalid):
        await rig.write(users.set_quota, owner, -1)


async def test_a_hash_is_renewed_only_while_the_password_is_the_same(rig: Rig) -> None:
    owner = await rig.user()
    await rig.write(users.refresh_hash, owner, before="other", after="new")
    assert (await rig.read(users.account, owner)).password_hash == "hash"
    await rig.write(users.refresh_hash, owner, before="hash", after="new")
    assert (await rig.read(users.account, owner)).password_hash == "new"


async def test_deleting_a_user_ends_all_that_is_theirs(rig: Rig) -> None:
    owner = await rig.user("a@b.c")
    file, binned = await rig.file(owner), await rig.file(owner, "b.txt")
    await rig.trash(binned)
    upload = await rig.begin(owner, "c.txt")
    session = await rig.write(sessions.begin, owner, now=rig.now, ttl=100)
    await rig.write(users.delete, owner, now=rig.now)
    await rig.write(users.delete, owner, now=rig.now)

    assert not await rig.read(sessions.is_alive, UserSession(user_id=owner, session_id=session.id), now=rig.now)
    for lookup in (users.get, users.account):
        with pytest.raises(NotFound):
            await rig.read(lookup, owner)
    for by in (host(owner), SignedUrl(user_id=owner, verb=Verb.READ, target_id=file.id)):
        with pytest.raises(NotFound):
            await rig.ask(OpenContent(by=by, file_id=file.id, version_id=file.version_id))
    with pytest.raises(Gone):
        await rig.publish(upload)
    assert await rig.read(users.find, "a@b.c") is None
    await rig.user("a@b.c")
    assert await rig.drift() == 0

    purges = await rig.purge_all()
    assert {purge.file_id for purge in purges} == {file.id, binned.id}
    assert all(len(purge.object_keys) == 1 for purge in purges)
    assert await rig.drift() == 0


async def test_nothing_is_kept_that_tells_who_a_deleted_user_was(rig: Rig) -> None:
    owner = (await rig.write(users.ensure, external_id="42", email="a@b.c", now=rig.now)).id
    await rig.write(sessions.begin, owner, now=rig.now, ttl=100, address="192.0.2.1")
    await rig.ask(ClaimKey(by=host(owner), key="key", fingerprint="print"))
    await rig.write(users.delete, owner, now=rig.now)

    async def kept(tx: Tx) -> list[list[Row]]:
        return [
            await tx.all("SELECT email, email_key, password_hash, external_id FROM users WHERE id = $1", owner),
            await tx.all("SELECT id FROM sessions WHERE user_id = $1", owner),
            await tx.all("SELECT network FROM session_networks WHERE user_id = $1", owner),
            await tx.all("SELECT key FROM idempotency_keys WHERE owner_id = $1", owner),
        ]

    (user,), *others = await rig.read(kept)
    assert tuple(user) == ("", "", "", None)
    assert others == [[], [], []]


async def test_a_deleted_user_cannot_be_changed_or_brought_back(rig: Rig) -> None:
    owner = await rig.user()
    await rig.write(users.delete, owner, now=rig.now)
    with pytest.raises(NotFound):
        await rig.write(users.set_state, owner, UserState.ACTIVE, now=rig.now)
    with pytest.raises(NotFound):
        await rig.write(users.set_email, owner, "a@b.c")
    with pytest.raises(NotFound):
        await rig.write(users.set_password, owner, "hash")
    with pytest.raises(NotFound):
        await rig.write(users.set_quota, owner, 1)


async def test_a_deleted_user_with_many_files_is_purged_a_batch_at_a_time(rig: Rig) -> None:
    owner = await rig.user()
    made = {(await rig.file(owner, f"{number}.txt")).id for number in range(5)}
    await rig.write(users.delete, owner, now=rig.now)
    seen = []
    while claimed := await rig.ask(ClaimPurges(limit=2)):
        assert len(claimed) <= 2
        seen += [purge.file_id for purge in claimed]
        assert await rig.drift() == 0
    assert sorted(seen) == sorted(made)


async def test_a_deleted_user_is_pruned_when_nothing_is_left(rig: Rig) -> None:
    owner = await rig.user()
    await rig.file(owner)
    await rig.write(users.delete, owner, now=rig.now)
    rig.clock.advance(100)
    pruned = await rig.ask(Prune(limit=10))
    assert (pruned.uploads, pruned.users) == (1, 0)
    await rig.purge_all()
    pruned = await rig.ask(Prune(limit=10))
    assert (pruned.uploads, pruned.users) == (0, 1)


@pytest.mark.parametrize("left", ["upload", "live", "trashed", "purging"])
async def test_a_deleted_user_stays_while_anything_of_theirs_is_left_to_remove(rig: Rig, left: str) -> None:
    async def remains() -> bool:
        await rig.ask(Prune(limit=10))
        return await rig.read(lambda tx: tx.one("SELECT id FROM users")) is not None

    rig.configure("janitor", upload_retention=0.0)
    owner = await rig.user()
    upload = await rig.begin(owner, size=10 if left == "purging" else 0)  # an empty file shows in no sum
    if left != "upload":
        file = await rig.publish(upload)
        if left != "live":
            await rig.trash(file)
        if left == "purging":
            rig.clock.advance(GRACE)
            await rig.ask(ClaimPurges(limit=10))
    await rig.write(users.delete, owner, now=rig.now)
    assert await remains()
    rig.clock.advance(TTL + upload_chores.URL_MARGIN)
    await rig.ask(FinishCleanup(upload_id=upload.id))
    await rig.purge_all()
    assert not await remains()


async def test_text_that_no_database_can_hold_is_invalid(rig: Rig) -> None:
    owner = await rig.user()
    for text in ("\ud800", "a\x00b"):
        with pytest.raises((Invalid, NotFound)):
            await rig.ask(GetFile(by=host(owner), file_id=FileId(text)))
        with pytest.raises((Invalid, NotFound)):
            await rig.ask(AbortUpload(by=host(owner), upload_id=UploadId(text)))
    with pytest.raises(Invalid):
        await rig.read(users.list_after, limit=2**70)


async def test_looking_for_a_user_walks_an_index(tmp_path: Path) -> None:
    """On SQLite, whose plans do not depend on the number of rows."""
    seen: list[str] = []

    class Explaining:
        """Runs each statement after its plan has been taken."""

        def __init__(self, tx: Tx) -> None:
            self._tx = tx

        async def one(self, sql: str, *values: object) -> Row | None:
            seen.extend(row[3] for row in await self._tx.all(f"EXPLAIN QUERY PLAN {sql}", *values))
            return await self._tx.one(sql, *values)

    async def look(tx: Tx) -> None:
        explaining: Any = Explaining(tx)
        await users.find(explaining, "ann@example.org")
        await users.highest_cost(explaining)
        await networks.is_known(explaining, UserId("user"), "192.0.2.1", now=datetime.now(UTC))

    catalog = SqliteCatalog(tmp_path / "godrive.db")
    await catalog.open()
    await catalog.read(look)
    await catalog.close()
    assert [plan.replace("COVERING ", "") for plan in seen] == [
        "SEARCH users USING INDEX users_email (email_key=?)",
        "SCAN users USING INDEX users_hash_cost",
        "SEARCH session_networks USING PRIMARY KEY (user_id=? AND network=?)",
    ]


WEEK = 7 * 86_400.0


async def test_a_user_who_is_to_be_deleted_is_shut_out_and_can_come_back_until_then(rig: Rig) -> None:
    owner = await rig.user("ann@example.org")
    file = await rig.file(owner)
    upload = await rig.begin(owner, "pending")
    session = await rig.write(sessions.begin, owner, now=rig.now, ttl=TTL, address="", user_agent="")
    user = await rig.write(users.delete_later, owner, WEEK, now=rig.now)
    assert (user.state, user.delete_at) == (UserState.DISABLED, rig.now + timedelta(seconds=WEEK))
    first = user.delete_at
    rig.clock.advance(86_400)
    again = await rig.write(users.delete_later, owner, WEEK, now=rig.now)
    assert again.delete_at == first, "the first date stays"
    assert not await rig.read(sessions.is_alive, UserSession(user_id=owner, session_id=session.id), now=rig.now)
    with pytest.raises(NotFound):
        await rig.ask(GetFile(host(owner), file.id))
    with pytest.raises(Gone):
        await rig.ask(TouchUpload(SERVER, upload.id, 1))
    with pytest.raises(EmailTaken):
        await rig.user("ann@example.org")
    assert (await rig.ask(Prune(100))).accounts == 0
    user = await rig.write(users.set_state, owner, UserState.ACTIVE, now=rig.now)
    assert (user.state, user.delete_at) == (UserState.ACTIVE, None)
    rig.clock.advance(10 * WEEK)
    assert (await rig.ask(Prune(100))).accounts == 0
    assert (await rig.ask(GetFile(host(owner), file.id))).id == file.id


async def test_a_user_is_deleted_when_the_grace_period_is_over(rig: Rig) -> None:
    owner, other = await rig.user("ann@example.org"), await rig.user("bob@example.org")
    await rig.file(owner)
    await rig.write(users.delete_later, owner, WEEK, now=rig.now)
    before = rig.now
    rig.clock.advance(WEEK)
    assert (await rig.ask(Prune(100, due_by=before))).accounts == 0, "the clock is in doubt, and it was not due before"
    assert (await rig.ask(Prune(100))).accounts == 1
    assert (await rig.ask(Prune(100))).accounts == 0
    with pytest.raises(NotFound):
        await rig.read(users.get, owner)
    await rig.user("ann@example.org")  # the address is free again
    purges = await rig.ask(ClaimPurges(100))
    assert len(purges) == 1
    assert (await rig.read(users.get, other)).state is UserState.ACTIVE
    with pytest.raises(NotFound):
        await rig.write(users.delete_later, owner, WEEK, now=rig.now)


async def test_the_grace_period_is_not_shorter_after_a_clock_that_was_behind(rig: Rig) -> None:
    owner, now = await rig.user(), rig.now
    await rig.ask(NoteClock(now))
    rig.clock.jump(-40 * 86_400)
    user = await rig.write(users.delete_later, owner, WEEK, now=rig.now)
    assert user.delete_at == now + timedelta(seconds=WEEK)
