"""Uploads whose bytes come in several appends: the offset moves by compare-and-set, for one writer at a time."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from godrive.errors import (
    Conflict,
    Gone,
    Invalid,
    LengthMismatch,
    NotFound,
    QuotaExceeded,
    UploadFinished,
    UploadTakenOver,
)
from godrive.messages.pending import PendingUploads
from godrive.messages.resumable import AdvanceUpload, ClaimUpload, DeclareLength
from godrive.messages.system import DueUploads
from godrive.messages.uploads import AbortUpload, FailUpload, GetUpload, ResizeUpload, TouchUpload
from godrive.model import OnConflict, Upload, UploadKind, UploadState, UserId
from tests.contracts.rig import TTL, Rig, host

pytestmark = pytest.mark.anyio


async def begin(rig: Rig, owner: UserId, size: int = 10, name: str = "a.txt", **options: object) -> Upload:
    return await rig.begin(owner, name, size=size, **{"kind": UploadKind.RESUMABLE, **options})  # type: ignore[arg-type]


async def claim(rig: Rig, upload: Upload, writer: str, offset: int = 0, length: int | None = None) -> Upload:
    return await rig.ask(ClaimUpload(host(upload.owner_id), upload.id, writer, offset, length))


async def advance(rig: Rig, upload: Upload, writer: str, before: int, after: int, *, staging: str = "s") -> Upload:
    return await rig.ask(AdvanceUpload(host(upload.owner_id), upload.id, writer, before, after, staging))


async def get(rig: Rig, upload: Upload) -> Upload:
    return await rig.ask(GetUpload(host(upload.owner_id), upload.id))


async def test_the_offset_moves_for_the_writer_that_is_at_it(rig: Rig) -> None:
    upload = await begin(rig, await rig.user())
    assert (upload.length, upload.received_bytes, upload.staging) == (10, 0, "")
    assert (await claim(rig, upload, "one")).writer == "one"
    moved = await advance(rig, upload, "one", 0, 4, staging="first")
    assert (moved.received_bytes, moved.staging, moved.writer) == (4, "first", "one")
    with pytest.raises(UploadTakenOver):
        await advance(rig, upload, "one", 3, 5)
    with pytest.raises(UploadTakenOver):
        await advance(rig, upload, "other", 4, 5)
    assert (await get(rig, upload)).received_bytes == 4
    moved = await advance(rig, upload, "one", 4, 6, staging="second")
    assert (moved.received_bytes, moved.staging) == (6, "second")


async def test_the_same_move_twice_is_one(rig: Rig) -> None:
    upload = await begin(rig, await rig.user())
    await claim(rig, upload, "one")
    for _ in range(2):
        assert (await advance(rig, upload, "one", 0, 4)).received_bytes == 4


async def test_the_last_claim_wins(rig: Rig) -> None:
    upload = await begin(rig, await rig.user())
    await claim(rig, upload, "one")
    await claim(rig, upload, "two")
    with pytest.raises(UploadTakenOver):
        await advance(rig, upload, "one", 0, 4)
    assert (await advance(rig, upload, "two", 0, 4)).received_bytes == 4


async def test_an_append_that_was_taken_over_cannot_end_the_upload(rig: Rig) -> None:
    upload = await begin(rig, await rig.user())

    async def fail(writer: str) -> Upload:
        return await rig.ask(FailUpload(host(upload.owner_id), upload.id, "because", writer=writer))

    await claim(rig, upload, "one")
    await claim(rig, upload, "two")
    assert await fail("one") == await get(rig, upload)
    assert (await get(rig, upload)).state is UploadState.PENDING
    for writer in ("two", "two", "one"):
        assert (await fail(writer)).state is UploadState.FAILED


@pytest.mark.parametrize("offset", [0, 3, 5, 11])
async def test_a_claim_from_the_past_or_the_future_changes_nothing(rig: Rig, offset: int) -> None:
    upload = await begin(rig, await rig.user())
    await claim(rig, upload, "one")
    await advance(rig, upload, "one", 0, 4)
    unchanged = await claim(rig, upload, "two", offset)
    assert (unchanged.received_bytes, unchanged.writer) == (4, "one")
    assert (await advance(rig, upload, "one", 4, 10)).received_bytes == 10


async def test_no_byte_after_the_length_counts(rig: Rig) -> None:
    upload = await begin(rig, await rig.user())
    await claim(rig, upload, "one")
    with pytest.raises(LengthMismatch):
        await advance(rig, upload, "one", 0, 11)
    with pytest.raises(Invalid):
        await advance(rig, upload, "one", 5, 4)


async def test_the_deadline_slides_with_every_append_and_the_offset_with_none_of_its_other_changes(rig: Rig) -> None:
    upload = await begin(rig, await rig.user())
    for step in range(1, 5):
        rig.clock.advance(TTL * 0.7)
        await claim(rig, upload, "one", step - 1)
        await rig.ask(TouchUpload(host(upload.owner_id), upload.id, 9))
        moved = await advance(rig, upload, "one", step - 1, step)
        assert moved.received_bytes == step
        assert (moved.expires_at - rig.now).total_seconds() == TTL
    assert (await get(rig, upload)).state is UploadState.PENDING


async def test_an_upload_that_ended_takes_no_append(rig: Rig) -> None:
    upload = await begin(rig, await rig.user())
    await claim(rig, upload, "one")
    await rig.ask(AbortUpload(host(upload.owner_id), upload.id))
    with pytest.raises(Gone):
        await advance(rig, upload, "one", 0, 4)
    with pytest.raises(Gone):
        await claim(rig, upload, "two")
    with pytest.raises(Gone):
        await rig.ask(DeclareLength(host(upload.owner_id), upload.id, 4))


async def test_a_committed_upload_answers_a_claim_and_takes_nothing(rig: Rig) -> None:
    upload = await begin(rig, await rig.user())
    await claim(rig, upload, "one")
    upload = await advance(rig, upload, "one", 0, 10)
    file = await rig.publish(upload)
    again = await claim(rig, upload, "two", 10)
    assert (again.state, again.file_id, again.received_bytes) == (UploadState.COMMITTED, file.id, 10)
    with pytest.raises(UploadFinished):
        await advance(rig, upload, "one", 10, 10, staging="other")


async def test_an_upload_in_one_put_has_no_appends(rig: Rig) -> None:
    upload = await rig.begin(await rig.user())
    with pytest.raises(Conflict):
        await claim(rig, upload, "one")


async def test_an_upload_of_others_is_not_found(rig: Rig) -> None:
    upload = await begin(rig, await rig.user())
    await claim(rig, upload, "one")
    stranger = replace(upload, owner_id=await rig.user())
    with pytest.raises(NotFound):
        await claim(rig, stranger, "two")
    with pytest.raises(NotFound):
        await advance(rig, stranger, "one", 0, 1)
    with pytest.raises(NotFound):
        await rig.ask(DeclareLength(host(stranger.owner_id), upload.id, 10))
    assert (await get(rig, upload)).received_bytes == 0


async def test_a_deferred_length_is_declared_once_and_reserved(rig: Rig) -> None:
    owner = await rig.user(quota=100)
    upload = await begin(rig, owner, 0, deferred=True)
    assert upload.length is None
    await claim(rig, upload, "one")
    await rig.ask(ResizeUpload(host(owner), upload.id, 30, 40, "one"))
    assert (await rig.usage(owner)).reserved_bytes == 40
    await advance(rig, upload, "one", 0, 30)
    for length in (29, 101):
        with pytest.raises((Invalid, QuotaExceeded)):
            await rig.ask(DeclareLength(host(owner), upload.id, length))
    for _ in range(2):
        declared = await claim(rig, upload, "two", 30, length=35)
        assert (declared.length, declared.received_bytes) == (35, 30)
    assert (await rig.usage(owner)).reserved_bytes == 35
    with pytest.raises(Invalid):
        await rig.ask(DeclareLength(host(owner), upload.id, 36))
    upload = await advance(rig, upload, "two", 30, 35)
    assert (await rig.publish(upload)).size_bytes == 35
    assert (await rig.ask(DeclareLength(host(owner), upload.id, 35))).state is UploadState.COMMITTED
    assert await rig.drift() == 0


async def test_a_part_takes_no_name_and_never_becomes_a_file(rig: Rig) -> None:
    owner = await rig.user()
    await rig.file(owner, "a.txt")
    part = await begin(rig, owner, kind=UploadKind.PART, on_conflict=OnConflict.RENAME)
    assert (await rig.usage(owner)).reserved_bytes == 10
    with pytest.raises(Conflict):
        await rig.publish(part)
    assert (await get(rig, part)).state is UploadState.PENDING
    assert await rig.names(owner) == ["a.txt"]


async def test_pending_uploads_are_told_from_ended_ones(rig: Rig) -> None:
    owner = await rig.user()
    pending, ended, committed = [await begin(rig, owner, name=name) for name in ("a", "b", "c")]
    await rig.ask(AbortUpload(host(owner), ended.id))
    await rig.publish(committed)
    keys = [upload.object_key for upload in (ended, pending, committed)]
    assert await rig.ask(PendingUploads(keys)) == [pending.object_key]
    assert await rig.ask(PendingUploads([])) == []


async def test_the_reconciler_is_told_how_the_bytes_come(rig: Rig) -> None:
    owner = await rig.user()
    await begin(rig, owner)
    await rig.begin(owner, "b")
    rig.clock.advance(60)
    due = await rig.ask(DueUploads(after=1, limit=10))
    assert {upload.kind for upload in due} == {UploadKind.RESUMABLE, UploadKind.WHOLE}
