"""When the content of an entry was last modified, as its client says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from godrive.errors import Invalid, NameTaken, NotFound, PreconditionFailed
from godrive.messages.files import OpenContent, UpdateFile
from godrive.messages.system import DueEvents
from godrive.model import ETag, FileEventKind, FileId
from tests.cases import each
from tests.contracts.rig import ROOT, Rig, host, inside

pytestmark = pytest.mark.anyio

TAKEN = datetime(1987, 6, 5, 4, 3, 2, 123456, UTC)


async def test_a_file_keeps_the_time_that_its_upload_says_and_has_the_time_of_the_upload_otherwise(rig: Rig) -> None:
    owner = await rig.user()
    upload = await rig.begin(owner, "photo.jpg", modified_at=TAKEN)
    assert upload.modified_at == TAKEN
    rig.clock.advance(60)
    dated, plain = await rig.publish(upload), await rig.file(owner, "b")
    assert (dated.modified_at, plain.modified_at) == (TAKEN, rig.now)
    assert (await rig.folder(owner)).modified_at == rig.now
    for file in (dated, plain):
        assert await rig.get(owner, file.id) == file
        content = await rig.ask(OpenContent(host(owner), file.id, file.version_id))
        assert content.file.modified_at == file.modified_at
    assert {file.modified_at for file in (await rig.page(owner)).items if file.mime} == {TAKEN, rig.now}


async def test_a_rename_a_move_and_the_trash_do_not_change_it(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    file = await rig.file(owner, modified_at=TAKEN)
    rig.clock.advance(1)
    moved = await rig.ask(UpdateFile(host(owner), (await rig.rename(file, "b")).id, where=inside(folder)))
    await rig.trash(moved)
    restored = await rig.restore(moved)
    assert restored.modified_at == moved.modified_at == TAKEN
    assert restored.updated_at == rig.now


async def test_it_can_be_set_and_that_is_an_update(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    rig.clock.advance(1)
    dated = await rig.ask(UpdateFile(host(owner), file.id, modified_at=TAKEN, if_match=file.etag))
    assert (dated.modified_at, dated.updated_at, dated.name) == (TAKEN, rig.now, file.name)
    assert dated.etag != file.etag
    assert dated.content_etag == file.content_etag
    assert await rig.ask(UpdateFile(host(owner), file.id, modified_at=TAKEN)) == dated
    with pytest.raises(PreconditionFailed):
        await rig.ask(UpdateFile(host(owner), file.id, modified_at=rig.now, if_match=file.etag))
    events = await rig.ask(DueEvents(10))
    assert [event.kind for event in events] == [FileEventKind.CREATED, FileEventKind.UPDATED]
    assert events[-1].file == dated


async def test_time_name_and_place_change_together_or_not_at_all(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    folder, file = await rig.folder(owner), await rig.file(owner)
    await rig.file(owner, "taken", where=inside(folder))
    refused = UpdateFile(host(owner), file.id, "taken", inside(folder), modified_at=TAKEN)
    with pytest.raises(NameTaken):
        await rig.ask(refused)
    with pytest.raises(PreconditionFailed):
        await rig.ask(UpdateFile(host(owner), file.id, "b", modified_at=TAKEN, if_match=ETag("other")))
    with pytest.raises(NotFound):
        await rig.ask(UpdateFile(host(other), file.id, modified_at=TAKEN))
    with pytest.raises(NotFound):
        await rig.ask(UpdateFile(host(owner), FileId("none"), modified_at=TAKEN))
    assert await rig.get(owner, file.id) == file
    changed = await rig.ask(UpdateFile(host(owner), file.id, "free", inside(folder), modified_at=TAKEN))
    assert (changed.parent_id, changed.name, changed.modified_at) == (folder.id, "free", TAKEN)
    back = await rig.ask(UpdateFile(host(owner), file.id, where=ROOT, modified_at=TAKEN + timedelta(1)))
    assert (back.parent_id, back.name, back.modified_at) == (None, "free", TAKEN + timedelta(1))


@each(
    "instant",
    [
        datetime.min.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, UTC),
        datetime(2106, 2, 7, 6, 28, 16, 1, UTC),
        datetime(8765, 4, 3, 2, 1, 0, 123457, UTC),
        datetime(2020, 1, 1, 1, tzinfo=timezone(timedelta(hours=14))),
    ],
)
async def test_every_time_is_kept_to_the_microsecond(rig: Rig, instant: datetime) -> None:
    owner = await rig.user()
    file = await rig.file(owner, modified_at=instant)
    assert file.modified_at == instant
    assert await rig.get(owner, file.id) == file
    assert file.modified_at.utcoffset() == timedelta()


@each(
    "instant",
    [
        datetime.min.replace(tzinfo=timezone(timedelta(hours=1))),
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-1))),
    ],
)
async def test_a_time_outside_the_calendar_is_refused(rig: Rig, instant: datetime) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    with pytest.raises(Invalid) as caught:
        await rig.begin(owner, "b", modified_at=instant)
    assert caught.value.field == "modified_at"
    with pytest.raises(Invalid):
        await rig.ask(UpdateFile(host(owner), file.id, modified_at=instant))
