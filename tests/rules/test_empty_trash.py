"""Emptying the trash: one mark on the owner, that takes exactly what was in the trash, whatever the clock does."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godrive.errors import NotFound
from godrive.messages.files import EmptyTrash
from godrive.messages.system import ClaimPurges
from godrive.model import File, FileId, UserId
from tests.contracts.rig import GRACE, Rig, host, inside
from tests.rules.test_tree import count, fill

pytestmark = pytest.mark.anyio

DAY = 86_400.0


async def empty(rig: Rig, owner: UserId) -> int:
    return await rig.ask(EmptyTrash(by=host(owner)))


async def claim(rig: Rig) -> set[FileId]:
    return {purge.file_id for purge in await rig.ask(ClaimPurges(limit=1000))}


async def test_what_was_emptied_is_gone_for_its_owner_at_once_and_purged_soon(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    child = await rig.file(owner, "child", where=inside(folder))
    file = await rig.file(owner, "file")
    for entry in (folder, file):
        await rig.trash(entry)
    assert await empty(rig, owner) == 2
    assert await rig.binned(owner) == []
    for entry in (folder, file, child):
        for attempt in (rig.restore, rig.trash, rig.purge):
            with pytest.raises(NotFound):
                await attempt(entry)
        with pytest.raises(NotFound):
            await rig.get(owner, entry.id)
    assert await rig.names(owner) == []
    assert await empty(rig, owner) == 0
    assert await rig.drift() == 0
    purged = await rig.purge_all()
    assert {purge.file_id for purge in purged} == {folder.id, file.id, child.id}
    assert (await rig.usage(owner)).used_bytes == await rig.drift() == 0
    assert await rig.rows("SELECT trash_cleared_at FROM users WHERE id = $1", owner) == [(None,)]


async def test_the_trash_of_another_stays(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    kept = await rig.file(other)
    for file in (await rig.file(owner), kept):
        await rig.trash(file)
    await empty(rig, owner)
    await rig.purge_all()
    assert [file.id for file in await rig.binned(other)] == [kept.id]
    await rig.restore(kept)


@pytest.mark.parametrize("jump", [0.0, 40 * DAY, -40 * DAY])
@pytest.mark.parametrize("advance", [0.0, 1.0])
async def test_what_is_trashed_after_an_emptying_keeps_its_whole_grace(rig: Rig, jump: float, advance: float) -> None:
    owner = await rig.user()
    before, after = await rig.file(owner, "before"), await rig.file(owner, "after")
    rig.clock.jump(max(jump, 0))
    await rig.trash(before)
    assert await empty(rig, owner) == 1
    rig.clock.jump(-abs(jump))
    rig.clock.advance(advance)
    tombstone = await rig.trash(after)
    assert [file.id for file in await rig.binned(owner)] == [after.id]
    assert await claim(rig) == {before.id}
    await rig.purge_all()
    assert (tombstone.purge_at - rig.now).total_seconds() == pytest.approx(GRACE)
    rig.clock.advance(GRACE - 1)
    assert after.id not in await claim(rig)
    assert (await rig.restore(after)).name == "after"
    await rig.trash(after)
    rig.clock.advance(GRACE)
    assert after.id in await claim(rig)
    assert await rig.drift() == 0


async def test_what_was_trashed_by_a_clock_ahead_after_an_emptying_is_not_taken_by_it(rig: Rig) -> None:
    owner = await rig.user()
    before, after = await rig.file(owner, "before"), await rig.file(owner, "after")
    rig.clock.jump(40 * DAY)
    await rig.trash(before)
    await empty(rig, owner)
    rig.clock.advance(5)
    await rig.trash(after)
    rig.clock.jump(-40 * DAY)
    assert await claim(rig) == {before.id}
    assert await claim(rig) == set()
    assert [file.id for file in await rig.binned(owner)] == [after.id]
    rig.clock.advance(GRACE - 1)
    assert after.id not in await claim(rig)
    rig.clock.advance(1)
    assert after.id in await claim(rig)


@given(steps=st.lists(st.sampled_from(["trash", "restore", "empty", "claim", "ahead", "back", "later"]), max_size=30))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_an_emptying_takes_what_was_listed_and_nothing_else_whatever_the_clock_does(
    rig: Rig, steps: list[str]
) -> None:
    owner = await rig.user()
    live: list[File] = [await rig.file(owner, f"{number}") for number in range(6)]
    mine, trashed = {file.id for file in live}, list[File]()
    emptied: set[FileId] = set()
    for step in steps:
        if step == "trash" and live:
            trashed.append(live.pop(0))
            await rig.trash(trashed[-1])
        elif step == "restore" and trashed:
            live.append(trashed.pop())
            await rig.restore(live[-1])
        elif step == "empty":
            assert await empty(rig, owner) == len(trashed)
            emptied |= {file.id for file in trashed}
            trashed = []
        elif step == "claim":
            assert await claim(rig) & mine <= emptied
        elif step == "later":
            rig.clock.advance(1)
        elif step in ("ahead", "back"):
            rig.clock.jump(GRACE / 50 if step == "ahead" else -GRACE / 50)
        assert {file.id for file in await rig.binned(owner)} == {file.id for file in trashed}
        assert set(await rig.names(owner)) == {file.name for file in live}
    for _ in range(2):
        rig.clock.advance(4000)  # what was claimed and not finished becomes due again within an hour
        await rig.purge_all()
    left = {row[0] for row in await rig.rows("SELECT id FROM entries WHERE owner_id = $1", owner)}
    assert left == {file.id for file in live + trashed}


async def test_a_trash_of_thousands_is_emptied_by_as_many_statements_as_a_trash_of_one(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    folder = await rig.folder(other)
    await fill(rig, folder, folders=2, files=500)
    await rig.run(
        "UPDATE entries SET state = 'trashed', list_state = 'hidden', trashed_at = 1, purge_at = $2, "
        "next_purge_at = $2 WHERE owner_id = $1 AND kind = 'file'",
        other,
        10**17,
    )
    await rig.trash(await rig.file(owner))
    costs = [await count(rig, EmptyTrash(by=host(user))) for user in (owner, other)]
    assert costs[0] == costs[1] <= 4
    assert await rig.binned(other) == []
