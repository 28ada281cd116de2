"""Uploads of unknown length: the reservation follows the bytes."""

from __future__ import annotations

import anyio
import pytest

from godrive.errors import (
    Gone,
    Invalid,
    LengthMismatch,
    NotFound,
    QuotaExceeded,
    UploadFinished,
    UploadTakenOver,
)
from godrive.messages.resumable import ClaimUpload, DeclareLength
from godrive.messages.uploads import AbortUpload, ResizeUpload
from godrive.model import Upload, UploadKind
from godrive.rules.rows import MOST_BYTES
from tests.cases import each
from tests.contracts.rig import TTL, Rig, host

pytestmark = pytest.mark.anyio


async def resize(rig: Rig, upload: Upload, least: int, most: int) -> int:
    """The bytes that are reserved now."""
    resized = await rig.ask(ResizeUpload(host(upload.owner_id), upload.id, least, most))
    assert resized.received_bytes >= least
    assert await rig.drift() == 0
    return resized.size_bytes


async def test_a_reservation_grows_and_shrinks_with_what_is_charged(rig: Rig) -> None:
    owner = await rig.user()
    upload = await rig.begin(owner, size=0)
    rig.clock.advance(TTL / 2)
    for least, most in ((10, 100), (10, 100), (150, 300), (7, 7)):
        assert await resize(rig, upload, least, most) == most
        assert (await rig.usage(owner)).reserved_bytes == most
    rig.clock.advance(TTL * 0.7)
    file = await rig.publish(upload, size=7)
    assert file.size_bytes == 7
    usage = await rig.usage(owner)
    assert (usage.live_bytes, usage.reserved_bytes) == (7, 0)


async def test_a_reservation_takes_what_the_quota_leaves_and_not_less_than_has_arrived(rig: Rig) -> None:
    owner = await rig.user(quota=100)
    await rig.file(owner, "other", size=40)
    upload = await rig.begin(owner, size=0)
    assert await resize(rig, upload, 10, 50) == 50
    assert await resize(rig, upload, 55, 1000) == 60
    assert await resize(rig, upload, 60, 60) == 60
    with pytest.raises(QuotaExceeded) as caught:
        await resize(rig, upload, 61, 1000)
    assert caught.value.field == "size_bytes"
    assert (await rig.usage(owner)).reserved_bytes == 60


async def test_a_quota_that_was_lowered_lets_a_reservation_shrink_and_not_grow(rig: Rig) -> None:
    owner = await rig.user(quota=100)
    upload = await rig.begin(owner, size=50)
    await rig.run("UPDATE users SET quota_bytes = 10 WHERE id = $1", owner)
    assert await resize(rig, upload, 50, 80) == 50
    with pytest.raises(QuotaExceeded):
        await resize(rig, upload, 51, 51)
    assert await resize(rig, upload, 20, 20) == 20


async def test_racing_reservations_never_exceed_the_quota(rig: Rig) -> None:
    owner = await rig.user(quota=1000)
    uploads = [await rig.begin(owner, f"{number}", size=0) for number in range(8)]
    granted: list[int] = []

    async def grow(upload: Upload) -> None:
        try:
            granted.append((await rig.ask(ResizeUpload(host(owner), upload.id, 10, 300))).size_bytes)
        except QuotaExceeded:
            granted.append(0)

    async with anyio.create_task_group() as tasks:
        for upload in uploads:
            tasks.start_soon(grow, upload)
    assert sorted(granted) == [0, 0, 0, 0, 100, 300, 300, 300]
    assert (await rig.usage(owner)).reserved_bytes == 1000
    assert await rig.drift() == 0


async def test_an_upload_that_has_ended_reserves_nothing(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    aborted, committed = await rig.begin(owner), await rig.begin(owner)
    with pytest.raises(NotFound):
        await rig.ask(ResizeUpload(host(other), aborted.id, 1, 1))
    await rig.ask(AbortUpload(host(owner), aborted.id))
    await rig.publish(committed)
    for upload, error in ((aborted, Gone), (committed, UploadFinished)):
        with pytest.raises(error):
            await resize(rig, upload, 1, 100)
    assert (await rig.usage(owner)).reserved_bytes == 0


@each("sizes", [(-1, 5), (5, 4), (0, MOST_BYTES + 1)])
async def test_impossible_sizes_are_refused(rig: Rig, sizes: tuple[int, int]) -> None:
    upload = await rig.begin(await rig.user())
    with pytest.raises(Invalid):
        await resize(rig, upload, *sizes)


async def test_an_append_that_was_taken_over_resizes_nothing(rig: Rig) -> None:
    owner = await rig.user()
    by, upload = host(owner), await rig.begin(owner, size=0, kind=UploadKind.RESUMABLE, deferred=True)
    await rig.ask(ClaimUpload(by, upload.id, "one", 0))
    assert (await rig.ask(ResizeUpload(by, upload.id, 5, 100, "one"))).size_bytes == 100
    await rig.ask(ClaimUpload(by, upload.id, "two", 0))
    for writer in ("one", ""):
        with pytest.raises(UploadTakenOver):
            await rig.ask(ResizeUpload(by, upload.id, 5, 50, writer))
    await rig.ask(ClaimUpload(by, upload.id, "three", 0, 7))
    with pytest.raises(UploadTakenOver):
        await rig.ask(ResizeUpload(by, upload.id, 5, 100, "two"))
    assert (await rig.usage(owner)).reserved_bytes == 7


async def test_a_length_that_was_declared_meanwhile_stays(rig: Rig) -> None:
    owner = await rig.user()
    by, upload = host(owner), await rig.begin(owner, size=0, kind=UploadKind.RESUMABLE, deferred=True)
    await rig.ask(ClaimUpload(by, upload.id, "one", 0))
    await rig.ask(DeclareLength(by, upload.id, 7))
    assert (await rig.ask(ResizeUpload(by, upload.id, 7, 100, "one"))).length == 7
    with pytest.raises(LengthMismatch):
        await rig.ask(ResizeUpload(by, upload.id, 8, 100, "one"))
    assert (await rig.usage(owner)).reserved_bytes == 7
