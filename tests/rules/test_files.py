"""Lists, names and the way to the bytes."""

from __future__ import annotations

import unicodedata

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godrive.errors import Invalid, NameTaken, NotFound, PreconditionFailed
from godrive.model import ETag, File, FileEventKind, FileId, OnConflict, Sort, UserId, VersionId
from godrive.rules import files, outbox, users
from godrive.rules.names import search_key
from godrive.rules.page_tokens import PageTokens
from tests.contracts.rig import Rig

pytestmark = pytest.mark.anyio

ANY_NAME = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="/\\"), min_size=1, max_size=60
).filter(lambda name: name not in (".", ".."))
NAMES = ["b.txt", "A.txt", "a.md", "É.txt", "zebra", "Zoo", "100%", "a_b", "ab", "ß", "日本"]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
@pytest.mark.parametrize("sort", list(Sort))
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


@pytest.mark.parametrize("sort", list(Sort))
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


@pytest.mark.parametrize(
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
@pytest.mark.parametrize("sort", [Sort.NEWEST, Sort.NAME])
async def test_filters_compare_in_nfc_without_case_and_take_signs_as_they_are(
    rig: Rig, options: dict[str, str], expected: set[str], sort: Sort
) -> None:
    owner = await rig.user()
    for name in NAMES:
        await rig.file(owner, name)
    assert set(await rig.names(owner, sort=sort, limit=2, **options)) == expected


async def test_a_filter_that_no_name_can_match_is_refused(rig: Rig) -> None:
    owner = await rig.user()
    for text in ("\ud800", "a\x00", "x" * 2000):
        for field in ("prefix", "contains"):
            with pytest.raises(Invalid) as caught:
                await rig.page(owner, **{field: text})
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
    wrong = [
        (owner, {"page": edited}),
        (owner, {"page": token + "="}),
        (owner, {"page": ""}),
        (owner, {"page": "é"}),
        (owner, {"page": token * 100}),
        (owner, {"page": token, "sort": Sort.OLDEST}),
        (owner, {"page": token, "prefix": "1"}),
        (owner, {"page": token, "contains": "1"}),
        (owner, {"page": token, "parent_id": FileId("x")}),
        (other, {"page": token}),
    ]
    for who, options in wrong:
        with pytest.raises(Invalid) as caught:
            await rig.page(who, **options)
        assert caught.value.field == "page"
    rig.tokens = PageTokens([b"another key......"])
    with pytest.raises(Invalid):
        await rig.page(owner, page=token)


async def test_a_folder_that_is_not_there_lists_nothing(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    assert await rig.names(owner, parent_id=file.id) == []


async def test_a_file_is_found_by_its_owner_only(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    file = await rig.file(owner)
    assert await rig.read(files.get, owner, file.id) == file
    for who, what in ((other, file.id), (owner, FileId("nothing"))):
        with pytest.raises(NotFound):
            await rig.read(files.get, who, what)


async def test_a_rename_changes_name_and_etag_and_nothing_else(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    rig.clock.advance(5)
    renamed = await rig.write(files.rename, owner, file.id, "b.txt", now=rig.now, if_match=file.etag)
    assert (renamed.name, renamed.updated_at, renamed.content_etag) == ("b.txt", rig.now, file.content_etag)
    assert renamed.etag != file.etag
    assert await rig.read(files.get, owner, file.id) == renamed
    assert await rig.names(owner, sort=Sort.NAME) == ["b.txt"]


async def test_a_rename_to_the_same_name_changes_nothing(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    assert await rig.write(files.rename, owner, file.id, file.name, now=rig.now) == file


async def test_a_name_may_be_respelt_in_another_normal_form(rig: Rig) -> None:
    owner = await rig.user()
    composed, decomposed = (unicodedata.normalize(form, "é.txt") for form in ("NFC", "NFD"))
    file = await rig.file(owner, composed)
    assert (await rig.write(files.rename, owner, file.id, decomposed, now=rig.now)).name == decomposed
    with pytest.raises(NameTaken):
        await rig.begin(owner, composed)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "a\x00", "a\n", "é" * 128, "\ud800"])
async def test_a_rename_to_what_is_no_name_is_refused(rig: Rig, name: str) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    with pytest.raises(Invalid) as caught:
        await rig.write(files.rename, owner, file.id, name, now=rig.now)
    assert caught.value.field == "name"
    assert await rig.names(owner) == ["a.txt"]


async def test_a_name_that_is_taken_is_refused_until_it_is_free(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    first, second = await rig.file(owner, "a"), await rig.file(owner, "b")
    await rig.file(other, "c")
    with pytest.raises(NameTaken) as caught:
        await rig.write(files.rename, owner, second.id, "a", now=rig.now)
    assert caught.value.field == "name"
    await rig.write(files.rename, owner, second.id, "A", now=rig.now)  # case makes a name another
    await rig.trash(first)
    await rig.write(files.rename, owner, second.id, "a", now=rig.now)


async def test_an_etag_that_is_out_of_date_is_refused(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    await rig.write(files.rename, owner, file.id, "b", now=rig.now)
    with pytest.raises(PreconditionFailed):
        await rig.write(files.rename, owner, file.id, "c", now=rig.now, if_match=file.etag)
    with pytest.raises(PreconditionFailed):
        await rig.trash(file, if_match=file.etag)
    await rig.trash(file, if_match=ETag("*"))


async def test_of_many_writers_of_one_name_one_wins(rig: Rig) -> None:
    owner = await rig.user()
    made = [await rig.file(owner, f"{number}") for number in range(6)]
    outcomes: list[File | NameTaken] = []

    async def rename(file_id: FileId) -> None:
        try:
            outcomes.append(await rig.write(files.rename, owner, file_id, "wanted", now=rig.now))
        except NameTaken as error:
            outcomes.append(error)

    async with anyio.create_task_group() as tasks:
        for file in made:
            tasks.start_soon(rename, file.id)
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


async def test_content_is_opened_by_its_owner_or_by_version(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    upload = await rig.begin(owner)
    file = await rig.publish(upload)
    assert file.version_id is not None
    for options in (
        {"owner_id": owner},
        {"version_id": file.version_id},
        {"owner_id": owner, "version_id": file.version_id},
    ):
        content = await rig.read(files.open_content, file.id, **options)
        assert (content.file, content.object_key) == (file, upload.object_key)
    for options in (
        {},
        {"owner_id": other},
        {"version_id": VersionId("x")},
        {"owner_id": other, "version_id": file.version_id},
    ):
        with pytest.raises(NotFound):
            await rig.read(files.open_content, file.id, **options)


async def test_what_is_in_the_trash_cannot_be_read(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    await rig.trash(file)
    for options in ({"owner_id": owner}, {"version_id": file.version_id}):
        with pytest.raises(NotFound):
            await rig.read(files.open_content, file.id, **options)
    with pytest.raises(NotFound):
        await rig.read(files.get, owner, file.id)
    assert await rig.names(owner) == []


async def test_each_change_of_a_file_leaves_one_event_in_order(rig: Rig) -> None:
    owner = await rig.user()
    file = await rig.file(owner)
    renamed = await rig.write(files.rename, owner, file.id, "b", now=rig.now)
    await rig.trash(file)
    await rig.trash(file)
    await rig.restore(file)
    with pytest.raises(NameTaken):
        await rig.begin(owner, "b")
    await rig.trash(file)
    rig.clock.advance(10**6)
    await rig.purge_all()
    events = await rig.read(outbox.pending, limit=100)
    kind = FileEventKind
    assert [event.kind for event in events] == [
        kind.CREATED, kind.RENAMED, kind.TRASHED, kind.RESTORED, kind.TRASHED, kind.PURGED,
    ]  # fmt: skip
    assert [event.seq for event in events] == sorted({event.seq for event in events})
    assert {(event.owner_id, event.file_id) for event in events} == {(owner, file.id)}
    assert [event.file for event in events[:2]] == [file, renamed]
    await rig.write(outbox.drop, events[:4])
    await rig.write(outbox.drop, events[:4])
    assert await rig.read(outbox.pending, limit=1) == events[4:5]


@given(name=ANY_NAME)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_name_comes_back_as_it_was_sent_and_is_found(rig: Rig, name: str) -> None:
    owner = await rig.user()
    file = await rig.file(owner, name)
    assert (await rig.read(files.get, owner, file.id)).name == name
    assert await rig.names(owner, contains=name) == [name]
    assert await rig.names(owner, prefix=name, sort=Sort.NAME_DESCENDING) == [name]
    with pytest.raises(NameTaken):
        await rig.begin(owner, unicodedata.normalize("NFD", name))
    await rig.write(users.delete, owner, now=rig.now)


async def test_changes_are_counted_for_as_many_owners_as_are_asked_for(rig: Rig) -> None:
    owners = [await rig.user() for _ in range(6)]
    for number, owner in enumerate(owners):
        for name in range(number):
            await rig.file(owner, f"{name}")
    counts = dict(zip(owners, range(6), strict=True))
    for some in (owners[:1], owners[:2], owners[3:], owners):
        assert await rig.read(files.count_changes, some) == {owner: counts[owner] for owner in some}
    nobody = UserId("nobody")
    assert await rig.read(files.count_changes, [nobody, owners[5]]) == {nobody: 0, owners[5]: 5}
