"""Lists, names and the way to the bytes."""

from __future__ import annotations

import unicodedata
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godrive.bridge.nats import HEADROOM, LARGEST
from godrive.errors import Invalid, NameTaken, NotFound, PreconditionFailed
from godrive.messages.files import GetFile, ListTrash, MakeFolder, OpenContent, TrashFile
from godrive.messages.system import DueEvents, MarkPublished
from godrive.model import ETag, File, FileEventKind, FileId, In, OnConflict, Sort, UserId, VersionId
from godrive.principal import SignedUrl, Verb
from godrive.rules import files, users
from godrive.rules.names import search_key
from godrive.rules.page_tokens import PageTokens
from godrive.runtime import codec
from tests.cases import each
from tests.contracts.rig import ROOT, Rig, host, inside

pytestmark = pytest.mark.anyio

ANY_NAME = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="/\\"), min_size=1, max_size=60
).filter(lambda name: name not in (".", ".."))
OF_THE_DRIVE = [Sort.NEWEST, Sort.OLDEST, Sort.NAME, Sort.NAME_DESCENDING]
NAMES = ["b.txt", "A.txt", "a.md", "É.txt", "zebra", "Zoo", "100%", "a_b", "ab", "ß", "日本"]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
@pytest.mark.parametrize("sort", OF_THE_DRIVE)
async def test_pages_give_every_file_once_in_order(rig: Rig, sort: Sort, limit: int) -> None:
    owner, other = await rig.user(), await rig.user()
    for number, name in enumerate(NAMES):
        rig.clock.advance(number % 2)  # some are made at the same instant
        await rig.file(owner, name)
    await rig.file(other, "foreign")
    names = await rig.names(owner, sort=sort, limit=limit)
    assert sorted(names) == sorted(NAMES)
    by_name = sorted(NAMES, key=search_key)
    expected = {Sort.NEWEST: NAMES[::-1], Sort.OLDEST: NAMES, Sort.NAME: by_name, Sort.NAME_DESCENDING: by_name[::-1]}
    if sort in (Sort.NAME, Sort.NAME_DESCENDING):
        assert names == expected[sort]
    else:
        created = {file.name: file.created_at for file in (await rig.page(owner)).items}
        instants = [created[name] for name in names]
        assert instants == sorted(instants, reverse=sort is Sort.NEWEST)


@pytest.mark.parametrize("sort", OF_THE_DRIVE)
async def test_files_that_come_while_pages_are_turned_shift_nothing(rig: Rig, sort: Sort) -> None:
    owner = await rig.user()
    for name in NAMES:
        await rig.file(owner, name)
        rig.clock.advance(1)
    seen, page, number = [], await rig.page(owner, sort=sort, limit=2), 0
    while True:
        seen += [file.name for file in page.items]
        if page.next_page is None:
            break
        for new in (f"a new {number}", f"~ new {number}") if number < 4 else ():
            await rig.file(owner, new)
        number += 1
        page = await rig.page(owner, sort=sort, limit=2, page=page.next_page)
    old = [name for name in seen if "new" not in name]
    assert sorted(old) == sorted(NAMES)
    assert len(seen) == len(set(seen))


@each(
    ("options", "expected"),
    [
        ({"prefix": "A"}, {"A.txt", "a.md", "a_b", "ab"}),
        ({"prefix": "a_"}, {"a_b"}),
        ({"prefix": "e\u0301"}, {"É.txt"}),
        ({"prefix": "SS"}, {"ß"}),
        ({"prefix": "nothing"}, set()),
        ({"contains": "%"}, {"100%"}),
        ({"contains": "_"}, {"a_b"}),
        ({"contains": "!"}, set()),
        ({"contains": "TXT"}, {"b.txt", "A.txt", "É.txt"}),
        ({"contains": "o"}, {"Zoo"}),
        ({"prefix": "a", "contains": "M"}, {"a.md"}),
        ({"prefix": "", "contains": ""}, set(NAMES)),
    ],
)
@each("sort", [Sort.NEWEST, Sort.NAME])
async def test_filters_compare_in_nfc_without_case_and_take_signs_as_they_are(
    rig: Rig, options: dict[str, Any], expected: set[str], sort: Sort
) -> None:
    owner = await rig.user()
    for name in NAMES:
        await rig.file(owner, name)
    assert set(await rig.names(owner, sort=sort, limit=2, **options)) == expected


async def test_a_filter_that_no_name_can_match_is_refused(rig: Rig) -> None:
    owner = await rig.user()
    for text in ("\ud800", "a\x00", "x" * 2000):
        for field in ("prefix", "contains"):
            options: dict[str, Any] = {field: text}
            with pytest.raises(Invalid) as caught:
                await rig.page(owner, **options)
            assert caught.value.field == field


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_limit_out_of_bounds_is_refused(rig: Rig, limit: int) -> None:
    with pytest.raises(Invalid) as caught:
        await rig.page(await rig.user(), limit=limit)
    assert caught.value.field == "limit"


async def test_a_page_token_works_for_its_own_list_only(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    for number in range(3):
        await rig.file(owner, f"{number}")
        await rig.file(other, f"{number}")
    token = (await rig.page(owner, limit=1)).next_page
    assert token is not None
    await rig.page(owner, limit=2, page=token)
    edited = token[:-1] + ("A" if token[-1] != "A" else "B")
    wrong: list[tuple[UserId, dict[str, Any]]] = [
        (owner, {"page": edited}),
        (owner, {"page": token + "="}),
        (owner, {"page": ""}),
        (owner, {"page": "é"}),
        (owner, {"page": token * 100}),
        (owner, {"page": token, "sort": Sort.OLDEST}),
        (owner, {"page": token, "prefix": "1"}),
        (owner, {"page": token, "contains": "1"}),
        (owner, {"page": token, "where": ROOT}),
        (other, {"page": token}),
    ]
    for who, options in wrong:
        with pytest.raises(Invalid) as caught:
            await rig.page(who, **options)
        assert caught.value.field == "page"
    rig.tokens = PageTokens([b"another key......"])
    with pytest.raises(Invalid):
        await rig.page(owner, page=token)


async def test_only_a_folder_that_is_there_is_listed(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    file, foreign = await rig.file(owner), await rig.folder(other)
    folder, trashed = await rig.folder(owner), await rig.folder(owner, "old")
    await rig.trash(trashed)
    assert await rig.names(owner, where=inside(folder)) == []
    for folder_id in (file.id, foreign.id, trashed.id, FileId("nothing")):
        with pytest.raises(NotFound) as caught:
            await rig.names(owner, where=In(folder_id=folder_id))
        assert caught.value.field == "parent_id"


@pytest.mark.parametrize("sort", OF_THE_DRIVE)
async def test_a_folder_lists_what_lies_in_it_and_the_whole_drive_lists_all_files(rig: Rig, sort: Sort) -> None:
    owner = await rig.user()
    outer = await rig.folder(owner, "outer")
    inner = await rig.folder(owner, "inner", where=inside(outer))
    for name, where in (("top", ROOT), ("middle", inside(outer)), ("deep", inside(inner))):
        await rig.file(owner, name, where=where)
        rig.clock.advance(1)
    assert set(await rig.names(owner, where=ROOT, sort=sort, limit=1)) == {"outer", "top"}
    assert set(await rig.names(owner, where=inside(outer), sort=sort, limit=1)) == {"inner", "middle"}
    assert await rig.names(owner, where=inside(inner), sort=sort) == ["deep"]
    assert set(await rig.names(owner, sort=sort, limit=1)) == {"top", "middle", "deep"}
    assert await rig.names(owner, where=inside(outer), sort=sort, contains="DD") == ["middle"]


async def test_a_folder_is_made_once_by_a_name_that_is_free(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    folder = await rig.folder(owner, "a")
    assert await rig.get(owner, folder.id) == folder
    assert (folder.parent_id, folder.size_bytes, folder.version_id) == (None, 0, None)
    inner = await rig.folder(owner, "a", where=inside(folder))
    assert inner.parent_id == folder.id
    for name in ("a", "a/b", ""):
        with pytest.raises((NameTaken, Invalid)) as caught:
            await rig.folder(owner, name)
        assert caught.value.field == "name"
    with pytest.raises(NotFound) as refused:
        await rig.ask(MakeFolder(by=host(other), where=inside(folder), name="b"))
    assert refused.value.field == "parent_id"
    assert (await rig.rename(folder, "b")).name == "b"
    assert await rig.drift() == 0


async def test_a_folder_has_no_content(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    with pytest.raises(NotFound):
        await rig.ask(OpenContent(by=host(owner), file_id=folder.id))


async def test_a_file_is_found_by_its_owner_only(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    file = await rig.file(owner)
    assert await rig.get(owner, file.id) == file
    for who, what in ((other, file.id), (owner, FileId("nothing"))):
        with pytest.raises(NotFound):
            await rig.get(who, what)


async def test_a_rename_changes_name_and_etag_and_nothing_else(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    rig.clock.advance(5)
    renamed = await rig.rename(file, "b.txt", if_match=file.etag)
    assert (renamed.name, renamed.updated_at, renamed.content_etag) == ("b.txt", rig.now, file.content_etag)
    assert renamed.etag != file.etag
    assert await rig.get(owner, file.id) == renamed
    assert await rig.names(owner, sort=Sort.NAME) == ["b.txt"]


async def test_a_rename_to_the_same_name_changes_nothing(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    assert await rig.rename(file, file.name) == file


async def test_a_name_may_be_respelt_in_another_normal_form(rig: Rig) -> None:
    owner = await rig.user()
    composed, decomposed = (unicodedata.normalize(form, "é.txt") for form in ("NFC", "NFD"))
    file = await rig.file(owner, composed)
    assert (await rig.rename(file, decomposed)).name == decomposed
    with pytest.raises(NameTaken):
        await rig.begin(owner, composed)


@each("name", ["", ".", "..", "a/b", "a\\b", "a\x00", "a\n", "é" * 256, "\ud800"])
async def test_a_rename_to_what_is_no_name_is_refused(rig: Rig, name: str) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    with pytest.raises(Invalid) as caught:
        await rig.rename(file, name)
    assert caught.value.field == "name"
    assert await rig.names(owner) == ["a.txt"]


async def test_a_name_that_is_taken_is_refused_until_it_is_free(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    first, second = await rig.file(owner, "a"), await rig.file(owner, "b")
    await rig.file(other, "c")
    with pytest.raises(NameTaken) as caught:
        await rig.rename(second, "a")
    assert caught.value.field == "name"
    await rig.rename(second, "A")  # case makes a name another
    await rig.trash(first)
    await rig.rename(second, "a")


async def test_an_etag_that_is_out_of_date_is_refused(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    await rig.rename(file, "b")
    with pytest.raises(PreconditionFailed):
        await rig.rename(file, "c", if_match=file.etag)
    with pytest.raises(PreconditionFailed):
        await rig.trash(file, if_match=file.etag)
    await rig.trash(file, if_match=ETag("*"))


async def test_of_many_writers_of_one_name_one_wins(rig: Rig) -> None:
    owner = await rig.user()
    made = [await rig.file(owner, f"{number}") for number in range(6)]
    outcomes: list[File | NameTaken] = []

    async def rename(file: File) -> None:
        try:
            outcomes.append(await rig.rename(file, "wanted"))
        except NameTaken as error:
            outcomes.append(error)

    async with anyio.create_task_group() as tasks:
        for file in made:
            tasks.start_soon(rename, file)
    assert len([outcome for outcome in outcomes if not isinstance(outcome, NameTaken)]) == 1
    assert (await rig.names(owner)).count("wanted") == 1


async def test_many_uploads_of_one_name_are_numbered_apart(rig: Rig) -> None:
    owner = await rig.user()
    made = [await rig.begin(owner, "a.txt", on_conflict=OnConflict.RENAME) for _ in range(12)]
    async with anyio.create_task_group() as tasks:
        for upload in made:
            tasks.start_soon(rig.publish, upload)
    names = await rig.names(owner)
    assert sorted(names) == sorted(["a.txt", *(f"a ({number}).txt" for number in range(1, 12))])


async def test_content_is_opened_by_its_owner_or_by_a_url_that_was_signed_for_it(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    upload = await rig.begin(owner)
    file = await rig.publish(upload)
    version = file.version_id
    assert version is not None
    url = SignedUrl(user_id=owner, verb=Verb.READ, target_id=file.id)
    for by in (host(owner), url):
        for version_id in (None, version):
            content = await rig.ask(OpenContent(by=by, file_id=file.id, version_id=version_id))
            assert (content.file, content.object_key) == (file, upload.object_key)
    for ask in (
        OpenContent(by=host(other), file_id=file.id),
        OpenContent(by=host(other), file_id=file.id, version_id=version),
        OpenContent(by=host(owner), file_id=file.id, version_id=VersionId("x")),
        OpenContent(by=SignedUrl(user_id=other, verb=Verb.READ, target_id=file.id), file_id=file.id),
        OpenContent(by=SignedUrl(user_id=owner, verb=Verb.READ, target_id=FileId("x")), file_id=file.id),
    ):
        with pytest.raises(NotFound):
            await rig.ask(ask)


async def test_a_version_of_another_file_is_not_found(rig: Rig) -> None:
    owner = await rig.user()
    file, other = await rig.file(owner, "a"), await rig.file(owner, "b")
    with pytest.raises(NotFound):
        await rig.ask(OpenContent(by=host(owner), file_id=file.id, version_id=other.version_id))


async def test_what_is_in_the_trash_cannot_be_read(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    await rig.trash(file)
    for by in (host(owner), SignedUrl(user_id=owner, verb=Verb.READ, target_id=file.id)):
        for version_id in (None, file.version_id):
            with pytest.raises(NotFound):
                await rig.ask(OpenContent(by=by, file_id=file.id, version_id=version_id))
        with pytest.raises(NotFound):
            await rig.ask(GetFile(by=by, file_id=file.id))
    assert await rig.names(owner) == []


async def test_each_change_of_a_file_leaves_one_event_in_order(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    renamed = await rig.rename(file, "b")
    await rig.trash(file)
    await rig.trash(file)
    await rig.restore(file)
    with pytest.raises(NameTaken):
        await rig.begin(owner, "b")
    await rig.trash(file)
    rig.clock.advance(10**6)
    await rig.purge_all()
    events = await rig.ask(DueEvents(limit=100))
    kind = FileEventKind
    assert [event.kind for event in events] == [
        kind.CREATED, kind.RENAMED, kind.TRASHED, kind.RESTORED, kind.TRASHED, kind.PURGED,
    ]  # fmt: skip
    assert [event.seq for event in events] == sorted({event.seq for event in events})
    assert {(event.owner_id, event.file_id) for event in events} == {(owner, file.id)}
    assert [event.file for event in events[:2]] == [file, renamed]
    await rig.ask(MarkPublished(events=events[:4]))
    await rig.ask(MarkPublished(events=events[:4]))
    assert await rig.ask(DueEvents(limit=1)) == events[4:5]


@given(name=ANY_NAME)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_name_comes_back_as_it_was_sent_and_is_found(rig: Rig, name: str) -> None:
    owner = await rig.user()
    file = await rig.file(owner, name)
    assert (await rig.get(owner, file.id)).name == name
    assert await rig.names(owner, contains=name) == [name]
    assert await rig.names(owner, prefix=name, sort=Sort.NAME_DESCENDING) == [name]
    with pytest.raises(NameTaken):
        await rig.begin(owner, unicodedata.normalize("NFD", name))
    await rig.write(users.delete, owner, now=rig.now)


async def test_a_change_number_rises_with_each_change_of_its_owner_and_of_nobody_else(rig: Rig) -> None:
    owners = [await rig.user() for _ in range(6)]
    before = await rig.read(files.read_changes, owners)
    for number, owner in enumerate(owners):
        for name in range(number):
            await rig.file(owner, f"{name}")
            after = await rig.read(files.read_changes, owners)
            assert after[owner] > before[owner]
            assert {**after, owner: 0} == {**before, owner: 0}
            before = after
    assert before[owners[0]] == 0
    for some in (owners[:1], owners[:2], owners[3:], owners):
        assert await rig.read(files.read_changes, some) == {owner: before[owner] for owner in some}
    nobody = UserId("nobody")
    assert await rig.read(files.read_changes, [nobody, owners[5]]) == {nobody: 0, owners[5]: before[owners[5]]}


@pytest.mark.slow
async def test_a_page_of_the_longest_names_fits_into_one_reply_and_hides_nothing(rig: Rig) -> None:
    owner, count = await rig.user(), 520
    made = [await rig.file(owner, f"{number:04}" + "\U0001f389" * 251) for number in range(count)]
    for sort in OF_THE_DRIVE:
        found, page = [], await rig.page(owner, sort=sort, limit=1000)
        assert 1 < len(page.items) < count
        while True:
            assert len(codec.encode_reply(page)) <= LARGEST - HEADROOM
            found += [file.id for file in page.items]
            if page.next_page is None:
                break
            page = await rig.page(owner, sort=sort, limit=1000, page=page.next_page)
        assert sorted(found) == sorted(file.id for file in made)
    for file in made:
        await rig.ask(TrashFile(host(owner), file.id))
    trashed = await rig.ask(ListTrash(host(owner), limit=1000))
    assert len(codec.encode_reply(trashed)) <= LARGEST - HEADROOM
    rest = await rig.ask(ListTrash(host(owner), limit=1000, page=trashed.next_page))
    assert len(trashed.items) + len(rest.items) == count
