"""The feed: the changes after a cursor, and what becomes of a cursor that is too old or from elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from godrive.errors import CursorReset, Forbidden, Invalid
from godrive.messages.changes import Change, ChangeKind, ChangePage, ListChanges
from godrive.messages.files import UpdateFile
from godrive.messages.system import ChangeNumbers, DueEvents, MarkPublished, PruneLog
from godrive.model import File, UserId
from godrive.principal import ApiToken, Principal, Scope
from godrive.rules import users
from tests.contracts.rig import GRACE, Rig, host, inside

pytestmark = pytest.mark.anyio


async def changes(rig: Rig, by: Principal, cursor: str | None = None, **options: int) -> ChangePage:
    return await rig.ask(ListChanges(by, cursor, **options))


async def start(rig: Rig, owner: UserId) -> str:
    """The cursor for now."""
    page = await changes(rig, host(owner))
    assert page.changes == []
    assert not page.has_more
    return page.cursor


async def told(rig: Rig, by: Principal, cursor: str) -> list[tuple[str, str, bool]]:
    """Each change as its kind, the name or id of its entry, and whether its state is told."""
    found = (await changes(rig, by, cursor, limit=1000)).changes
    return [(each.change.value, each.entry.name if each.entry else each.id, each.entry is not None) for each in found]


async def test_the_feed_tells_what_happened_since_the_cursor(rig: Rig) -> None:
    owner = await rig.user()
    await rig.file(owner, "before")
    cursor = await start(rig, owner)
    folder = await rig.folder(owner, "folder")
    file = await rig.file(owner, "x", where=inside(folder))
    other = await rig.rename(await rig.file(owner, "y"), "z")
    await rig.trash(file)
    await rig.restore(file)
    await rig.trash(other)
    rig.clock.advance(GRACE)
    await rig.purge_all()
    assert await told(rig, host(owner), cursor) == [
        ("created", "folder", True),
        ("created", "x", True),
        ("created", other.id, False),
        ("moved", other.id, False),
        ("trashed", "x", True),
        ("restored", "x", True),
        ("trashed", other.id, False),
        ("purged", other.id, False),
    ]


async def test_an_entry_is_told_as_it_is_now_and_only_while_it_is_visible(rig: Rig) -> None:
    owner = await rig.user()
    cursor = await start(rig, owner)
    outer = await rig.folder(owner, "outer")
    file = await rig.file(owner, "first", where=inside(outer))
    latest = await rig.rename(file, "second")
    page = await changes(rig, host(owner), cursor)
    assert [each.entry for each in page.changes] == [await rig.get(owner, outer.id), latest, latest]
    await rig.trash(outer)
    assert [each.entry for each in (await changes(rig, host(owner), cursor)).changes] == [None] * 4


async def test_pages_follow_each_other_without_a_gap(rig: Rig) -> None:
    owner = await rig.user()
    cursor = await start(rig, owner)
    made = [await rig.folder(owner, str(number)) for number in range(7)]
    seen: list[Change] = []
    has_more = True
    while has_more:
        page = await changes(rig, host(owner), cursor, limit=2)
        assert len(page.changes) <= 2
        assert page.cursor == page.changes[-1].cursor
        seen, cursor, has_more = seen + page.changes, page.cursor, page.has_more
    assert [each.id for each in seen] == [folder.id for folder in made]
    again = await changes(rig, host(owner), seen[2].cursor)
    assert again.changes == seen[3:]
    last = await changes(rig, host(owner), cursor)
    assert (last.changes, last.cursor, last.has_more) == ([], cursor, False)


async def test_another_users_cursor_and_one_of_a_state_that_was_not_restored_are_refused(rig: Rig) -> None:
    ann, bob = await rig.user(), await rig.user()
    await rig.folder(ann, "a")
    await rig.folder(bob, "a")
    cursor = await start(rig, ann)
    with pytest.raises(CursorReset):
        await changes(rig, host(bob), cursor)
    # The backup was made here.  The change after it is lost, and later ones have higher numbers.
    await rig.folder(ann, "lost")
    lost = await start(rig, ann)
    await rig.run("DELETE FROM changes WHERE owner_id = $1 AND change = (SELECT MAX(change) FROM changes)", ann)
    with pytest.raises(CursorReset):
        await changes(rig, host(ann), lost)
    await rig.folder(ann, "after")
    with pytest.raises(CursorReset):
        await changes(rig, host(ann), lost)
    assert [name for _, name, _ in await told(rig, host(ann), cursor)] == ["after"]
    await rig.run("UPDATE catalog SET nonce = 'another'")
    with pytest.raises(CursorReset):
        await changes(rig, host(ann), cursor)


async def test_what_is_not_a_cursor_is_invalid(rig: Rig) -> None:
    owner = await rig.user()
    cursor = await start(rig, owner)
    for wrong in ("", "x", cursor[:-1], cursor + "A", cursor[:-2] + "é" + cursor[-1], "!" * 27, "_" * 27, "\0"):
        with pytest.raises((Invalid, CursorReset)) as raised:
            await changes(rig, host(owner), wrong)
        assert raised.value.field == "cursor"


def confined(owner: UserId, folder: File, *scopes: Scope) -> ApiToken:
    return ApiToken(user_id=owner, token_id="t", scopes=frozenset(scopes or {Scope.FILES_READ}), folder_id=folder.id)


async def test_a_token_for_a_folder_learns_of_its_contents_and_of_what_leaves_it(rig: Rig) -> None:
    owner = await rig.user()
    shown, hidden = await rig.folder(owner, "shown"), await rig.folder(owner, "hidden")
    inner = await rig.folder(owner, "inner", where=inside(shown))
    token = confined(owner, shown)
    cursor = (await changes(rig, token)).cursor
    deep = await rig.file(owner, "deep", where=inside(inner))
    secret = await rig.file(owner, "secret", where=inside(hidden))
    await rig.rename(secret, "more secret")
    trashed = await rig.file(owner, "trashed", where=inside(shown))
    await rig.trash(trashed)
    await rig.ask(UpdateFile(host(owner), inner.id, where=inside(hidden)))
    await rig.rename(deep, "renamed outside")
    await rig.ask(UpdateFile(host(owner), secret.id, where=inside(shown)))
    rig.clock.advance(GRACE)
    await rig.purge_all()
    assert await told(rig, token, cursor) == [
        ("created", "more secret", True),
        ("moved", "more secret", True),
        ("created", trashed.id, False),
        ("trashed", trashed.id, False),
        ("removed", inner.id, False),
        ("moved", "more secret", True),
        ("purged", trashed.id, False),
    ]


async def test_a_token_without_the_scope_to_read_gets_no_feed(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    with pytest.raises(Forbidden):
        await changes(rig, confined(owner, folder, Scope.FILES_WRITE))


async def test_the_number_of_an_owner_rises_with_each_change(rig: Rig) -> None:
    ann, bob = await rig.user(), await rig.user()
    before = await rig.ask(ChangeNumbers([ann, bob]))
    await rig.folder(ann, "a")
    after = await rig.ask(ChangeNumbers([ann, bob]))
    assert after[ann] > before[ann]
    assert after[bob] == before[bob]
    assert await rig.ask(ChangeNumbers([])) == {}


# What the janitor deletes


async def prune(rig: Rig, limit: int = 100) -> int:
    """What sweeps delete, until there is nothing more."""
    deleted, after = 0, UserId("")
    while True:
        pruned = await rig.ask(PruneLog(after, limit))
        assert pruned.changes <= limit
        deleted += pruned.changes
        if pruned.after is None:
            return deleted
        after = pruned.after


@pytest.fixture
async def published(rig: Rig) -> AsyncIterator[None]:
    """What is deleted does not depend on NATS."""
    yield
    for owner_id, log_rows in await rig.rows("SELECT id, log_rows FROM users"):
        assert await rig.rows("SELECT COUNT(*) FROM changes WHERE owner_id = $1", owner_id) == [(log_rows,)]


async def publish(rig: Rig) -> None:
    await rig.ask(MarkPublished(await rig.ask(DueEvents(1000))))


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_changes_that_are_too_old_are_deleted_and_their_cursors_reset(rig: Rig, limit: int) -> None:
    rig.configure("janitor", change_retention=100.0)
    owners = [await rig.user() for _ in range(3)]
    cursors: dict[UserId, list[str]] = {owner: [await start(rig, owner)] for owner in owners}
    for number in range(4):
        for owner in owners:
            await rig.folder(owner, f"old {number}")
            cursors[owner].append(await start(rig, owner))
    rig.clock.advance(99)
    for owner in owners[:2]:
        await rig.folder(owner, "new")
    await publish(rig)
    assert await prune(rig, limit) == 0
    rig.clock.advance(1)
    assert await prune(rig, limit) == 12
    for owner in owners:
        for cursor in cursors[owner][:-1]:
            with pytest.raises(CursorReset):
                await changes(rig, host(owner), cursor)
        assert [name for _, name, _ in await told(rig, host(owner), cursors[owner][-1])] == (
            ["new"] if owner in owners[:2] else []
        )
        assert await start(rig, owner) is not None
    assert await prune(rig, limit) == 0


@pytest.mark.usefixtures("published")
async def test_only_the_newest_changes_of_each_user_are_kept(rig: Rig) -> None:
    rig.configure("janitor", changes_per_user=3)
    busy, quiet = await rig.user(), await rig.user()
    await rig.folder(quiet, "a")
    for number in range(8):
        await rig.folder(busy, str(number))
    await publish(rig)
    assert await prune(rig, 2) == 5
    assert await rig.rows("SELECT COUNT(*) FROM changes WHERE owner_id = $1", busy) == [(3,)]
    assert await rig.rows("SELECT COUNT(*) FROM changes WHERE owner_id = $1", quiet) == [(1,)]


@pytest.mark.usefixtures("published")
async def test_a_change_that_is_not_published_outlives_its_time_but_is_no_longer_in_the_feed(rig: Rig) -> None:
    rig.configure("janitor", change_retention=100.0)
    owner = await rig.user()
    cursor = await start(rig, owner)
    for name in ("a", "b", "c"):
        await rig.folder(owner, name)
    due = await rig.ask(DueEvents(100))
    await rig.ask(MarkPublished(due[:2]))
    rig.clock.advance(100)
    assert await prune(rig) == 2
    assert await rig.ask(DueEvents(100)) == due[2:]
    with pytest.raises(CursorReset):
        await changes(rig, host(owner), cursor)
    await rig.ask(MarkPublished(due[2:]))
    assert await prune(rig) == 1


async def test_the_changes_of_a_deleted_user_are_deleted(rig: Rig) -> None:
    owner = await rig.user()
    await rig.file(owner)
    await rig.write(users.delete, owner, now=rig.now)
    await rig.purge_all()
    await publish(rig)
    await rig.run("DELETE FROM users WHERE id = $1", owner)
    assert await prune(rig) > 0
    assert await rig.rows("SELECT 1 FROM changes") == []


@pytest.mark.usefixtures("published")
async def test_instants_of_a_clock_that_was_wrong_do_not_keep_changes_for_ever(rig: Rig) -> None:
    rig.configure("janitor", change_retention=100.0)
    owner = await rig.user()
    rig.clock.advance(10**6)
    await rig.folder(owner, "a")
    rig.clock.jump(-(10**6))
    await rig.folder(owner, "b")
    await publish(rig)
    assert await prune(rig) == 0
    rig.clock.advance(100)
    assert await prune(rig) == 2


def test_every_kind_of_event_is_a_kind_of_change() -> None:
    from godrive.rules.feed import KINDS

    assert set(KINDS.values()) | {ChangeKind.REMOVED} == set(ChangeKind)
