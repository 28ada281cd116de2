from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal
from urllib.parse import parse_qsl, urlsplit

import pytest
from msgspec.structs import replace

from godrive.blobs.memory import MemoryBlobStore
from godrive.drive import GoDrive
from godrive.errors import Gone, Invalid, NotFound, StorageFull, StoreUnavailable, TooLarge, UploadFinished, UrlInvalid
from godrive.messages.files import OpenContent
from godrive.messages.ingest import CommitUpload, Reconcile
from godrive.messages.storage import (
    Admission,
    Admit,
    CheckStore,
    DeleteBlob,
    HeadBlob,
    ListBlobs,
    QuarantineBlob,
    Received,
    SignGet,
    SignPut,
)
from godrive.messages.uploads import AbortUpload, BeginUpload, GetUpload, ListUploads
from godrive.model import BlobInfo, Content, ObjectKey, Root, SignedRequest, Upload, UploadState, User
from godrive.testing import ManualClock, chunks, open_drive, sign_up, upload
from tests.faults import Fault, Faults, FaultyBlobs
from tests.principals import SYSTEM, acting

pytestmark = pytest.mark.anyio


def parts(url: str) -> tuple[str, str, dict[str, str]]:
    """Where a URL leads, the path there, and its query."""
    split = urlsplit(url)
    return f"{split.scheme}://{split.netloc}", split.path, dict(parse_qsl(split.query, keep_blank_values=True))


async def begin(drive: GoDrive, owner: User, name: str = "a.txt", mime: str = "text/plain") -> Upload:
    return await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), name, mime, 5))


async def content_of(drive: GoDrive, owner: User, name: str = "a.txt") -> Content:
    file = await upload(drive, owner.id, name, b"hello")
    return await drive.metadata.ask(OpenContent(acting(owner.id), file.id))


# Admission


async def test_an_upload_over_the_limit_is_too_large(drive_class: type[GoDrive]) -> None:
    async with open_drive(drive_class=drive_class, blobs={"max_upload_bytes": 100}) as drive:
        await drive.storage.ask(Admit(100))
        with pytest.raises(TooLarge) as caught:
            await drive.storage.ask(Admit(101))
    assert caught.value.field == "size_bytes"


async def test_room_is_kept_free_and_what_is_there_stays_readable(drive_class: type[GoDrive]) -> None:
    store = MemoryBlobStore(capacity=1000)
    async with open_drive(drive_class=drive_class, blob_store=store, blobs={"min_free_bytes": 300}) as drive:
        owner = await sign_up(drive)
        file = await upload(drive, owner.id, "a.txt", bytes(600))
        await drive.storage.ask(Admit(100))
        with pytest.raises(StorageFull) as caught:
            await drive.storage.ask(Admit(101))
        assert caught.value.hint
        content = await drive.metadata.ask(OpenContent(acting(owner.id), file.id))
        assert (await drive.storage.ask(HeadBlob(content.object_key))).size_bytes == 600


async def test_a_store_that_cannot_tell_its_room_takes_what_fits_the_limit(drive: GoDrive) -> None:
    assert await drive.blobs.free_bytes() is None
    await drive.storage.ask(Admit(1 << 40))


# Signed requests


async def test_a_put_is_signed_for_one_upload_and_says_all_the_client_must_send(drive: GoDrive, owner: User) -> None:
    pending = await begin(drive, owner)
    signed = await drive.storage.ask(SignPut(acting(owner.id), pending))
    base, path, query = parts(signed.url)
    assert (signed.method, base, path) == ("PUT", "http://drive.test", f"/v1/uploads/{pending.id}/content")
    assert signed.headers == {"Content-Type": "text/plain", "Content-Length": "5"}
    assert signed.expires_at == pending.expires_at
    assert drive.urls.verify("PUT", path, query, now=drive.clock.now()) == {
        "size": "5",
        "mime": "text/plain",
        "user": owner.id,
    }


@pytest.mark.parametrize(
    ("method", "path_suffix", "change"),
    [("GET", "", {}), ("PUT", "x", {}), ("PUT", "", {"size": "6"}), ("PUT", "", {"mime": "text/html"})],
    ids=["method", "path", "size", "mime"],
)
async def test_a_signed_put_is_good_for_nothing_else(
    drive: GoDrive, owner: User, method: str, path_suffix: str, change: dict[str, str]
) -> None:
    _, path, query = parts((await drive.storage.ask(SignPut(acting(owner.id), await begin(drive, owner)))).url)
    with pytest.raises(UrlInvalid):
        drive.urls.verify(method, path + path_suffix, query | change, now=drive.clock.now())


async def test_a_signed_put_ends_with_its_upload(drive: GoDrive, owner: User, clock: ManualClock) -> None:
    pending = await begin(drive, owner)
    _, path, query = parts((await drive.storage.ask(SignPut(acting(owner.id), pending))).url)
    clock.advance(drive.config.blobs.upload_ttl)
    with pytest.raises(UrlInvalid):
        drive.urls.verify("PUT", path, query, now=clock.now())


async def test_a_type_to_be_found_out_is_not_asked_of_the_client(drive: GoDrive, owner: User) -> None:
    signed = await drive.storage.ask(SignPut(acting(owner.id), await begin(drive, owner, mime="")))
    assert signed.headers == {"Content-Length": "5"}


async def test_no_put_is_signed_for_an_upload_that_has_ended(drive: GoDrive, owner: User) -> None:
    aborted = await begin(drive, owner)
    await drive.metadata.ask(AbortUpload(acting(owner.id), aborted.id))
    with pytest.raises(Gone):
        await drive.storage.ask(SignPut(acting(owner.id), await drive.metadata.ask(GetUpload(SYSTEM, aborted.id))))
    await upload(drive, owner.id, "b.txt")
    committed = await drive.metadata.ask(ListUploads(acting(owner.id), state=UploadState.COMMITTED))
    with pytest.raises(UploadFinished):
        await drive.storage.ask(SignPut(acting(owner.id), committed.items[0]))


async def test_a_get_is_signed_for_one_version_for_a_while(drive: GoDrive, owner: User, clock: ManualClock) -> None:
    content = await content_of(drive, owner)
    signed = await drive.storage.ask(SignGet(acting(owner.id), content))
    base, path, query = parts(signed.url)
    assert (signed.method, base, path) == ("GET", "http://drive.test", f"/v1/files/{content.file.id}/content")
    assert signed.headers == {}
    assert signed.expires_at == clock.now() + timedelta(seconds=drive.config.blobs.download_ttl)
    claims = drive.urls.verify("HEAD", path, query, now=clock.now())
    assert claims == {"v": content.file.version_id, "user": owner.id}
    clock.advance(drive.config.blobs.download_ttl)
    with pytest.raises(UrlInvalid):
        drive.urls.verify("GET", path, query, now=clock.now())


async def test_to_be_shown_inline_is_part_of_what_is_signed(drive: GoDrive, owner: User) -> None:
    content = await content_of(drive, owner)
    _, path, query = parts((await drive.storage.ask(SignGet(acting(owner.id), content, inline=True))).url)
    assert drive.urls.verify("GET", path, query, now=drive.clock.now())["inline"] == "1"
    _, path, query = parts((await drive.storage.ask(SignGet(acting(owner.id), content))).url)
    with pytest.raises(UrlInvalid):
        drive.urls.verify("GET", path, query | {"inline": "1"}, now=drive.clock.now())


class ReachableStore(MemoryBlobStore):
    """A store that signs for itself, and shows what it was asked to sign."""

    async def presign_put(
        self, key: ObjectKey, *, size: int, mime: str, sha256: str | None, expires_at: datetime
    ) -> SignedRequest:
        return SignedRequest(
            method="PUT",
            url=f"http://store.test/{key}",
            headers={"size": str(size), "mime": mime, "sha256": str(sha256)},
            expires_at=expires_at,
        )

    def vouch_for(self, blob: BlobInfo, metadata: Mapping[str, str]) -> BlobInfo | None:
        return None

    async def presign_get(
        self, key: ObjectKey, *, filename: str, mime: str, expires_at: datetime, method: Literal["GET", "HEAD"] = "GET"
    ) -> SignedRequest:
        return SignedRequest(
            method=method,
            url=f"http://store.test/{key}",
            headers={"filename": filename, "mime": mime},
            expires_at=expires_at,
        )


async def test_a_store_that_clients_reach_signs_its_own_requests(drive_class: type[GoDrive]) -> None:
    async with open_drive(drive_class=drive_class, blob_store=ReachableStore()) as drive:
        owner = await sign_up(drive)
        pending = await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), "b.txt", "", 5, sha256="0" * 64))
        put = await drive.storage.ask(SignPut(acting(owner.id), pending))
        content = await content_of(drive, owner)
        get = await drive.storage.ask(SignGet(acting(owner.id), content, inline=True))
        head = await drive.storage.ask(SignGet(acting(owner.id), content, head=True))
    assert put.url == f"http://store.test/{pending.object_key}"
    assert put.headers == {"size": "5", "mime": "", "sha256": "0" * 64}
    assert put.expires_at == pending.expires_at
    assert get.url == f"http://store.test/{content.object_key}"
    assert get.headers == {"filename": "a.txt", "mime": "application/octet-stream"}
    assert (get.method, head.method) == ("GET", "HEAD")


async def test_a_download_url_lives_as_long_as_was_asked_for_up_to_the_maximum(
    drive: GoDrive, owner: User, clock: ManualClock
) -> None:
    content, longest = await content_of(drive, owner), drive.config.blobs.download_ttl_max
    for seconds in (1.0, longest):
        signed = await drive.storage.ask(SignGet(acting(owner.id), content, expires_in=seconds))
        assert signed.expires_at == clock.now() + timedelta(seconds=seconds)
    for seconds in (0.0, -1.0, longest + 1, float("inf")):
        with pytest.raises(Invalid) as refused:
            await drive.storage.ask(SignGet(acting(owner.id), content, expires_in=seconds))
        assert refused.value.field == "expires_in"


async def test_the_download_url_of_a_large_file_lives_as_long_as_its_bytes_may_take(
    drive: GoDrive, owner: User, clock: ManualClock
) -> None:
    content, blobs = await content_of(drive, owner), drive.config.blobs
    for size, seconds in (
        (0, blobs.download_ttl),
        (int(blobs.download_ttl) * 131_072, blobs.download_ttl),
        (10_000 * 131_072, 10_000.0),
        (1 << 50, blobs.download_ttl_max),
    ):
        large = replace(content, file=replace(content.file, size_bytes=size))
        signed = await drive.storage.ask(SignGet(acting(owner.id), large))
        assert signed.expires_at == clock.now() + timedelta(seconds=seconds)


async def test_a_url_that_the_store_signed_ends_after_900_seconds_at_most(
    drive_class: type[GoDrive], clock: ManualClock
) -> None:
    blobs = {"download_ttl": 3600.0, "download_ttl_max": 7200.0}
    async with open_drive(drive_class=drive_class, blob_store=ReachableStore(), blobs=blobs, clock=clock) as drive:
        owner = await sign_up(drive)
        content = await content_of(drive, owner)
        assert (await drive.storage.ask(SignGet(acting(owner.id), content))).expires_at == clock.now() + timedelta(
            seconds=900
        )
        with pytest.raises(Invalid, match="at most 900"):
            await drive.storage.ask(SignGet(acting(owner.id), content, expires_in=901))


@pytest.mark.parametrize(("size", "seconds"), [(0, 10.0), (600 * 131_072, 600.0), (1 << 41, 86_400.0)])
async def test_bytes_that_nobody_sees_may_be_on_their_way_for_as_long_as_they_take(
    drive_class: type[GoDrive], size: int, seconds: float
) -> None:
    async with open_drive(drive_class=drive_class, blob_store=ReachableStore()) as drive:
        assert await drive.storage.ask(Admit(size)) == Admission(in_transit=seconds)


async def test_bytes_that_come_through_us_are_seen_and_not_waited_for_blindly(drive: GoDrive) -> None:
    assert await drive.storage.ask(Admit(1 << 20)) == Admission(in_transit=0)


async def test_a_process_whose_clock_is_far_ahead_signs_no_url_that_has_expired(
    drive_class: type[GoDrive], clock: ManualClock
) -> None:
    async with open_drive(drive_class=drive_class, clock=clock, blob_store=ReachableStore()) as drive:
        owner = await sign_up(drive)
        pending = await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), "b.txt", "", 5))
        clock.jump(drive.config.blobs.upload_ttl)
        with pytest.raises(StoreUnavailable, match="clocks"):
            await drive.storage.ask(SignPut(acting(owner.id), pending))
        clock.jump(-30 * 86_400)  # far behind: no store accepts more than a week
        signed = await drive.storage.ask(SignPut(acting(owner.id), pending))
        assert signed.expires_at == clock.now() + timedelta(days=7)


async def test_a_put_to_the_store_that_outlasts_its_url_becomes_a_file(
    drive_class: type[GoDrive], clock: ManualClock
) -> None:
    async with open_drive(drive_class=drive_class, clock=clock, blob_store=ReachableStore()) as drive:
        owner = await sign_up(drive)
        in_transit = (await drive.storage.ask(Admit(5))).in_transit
        pending = await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), "b.txt", "", 5, in_transit=in_transit))
        signed = await drive.storage.ask(SignPut(acting(owner.id), pending))
        assert signed.expires_at == clock.now() + timedelta(seconds=drive.config.blobs.upload_ttl)
        clock.advance(drive.config.blobs.upload_ttl + in_transit / 2)
        assert (await drive.ingest.ask(Reconcile())).expired == 0
        await drive.blobs.put(pending.object_key, chunks(b"hello"))
        assert (await drive.ingest.ask(CommitUpload(acting(owner.id), pending.id))).name == "b.txt"


async def test_a_put_to_the_store_that_never_ends_is_given_up(drive_class: type[GoDrive], clock: ManualClock) -> None:
    async with open_drive(drive_class=drive_class, clock=clock, blob_store=ReachableStore()) as drive:
        owner = await sign_up(drive)
        in_transit = (await drive.storage.ask(Admit(5))).in_transit
        await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), "b.txt", "", 5, in_transit=in_transit))
        clock.advance(drive.config.blobs.upload_ttl + in_transit)
        assert (await drive.ingest.ask(Reconcile())).expired == 1


# The store itself


async def test_deleting_a_blob_twice_is_harmless(drive: GoDrive, owner: User) -> None:
    key = (await content_of(drive, owner)).object_key
    await drive.storage.ask(DeleteBlob(key))
    await drive.storage.ask(DeleteBlob(key))
    with pytest.raises(NotFound):
        await drive.storage.ask(HeadBlob(key))


async def test_a_quarantined_blob_is_found_by_no_reader(drive: GoDrive, owner: User) -> None:
    key = (await content_of(drive, owner)).object_key
    await drive.storage.ask(QuarantineBlob(key))
    with pytest.raises(NotFound):
        await drive.storage.ask(HeadBlob(key))
    assert (await drive.storage.ask(ListBlobs(10))).items == []


@pytest.mark.parametrize("limit", [1, 3, 4, 7, 8])
async def test_pages_of_blobs_are_complete_and_do_not_overlap(drive: GoDrive, limit: int) -> None:
    keys = [ObjectKey(f"0000000{n // 3}/blob-{n}") for n in range(7)]
    for key in keys:
        await drive.blobs.put(key, chunks(b"x"))
    found: list[BlobInfo] = []
    page = await drive.storage.ask(ListBlobs(limit))
    while True:
        assert len(page.items) <= limit
        found += page.items
        if page.next_page is None:
            break
        page = await drive.storage.ask(ListBlobs(limit, page.next_page))
    assert [blob.key for blob in found] == keys


async def test_nothing_is_received_where_no_put_is_in_progress(drive: GoDrive, owner: User) -> None:
    assert await drive.storage.ask(Received((await begin(drive, owner)).object_key)) is None


async def test_a_key_that_is_a_path_is_refused(drive: GoDrive) -> None:
    for key in ("../../etc/passwd", "/etc/passwd", "a", "a/b/c", "a/..", ""):
        with pytest.raises(Invalid):
            await drive.storage.ask(HeadBlob(ObjectKey(key)))


async def test_a_store_that_answers_is_well(drive: GoDrive) -> None:
    await drive.storage.ask(CheckStore())


async def test_a_store_that_is_down_is_an_answer_and_not_a_crash(drive_class: type[GoDrive]) -> None:
    store = FaultyBlobs(MemoryBlobStore())
    async with open_drive(drive_class=drive_class, blob_store=store) as drive:
        store.faults = Faults(0, Fault.REFUSED)
        with pytest.raises(StoreUnavailable) as caught:
            await drive.storage.ask(CheckStore())
        assert caught.value.retry_after
        await drive.storage.ask(CheckStore())
        assert all(child.restarts == 0 for child in drive.children())
