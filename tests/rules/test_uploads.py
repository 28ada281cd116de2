"""Uploads: reserve, publish once, end, and be checked on until then."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any, cast

import anyio
import pytest
from msgspec.structs import replace

from godrive.bridge.nats import HEADROOM, LARGEST
from godrive.catalog import Tx
from godrive.errors import (
    DigestMismatch,
    Gone,
    Invalid,
    LengthMismatch,
    NameTaken,
    NotFound,
    QuotaExceeded,
    UploadFinished,
)
from godrive.messages.files import EmptyTrash
from godrive.messages.metadata import Metadata
from godrive.messages.pending import UploadsWithoutFolder
from godrive.messages.system import DueCleanups, DueUploads, FinishCleanup, KnownKeys, UploadCounts
from godrive.messages.uploads import (
    AbortUpload,
    BeginUpload,
    FailUpload,
    FindUpload,
    GetUpload,
    ListUploads,
    PublishUpload,
    TouchUpload,
)
from godrive.model import (
    File,
    FileId,
    In,
    ObjectKey,
    OnConflict,
    Root,
    Upload,
    UploadId,
    UploadKind,
    UploadState,
    UserId,
)
from godrive.rules import rows, upload_chores
from godrive.rules.registry import RULES
from godrive.runtime import Ask, codec
from tests.cases import each
from tests.contracts.rig import SERVER, TTL, Rig, host, inside

pytestmark = pytest.mark.anyio

SHA256 = "ab" * 32


async def fail(rig: Rig, upload: Upload, reason: str = "because", **options: UploadState) -> Upload:
    return await rig.ask(FailUpload(by=SERVER, upload_id=upload.id, reason=reason, **options))


async def touch(rig: Rig, upload: Upload, received: int) -> Upload:
    return await rig.ask(TouchUpload(by=host(upload.owner_id), upload_id=upload.id, received_bytes=received))


async def abort(rig: Rig, upload: Upload) -> Upload:
    return await rig.ask(AbortUpload(by=host(upload.owner_id), upload_id=upload.id))


async def get(rig: Rig, upload: Upload) -> Upload:
    return await rig.ask(GetUpload(by=SERVER, upload_id=upload.id))


async def finish_cleanup(rig: Rig, upload: Upload) -> None:
    await rig.ask(FinishCleanup(upload_id=upload.id))


async def test_an_upload_is_what_was_declared(rig: Rig) -> None:
    owner = await rig.user()
    upload = await rig.begin(owner, "a.txt", size=5, sha256=SHA256, on_conflict=OnConflict.RENAME)
    assert upload.state is UploadState.PENDING
    assert upload.expires_at == rig.now + timedelta(seconds=TTL)
    for by in (SERVER, host(owner)):
        assert await rig.ask(GetUpload(by=by, upload_id=upload.id)) == upload
        assert await rig.ask(FindUpload(by=by, object_key=upload.object_key)) == upload


async def test_an_object_key_tells_nothing_of_the_name_and_is_never_the_same(rig: Rig) -> None:
    owner = await rig.user()
    keys = {(await rig.begin(owner, "secret")).object_key for _ in range(20)}
    assert len(keys) == 20
    assert not any("secret" in key or owner in key for key in keys)


async def test_a_foreign_or_absent_upload_is_not_found(rig: Rig) -> None:
    upload, other = await rig.begin(await rig.user()), await rig.user()
    absent = UploadId("x")
    for by, upload_id in ((host(other), upload.id), (host(upload.owner_id), absent), (SERVER, absent)):
        asks: list[Ask[Metadata, Any]] = [
            GetUpload(by=by, upload_id=upload_id),
            TouchUpload(by=by, upload_id=upload_id, received_bytes=1),
            PublishUpload(by=by, upload_id=upload_id, blob=rig.blob(upload)),
            FailUpload(by=by, upload_id=upload_id, reason="because"),
            AbortUpload(by=by, upload_id=upload_id),
        ]
        for ask in asks:
            with pytest.raises(NotFound):
                await rig.ask(ask)
    for find in (
        FindUpload(by=host(other), object_key=upload.object_key),
        FindUpload(by=SERVER, object_key=ObjectKey("x")),
    ):
        with pytest.raises(NotFound):
            await rig.ask(find)
    assert await get(rig, upload) == upload
    assert await rig.names(upload.owner_id) == []


async def test_uploads_are_listed_to_their_owner_only(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    for name in "ab":
        await rig.begin(owner, name)
    page = await rig.ask(ListUploads(by=host(owner), limit=1))
    assert page.next_page is not None
    assert (await rig.ask(ListUploads(by=host(other)))).items == []
    for who, state in ((other, None), (owner, UploadState.PENDING)):
        with pytest.raises(Invalid) as caught:
            await rig.ask(ListUploads(by=host(who), page=page.next_page, state=state))
        assert caught.value.field == "page"


async def test_an_upload_goes_into_a_live_folder_of_its_owner_only(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    folder, trashed = await rig.folder(owner), await rig.folder(owner, "old")
    below = await rig.folder(owner, "below", where=inside(trashed))
    await rig.trash(trashed)
    for nowhere in (await rig.folder(other), trashed, below, await rig.file(owner, "no folder")):
        with pytest.raises(NotFound) as caught:
            await rig.begin(owner, where=inside(nowhere))
        assert caught.value.field == "parent_id"
    file = await rig.file(owner, where=inside(folder))
    assert file.parent_id == folder.id
    assert await rig.names(owner, where=inside(folder)) == ["a.txt"]
    assert await rig.drift() == 0


async def test_a_name_is_taken_in_its_own_folder_only(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    inner, outer = await rig.file(owner, where=inside(folder)), await rig.file(owner)
    assert {inner.name, outer.name} == {"a.txt"}
    await rig.rename(inner, "b.txt")
    await rig.rename(inner, "a.txt")
    for where in (inside(folder), Root()):
        with pytest.raises(NameTaken):
            await rig.begin(owner, where=where)


async def test_an_upload_whose_folder_is_gone_makes_no_file(rig: Rig) -> None:
    owner = await rig.user()
    outer = await rig.folder(owner)
    folder = await rig.folder(owner, where=inside(outer))
    upload = await rig.begin(owner, where=inside(folder))
    for trashed in (folder, outer):
        await rig.trash(trashed)
        with pytest.raises(Gone):
            await rig.publish(upload)
        assert (await get(rig, upload)).state is UploadState.PENDING
        assert await rig.names(owner) == []
        await rig.restore(trashed)
    assert (await rig.publish(upload)).parent_id == folder.id


@each(
    ("field", "options"),
    [
        ("name", {"name": ""}),
        ("name", {"name": "a/b"}),
        ("name", {"name": "é" * 256}),
        ("size_bytes", {"size": -1}),
        ("size_bytes", {"size": 2**63}),
        ("sha256", {"sha256": "AB" * 32}),
        ("sha256", {"sha256": "ab"}),
        ("parent_id", {"where": In(folder_id=FileId("x"))}),
    ],
)
async def test_a_wrong_declaration_is_refused_by_field_and_reserves_nothing(
    rig: Rig, field: str, options: dict[str, Any]
) -> None:
    owner = await rig.user()
    with pytest.raises((Invalid, NotFound)) as caught:
        await rig.begin(owner, **options)
    assert caught.value.field == field
    assert (await rig.usage(owner)).used_bytes == 0


@each("mime", ["text", "text/", "te xt/plain", "text/plain ", "text/plain\n", "text/\x00", "x/" + "y" * 300])
async def test_what_is_no_media_type_is_refused(rig: Rig, mime: str) -> None:
    owner = await rig.user()
    with pytest.raises(Invalid) as caught:
        await rig.begin(owner, mime=mime)
    assert caught.value.field == "mime"


async def test_publishing_makes_one_file_and_again_gives_the_same(rig: Rig) -> None:
    owner = await rig.user()
    upload = await rig.begin(owner, size=7)
    assert (await rig.usage(owner)).reserved_bytes == 7
    rig.clock.advance(1)
    file = await rig.publish(upload, sha256=SHA256)
    assert (file.name, file.size_bytes, file.mime, file.sha256) == ("a.txt", 7, "text/plain", SHA256)
    assert (file.created_at, file.updated_at) == (rig.now, rig.now)
    rig.clock.advance(1)
    assert await rig.publish(upload) == file
    assert await rig.names(owner) == ["a.txt"]
    usage = await rig.usage(owner)
    assert (usage.live_bytes, usage.reserved_bytes) == (7, 0)
    row = await get(rig, upload)
    assert (row.state, row.file_id, row.received_bytes) == (UploadState.COMMITTED, file.id, 7)


async def test_many_who_publish_one_upload_get_one_file(rig: Rig) -> None:
    owner = await rig.user()
    upload = await rig.begin(owner)
    made: list[File] = []

    async def publish() -> None:
        made.append(await rig.publish(upload))

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(publish)
    assert len({file.id for file in made}) == 1
    assert await rig.names(owner) == ["a.txt"]
    assert await rig.drift() == 0


async def test_publishing_again_gives_the_file_as_it_is_now(rig: Rig) -> None:
    owner = await rig.user()
    upload = await rig.begin(owner)
    file = await rig.publish(upload)
    await rig.rename(file, "b")
    assert (await rig.publish(upload)).name == "b"
    await rig.trash(file)
    assert (await rig.publish(upload)).trashed_at == rig.now
    rig.clock.advance(10**6)
    await rig.purge_all()
    with pytest.raises(Gone):
        await rig.publish(upload)


async def test_bytes_that_are_not_those_declared_change_nothing(rig: Rig) -> None:
    owner = await rig.user()
    upload = await rig.begin(owner, size=10, sha256=SHA256)
    for size in (9, 11):
        with pytest.raises(LengthMismatch):
            await rig.publish(upload, size=size)
    with pytest.raises(DigestMismatch):
        await rig.publish(upload, sha256="cd" * 32)
    assert (await get(rig, upload)).state is UploadState.PENDING
    assert await rig.names(owner) == []
    assert await rig.drift() == 0
    await rig.publish(upload, sha256=SHA256)


async def test_a_digest_that_was_only_declared_is_not_vouched_for(rig: Rig) -> None:
    upload = await rig.begin(await rig.user(), sha256=SHA256)
    assert (await rig.publish(upload)).sha256 is None


@pytest.mark.parametrize(
    ("declared", "found", "kept"),
    [
        ("text/plain", "image/png", "text/plain"),
        ("", "image/png", "image/png"),
        ("", None, "application/octet-stream"),
    ],
)
async def test_the_type_is_the_declared_one_and_without_it_what_was_found(
    rig: Rig, declared: str, found: str | None, kept: str
) -> None:
    owner = await rig.user()
    upload = await rig.begin(owner, mime=declared)
    blob = replace(rig.blob(upload), mime=found)
    assert (await rig.ask(PublishUpload(by=SERVER, upload_id=upload.id, blob=blob))).mime == kept


async def test_an_empty_file_is_a_file(rig: Rig) -> None:
    owner = await rig.user(quota=0)
    file = await rig.file(owner, size=0)
    assert file.size_bytes == 0
    assert await rig.names(owner) == ["a.txt"]


async def test_a_name_taken_meanwhile_is_refused_or_numbered_as_the_client_asked(rig: Rig) -> None:
    owner = await rig.user()
    refused = await rig.begin(owner)
    numbered = await rig.begin(owner, on_conflict=OnConflict.RENAME)
    first = await rig.file(owner)
    with pytest.raises(NameTaken):
        await rig.publish(refused)
    assert (await get(rig, refused)).state is UploadState.PENDING
    assert (await rig.publish(numbered)).name == "a (1).txt"
    with pytest.raises(NameTaken):
        await rig.begin(owner)
    await rig.trash(first)
    assert (await rig.publish(refused)).name == "a.txt"
    assert await rig.drift() == 0


async def test_a_long_name_is_numbered_within_its_bounds(rig: Rig) -> None:
    owner = await rig.user()
    name = "é" * 251 + ".txt"
    await rig.file(owner, name)
    second = await rig.file(owner, name, on_conflict=OnConflict.RENAME)
    assert len(second.name) <= 255
    assert second.name.endswith("é (1).txt")


async def test_the_quota_counts_what_is_reserved(rig: Rig) -> None:
    owner = await rig.user(quota=100)
    upload = await rig.begin(owner, "a", size=60)
    with pytest.raises(QuotaExceeded):
        await rig.begin(owner, "b", size=41)
    await rig.begin(owner, "c", size=40)
    await fail(rig, upload)
    await rig.begin(owner, "d", size=60)


async def test_the_quota_counts_the_trash_until_it_is_purged(rig: Rig) -> None:
    owner = await rig.user(quota=100)
    file = await rig.file(owner, size=100)
    await rig.trash(file)
    with pytest.raises(QuotaExceeded):
        await rig.begin(owner, "b", size=1)
    rig.clock.advance(10**6)
    await rig.purge_all()
    await rig.begin(owner, "b", size=100)


async def test_of_many_uploads_only_as_many_are_admitted_as_fit(rig: Rig) -> None:
    owner = await rig.user(quota=50)
    admitted: list[Upload] = []

    async def begin(number: int) -> None:
        try:
            admitted.append(await rig.begin(owner, f"{number}", size=20))
        except QuotaExceeded:
            return

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(begin, number)
    assert len(admitted) == 2


async def test_a_deadline_slides_with_the_bytes_and_never_goes_back(rig: Rig) -> None:
    upload = await rig.begin(await rig.user(), size=100)
    rig.clock.advance(10)
    touched = await touch(rig, upload, 50)
    assert (touched.received_bytes, touched.expires_at) == (50, rig.now + timedelta(seconds=TTL))
    assert (await touch(rig, upload, 20)).received_bytes == 50
    rig.configure("blobs", upload_ttl=1.0)
    short = await touch(rig, upload, 60)
    assert short.expires_at == touched.expires_at


async def test_an_upload_that_has_ended_takes_no_more_bytes(rig: Rig) -> None:
    owner = await rig.user()
    published, failed = await rig.begin(owner, "a"), await rig.begin(owner, "b")
    await rig.publish(published)
    await fail(rig, failed)
    with pytest.raises(UploadFinished):
        await touch(rig, published, 1)
    with pytest.raises(Gone):
        await touch(rig, failed, 1)
    with pytest.raises(Gone):
        await rig.publish(failed)


@pytest.mark.parametrize("end", ["purge", "empty"])
@pytest.mark.parametrize("whole_folder", [True, False])
async def test_publishing_again_returns_the_file_until_it_is_purged(rig: Rig, end: str, whole_folder: bool) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    upload = await rig.begin(owner, where=inside(folder))
    file = await rig.publish(upload)
    trashed = folder if whole_folder else file
    await rig.trash(trashed)
    assert (await rig.publish(upload)).id == file.id
    if end == "purge":
        await rig.purge(trashed)
    else:
        await rig.ask(EmptyTrash(by=host(owner)))
    with pytest.raises(Gone):
        await rig.publish(upload)


async def test_an_end_gives_the_reserve_back_once_and_keeps_the_first_reason(rig: Rig) -> None:
    owner = await rig.user()
    upload = await rig.begin(owner, size=30)
    ended = await fail(rig, upload, "first", state=UploadState.EXPIRED)
    assert (ended.state, ended.reason, ended.finished_at) == (UploadState.EXPIRED, "first", rig.now)
    assert await fail(rig, upload, "second") == ended
    assert await abort(rig, upload) == ended
    assert (await rig.usage(owner)).used_bytes == 0
    assert await rig.drift() == 0


async def test_a_published_upload_cannot_be_aborted_or_failed(rig: Rig) -> None:
    owner = await rig.user()
    upload = await rig.begin(owner)
    await rig.publish(upload)
    with pytest.raises(UploadFinished):
        await abort(rig, upload)
    assert (await fail(rig, upload)).state is UploadState.COMMITTED
    assert await rig.names(owner) == ["a.txt"]


async def test_uploads_are_listed_newest_first_by_state(rig: Rig) -> None:
    owner = await rig.user()
    made = []
    for number in range(5):
        made.append(await rig.begin(owner, f"{number}"))
        rig.clock.advance(1)
    await fail(rig, made[2])

    async def ids(**options: UploadState) -> list[UploadId]:
        page = await rig.ask(ListUploads(by=host(owner), limit=2, **options))
        found = [upload.id for upload in page.items]
        while page.next_page is not None:
            page = await rig.ask(ListUploads(by=host(owner), limit=2, page=page.next_page, **options))
            found += [upload.id for upload in page.items]
        return found

    order = [upload.id for upload in reversed(made)]
    assert await ids() == order
    assert await ids(state=UploadState.FAILED) == [made[2].id]
    assert await ids(state=UploadState.PENDING) == [id_ for id_ in order if id_ != made[2].id]
    with pytest.raises(Invalid):
        await rig.ask(ListUploads(by=host(owner), page="x"))


async def test_the_longest_page_there_can_be_fits_into_one_reply_and_hides_nothing(rig: Rig) -> None:
    owner, long = await rig.user(), "\U0001f389" * 255
    ids = [f"{number:036}" for number in range(1000)]

    async def fill(tx: Tx) -> None:
        await tx.run_each(
            "INSERT INTO uploads (id, owner_id, object_key, parent_id, name, mime, size_bytes, sha256, on_conflict, "
            "state, received_bytes, created_at, expires_at, finished_at, reason, file_id, attempts, next_check_at) "
            "VALUES ($1, $2, $3, $1, $4, $5, $6, $7, 'rename', 'committed', $6, $8, $8, $8, $9, $1, $10, 0)",
            [
                (id_, owner, f"{id_[:8]}/{id_}", long, "m" * 255, 2**62, SHA256, 2**50, repr(long) + "." * 33, 2**30)
                for id_ in ids
            ],
        )

    await rig.catalog.write(fill)
    found: list[UploadId] = []
    page = None
    while page is None or page.next_page:
        after = page and page.next_page
        page = await rig.ask(ListUploads(by=host(owner), limit=1000, page=after))
        assert len(codec.encode_reply(page)) <= LARGEST - HEADROOM
        found += [upload.id for upload in page.items]
    assert found == ids[::-1]


async def due(rig: Rig, limit: int = 100) -> list[UploadId]:
    return [upload.id for upload in await rig.ask(DueUploads(after=10, limit=limit))]


@pytest.mark.slow
async def test_checks_begin_after_a_while_and_back_off_up_to_a_minute_but_never_past_the_deadline(rig: Rig) -> None:
    upload = await rig.begin(await rig.user())
    checked = []
    for second, later in pairwise((*range(205), *range(205, round(TTL) + 130, 5))):
        if await due(rig):
            checked.append(second)
        rig.clock.advance(later - second)
    assert checked[:6] == [10, 20, 40, 80, 140, 200]
    steps = {later - earlier for earlier, later in pairwise(checked[4:])}
    assert max(steps) <= 60
    assert round(TTL) in checked
    assert (await get(rig, upload)).attempts == len(checked)


async def test_the_longest_due_are_checked_first_and_no_more_than_asked_for(rig: Rig) -> None:
    owner = await rig.user()
    made = []
    for number in range(4):
        made.append((await rig.begin(owner, f"{number}")).id)
        rig.clock.advance(1)
    rig.clock.advance(20)
    assert await due(rig, 3) == made[:3]
    assert await due(rig, 3) == made[3:]
    assert await due(rig, 3) == []


async def test_an_upload_of_a_clock_that_was_set_back_is_checked_as_soon_as_any(rig: Rig) -> None:
    owner = await rig.user()
    checked = (await rig.begin(owner, "checked")).id
    rig.clock.advance(11)
    assert await due(rig) == [checked]
    unseen = (await rig.begin(owner, "unseen")).id
    rig.clock.jump(-7200)
    assert await due(rig) == []  # from now on they are as old as one that was begun now
    rig.clock.advance(10)
    assert set(await due(rig)) == {checked, unseen}
    assert await due(rig) == []
    rig.clock.advance(60)
    assert set(await due(rig)) == {checked, unseen}


async def test_an_ended_upload_is_not_checked(rig: Rig) -> None:
    owner = await rig.user()
    await rig.publish(await rig.begin(owner, "a"))
    await fail(rig, await rig.begin(owner, "b"))
    rig.clock.advance(100)
    assert await due(rig) == []


class Counted:
    """A transaction that counts its statements."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self.statements = 0

    def __getattr__(self, name: str) -> Any:
        self.statements += 1
        return getattr(self._tx, name)


async def test_no_more_are_checked_than_fit_into_one_reply(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client says of its uploads may be long, and must not delay the checks of others."""
    owner = await rig.user()
    note = "x" * 1500
    uploads = [await rig.begin(owner, str(number), kind=UploadKind.RESUMABLE, note=note) for number in range(5)]
    rig.clock.advance(10)
    monkeypatch.setattr(rows, "MOST_TEXT", 3500)
    checked = [await due(rig), await due(rig), await due(rig)]
    assert [len(each) for each in checked] == [2, 2, 1]
    assert {id_ for each in checked for id_ in each} == {upload.id for upload in uploads}


@pytest.mark.parametrize("ask", [DueUploads(after=10, limit=100), DueCleanups(limit=100)])
async def test_however_much_is_due_it_takes_four_statements_at_most(rig: Rig, ask: DueUploads | DueCleanups) -> None:
    owner = await rig.user()
    for number in range(10):
        upload = await rig.begin(owner, f"{number}")
        if isinstance(ask, DueCleanups):
            await fail(rig, upload)
    rig.clock.advance(100)
    counted: list[Counted] = []

    async def operation(tx: Tx) -> list[Any]:
        counted.append(Counted(tx))
        found: list[Any] = await RULES[type(ask)].run(cast("Tx", counted[-1]), ask, rig.env)
        return found

    assert len(await rig.catalog.write(operation)) == 10
    assert counted[-1].statements <= 4
    assert await rig.catalog.write(operation) == []


async def cleanups(rig: Rig) -> list[ObjectKey]:
    return [cleanup.object_key for cleanup in await rig.ask(DueCleanups(limit=10))]


async def test_bytes_of_an_ended_upload_are_removed_at_once_and_again_when_its_url_is_dead(rig: Rig) -> None:
    owner = await rig.user()
    upload = await rig.begin(owner)
    await rig.publish(await rig.begin(owner, "kept"))
    assert await cleanups(rig) == []
    await abort(rig, upload)
    assert await cleanups(rig) == [upload.object_key]
    assert await cleanups(rig) == []
    rig.clock.advance(60)
    assert await cleanups(rig) == [upload.object_key]  # never finished, so tried again
    await finish_cleanup(rig, upload)
    assert await cleanups(rig) == []
    rig.clock.advance(TTL + upload_chores.URL_MARGIN - 61)
    assert await cleanups(rig) == []
    rig.clock.advance(1)
    assert await cleanups(rig) == [upload.object_key]
    await finish_cleanup(rig, upload)
    await finish_cleanup(rig, upload)
    rig.clock.advance(10**7)
    assert await cleanups(rig) == []


async def test_a_cleanup_that_fails_is_tried_again_later_each_time(rig: Rig) -> None:
    owner = await rig.user()
    upload = await rig.begin(owner)
    await abort(rig, upload)
    tried = []
    for minute in range(200):
        if await cleanups(rig):
            tried.append(minute)
        rig.clock.advance(60)
    assert tried == [0, 1, 3, 7, 15, 31, 63, 123, 183]


async def test_bytes_that_are_still_on_their_way_when_the_url_dies_are_removed_too(rig: Rig) -> None:
    owner = await rig.user()
    upload = await rig.begin(owner)
    rig.clock.advance(TTL)
    await fail(rig, upload, state=UploadState.EXPIRED)
    assert await cleanups(rig) == [upload.object_key]
    await finish_cleanup(rig, upload)
    rig.clock.advance(upload_chores.URL_MARGIN)
    assert await cleanups(rig) == [upload.object_key]


async def test_a_key_is_known_while_a_row_may_still_want_its_bytes(rig: Rig) -> None:
    owner = await rig.user()
    pending, published, ended = [await rig.begin(owner, name) for name in "abc"]
    file = await rig.publish(published)
    await fail(rig, ended)
    every = [pending.object_key, ObjectKey("x/y"), published.object_key, ended.object_key]

    async def known() -> list[ObjectKey]:
        return await rig.ask(KnownKeys(object_keys=every))

    assert await known() == [pending.object_key, published.object_key, ended.object_key]
    rig.clock.advance(TTL + upload_chores.URL_MARGIN)
    await finish_cleanup(rig, ended)
    assert await known() == [pending.object_key, published.object_key]
    await rig.trash(file)
    assert await known() == [pending.object_key, published.object_key]
    rig.clock.advance(10**6)
    await rig.purge_all()
    assert await known() == [pending.object_key]
    assert await rig.ask(KnownKeys(object_keys=[])) == []
    many = await rig.ask(KnownKeys(object_keys=every * 40))
    assert many == [pending.object_key] * 40


async def test_uploads_are_counted_by_state_even_those_there_are_none_of(rig: Rig) -> None:
    owner = await rig.user()
    await rig.begin(owner, "a")
    await rig.file(owner, "b")
    assert await rig.ask(UploadCounts()) == {"pending": 1, "committed": 1, "failed": 0, "aborted": 0, "expired": 0}


async def test_a_user_who_is_not_there_begins_no_upload(rig: Rig) -> None:
    with pytest.raises(NotFound):
        await rig.begin(UserId("nobody"))


async def test_what_a_protocol_keeps_with_an_upload_goes_when_the_upload_fails(rig: Rig) -> None:
    owner = await rig.user()
    ask = BeginUpload(host(owner), Root(), "a", "", 1, note="filename YQ==\n")
    kept, failed = await rig.ask(ask), await rig.ask(ask)
    assert kept.note == (await rig.ask(GetUpload(host(owner), kept.id))).note == "filename YQ==\n"
    await rig.ask(AbortUpload(host(owner), failed.id))
    assert (await rig.ask(GetUpload(host(owner), failed.id))).note == ""


async def test_uploads_are_without_a_folder_once_it_is_being_purged_and_not_while_it_is_in_the_trash(rig: Rig) -> None:
    owner = await rig.user()
    top, kept = await rig.folder(owner, "top"), await rig.folder(owner, "kept")
    inner = await rig.folder(owner, "inner", where=inside(top))
    uploads = [await rig.begin(owner, f"{n}", where=place) for n, place in enumerate(map(inside, (top, inner, kept)))]
    uploads.append(await rig.begin(owner, "in the root"))
    aborted = await rig.begin(owner, "aborted", where=inside(top))
    await rig.ask(AbortUpload(host(owner), aborted.id))
    ids = [upload.id for upload in (*uploads, aborted)]

    async def lost() -> set[UploadId]:
        found: list[UploadId] = await rig.ask(UploadsWithoutFolder(ids))
        return set(found)

    await rig.trash(top)
    assert await lost() == set()
    await rig.restore(top)
    await rig.trash(top)
    await rig.purge(top)
    assert await lost() == {uploads[0].id}  # the purge has not come to the inner folder
    await rig.purge_all()
    assert await lost() == {uploads[0].id, uploads[1].id}
    assert await rig.ask(UploadsWithoutFolder([])) == []
    ids *= 40
    assert await lost() == {uploads[0].id, uploads[1].id}
