"""A clock that was 40 days wrong and was set right: what it wrote waits as long as anything else."""

from __future__ import annotations

from datetime import timedelta

import pytest

from godrive.errors import Conflict
from godrive.messages.clock import NoteClock
from godrive.messages.idempotency import (
    ClaimKey,
    SettleKey,
    StoredReply,
)
from godrive.messages.system import (
    AcquireLease,
    ClaimPurges,
    DueCleanups,
    DueUploads,
    FinishCleanup,
    PostponeUploads,
    Prune,
    ReviewVersions,
)
from godrive.messages.uploads import FailUpload, GetUpload, TouchUpload
from godrive.messages.versions import ListVersions
from godrive.model import (
    File,
    FileId,
    OnConflict,
    Upload,
    UploadId,
)
from godrive.rules.upload_chores import URL_MARGIN
from tests.contracts.rig import GRACE, RETENTION, SERVER, TTL, Rig, host, inside

pytestmark = pytest.mark.anyio

AHEAD = 40 * 86_400.0


async def due(rig: Rig) -> set[UploadId]:
    return {upload.id for upload in await rig.ask(DueUploads(after=10, limit=100))}


async def claim(rig: Rig) -> set[FileId]:
    return {purge.file_id for purge in await rig.ask(ClaimPurges(limit=100))}


async def cleanups(rig: Rig) -> set[UploadId]:
    return {cleanup.upload_id for cleanup in await rig.ask(DueCleanups(limit=100))}


async def get(rig: Rig, upload: Upload) -> Upload:
    return await rig.ask(GetUpload(by=SERVER, upload_id=upload.id))


async def touch(rig: Rig, upload: Upload) -> Upload:
    return await rig.ask(TouchUpload(by=host(upload.owner_id), upload_id=upload.id, received_bytes=1))


async def test_what_was_trashed_ahead_is_purged_a_grace_period_from_now(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    child = await rig.file(owner, "child", where=inside(folder))
    rig.clock.jump(AHEAD)
    await rig.trash(folder)
    rig.clock.jump(-AHEAD)
    assert await claim(rig) == set()
    (listed,) = await rig.binned(owner)
    assert listed.purge_at is not None
    assert (listed.purge_at - rig.now).total_seconds() == pytest.approx(GRACE)
    assert listed.trashed_at == rig.now
    rig.clock.advance(GRACE - 1)
    assert await claim(rig) == set()
    rig.clock.advance(1)
    assert {purge.file_id for purge in await rig.purge_all()} == {folder.id, child.id}
    assert await rig.drift() == 0


async def test_what_was_trashed_behind_is_kept_for_a_grace_period_once_the_clock_is_right(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    await rig.ask(NoteClock(rig.now))
    rig.clock.jump(-AHEAD)
    tombstone = await rig.trash(file)
    rig.clock.jump(AHEAD)
    assert (tombstone.purge_at - rig.now).total_seconds() == pytest.approx(GRACE)
    rig.clock.advance(GRACE - 1)
    assert await claim(rig) == set()
    rig.clock.advance(1)
    assert await claim(rig) == {file.id}


async def test_a_version_that_was_replaced_behind_is_kept_as_long_as_any(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner, size=1)
    await rig.ask(NoteClock(rig.now))
    rig.clock.jump(-AHEAD)
    await rig.file(owner, size=2, on_conflict=OnConflict.REPLACE)
    rig.clock.jump(AHEAD)
    page = await rig.ask(ListVersions(by=host(owner), file_id=file.id, limit=10))
    assert [version.replaced_at for version in page.items] == [None, rig.now]
    assert await rig.ask(ReviewVersions(limit=10)) == 0


async def test_a_purge_that_was_put_off_ahead_is_claimed_now(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    rig.clock.jump(AHEAD)
    await rig.trash(file)
    await rig.purge(file)
    for _ in range(3):
        assert await claim(rig) == {file.id}
        rig.clock.advance(600)
    rig.clock.jump(-AHEAD)
    assert await claim(rig) == {file.id}
    assert await claim(rig) == set()
    rig.clock.advance(3600)
    assert await claim(rig) == {file.id}


@pytest.mark.parametrize("begun", ["before", "ahead"])
@pytest.mark.parametrize("checked", [False, True])
@pytest.mark.parametrize("touched", [False, True])
async def test_an_upload_is_checked_and_ends_as_if_the_clock_had_been_right(
    rig: Rig, begun: str, checked: bool, touched: bool
) -> None:
    owner = await rig.user()
    if begun == "before":
        upload = await rig.begin(owner)
    rig.clock.jump(AHEAD)
    if begun == "ahead":
        upload = await rig.begin(owner)
    if touched:
        upload = await touch(rig, upload)
    if checked:
        rig.clock.advance(10)
        assert await due(rig) == {upload.id}
    rig.clock.jump(-AHEAD)
    await due(rig)
    rig.clock.advance(60)
    assert await due(rig) == {upload.id}, "it waits for the time that the clock showed"
    assert (await get(rig, upload)).expires_at <= rig.now + timedelta(seconds=TTL)
    checks = 0
    while rig.now < (await get(rig, upload)).expires_at:
        rig.clock.advance(60)
        checks += len(await due(rig))
    assert checks >= 10
    assert checks <= 2 * TTL / 60 + 10


async def test_a_check_that_was_postponed_ahead_is_made_now(rig: Rig) -> None:
    upload = await rig.begin(await rig.user())
    rig.clock.jump(AHEAD)
    assert await due(rig) == {upload.id}
    await rig.ask(PostponeUploads(upload_ids=[upload.id], after=30))
    rig.clock.jump(-AHEAD)
    rig.clock.advance(10)
    assert await due(rig) == {upload.id}


@pytest.mark.parametrize("begun", ["before", "ahead"])
@pytest.mark.parametrize("ended", ["before", "ahead"])
async def test_bytes_of_an_ended_upload_are_removed_now_and_again_when_its_url_is_dead(
    rig: Rig, begun: str, ended: str
) -> None:
    if (begun, ended) == ("ahead", "before"):
        return
    owner = await rig.user()
    if begun == "ahead":
        rig.clock.jump(AHEAD)
    upload = await rig.begin(owner)
    if begun == "before" and ended == "ahead":
        rig.clock.jump(AHEAD)
    await rig.ask(FailUpload(by=SERVER, upload_id=upload.id, reason="because"))
    if "ahead" in (begun, ended):
        for _ in range(3):
            assert await cleanups(rig) == {upload.id}
            rig.clock.advance(600)
        rig.clock.jump(-AHEAD)
    assert await cleanups(rig) == {upload.id}
    await rig.ask(FinishCleanup(upload_id=upload.id))
    last: list[float] = []
    start = rig.now
    for _ in range(200):
        rig.clock.advance(60)
        if await cleanups(rig):
            last.append((rig.now - start).total_seconds())
            await rig.ask(FinishCleanup(upload_id=upload.id))
    assert len(last) == 1, last
    assert last[0] <= TTL + URL_MARGIN + 3600


async def test_a_lease_taken_ahead_does_not_last(rig: Rig) -> None:
    rig.clock.jump(AHEAD)
    assert await rig.ask(AcquireLease(name="sweep", holder="a", ttl=30))
    rig.clock.jump(-AHEAD)
    assert await rig.ask(AcquireLease(name="sweep", holder="b", ttl=30))
    assert not await rig.ask(AcquireLease(name="sweep", holder="a", ttl=30))
    rig.clock.advance(30)
    assert await rig.ask(AcquireLease(name="sweep", holder="a", ttl=30))


async def test_a_key_claimed_ahead_and_never_settled_can_be_claimed_again_in_a_minute(rig: Rig) -> None:
    owner = await rig.user()
    rig.clock.jump(AHEAD)
    assert await rig.ask(ClaimKey(by=host(owner), key="key", fingerprint="f")) is None
    rig.clock.jump(-AHEAD)
    await rig.ask(Prune(limit=10))
    with pytest.raises(Conflict):
        await rig.ask(ClaimKey(by=host(owner), key="key", fingerprint="f"))
    rig.clock.advance(60)
    assert await rig.ask(ClaimKey(by=host(owner), key="key", fingerprint="f")) is None


async def test_an_answer_kept_ahead_is_kept_for_a_day_from_now(rig: Rig) -> None:
    by, reply = host(await rig.user()), StoredReply(status=200, headers={}, body=b"x")
    rig.clock.jump(AHEAD)
    await rig.ask(ClaimKey(by=by, key="key", fingerprint="f"))
    await rig.ask(SettleKey(by=by, key="key", stored=reply))
    rig.clock.jump(-AHEAD)
    await rig.ask(Prune(limit=10))
    rig.clock.advance(86_399)
    assert await rig.ask(ClaimKey(by=by, key="key", fingerprint="f")) == reply
    rig.clock.advance(1)
    assert (await rig.ask(Prune(limit=10))).idempotency_keys == 1


async def test_an_upload_that_ended_ahead_is_forgotten_a_retention_from_now(rig: Rig) -> None:
    owner = await rig.user()
    rig.clock.jump(AHEAD)
    await rig.file(owner)
    rig.clock.jump(-AHEAD)
    assert (await rig.ask(Prune(limit=10))).uploads == 0
    rig.clock.advance(RETENTION)
    assert (await rig.ask(Prune(limit=10))).uploads == 1


async def test_a_clock_that_jumps_ahead_and_back_purges_nothing_that_was_not_claimed(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    tombstone = await rig.trash(file)
    rig.clock.jump(AHEAD)
    rig.clock.jump(-AHEAD)
    assert await claim(rig) == set()
    (listed,) = await rig.binned(owner)
    assert listed.purge_at == tombstone.purge_at
    restored: File = await rig.restore(file)
    assert restored.name == file.name
