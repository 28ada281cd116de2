"""Versions of a file: list, restore, name and delete them, and let them go when their time is over."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godrive.errors import Conflict, Invalid, NotFound, PreconditionFailed, QuotaExceeded
from godrive.messages.files import GetFile, OpenContent, PurgeFile, RestoreFile, TrashFile
from godrive.messages.metadata import Metadata
from godrive.messages.system import (
    ClaimPurges,
    ClaimVersions,
    DueEvents,
    FinishPurge,
    FinishVersion,
    KnownKeys,
    Purge,
    RecountUsage,
    ReviewVersions,
    VersionPurge,
)
from godrive.messages.versions import DeleteVersion, ListVersions, NameVersion, RestoreVersion, Version
from godrive.model import (
    ETag,
    File,
    FileId,
    ObjectKey,
    OnConflict,
    Page,
    Usage,
    UserId,
    VersionId,
)
from godrive.runtime import Ask
from tests.cases import each
from tests.contracts.rig import Rig, host, inside

pytestmark = pytest.mark.anyio

DAY = 86_400.0
KEPT = 10
RETENTION = 30 * DAY


async def replaced(rig: Rig, owner: UserId, *sizes: int, name: str = "a.txt") -> File:
    """A file that had these sizes, one after the other."""
    files = [await rig.file(owner, name, size=size, on_conflict=OnConflict.REPLACE) for size in sizes]
    return files[-1]


async def listed(rig: Rig, file: File, *, limit: int = 1000, page: str | None = None) -> Page[Version]:
    return await rig.ask(ListVersions(by=host(file.owner_id), file_id=file.id, limit=limit, page=page))


async def versions(rig: Rig, file: File) -> list[Version]:
    return (await listed(rig, file)).items


async def sizes(rig: Rig, file: File) -> list[int]:
    return [version.size_bytes for version in await versions(rig, file)]


async def key(rig: Rig, file: File, version_id: VersionId | None = None) -> ObjectKey:
    return (await rig.ask(OpenContent(by=host(file.owner_id), file_id=file.id, version_id=version_id))).object_key


async def restore(rig: Rig, version: Version, owner: UserId, if_match: ETag | None = None) -> File:
    return await rig.ask(RestoreVersion(host(owner), version.file_id, version.id, if_match))


async def name_version(rig: Rig, version: Version, owner: UserId, name: str | None) -> Version:
    return await rig.ask(NameVersion(host(owner), version.file_id, version.id, name))


async def delete(rig: Rig, version: Version, owner: UserId) -> None:
    await rig.ask(DeleteVersion(host(owner), version.file_id, version.id))


async def claim(rig: Rig, limit: int = 10) -> list[VersionPurge]:
    return await rig.ask(ClaimVersions(limit))


async def retain(rig: Rig, limit: int = 100) -> list[VersionPurge]:
    """What sweeps do about versions until nothing is due, with a store that deletes at once."""
    while await rig.ask(ReviewVersions(limit)) >= limit:
        pass
    removed: list[VersionPurge] = []
    while claimed := await claim(rig, limit):
        for purge in claimed:
            await rig.ask(FinishVersion(purge.version_id))
        removed += claimed
    return removed


async def stored(rig: Rig, owner: UserId) -> Usage:
    """The usage of the owner, which must be that of the rows."""
    assert await rig.drift() == 0
    return await rig.usage(owner)


async def test_versions_are_listed_newest_first_with_what_each_was(rig: Rig) -> None:
    owner = await rig.user()
    first = await rig.file(owner, size=1, mime="text/plain")
    began = rig.now
    rig.clock.advance(5)
    file = await rig.file(owner, size=2, mime="image/png", on_conflict=OnConflict.REPLACE)
    newest, oldest = await versions(rig, file)
    assert (newest.id, newest.current, newest.replaced_at) == (file.version_id, True, None)
    assert (newest.size_bytes, newest.mime, newest.created_at) == (2, "image/png", rig.now)
    assert (oldest.id, oldest.current, oldest.replaced_at) == (first.version_id, False, rig.now)
    assert (oldest.size_bytes, oldest.mime, oldest.created_at) == (1, "text/plain", began)


async def test_the_list_has_pages(rig: Rig) -> None:
    owner = await rig.user()
    file = await replaced(rig, owner, *range(7))
    other = await replaced(rig, owner, 1, 2, name="b")
    found: list[int] = []
    page = await listed(rig, file, limit=3)
    while True:
        found += [version.size_bytes for version in page.items]
        if page.next_page is None:
            break
        with pytest.raises(Invalid):
            await listed(rig, other, page=page.next_page)
        page = await listed(rig, file, limit=3, page=page.next_page)
    assert found == list(range(6, -1, -1))
    for limit in (0, 1001):
        with pytest.raises(Invalid):
            await listed(rig, file, limit=limit)


async def test_the_order_is_that_of_the_changes_whatever_the_clock_does(rig: Rig) -> None:
    owner = await rig.user()
    file = await replaced(rig, owner, 1, 2)
    rig.clock.jump(-40 * DAY)
    file = await replaced(rig, owner, 3)
    assert await sizes(rig, file) == [3, 2, 1]
    rig.clock.jump(40 * DAY)
    await replaced(rig, owner, 4)
    assert await sizes(rig, file) == [4, 3, 2, 1]
    assert [version.current for version in await versions(rig, file)] == [True, False, False, False]


async def test_a_folder_has_no_versions(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    assert await versions(rig, folder) == []


async def test_a_restored_version_is_a_new_one_with_the_same_blob(rig: Rig) -> None:
    owner = await rig.user()
    old = await rig.file(owner, size=1, mime="image/png")
    file = await replaced(rig, owner, 2, 3)
    oldest = (await versions(rig, file))[-1]
    rig.clock.advance(5)
    restored = await restore(rig, oldest, owner)
    assert (restored.id, restored.size_bytes, restored.mime, restored.updated_at) == (file.id, 1, "image/png", rig.now)
    assert restored.version_id not in {version.id for version in (await versions(rig, file))[1:]}
    assert restored.revision > file.revision
    assert restored.modified_at == old.modified_at
    assert await key(rig, restored) == await key(rig, restored, oldest.id)
    assert await sizes(rig, restored) == [1, 3, 2, 1]
    assert await stored(rig, owner) == Usage(live_bytes=1, version_bytes=6)
    assert (await rig.ask(DueEvents(limit=10)))[-1].kind.value == "updated"


async def test_restoring_the_bytes_that_are_current_changes_nothing(rig: Rig) -> None:
    owner = await rig.user()
    file = await replaced(rig, owner, 1, 2)
    newest, oldest = await versions(rig, file)
    assert await restore(rig, newest, owner) == file
    restored = await restore(rig, oldest, owner)
    assert await restore(rig, oldest, owner) == restored
    assert len(await versions(rig, file)) == 3


async def test_a_restored_version_counts_in_the_quota(rig: Rig) -> None:
    owner = await rig.user(quota=30)
    file = await replaced(rig, owner, 10, 11)
    oldest = (await versions(rig, file))[-1]
    with pytest.raises(QuotaExceeded) as caught:
        await restore(rig, oldest, owner)
    assert caught.value.field == "size_bytes"
    assert "1 bytes are missing" in caught.value.detail
    rig.configure("auth", max_versions=1)
    with pytest.raises(QuotaExceeded) as caught:
        await restore(rig, oldest, owner)
    assert caught.value.field == "versions"
    assert await rig.get(owner, file.id) == file


async def test_if_match_is_about_the_file(rig: Rig) -> None:
    owner = await rig.user()
    file = await replaced(rig, owner, 1, 2)
    oldest = (await versions(rig, file))[-1]
    by = host(owner)
    asks: list[Ask[Metadata, Any]] = [
        RestoreVersion(by, file.id, oldest.id, ETag("other")),
        NameVersion(by, file.id, oldest.id, "name", ETag("other")),
        DeleteVersion(by, file.id, oldest.id, ETag("other")),
    ]
    for ask in asks:
        with pytest.raises(PreconditionFailed):
            await rig.ask(ask)
    await rig.ask(NameVersion(by, file.id, oldest.id, "name", file.etag))
    await restore(rig, oldest, owner, file.content_etag)


async def test_a_deleted_version_is_gone_at_once_and_its_bytes_with_the_next_sweep(rig: Rig) -> None:
    owner = await rig.user()
    file = await replaced(rig, owner, 1, 2, 3)
    _, middle, _ = await versions(rig, file)
    middle_key = await key(rig, file, middle.id)
    await delete(rig, middle, owner)
    assert await sizes(rig, file) == [3, 1]
    asks: list[Ask[Metadata, Any]] = [
        OpenContent(host(owner), file.id, middle.id),
        RestoreVersion(host(owner), file.id, middle.id),
        NameVersion(host(owner), file.id, middle.id, "name"),
        DeleteVersion(host(owner), file.id, middle.id),
    ]
    for ask in asks:
        with pytest.raises(NotFound):
            await rig.ask(ask)
    assert await stored(rig, owner) == Usage(live_bytes=3, version_bytes=3)  # charged until the bytes are gone
    assert await rig.ask(KnownKeys([middle_key])) == [middle_key]
    assert await retain(rig) == [VersionPurge(version_id=middle.id, object_key=middle_key)]
    assert await stored(rig, owner) == Usage(live_bytes=3, version_bytes=1)
    assert await rig.ask(KnownKeys([middle_key])) == []


async def test_the_current_version_cannot_be_deleted(rig: Rig) -> None:
    owner = await rig.user()
    file = await replaced(rig, owner, 1, 2)
    newest, oldest = await versions(rig, file)
    with pytest.raises(Conflict):
        await delete(rig, newest, owner)
    await restore(rig, oldest, owner)
    await delete(rig, newest, owner)
    assert await retain(rig)


async def test_versions_of_a_file_in_the_trash_are_not_there(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    upload: dict[str, Any] = {"where": inside(folder), "on_conflict": OnConflict.REPLACE}
    await rig.file(owner, size=1, **upload)
    file = await rig.file(owner, size=2, **upload)
    oldest = (await versions(rig, file))[-1]
    for trashed in (file, folder):
        await rig.trash(trashed)
        asks: list[Ask[Metadata, Any]] = [
            ListVersions(host(owner), file.id),
            OpenContent(host(owner), file.id, oldest.id),
            RestoreVersion(host(owner), file.id, oldest.id),
            NameVersion(host(owner), file.id, oldest.id, "name"),
            DeleteVersion(host(owner), file.id, oldest.id),
        ]
        for ask in asks:
            with pytest.raises(NotFound):
                await rig.ask(ask)
        await rig.restore(trashed)
    assert await sizes(rig, file) == [2, 1]


async def test_a_version_belongs_to_its_file(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    file, foreign = await replaced(rig, owner, 1, 2), await replaced(rig, other, 1, 2)
    second = await replaced(rig, owner, 1, 2, name="b")
    for file_id, version in [
        (second.id, (await versions(rig, file))[-1]),
        (file.id, (await versions(rig, foreign))[-1]),
        (foreign.id, (await versions(rig, foreign))[-1]),
    ]:
        asks: list[Ask[Metadata, Any]] = [
            OpenContent(host(owner), file_id, version.id),
            RestoreVersion(host(owner), file_id, version.id),
            NameVersion(host(owner), file_id, version.id, "name"),
            DeleteVersion(host(owner), file_id, version.id),
        ]
        for ask in asks:
            with pytest.raises(NotFound):
                await rig.ask(ask)


async def test_a_version_can_be_named_and_lose_its_name(rig: Rig) -> None:
    owner = await rig.user()
    file = await replaced(rig, owner, 1, 2)
    for version in await versions(rig, file):
        assert (await name_version(rig, version, owner, "sent to Bob")).name == "sent to Bob"
    assert [version.name for version in await versions(rig, file)] == ["sent to Bob"] * 2
    for version in await versions(rig, file):
        assert (await name_version(rig, version, owner, None)).name is None
    assert await rig.get(owner, file.id) == file


@each("name", ["", "x" * 256, "a\nb", "a\0b", "\ud800"])
async def test_what_is_not_a_name_is_refused(rig: Rig, name: str) -> None:
    owner = await rig.user()
    file = await rig.file(owner, f"{len(await rig.files(owner))}")
    with pytest.raises(Invalid) as caught:
        await name_version(rig, (await versions(rig, file))[0], owner, name)
    assert caught.value.field == "name"


async def test_the_last_versions_and_the_young_ones_are_kept(rig: Rig) -> None:
    """By default, of each file the current one, ten more, and all that were replaced in the last 30 days."""
    owner = await rig.user()
    other = await replaced(rig, owner, 1, 2, name="other")
    file = await replaced(rig, owner, *range(15))
    rig.clock.advance(RETENTION - 1)
    assert await retain(rig) == []
    file = await replaced(rig, owner, 15)
    rig.clock.advance(1)
    assert len(await retain(rig)) == 5
    assert await sizes(rig, file) == list(range(15, 4, -1))
    assert len(await versions(rig, other)) == 2
    assert await stored(rig, owner) == Usage(live_bytes=17, version_bytes=1 + sum(range(5, 15)))


async def test_a_version_that_was_current_for_long_is_kept_after_it_was_replaced(rig: Rig) -> None:
    """Its time begins when it is replaced: a script that saves 20 times a minute must not cost last year's text."""
    owner = await rig.user()
    await rig.file(owner, size=100)
    rig.clock.advance(365 * DAY)
    file = await replaced(rig, owner, *range(20))
    assert await retain(rig) == []
    rig.clock.advance(RETENTION)
    assert len(await retain(rig)) == 10
    assert await sizes(rig, file) == list(range(19, 8, -1))


async def test_a_named_version_is_kept_for_ever(rig: Rig) -> None:
    owner = await rig.user()
    rig.configure("janitor", versions_kept=0)
    file = await rig.file(owner, size=0)
    await name_version(rig, (await versions(rig, file))[0], owner, "first")
    file = await replaced(rig, owner, 1, 2)
    await name_version(rig, (await versions(rig, file))[1], owner, "second")
    rig.clock.advance(10 * RETENTION)
    assert await retain(rig) == []
    second, first = (await versions(rig, file))[1:]
    await name_version(rig, first, owner, None)
    assert await retain(rig) == []
    rig.clock.advance(RETENTION)
    assert [purge.version_id for purge in await retain(rig)] == [first.id]
    assert [version.id for version in (await versions(rig, file))[1:]] == [second.id]


async def test_a_version_is_removed_when_newer_ones_take_its_place(rig: Rig) -> None:
    owner = await rig.user()
    rig.configure("janitor", versions_kept=2, version_retention=0.0)
    file = await replaced(rig, owner, 1, 2, 3)
    assert await retain(rig) == []
    await replaced(rig, owner, 4)
    rig.clock.advance(DAY)
    assert len(await retain(rig)) == 1
    assert await sizes(rig, file) == [4, 3, 2]


async def test_a_deleted_version_takes_no_place_among_the_last(rig: Rig) -> None:
    owner = await rig.user()
    rig.configure("janitor", versions_kept=2)
    file = await replaced(rig, owner, 1, 2, 3, 4)
    await delete(rig, (await versions(rig, file))[1], owner)
    rig.clock.advance(RETENTION)
    await retain(rig)
    assert await sizes(rig, file) == [4, 2, 1]


async def test_another_retention_applies_within_a_day(rig: Rig) -> None:
    owner = await rig.user()
    file = await replaced(rig, owner, *range(5))
    rig.configure("janitor", versions_kept=1, version_retention=60.0)
    rig.clock.advance(60)
    await retain(rig, limit=2)
    rig.clock.advance(DAY)
    await retain(rig, limit=2)
    assert await sizes(rig, file) == [4, 3]
    await replaced(rig, owner, 5)
    rig.configure("janitor", versions_kept=0, version_retention=10 * RETENTION)
    rig.clock.advance(2 * RETENTION)
    assert await retain(rig) == []
    rig.clock.advance(8 * RETENTION)
    assert len(await retain(rig)) == 2


@pytest.mark.parametrize("limit", [1, 3, 100])
async def test_reviews_end_and_lose_nothing_in_batches(rig: Rig, limit: int) -> None:
    owner = await rig.user()
    rig.configure("janitor", versions_kept=1)
    files = [await replaced(rig, owner, 1, 2, 3, name=name) for name in ("a", "b", "c")]
    rig.clock.advance(RETENTION)
    assert len(await retain(rig, limit)) == 3
    assert [await sizes(rig, file) for file in files] == [[3, 2]] * 3
    rig.clock.advance(RETENTION)
    assert await retain(rig, limit) == []


async def test_a_version_that_a_clock_ahead_replaced_is_not_kept_longer_for_it(rig: Rig) -> None:
    owner = await rig.user()
    rig.configure("janitor", versions_kept=0)
    rig.clock.jump(400 * DAY)
    file = await replaced(rig, owner, 1, 2)
    rig.clock.jump(-400 * DAY)
    assert await retain(rig) == []
    rig.clock.advance(RETENTION - 1)
    assert await retain(rig) == []
    rig.clock.advance(1)
    assert len(await retain(rig)) == 1
    assert await sizes(rig, file) == [2]


async def test_a_claim_of_a_clock_ahead_is_due_again_at_once(rig: Rig) -> None:
    owner = await rig.user()
    file = await replaced(rig, owner, 1, 2)
    await delete(rig, (await versions(rig, file))[1], owner)
    rig.clock.jump(40 * DAY)
    assert len(await claim(rig)) == 1
    rig.clock.jump(-40 * DAY)
    assert len(await claim(rig)) == 1


async def test_a_claim_that_was_not_finished_is_made_again(rig: Rig) -> None:
    """As of a process that is killed after it deleted the bytes, or before."""
    owner = await rig.user()
    file = await replaced(rig, owner, 1, 2)
    await delete(rig, (await versions(rig, file))[1], owner)
    first = await claim(rig)
    assert await claim(rig) == []
    rig.clock.advance(3600)
    assert await claim(rig) == first
    for _ in range(2):
        await rig.ask(FinishVersion(first[0].version_id))
    assert await stored(rig, owner) == Usage(live_bytes=2)


async def test_a_version_that_nobody_removes_is_not_finished(rig: Rig) -> None:
    owner = await rig.user()
    file = await replaced(rig, owner, 1, 2)
    for version in await versions(rig, file):
        await rig.ask(FinishVersion(version.id))
    await rig.ask(FinishVersion(VersionId("none")))
    assert await sizes(rig, file) == [2, 1]


async def test_a_blob_is_deleted_with_the_last_version_that_refers_to_it(rig: Rig) -> None:
    owner = await rig.user()
    file = await replaced(rig, owner, 1, 2)
    oldest = (await versions(rig, file))[-1]
    shared = await key(rig, file, oldest.id)
    file = await restore(rig, oldest, owner)
    await delete(rig, oldest, owner)
    assert await retain(rig) == [VersionPurge(version_id=oldest.id, object_key=None)]
    await replaced(rig, owner, 3)
    second = next(version for version in await versions(rig, file) if version.id == file.version_id)
    await delete(rig, second, owner)
    assert await retain(rig) == [VersionPurge(version_id=second.id, object_key=shared)]


async def test_of_versions_that_share_a_blob_and_go_together_one_at_least_has_the_key(rig: Rig) -> None:
    owner = await rig.user()
    file = await replaced(rig, owner, 1, 2)
    oldest = (await versions(rig, file))[-1]
    shared = await key(rig, file, oldest.id)
    await restore(rig, oldest, owner)
    await replaced(rig, owner, 3)
    for version in (await versions(rig, file))[1:]:
        await delete(rig, version, owner)
    assert {purge.object_key for purge in await retain(rig)} >= {shared}
    assert await stored(rig, owner) == Usage(live_bytes=3)


async def test_a_blob_that_a_file_and_a_removed_version_share_goes_with_the_file(rig: Rig) -> None:
    owner = await rig.user()
    file = await replaced(rig, owner, 1, 2)
    oldest = (await versions(rig, file))[-1]
    shared = await key(rig, file, oldest.id)
    await restore(rig, oldest, owner)
    await delete(rig, oldest, owner)
    (claimed,) = await claim(rig)
    assert claimed.object_key is None
    await rig.trash(file)
    await rig.purge(file)
    (purge,) = await rig.purge_all()
    assert shared in purge.object_keys
    await rig.ask(FinishVersion(claimed.version_id))
    assert await stored(rig, owner) == Usage()


async def test_a_file_with_very_many_versions_is_purged_in_steps(rig: Rig) -> None:
    owner = await rig.user()
    file = await replaced(rig, owner, *[1] * 120)
    keys = {await key(rig, file, version.id) for version in await versions(rig, file)}
    await rig.trash(file)
    await rig.purge(file)
    steps: list[Purge] = []
    while claimed := await rig.ask(ClaimPurges(10)):
        steps += claimed
        await rig.ask(FinishPurge(claimed[0].file_id, claimed[0].revision))
        assert await rig.drift() == 0
    assert [len(step.object_keys) for step in steps] == [50, 50, 20]
    assert {key_ for step in steps for key_ in step.object_keys} == keys
    assert await stored(rig, owner) == Usage()


async def test_what_one_claim_covers_fits_into_a_reply(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("godrive.rules.purges._KEYS_AT_ONCE", 5)
    owner = await rig.user()
    for name in ("a", "b", "c"):
        file = await replaced(rig, owner, 1, 1, 1, name=name)
        await rig.trash(file)
        await rig.purge(file)
    claims: list[int] = []
    while claimed := await rig.ask(ClaimPurges(10)):
        claims.append(len(claimed))
        for purge in claimed:
            await rig.ask(FinishPurge(purge.file_id, purge.revision))
    assert claims == [1, 1, 1]
    assert await stored(rig, owner) == Usage()


async def test_the_usage_of_versions_is_recounted(rig: Rig) -> None:
    owner = await rig.user()
    await replaced(rig, owner, 1, 2, 3)
    await rig.run("UPDATE users SET version_bytes = 77, version_count = 9")
    assert await rig.drift() == (77 - 3) + (9 - 2)
    assert await rig.ask(RecountUsage()) == 1
    assert await stored(rig, owner) == Usage(live_bytes=3, version_bytes=3)


async def test_changes_of_versions_at_once_are_charged_exactly(rig: Rig) -> None:
    owner = await rig.user(quota=40)
    file = await replaced(rig, owner, 1, 2, 3)
    old = (await versions(rig, file))[1:]

    async def attempt(number: int) -> None:
        try:
            match number % 3:
                case 0:
                    await restore(rig, old[number % 2], owner)
                case 1:
                    await replaced(rig, owner, 7)
                case _:
                    await delete(rig, old[number % 2], owner)
        except (QuotaExceeded, NotFound, Conflict):
            pass

    async with anyio.create_task_group() as tasks:
        for number in range(12):
            tasks.start_soon(attempt, number)
    usage = await stored(rig, owner)
    assert usage.used_bytes <= 40
    await retain(rig)
    assert (await stored(rig, owner)).version_bytes == sum(await sizes(rig, file)) - usage.live_bytes


@dataclass
class Model:
    """One file: the sizes and names of its versions, oldest first, and which of them are still to be removed."""

    versions: dict[VersionId, int] = field(default_factory=dict)
    named: set[VersionId] = field(default_factory=set)
    removed: dict[VersionId, int] = field(default_factory=dict)
    trashed: bool = False

    @property
    def current(self) -> VersionId:
        return list(self.versions)[-1]

    @property
    def used(self) -> int:
        return sum(self.versions.values()) + sum(self.removed.values())


class Life:
    """Does random things to the versions of some files, and to their models."""

    QUOTA = 60
    KEPT = 2

    def __init__(self, rig: Rig, owner: UserId, seed: int) -> None:
        self.rig, self.owner, self.chance = rig, owner, random.Random(seed)
        self.by = host(owner)
        self.files: dict[FileId, Model] = {}

    @property
    def used(self) -> int:
        return sum(model.used for model in self.files.values())

    async def step(self) -> None:
        actions = [self.replace, self.replace, self.replace, self.restore, self.name, self.delete, self.trash]
        await self.chance.choice([*actions, self.untrash, self.purge, self.retain])()
        self.rig.clock.advance(self.chance.choice([0, 0, 1, 86_400]))
        await self.compare()

    def some(self, *, trashed: bool = False) -> tuple[FileId, Model] | None:
        found = [item for item in self.files.items() if item[1].trashed is trashed]
        return self.chance.choice(found) if found else None

    async def replace(self) -> None:
        name, size = self.chance.choice("ab"), self.chance.choice([0, 5, 9])
        try:
            file = await self.rig.file(self.owner, name, size=size, on_conflict=OnConflict.REPLACE)
        except QuotaExceeded:
            assert self.used + size > self.QUOTA
            return
        assert self.used + size <= self.QUOTA
        assert file.version_id is not None
        self.files.setdefault(file.id, Model()).versions[file.version_id] = size

    async def restore(self) -> None:
        if (found := self.some()) is None:
            return
        file_id, model = found
        version_id = self.chance.choice(list(model.versions))
        before = model.current
        try:
            file = await self.rig.ask(RestoreVersion(self.by, file_id, version_id))
        except QuotaExceeded:
            assert self.used + model.versions[version_id] > self.QUOTA
            return
        assert file.version_id is not None
        if file.version_id != before:
            model.versions[file.version_id] = model.versions[version_id]
        assert self.used <= self.QUOTA

    async def name(self) -> None:
        if (found := self.some()) is not None:
            version_id = self.chance.choice(list(found[1].versions))
            named = self.chance.choice([True, False])
            await self.rig.ask(NameVersion(self.by, found[0], version_id, "name" if named else None))
            (found[1].named.add if named else found[1].named.discard)(version_id)

    async def delete(self) -> None:
        if (found := self.some()) is None:
            return
        version_id = self.chance.choice(list(found[1].versions))
        ask = DeleteVersion(self.by, found[0], version_id)
        if version_id == found[1].current:
            with pytest.raises(Conflict):
                await self.rig.ask(ask)
        else:
            await self.rig.ask(ask)
            found[1].removed[version_id] = found[1].versions.pop(version_id)

    async def trash(self) -> None:
        if (found := self.some()) is not None:
            await self.rig.ask(TrashFile(self.by, found[0]))
            found[1].trashed = True

    async def untrash(self) -> None:
        if (found := self.some(trashed=True)) is not None:
            await self.rig.ask(RestoreFile(self.by, found[0], OnConflict.RENAME))
            found[1].trashed = False

    async def purge(self) -> None:
        if (found := self.some(trashed=True)) is not None:
            await self.rig.ask(PurgeFile(self.by, found[0]))
            await self.rig.purge_all()
            del self.files[found[0]]

    async def retain(self) -> None:
        """What is removed had to go, and what had to stay is there: when its age is due, the comparison below says."""
        for purge in await retain(self.rig, self.chance.choice([1, 100])):
            for model in self.files.values():
                model.removed.pop(purge.version_id, None)
                if purge.version_id in model.versions:
                    order = list(model.versions)
                    assert order.index(purge.version_id) < len(order) - 1 - self.KEPT
                    assert purge.version_id not in model.named
                    model.versions.pop(purge.version_id)

    async def compare(self) -> None:
        live = trash = earlier = 0
        for file_id, model in self.files.items():
            if model.trashed:
                trash += model.versions[model.current]
            else:
                live += model.versions[model.current]
                file = await self.rig.ask(GetFile(self.by, file_id))
                assert {version.id: version.size_bytes for version in await versions(self.rig, file)} == model.versions
                assert file.version_id == model.current
            earlier += model.used - model.versions[model.current]
        assert await self.rig.usage(self.owner) == Usage(live_bytes=live, trash_bytes=trash, version_bytes=earlier)
        assert await self.rig.drift() == 0


@given(seed=st.integers(0, 2**32))
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_every_life_of_versions_agrees_with_the_model(rig: Rig, seed: int) -> None:
    rig.configure("janitor", versions_kept=Life.KEPT, version_retention=DAY, trash_grace=3650 * DAY)
    life = Life(rig, await rig.user(quota=Life.QUOTA), seed)
    for _ in range(40):
        await life.step()
