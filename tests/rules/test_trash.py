"""The end of life: trash, restore, purge."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

import pytest

from godrive.catalog import Tx
from godrive.errors import Invalid, NameTaken, NotFound, PreconditionFailed
from godrive.messages.files import EmptyTrash, ListTrash, OpenContent, PurgeFile, RestoreFile, TrashFile
from godrive.messages.metadata import Metadata
from godrive.messages.system import (
    ClaimPurges,
    FinishPurge,
    Purge,
)
from godrive.model import (
    Content,
    File,
    FileId,
    ObjectKey,
    OnConflict,
    UserId,
)
from godrive.rules import users
from godrive.rules.registry import RULES
from godrive.runtime import Ask
from tests.contracts.rig import GRACE, Rig, host, inside

pytestmark = pytest.mark.anyio


async def listed(rig: Rig, file: File, limit: int = 2) -> list[str]:
    return [entry.name for entry in await rig.binned(file.owner_id, limit=limit)]


async def content(rig: Rig, file: File, **options: Any) -> Content:
    return await rig.ask(OpenContent(by=host(file.owner_id), file_id=file.id, **options))


async def claim(rig: Rig, limit: int = 100) -> dict[FileId, list[ObjectKey]]:
    return {entry.file_id: entry.object_keys for entry in await rig.ask(ClaimPurges(limit=limit))}


async def finish(rig: Rig, file: File) -> None:
    await rig.ask(FinishPurge(file_id=file.id, revision=2**62))


async def test_trashing_twice_keeps_the_first_purge_date(rig: Rig) -> None:
    file = await rig.file(await rig.user())
    tombstone = await rig.trash(file, if_match=file.etag)
    assert tombstone.trashed_at == rig.now
    assert tombstone.purge_at == rig.now + timedelta(seconds=GRACE)
    rig.clock.advance(10)
    assert await rig.trash(file, if_match=file.etag) == tombstone


async def test_bytes_in_the_trash_count_as_trash(rig: Rig) -> None:
    file = await rig.file(await rig.user(), size=5)
    await rig.trash(file)
    usage = await rig.usage(file.owner_id)
    assert (usage.live_bytes, usage.trash_bytes, usage.used_bytes) == (0, 5, 5)
    await rig.restore(file)
    usage = await rig.usage(file.owner_id)
    assert (usage.live_bytes, usage.trash_bytes) == (5, 0)


async def test_the_trash_lists_what_was_trashed_last_first(rig: Rig) -> None:
    owner = await rig.user()
    made = [await rig.file(owner, name) for name in "abcde"]
    for file in (made[3], made[0], made[4]):
        await rig.trash(file)
        rig.clock.advance(1)
    assert await listed(rig, made[0]) == ["e", "a", "d"]
    with pytest.raises(Invalid):
        await rig.ask(ListTrash(by=host(owner), page="x"))


async def test_a_page_token_of_the_trash_is_its_owner_s(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    for name in "ab":
        await rig.trash(await rig.file(owner, name))
    page = await rig.ask(ListTrash(by=host(owner), limit=1))
    with pytest.raises(Invalid):
        await rig.ask(ListTrash(by=host(other), page=page.next_page))


async def test_a_foreign_or_absent_file_is_neither_trashed_nor_restored_nor_purged(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    file = await rig.file(owner)
    for who, what in ((other, file.id), (owner, FileId("x"))):
        asks: list[Ask[Metadata, Any]] = [ask(host(who), what) for ask in (TrashFile, RestoreFile, PurgeFile)]
        for ask in asks:
            with pytest.raises(NotFound):
                await rig.ask(ask)
    assert await rig.names(owner) == ["a.txt"]


async def test_restoring_brings_the_same_file_back(rig: Rig) -> None:
    file = await rig.file(await rig.user())
    await rig.trash(file)
    restored = await rig.restore(file)
    assert (restored.id, restored.name, restored.trashed_at, restored.purge_at) == (file.id, "a.txt", None, None)
    assert restored.etag != file.etag
    assert await rig.restore(file) == restored
    assert await rig.get(file.owner_id, file.id) == restored
    assert await listed(rig, file) == []


async def test_a_restore_goes_into_the_root_when_the_folder_is_gone(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    inner = await rig.folder(owner, where=inside(folder))
    for trashed in (inner, folder):
        file = await rig.file(owner, where=inside(inner))
        await rig.trash(file)
        assert (await rig.restore(file)).parent_id == inner.id
        await rig.trash(file)
        await rig.trash(trashed)
        assert (await rig.restore(file)).parent_id is None
        await rig.restore(trashed)
        await rig.trash(file)


async def test_a_restore_checks_the_etag(rig: Rig) -> None:
    file = await rig.file(await rig.user())
    await rig.trash(file)
    with pytest.raises(PreconditionFailed):
        await rig.restore(file, if_match=file.etag)
    with pytest.raises(PreconditionFailed):
        await rig.purge(file, if_match=file.etag)


async def test_a_restore_over_another_name_is_refused_or_numbered(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    await rig.trash(file)
    await rig.file(owner)
    with pytest.raises(NameTaken):
        await rig.restore(file)
    restored = await rig.restore(file, on_conflict=OnConflict.RENAME)
    assert restored.name == "a (1).txt"
    assert sorted(await rig.names(owner)) == ["a (1).txt", "a.txt"]


async def test_a_purge_that_has_begun_takes_the_file_from_every_list_and_there_is_no_return(rig: Rig) -> None:
    file = await rig.file(await rig.user(), size=5)
    with pytest.raises(NotFound):
        await rig.purge(file)
    await rig.trash(file)
    await rig.purge(file)
    assert await listed(rig, file) == []
    for attempt in (rig.restore, rig.trash):
        with pytest.raises(NotFound):
            await attempt(file)
    with pytest.raises(NotFound):
        await rig.purge(file)
    assert (await rig.usage(file.owner_id)).trash_bytes == 5
    assert file.id in await claim(rig)
    await finish(rig, file)
    await finish(rig, file)
    assert (await rig.usage(file.owner_id)).used_bytes == 0


async def test_emptying_the_trash_takes_all_of_one_owner(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    mine = [await rig.file(owner, name) for name in "abc"]
    foreign = await rig.file(other)
    for file in (*mine[:2], foreign):
        await rig.trash(file)
    assert await rig.ask(EmptyTrash(by=host(owner))) == 2
    assert await rig.ask(EmptyTrash(by=host(owner))) == 0
    assert await listed(rig, foreign) == ["a.txt"]
    assert set(await claim(rig)) == {file.id for file in mine[:2]}


async def test_a_purge_is_claimed_after_its_grace_and_again_later_until_it_is_finished(rig: Rig) -> None:
    file = await rig.file(await rig.user())
    await rig.trash(file)
    rig.clock.advance(GRACE - 1)
    assert await claim(rig) == {}
    rig.clock.advance(1)
    first = await claim(rig)
    assert list(first) == [file.id]
    assert await claim(rig) == {}
    with pytest.raises(NotFound):
        await rig.restore(file)
    rig.clock.advance(60)
    assert await claim(rig) == first
    rig.clock.advance(60)
    assert await claim(rig) == {}
    rig.clock.advance(60)
    assert await claim(rig) == first
    await finish(rig, file)
    rig.clock.advance(10**6)
    assert await claim(rig) == {}
    assert await rig.drift() == 0


async def test_no_more_purges_are_claimed_than_asked_for_longest_due_first(rig: Rig) -> None:
    owner = await rig.user()
    made = []
    for name in "abc":
        file = await rig.file(owner, name)
        await rig.trash(file)
        made.append(file.id)
        rig.clock.advance(1)
    rig.clock.advance(GRACE)
    assert list(await claim(rig, 2)) == made[:2]
    assert list(await claim(rig, 2)) == made[2:]


class Counted:
    """A transaction that counts the round trips that are made where there are any to make."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self.trips = 0

    def __getattr__(self, name: str) -> Any:
        if name not in ("sinks", "changed"):
            self.trips += 1
        return getattr(self._tx, name)


async def test_what_one_sweep_claims_costs_a_few_round_trips_however_much_it_is(rig: Rig) -> None:
    owners = [await rig.user() for _ in range(4)]
    made = [await rig.file(owner, f"{number}") for owner in owners for number in range(16)]
    await rig.write(users.delete, owners[0], now=rig.now)
    for file in made[16:]:
        await rig.trash(file)
    rig.clock.advance(GRACE)
    trips = []

    async def claim_counted(tx: Tx) -> set[FileId]:
        counted = Counted(tx)
        claimed: list[Purge] = await RULES[ClaimPurges].run(cast("Tx", counted), ClaimPurges(limit=100), rig.env)
        trips.append(counted.trips)
        assert all(len(purge.object_keys) == 1 for purge in claimed)
        return {purge.file_id for purge in claimed}

    assert await rig.catalog.write(claim_counted) == {file.id for file in made}
    assert trips[-1] <= 17
    assert await rig.drift() == 0


async def test_a_file_that_is_restored_just_before_its_purge_is_claimed_stays(rig: Rig) -> None:
    owner = await rig.user()
    first, second = [await rig.file(owner, name) for name in "ab"]
    for file in (first, second):
        await rig.trash(file)
    rig.clock.advance(GRACE)

    class Overtaken(Counted):
        """Another transaction is committed while this one waits for the owner."""

        async def lock(self, *user_ids: UserId) -> None:
            await RULES[RestoreFile].run(self._tx, RestoreFile(by=host(owner), file_id=first.id), rig.env)
            await self._tx.lock(*user_ids)

    async def claim_late(tx: Tx) -> list[FileId]:
        claimed: list[Purge] = await RULES[ClaimPurges].run(cast("Tx", Overtaken(tx)), ClaimPurges(limit=100), rig.env)
        return [purge.file_id for purge in claimed]

    assert await rig.catalog.write(claim_late) == [second.id]
    assert await rig.names(owner) == ["a"]


async def test_a_file_that_is_not_being_purged_is_not_dropped(rig: Rig) -> None:
    file = await rig.file(await rig.user())
    await finish(rig, file)
    await rig.trash(file)
    await finish(rig, file)
    await rig.restore(file)


async def test_a_purge_takes_every_version_and_gives_its_bytes_back(rig: Rig) -> None:
    owner = await rig.user()
    earlier = await rig.file(owner, size=7)
    older = await content(rig, earlier)
    file = await rig.file(owner, size=10, on_conflict=OnConflict.REPLACE)
    current = await content(rig, file)
    usage = await rig.usage(owner)
    assert (usage.live_bytes, usage.version_bytes) == (10, 7)
    assert await content(rig, file) == current
    assert (await content(rig, file, version_id=earlier.version_id)).object_key == older.object_key
    await rig.trash(file)
    await rig.purge(file)
    assert {file_id: set(keys) for file_id, keys in (await claim(rig)).items()} == {
        file.id: {current.object_key, older.object_key}
    }
    await finish(rig, file)
    assert (await rig.usage(owner)).used_bytes == await rig.drift() == 0


async def share_blob(rig: Rig, source: File, target: File) -> None:
    """Let the target's version refer to the source's blob, as a copy of a file does."""

    async def share(tx: Tx) -> None:
        await tx.run(
            "UPDATE versions SET object_key = (SELECT object_key FROM versions WHERE file_id = $1) WHERE file_id = $2",
            source.id,
            target.id,
        )

    await rig.catalog.write(share)


async def test_a_blob_that_two_files_share_goes_with_the_last_of_them(rig: Rig) -> None:
    owner = await rig.user()
    first, second = await rig.file(owner, "a"), await rig.file(owner, "b")
    await share_blob(rig, first, second)
    key = (await content(rig, first)).object_key
    await rig.trash(first)
    await rig.purge(first)
    assert await claim(rig) == {first.id: []}
    await finish(rig, first)
    assert (await content(rig, second)).object_key == key
    await rig.trash(second)
    await rig.purge(second)
    assert await claim(rig) == {second.id: [key]}


async def test_a_blob_whose_files_go_together_goes_too(rig: Rig) -> None:
    owner = await rig.user()
    first, second = await rig.file(owner, "a"), await rig.file(owner, "b")
    await share_blob(rig, first, second)
    key = (await content(rig, first)).object_key
    for file in (first, second):
        await rig.trash(file)
    await rig.ask(EmptyTrash(by=host(owner)))
    assert await claim(rig) == {first.id: [key], second.id: [key]}
