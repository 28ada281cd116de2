"""Uploads that replace: the new bytes become the current version of the file of that name, and the old ones stay."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from godrive.errors import Forbidden, Gone, Invalid, NameTaken, PreconditionFailed, QuotaExceeded
from godrive.messages.files import OpenContent, UpdateFile
from godrive.messages.system import DueEvents
from godrive.messages.uploads import BeginUpload, GetUpload
from godrive.model import ETag, File, FileId, OnConflict, UploadState, Usage, UserId, VersionId
from godrive.principal import ShareLink, Verb
from tests.contracts.rig import ROOT, SERVER, Rig, host, inside

pytestmark = pytest.mark.anyio

REPLACE = OnConflict.REPLACE


async def key(rig: Rig, file: File, version_id: VersionId | None = None) -> str:
    """The object key of that version; by default, of the current one."""
    return (await rig.ask(OpenContent(by=host(file.owner_id), file_id=file.id, version_id=version_id))).object_key


async def stored(rig: Rig, owner: UserId) -> Usage:
    """The usage of the owner, which must be that of the rows."""
    assert await rig.drift() == 0
    return await rig.usage(owner)


async def test_the_file_keeps_its_identity_and_gets_the_new_bytes(rig: Rig) -> None:
    owner = await rig.user()
    old = await rig.file(owner, size=10)
    old_key = await key(rig, old)
    rig.clock.advance(5)
    upload = await rig.begin(owner, size=3, mime="image/png", on_conflict=REPLACE)
    new = await rig.publish(upload, sha256="ab" * 32)
    assert (new.id, new.name, new.created_at, new.parent_id) == (old.id, old.name, old.created_at, None)
    assert (new.size_bytes, new.mime, new.sha256, new.updated_at) == (3, "image/png", "ab" * 32, rig.now)
    assert new.version_id != old.version_id
    assert new.revision > old.revision
    assert await rig.get(owner, old.id) == new
    assert await rig.files(owner) == [new]
    assert await key(rig, new) == upload.object_key
    assert await key(rig, new, old.version_id) == old_key
    assert await stored(rig, owner) == Usage(live_bytes=3, version_bytes=10)


async def test_the_name_stays_as_the_first_client_spelled_it(rig: Rig) -> None:
    owner = await rig.user()
    old = await rig.file(owner, "e\u0301")
    assert (await rig.file(owner, "é", on_conflict=REPLACE)).name == old.name


async def test_publishing_twice_makes_one_version(rig: Rig) -> None:
    owner = await rig.user()
    await rig.file(owner, size=10)
    upload = await rig.begin(owner, size=3, on_conflict=REPLACE)
    assert await rig.publish(upload) == await rig.publish(upload)
    assert await stored(rig, owner) == Usage(live_bytes=3, version_bytes=10)


async def test_a_replaced_file_is_told_by_an_event(rig: Rig) -> None:
    owner = await rig.user()
    await rig.file(owner)
    new = await rig.file(owner, on_conflict=REPLACE)
    events = await rig.ask(DueEvents(limit=10))
    assert [(event.kind.value, event.file_id) for event in events] == [("created", new.id), ("updated", new.id)]
    assert events[-1].file == new


async def test_without_a_file_of_that_name_one_is_created(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner, size=3, on_conflict=REPLACE)
    assert file.is_new
    assert await stored(rig, owner) == Usage(live_bytes=3)
    assert not (await rig.file(owner, on_conflict=REPLACE)).is_new


async def test_a_folder_is_never_replaced(rig: Rig) -> None:
    owner = await rig.user()
    upload = await rig.begin(owner, "a", on_conflict=REPLACE)
    folder = await rig.folder(owner, "a")
    for if_match in (None, folder.etag, ETag("*")):
        with pytest.raises(NameTaken, match="'a' is a folder, which a file cannot replace"):
            await rig.begin(owner, "a", on_conflict=REPLACE, if_match=if_match)
    with pytest.raises(NameTaken):
        await rig.publish(upload)
    await rig.rename(folder, "b")
    assert (await rig.publish(upload)).is_new


async def test_old_and_new_bytes_count_in_the_quota(rig: Rig) -> None:
    owner = await rig.user(quota=25)
    await rig.file(owner, size=10)
    with pytest.raises(QuotaExceeded) as caught:
        await rig.begin(owner, size=16, on_conflict=REPLACE)
    assert caught.value.field == "size_bytes"
    assert "1 bytes are missing" in caught.value.detail
    await rig.file(owner, size=15, on_conflict=REPLACE)
    assert await stored(rig, owner) == Usage(live_bytes=15, version_bytes=10)


async def test_earlier_versions_are_limited_in_number(rig: Rig) -> None:
    rig.configure("auth", max_versions=2)
    owner = await rig.user()
    for _ in range(3):
        await rig.file(owner, size=0, on_conflict=REPLACE)
    with pytest.raises(QuotaExceeded) as caught:
        await rig.begin(owner, size=0, on_conflict=REPLACE)
    assert caught.value.field == "versions"
    await rig.file(owner, "b", size=0)
    rig.configure("auth", max_versions=4)
    await rig.begin(owner, "pending", size=0)
    with_pending = await rig.begin(owner, size=0, on_conflict=REPLACE)
    with pytest.raises(QuotaExceeded):  # a pending upload may become a version
        await rig.begin(owner, size=0, on_conflict=REPLACE)
    await rig.publish(with_pending)
    assert await rig.drift() == 0


async def test_racing_replacements_all_succeed_and_every_version_is_kept(rig: Rig) -> None:
    owner = await rig.user()
    uploads = [await rig.begin(owner, size=size, on_conflict=REPLACE) for size in range(1, 9)]
    published: list[File] = []

    async def publish(number: int) -> None:
        published.append(await rig.publish(uploads[number]))

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(publish, number)
    (file,) = await rig.files(owner)
    assert {version.id for version in published} == {file.id}
    keys = {await key(rig, file, version.version_id) for version in published}
    assert keys == {upload.object_key for upload in uploads}
    assert await stored(rig, owner) == Usage(live_bytes=file.size_bytes, version_bytes=36 - file.size_bytes)


async def test_of_racing_replacements_of_one_version_one_wins(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    uploads = [await rig.begin(owner, on_conflict=REPLACE, if_match=file.etag) for _ in range(4)]
    refused: list[PreconditionFailed] = []

    async def publish(number: int) -> None:
        try:
            await rig.publish(uploads[number])
        except PreconditionFailed as error:
            refused.append(error)

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(publish, number)
    assert len(refused) == 3
    assert (await stored(rig, owner)).version_bytes == 10


async def test_if_match_takes_the_tag_of_the_entry_or_of_its_content(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    for tag in ("etag", "content_etag"):
        file = await rig.file(owner, on_conflict=REPLACE, if_match=getattr(file, tag))
    file = await rig.file(owner, on_conflict=REPLACE, if_match=ETag("*"))
    with pytest.raises(PreconditionFailed):
        await rig.begin(owner, on_conflict=REPLACE, if_match=ETag("other"))
    folder = await rig.folder(owner)
    with pytest.raises(PreconditionFailed):  # a folder has no content
        await rig.rename(folder, "b", if_match=folder.content_etag)
    renamed = await rig.rename(file, "b.txt", if_match=file.content_etag)
    assert renamed.content_etag == file.content_etag


@pytest.mark.parametrize("tag", ["*", "other"])
async def test_if_match_needs_a_file(rig: Rig, tag: str) -> None:
    with pytest.raises(PreconditionFailed):
        await rig.begin(await rig.user(), on_conflict=REPLACE, if_match=ETag(tag))


@pytest.mark.parametrize("on_conflict", [OnConflict.FAIL, OnConflict.RENAME])
async def test_if_match_is_for_uploads_that_replace(rig: Rig, on_conflict: OnConflict) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    with pytest.raises(Invalid) as caught:
        await rig.begin(owner, on_conflict=on_conflict, if_match=file.etag)
    assert caught.value.field == "on_conflict"


async def change(rig: Rig, file: File, how: str) -> None:
    """Change the file while an upload that replaces it is pending."""
    owner = file.owner_id
    match how:
        case "replaced":
            await rig.file(owner, file.name, on_conflict=REPLACE)
        case "renamed":
            await rig.rename(file, "other")
        case "moved":
            where = inside(await rig.folder(owner, "elsewhere"))
            await rig.ask(UpdateFile(by=host(owner), file_id=file.id, where=where))
        case "trashed":
            await rig.trash(file)
        case _:
            await rig.trash(file)
            await rig.purge(file)
            await rig.purge_all()


GONE = ["renamed", "moved", "trashed", "purged"]


@pytest.mark.parametrize("how", ["replaced", *GONE])
async def test_if_match_is_checked_again_when_the_bytes_are_there(rig: Rig, how: str) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    upload = await rig.begin(owner, on_conflict=REPLACE, if_match=file.etag)
    await change(rig, file, how)
    with pytest.raises(PreconditionFailed):
        await rig.publish(upload)
    assert (await rig.ask(GetUpload(SERVER, upload.id))).state is UploadState.PENDING
    assert (await stored(rig, owner)).reserved_bytes == 10


@pytest.mark.parametrize("how", GONE)
async def test_an_upload_that_replaces_names_a_place_and_not_a_file(rig: Rig, how: str) -> None:
    """A file that left its name meanwhile is not touched, and a new one takes the name."""
    owner = await rig.user()
    old = await rig.file(owner)
    upload = await rig.begin(owner, on_conflict=REPLACE)
    await change(rig, old, how)
    new = await rig.publish(upload)
    assert new.id != old.id
    assert new.is_new
    assert await rig.drift() == 0


async def test_a_file_that_took_the_name_meanwhile_is_replaced(rig: Rig) -> None:
    owner = await rig.user()
    upload = await rig.begin(owner, size=3, on_conflict=REPLACE)
    file = await rig.file(owner, size=10)
    assert (await rig.publish(upload)).id == file.id
    assert await stored(rig, owner) == Usage(live_bytes=3, version_bytes=10)


async def test_an_upload_ends_if_its_folder_is_trashed_meanwhile(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    await rig.file(owner, where=inside(folder))
    upload = await rig.begin(owner, where=inside(folder), on_conflict=REPLACE)
    await rig.trash(folder)
    with pytest.raises(Gone):
        await rig.publish(upload)
    assert await rig.drift() == 0


@pytest.mark.parametrize("late", ["trashed", "restored"])
async def test_a_file_whose_folder_has_not_settled_is_charged_right(rig: Rig, late: str) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    file = await rig.file(owner, size=10, where=inside(folder))
    await rig.trash(folder)
    if late == "restored":
        await rig.settle()  # the bytes are trash until the restored folder has settled
    await rig.restore(folder)
    new = await rig.file(owner, size=3, where=inside(folder), on_conflict=REPLACE)
    assert new.id == file.id
    assert await stored(rig, owner) == Usage(live_bytes=3, version_bytes=10)
    assert await rig.files(owner) == [new]
    await rig.settle()
    assert await stored(rig, owner) == Usage(live_bytes=3, version_bytes=10)


async def test_earlier_versions_of_a_trashed_file_stay_charged_until_it_is_purged(rig: Rig) -> None:
    owner = await rig.user()
    await rig.file(owner, size=10)
    file = await rig.file(owner, size=3, on_conflict=REPLACE)
    await rig.trash(file)
    assert await stored(rig, owner) == Usage(trash_bytes=3, version_bytes=10)
    await rig.restore(file)
    assert await stored(rig, owner) == Usage(live_bytes=3, version_bytes=10)
    await rig.trash(file)
    await rig.purge(file)
    (purge,) = await rig.purge_all()
    assert len(purge.object_keys) == 2
    assert await stored(rig, owner) == Usage()


async def test_who_may_only_add_files_may_not_replace_one(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    link = ShareLink(user_id=owner, link_id="l", entry_id=folder.id, verbs=frozenset({Verb.CREATE}))
    options: dict[str, Any] = {"where": ROOT, "name": "a.txt", "mime": "", "size_bytes": 1}
    await rig.ask(BeginUpload(by=link, **options))
    with pytest.raises(Forbidden):
        await rig.ask(BeginUpload(by=link, on_conflict=REPLACE, **options))


async def test_only_the_bytes_of_an_upload_replace(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    await rig.file(owner, "b.txt")
    where = inside(await rig.folder(owner))
    move = UpdateFile(by=host(owner), file_id=file.id, where=where, on_conflict=REPLACE)
    for change_ in (rig.rename(file, "b.txt", on_conflict=REPLACE), rig.ask(move)):
        with pytest.raises(Invalid) as caught:
            await change_
        assert caught.value.field == "on_conflict"
    await rig.trash(file)
    with pytest.raises(Invalid):
        await rig.restore(file, on_conflict=REPLACE)
    assert FileId(file.id) in {entry.id for entry in await rig.binned(owner)}
