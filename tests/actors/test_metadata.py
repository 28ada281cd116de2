"""What the actor adds to the rules of the catalog, which have suites of their own."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from godrive.drive import GoDrive
from godrive.errors import (
    Forbidden,
    Gone,
    IdempotencyMismatch,
    Invalid,
    NameTaken,
    NotFound,
    PreconditionFailed,
    StoreUnavailable,
    UploadFinished,
)
from godrive.messages.files import (
    EmptyTrash,
    GetFile,
    ListFiles,
    ListTrash,
    MakeFolder,
    OpenContent,
    PurgeFile,
    RestoreFile,
    TrashFile,
    UpdateFile,
)
from godrive.messages.idempotency import (
    ClaimKey,
    SettleKey,
    StoredReply,
)
from godrive.messages.ingest import CommitUpload
from godrive.messages.metadata import Metadata
from godrive.messages.system import AcquireLease, IndexNames, KnownKeys, ReleaseLease, SettleTrash, UploadCounts
from godrive.messages.uploads import BeginUpload, FailUpload, FindUpload, GetUpload, ListUploads, TouchUpload
from godrive.model import (
    Anywhere,
    ETag,
    File,
    ObjectKey,
    OnConflict,
    Root,
    Sort,
    Upload,
    UploadState,
    User,
    UserState,
)
from godrive.principal import SignedUrl, Verb
from godrive.rules import users
from godrive.runtime import Ask
from godrive.testing import ManualClock, chunks, open_drive, quick_folder, sign_up, upload
from tests.principals import SYSTEM, acting

pytestmark = pytest.mark.anyio


async def begin(drive: GoDrive, owner: User, name: str = "a.txt") -> Upload:
    return await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), name, "text/plain", 5))


def url_of(file: File) -> SignedUrl:
    """Who holds the URL of the file's bytes."""
    return SignedUrl(user_id=file.owner_id, verb=Verb.READ, target_id=file.id)


async def names(drive: GoDrive, ask: ListFiles) -> list[str]:
    return [file.name for file in (await drive.metadata.ask(ask)).items]


# Chores


@pytest.mark.parametrize("chore", [IndexNames(10), SettleTrash(10)])
async def test_a_chore_with_nothing_to_do_writes_nothing(
    drive: GoDrive, owner: User, chore: Ask[Metadata, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = await drive.metadata.ask(MakeFolder(acting(owner.id), Root(), "f"))
    await drive.metadata.ask(TrashFile(acting(owner.id), folder.id))
    assert await drive.metadata.ask(chore)
    while await drive.metadata.ask(chore):
        pass

    async def refuse(*_values: object, **_options: object) -> None:
        raise StoreUnavailable("It writes.")

    monkeypatch.setattr(drive.catalog, "write", refuse)
    assert not await drive.metadata.ask(chore)
    # The health of a catalog shows whether the last write has failed, so one that has failed is tried again.
    failed = property(lambda _catalog: StoreUnavailable("It could not write."))
    monkeypatch.setattr(type(drive.catalog), "problem", failed, raising=False)
    with pytest.raises(StoreUnavailable, match="It writes"):
        await drive.metadata.ask(chore)


# Lists


async def test_a_list_is_newest_first_unless_asked_otherwise(drive: GoDrive, owner: User, clock: ManualClock) -> None:
    for name in ("b", "c", "a"):
        await upload(drive, owner.id, name)
        clock.advance(1)
    assert await names(drive, ListFiles(acting(owner.id), Anywhere())) == ["a", "c", "b"]
    assert await names(drive, ListFiles(acting(owner.id), Anywhere(), sort=Sort.OLDEST)) == ["b", "c", "a"]
    assert await names(drive, ListFiles(acting(owner.id), Anywhere(), sort=Sort.NAME)) == ["a", "b", "c"]
    assert await names(drive, ListFiles(acting(owner.id), Anywhere(), sort=Sort.NAME_DESCENDING)) == ["c", "b", "a"]


async def test_a_list_can_be_narrowed_by_name(drive: GoDrive, owner: User) -> None:
    for name in ("Report 1", "report 2", "my report"):
        await upload(drive, owner.id, name)
    assert await names(drive, ListFiles(acting(owner.id), Anywhere(), prefix="REPORT", sort=Sort.NAME)) == [
        "Report 1",
        "report 2",
    ]
    assert len(await names(drive, ListFiles(acting(owner.id), Anywhere(), contains="port"))) == 3


async def test_pages_follow_one_another_over_a_restart() -> None:
    with quick_folder() as folder:
        async with open_drive(data_dir=folder) as drive:
            owner = await sign_up(drive)
            for n in range(5):
                await upload(drive, owner.id, f"{n}")
            first = await drive.metadata.ask(ListFiles(acting(owner.id), Anywhere(), limit=3))
        async with open_drive(data_dir=folder) as drive:
            second = await drive.metadata.ask(ListFiles(acting(owner.id), Anywhere(), limit=3, page=first.next_page))
    assert sorted(file.name for file in first.items + second.items) == ["0", "1", "2", "3", "4"]
    assert second.next_page is None


async def test_a_page_of_one_list_is_no_page_of_another(drive: GoDrive, owner: User) -> None:
    other = await sign_up(drive, "bob@example.org")
    for n in range(3):
        await upload(drive, owner.id, f"{n}")
    page = (await drive.metadata.ask(ListFiles(acting(owner.id), Anywhere(), limit=1))).next_page
    for ask in (
        ListFiles(acting(other.id), Anywhere(), page=page),
        ListFiles(acting(owner.id), Anywhere(), page=page, sort=Sort.NAME),
    ):
        with pytest.raises(Invalid):
            await drive.metadata.ask(ask)
    with pytest.raises(Invalid):
        await drive.metadata.ask(ListTrash(acting(owner.id), page=page))
    with pytest.raises(Invalid):
        await drive.metadata.ask(ListUploads(acting(owner.id), page=page))


# Who may read what


@pytest.fixture
async def file(drive: GoDrive, owner: User) -> File:
    return await upload(drive, owner.id, "a.txt", b"hello")


async def test_a_signed_url_reads_the_version_it_was_signed_for(drive: GoDrive, file: File) -> None:
    content = await drive.metadata.ask(OpenContent(url_of(file), file.id, version_id=file.version_id))
    assert content.file == file


async def test_a_disabled_owner_cuts_every_signed_url(drive: GoDrive, owner: User, file: File) -> None:
    await drive.catalog.write(lambda tx: users.set_state(tx, owner.id, UserState.DISABLED, now=drive.clock.now()))
    for ask in (OpenContent(url_of(file), file.id, version_id=file.version_id), OpenContent(acting(owner.id), file.id)):
        with pytest.raises(NotFound):
            await drive.metadata.ask(ask)
    await drive.catalog.write(lambda tx: users.set_state(tx, owner.id, UserState.ACTIVE, now=drive.clock.now()))
    await drive.metadata.ask(OpenContent(url_of(file), file.id, version_id=file.version_id))


async def test_a_disabled_owner_begins_no_upload(drive: GoDrive, owner: User) -> None:
    await drive.catalog.write(lambda tx: users.set_state(tx, owner.id, UserState.DISABLED, now=drive.clock.now()))
    with pytest.raises(NotFound):
        await begin(drive, owner)


async def test_the_trash_and_a_purge_cut_every_signed_url(drive: GoDrive, owner: User, file: File) -> None:
    opened = OpenContent(url_of(file), file.id, version_id=file.version_id)
    await drive.metadata.ask(TrashFile(acting(owner.id), file.id))
    with pytest.raises(NotFound):
        await drive.metadata.ask(opened)
    await drive.metadata.ask(RestoreFile(acting(owner.id), file.id))
    await drive.metadata.ask(opened)
    await drive.metadata.ask(TrashFile(acting(owner.id), file.id))
    await drive.metadata.ask(PurgeFile(acting(owner.id), file.id))
    with pytest.raises(NotFound):
        await drive.metadata.ask(opened)


async def test_a_signed_url_is_good_for_its_user_and_its_file_only(drive: GoDrive, owner: User, file: File) -> None:
    other = await upload(drive, owner.id, "b.txt")
    stranger = await sign_up(drive, "bob@example.org")
    for by in (replace(url_of(file), user_id=stranger.id), url_of(other)):
        with pytest.raises(NotFound):
            await drive.metadata.ask(OpenContent(by, file.id))
    with pytest.raises(Forbidden):
        await drive.metadata.ask(OpenContent(replace(url_of(file), verb=Verb.CREATE), file.id))


async def test_a_strangers_file_is_not_found_by_any_message(drive: GoDrive, owner: User, file: File) -> None:
    stranger = await sign_up(drive, "bob@example.org")
    pending = await begin(drive, owner, "b.txt")
    asks: list[Ask[Metadata, Any]] = [
        GetFile(acting(stranger.id), file.id),
        UpdateFile(acting(stranger.id), file.id, "mine.txt"),
        TrashFile(acting(stranger.id), file.id),
        RestoreFile(acting(stranger.id), file.id),
        PurgeFile(acting(stranger.id), file.id),
        OpenContent(acting(stranger.id), file.id),
        GetUpload(acting(stranger.id), pending.id),
    ]
    for ask in asks:
        with pytest.raises(NotFound):
            await drive.metadata.ask(ask)
    assert await drive.metadata.ask(GetFile(acting(owner.id), file.id)) == file


# Changes


async def test_a_change_is_made_only_to_the_revision_that_was_seen(drive: GoDrive, owner: User, file: File) -> None:
    renamed = await drive.metadata.ask(UpdateFile(acting(owner.id), file.id, "b.txt", if_match=file.etag))
    assert renamed.etag != file.etag
    stale = ETag(file.etag)
    with pytest.raises(PreconditionFailed):
        await drive.metadata.ask(UpdateFile(acting(owner.id), file.id, "c.txt", if_match=stale))
    with pytest.raises(PreconditionFailed):
        await drive.metadata.ask(TrashFile(acting(owner.id), file.id, stale))
    await drive.metadata.ask(TrashFile(acting(owner.id), file.id, renamed.etag))
    with pytest.raises(PreconditionFailed):
        await drive.metadata.ask(RestoreFile(acting(owner.id), file.id, if_match=stale))
    with pytest.raises(PreconditionFailed):
        await drive.metadata.ask(PurgeFile(acting(owner.id), file.id, stale))


async def test_trashing_twice_keeps_the_first_purge_date(
    drive: GoDrive, owner: User, file: File, clock: ManualClock
) -> None:
    first = await drive.metadata.ask(TrashFile(acting(owner.id), file.id))
    assert first.purge_at == clock.now() + timedelta(seconds=drive.config.janitor.trash_grace)
    clock.advance(60)
    assert await drive.metadata.ask(TrashFile(acting(owner.id), file.id)) == first


async def test_a_restored_file_finds_its_name_taken_or_another(drive: GoDrive, owner: User, file: File) -> None:
    await drive.metadata.ask(TrashFile(acting(owner.id), file.id))
    await upload(drive, owner.id, "a.txt")
    with pytest.raises(NameTaken):
        await drive.metadata.ask(RestoreFile(acting(owner.id), file.id))
    restored = await drive.metadata.ask(RestoreFile(acting(owner.id), file.id, OnConflict.RENAME))
    assert restored.name == "a (1).txt"


async def test_emptying_the_trash_says_how_many(drive: GoDrive, owner: User, file: File) -> None:
    await drive.metadata.ask(TrashFile(acting(owner.id), file.id))
    assert await drive.metadata.ask(EmptyTrash(acting(owner.id))) == 1
    assert await drive.metadata.ask(EmptyTrash(acting(owner.id))) == 0


# Uploads


async def test_the_deadline_of_an_upload_moves_with_its_bytes(drive: GoDrive, owner: User, clock: ManualClock) -> None:
    pending, ttl = await begin(drive, owner), timedelta(seconds=drive.config.blobs.upload_ttl)
    assert pending.expires_at == clock.now() + ttl
    clock.advance(100)
    touched = await drive.metadata.ask(TouchUpload(SYSTEM, pending.id, 3))
    assert (touched.received_bytes, touched.expires_at) == (3, clock.now() + ttl)
    assert (await drive.metadata.ask(TouchUpload(SYSTEM, pending.id, 2))).received_bytes == 3


async def test_an_ended_upload_takes_no_more_bytes(drive: GoDrive, owner: User) -> None:
    committed, failed = await begin(drive, owner), await begin(drive, owner, "b.txt")
    await drive.blobs.put(committed.object_key, chunks(b"hello"))
    await drive.ingest.ask(CommitUpload(SYSTEM, committed.id))
    assert (await drive.metadata.ask(FailUpload(SYSTEM, failed.id, "enough"))).reason == "enough"
    assert (await drive.metadata.ask(FailUpload(SYSTEM, committed.id, "enough"))).state is UploadState.COMMITTED
    with pytest.raises(UploadFinished):
        await drive.metadata.ask(TouchUpload(SYSTEM, committed.id, 1))
    with pytest.raises(Gone):
        await drive.metadata.ask(TouchUpload(SYSTEM, failed.id, 1))
    counts = await drive.metadata.ask(UploadCounts())
    assert (counts["committed"], counts["failed"], counts["pending"]) == (1, 1, 0)


async def test_an_upload_is_found_by_its_key(drive: GoDrive, owner: User) -> None:
    pending = await begin(drive, owner)
    assert await drive.metadata.ask(FindUpload(SYSTEM, pending.object_key)) == pending
    with pytest.raises(NotFound):
        await drive.metadata.ask(FindUpload(SYSTEM, ObjectKey("00000000/unknown")))


async def test_keys_that_a_row_refers_to_are_known(drive: GoDrive, owner: User, file: File) -> None:
    content = await drive.metadata.ask(OpenContent(acting(owner.id), file.id))
    pending = await begin(drive, owner, "b.txt")
    unknown = ObjectKey("00000000/unknown")
    known = await drive.metadata.ask(KnownKeys([content.object_key, unknown, pending.object_key]))
    assert sorted(known) == sorted([content.object_key, pending.object_key])


# Housekeeping


async def test_an_idempotency_key_gives_the_first_answer_again(drive: GoDrive, owner: User) -> None:
    stored = StoredReply(status=201, headers={"ETag": '"1"'}, body=b"{}")
    assert await drive.metadata.ask(ClaimKey(acting(owner.id), "key", "this request")) is None
    await drive.metadata.ask(SettleKey(acting(owner.id), "key", stored))
    assert await drive.metadata.ask(ClaimKey(acting(owner.id), "key", "this request")) == stored
    with pytest.raises(IdempotencyMismatch):
        await drive.metadata.ask(ClaimKey(acting(owner.id), "key", "another request"))


async def test_a_lease_has_one_holder_until_it_runs_out_or_is_given_back(drive: GoDrive, clock: ManualClock) -> None:
    ask = drive.metadata.ask
    assert await ask(AcquireLease("work", "one", 60))
    assert await ask(AcquireLease("work", "one", 60))
    assert not await ask(AcquireLease("work", "two", 60))
    clock.advance(60)
    assert await ask(AcquireLease("work", "two", 60))
    await ask(ReleaseLease("work", "one"))
    assert not await ask(AcquireLease("work", "one", 60))
    await ask(ReleaseLease("work", "two"))
    assert await ask(AcquireLease("work", "one", 60))
