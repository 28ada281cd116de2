"""Search by name: what is found, in which order, by whom, and how the index follows."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godrive.catalog import Row, Tx
from godrive.errors import Forbidden, Invalid, NotFound
from godrive.messages.files import SearchFiles, UpdateFile
from godrive.messages.system import CheckNames, IndexNames, SettleTrash
from godrive.model import File, FileId, FileKind, FileType, In, OnConflict, UserId
from godrive.principal import ApiToken, Principal, Scope
from godrive.rules import name_index, search, users
from godrive.rules.names import begins_word, index_text, search_key
from godrive.rules.search_query import Query
from godrive.rules.trash import settle
from tests.cases import each
from tests.contracts.rig import ROOT, Rig, host, inside

pytestmark = pytest.mark.anyio


async def find(rig: Rig, by: Principal | UserId, text: str | None = None, **options: Any) -> list[str]:
    """The names that a search finds."""
    return [file.name for file in await rig.search(by, text, **options)]


async def files(rig: Rig, owner: UserId, *names: str, **options: Any) -> list[File]:
    """Files of these names, each newer than the one before."""
    made = []
    for name in names:
        rig.clock.advance(1)
        made.append(await rig.file(owner, name, **options))
    return made


async def test_a_search_ranks_exact_prefix_word_and_substring_then_the_newest(rig: Rig) -> None:
    owner = await rig.user()
    await files(rig, owner, "xreport.md", "report", "old-report.md", "report b", "my report.txt", "report a", "reports")
    expected = ["report", "reports", "report a", "report b", "my report.txt", "old-report.md", "xreport.md"]
    assert await find(rig, owner, "report") == expected
    await rig.index()
    assert await find(rig, owner, "report") == expected
    assert await find(rig, owner, "REPORT", limit=2) == expected
    assert await find(rig, owner, "report my") == ["my report.txt"]
    assert await find(rig, owner, "  my   report ") == ["my report.txt"]


NAMES = [
    "a.txt", "100%_done.txt", "!bang!.txt", 'quote "x".txt', "star*.txt", "a OR b.txt",
    "NEAR(x y)", "a'b.txt", "-minus", "^caret", "{text}: x", "年度报告.pdf", "レポート.pdf",
    "보고서.hwp", "รายงาน.txt", "हिन्दी.txt", "a😀b.txt", "❤️love.png", "👨‍👩‍👧 family.jpg",
    "🇩🇪 flag.png", "İstanbul.jpg", "Straße.txt", "ﬁle.txt", "e\u0301tude.txt",
    "x\u0301y.txt", "Ångström.md", "Σίσυφος.txt", "Ёлка.doc", "名", "a", "ab",
    "  two  spaces  ", "tab_name.TAR.GZ", "ǅ.txt", "i\u0307.txt", "x" * 255, "日" * 255,
]  # fmt: skip
QUERIES = [
    "a", "ab", "txt", "%", "_", "100%", "%_d", "!", "!!", "!b", '"', '"x"', "*", "star*", "OR",
    "a OR b", "NEAR(x", "NEAR", "'", "-", "-m", "^", "^c", "{", "{text}:", "text:x", "年", "年度",
    "报告", "度报", "年度报告", "ポー", "ト", "고서", "งาน", "हि", "न्दी", "😀", "a😀b", "❤", "❤️", "lo",
    "love", "👨", "👧", "🇩🇪", "istanbul", "is", "ISTANBUL", "\u0131stanbul", "strasse", "STRASSE", "ß",
    "ss", "fi", "ﬁ", "file", "étude", "e\u0301t", "\u0301", "x\u0301", "x", "xy", "ångström",
    "a\u030an", "σίσυφος", "ΣΊΣΥΦΟΣ", "ς", "ёлка", "ел", "名", "two spaces", "  ", " two",
    "tar.gz", ".g", "gz", "ǆ", "x" * 255, "x" * 256, "x" * 1000, "日" * 200,
    " ".join("xyz" for _ in range(250)), "\x01", "\x01\x01a", "\u200d", "\ufe0f", "q" * 3,
]  # fmt: skip


def naive(names: list[str], text: str) -> set[str]:
    """What a search must find, by the definition."""
    words = search_key(text).split()

    def holds(key: str, word: str) -> bool:
        places = [at for at in range(len(key)) if key.startswith(word, at)]
        return any(len(word) > 2 or begins_word(key, at) for at in places)

    return {
        name
        for name in names
        if all(holds(search_key(name), word) for word in words) or search_key(name).startswith(" ".join(words))
    }


async def test_texts_of_every_kind_are_literal_and_find_by_what_names_contain(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    for name in NAMES:
        await rig.file(owner, name)
        await rig.file(other, name)
    for indexed in (False, True):
        for text in QUERIES:
            if text.strip():
                assert set(await find(rig, owner, text)) == naive(NAMES, text), (indexed, text)
            else:
                with pytest.raises(Invalid) as refused:
                    await find(rig, owner, text)
                assert refused.value.field == "text"
        await rig.index()


async def test_filters_select_by_type_size_and_time_with_a_text_and_without(rig: Rig) -> None:
    owner = await rig.user()
    start = rig.now
    await rig.folder(owner, "a folder")
    await files(rig, owner, "a.png", mime="Image/PNG", size=1)
    await files(rig, owner, "a.txt", mime="text/plain; charset=utf-8", size=2)
    await files(rig, owner, "a.pdf", mime="application/pdf", size=3)
    await files(rig, owner, "a.pdfx", mime="application/pdfx", size=4)
    await files(rig, owner, "a.mp4", mime="video/mp4", size=5)
    await files(rig, owner, "a.zip", mime="application/zip", size=6)
    expected = {
        FileType.FILE: ["a.zip", "a.mp4", "a.pdfx", "a.pdf", "a.txt", "a.png"],
        FileType.FOLDER: ["a folder"],
        FileType.IMAGE: ["a.png"],
        FileType.VIDEO: ["a.mp4"],
        FileType.AUDIO: [],
        FileType.TEXT: ["a.txt"],
        FileType.PDF: ["a.pdf"],
        FileType.DOCUMENT: ["a.pdf", "a.txt"],
        FileType.SPREADSHEET: [],
        FileType.PRESENTATION: [],
        FileType.ARCHIVE: ["a.zip"],
    }
    assert set(expected) == set(FileType)
    for indexed in (False, True):
        for type_, names in expected.items():
            assert await find(rig, owner, type=type_) == names, (indexed, type_)
            assert await find(rig, owner, "a", type=type_) == names, (indexed, type_)
            assert await find(rig, owner, "z", type=type_) == [name for name in names if "z" in name], (indexed, type_)
        for text in ("a", None):
            assert await find(rig, owner, text, min_size=3, max_size=4) == ["a.pdfx", "a.pdf"]
            assert await find(rig, owner, text, max_size=0) == ["a folder"]
            after, before = start + timedelta(seconds=2), start + timedelta(seconds=4)
            assert await find(rig, owner, text, modified_after=after, modified_before=before) == ["a.pdf", "a.txt"]
            assert await find(rig, owner, text, modified_after=after, type=FileType.VIDEO) == ["a.mp4"]
        await rig.index()
    for text in (None, "", "  "):
        with pytest.raises(Invalid) as refused:
            await find(rig, owner, text)
        assert refused.value.field == "text"
    for field in ("modified_after", "modified_before"):
        for at in (start.replace(tzinfo=None), datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14)))):
            with pytest.raises(Invalid) as refused:
                await find(rig, owner, "a", **{field: at})
            assert refused.value.field == field
    for size in (2**63 - 1, 2**64, -(2**64)):
        with suppress(Invalid):
            assert await find(rig, owner, "q", min_size=size) == []


@pytest.fixture(params=["as it is", "small"])
def bounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a search looks at: as much as in a large drive, and so little that a few files are a large drive."""
    if request.param == "small":
        monkeypatch.setattr(search, "RANKED", 3)
        monkeypatch.setattr(search, "EXAMINED", 4)
        monkeypatch.setattr(search, "BELOW", 2)


@pytest.mark.usefixtures("bounds")
async def test_a_search_in_a_folder_finds_what_lies_below_at_any_depth(rig: Rig) -> None:
    owner = await rig.user()
    outer, other = await rig.folder(owner, "outer"), await rig.folder(owner, "other")
    inner = await rig.folder(owner, "inner", where=inside(outer))
    deep = await rig.folder(owner, "deep", where=inside(inner))
    for number in range(4):
        for where in (ROOT, inside(outer), inside(inner), inside(deep), inside(other)):
            await rig.file(owner, f"name {number}", where=where)
    for _ in range(2):
        for folder, count in ((outer, 12), (inner, 8), (deep, 4), (other, 4)):
            assert len(await find(rig, owner, "name", where=inside(folder))) == count
            assert len(await find(rig, owner, where=inside(folder), type=FileType.FILE)) == count
            assert len(await find(rig, owner, "name 1", where=inside(folder), limit=1)) == count // 4
        assert await find(rig, owner, "e", where=inside(outer)) == []
        assert await find(rig, owner, "deep", where=inside(outer)) == ["deep"]
        assert await find(rig, owner, "outer", where=inside(outer)) == []
        assert len(await find(rig, owner, "name")) == 20
        await rig.index()


@pytest.mark.usefixtures("bounds")
async def test_what_is_in_the_trash_is_never_found(rig: Rig) -> None:
    owner = await rig.user()
    outer = await rig.folder(owner, "report outer")
    inner = await rig.folder(owner, "report inner", where=inside(outer))
    for number in range(4):
        await rig.file(owner, f"report {number}", where=inside(inner))
    kept = await rig.file(owner, "report kept")
    everything = set(await find(rig, owner, "report"))
    assert len(everything) == 7
    for indexed in (False, True):
        await rig.trash(outer)
        for settled in (False, True):
            assert await find(rig, owner, "report") == [kept.name], (indexed, settled)
            assert await find(rig, owner, type=FileType.FILE) == [kept.name], (indexed, settled)
            for folder in (outer, inner):
                with pytest.raises(NotFound) as refused:
                    await find(rig, owner, "report", where=inside(folder))
                assert refused.value.field == "parent_id"
            await rig.settle()
            if indexed:
                await rig.index()
        await rig.restore(outer)
        await rig.settle()
        assert set(await find(rig, owner, "report")) == everything
        await rig.index()
        assert set(await find(rig, owner, "report")) == everything
    await rig.trash(outer)
    await rig.purge(outer)
    await rig.purge_all()
    await rig.index()
    assert await find(rig, owner, "report") == [kept.name]
    assert len(await rig.rows("SELECT number FROM names")) == 1


async def test_a_principal_finds_only_what_it_may_see(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    folder = await rig.folder(owner, "folder")
    beside = await rig.folder(owner, "beside")
    await rig.file(owner, "report inside", where=inside(folder))
    await rig.file(owner, "report beside", where=inside(beside))
    await rig.file(owner, "report above")
    await rig.file(other, "report of another")
    scopes = frozenset({Scope.FILES_READ})
    confined = ApiToken(user_id=owner, token_id="t", scopes=scopes, folder_id=folder.id)
    for _ in range(2):
        assert await find(rig, confined, "report") == ["report inside"]
        assert await find(rig, confined, type=FileType.FILE) == ["report inside"]
        assert await find(rig, other, "report") == ["report of another"]
        for where in (inside(beside), In(folder_id=FileId("absent"))):
            with pytest.raises(NotFound):
                await find(rig, confined, "report", where=where)
        with pytest.raises(NotFound):
            await find(rig, other, "report", where=inside(folder))
        with pytest.raises(Forbidden):
            await find(rig, ApiToken(user_id=owner, token_id="t", scopes=frozenset({Scope.FILES_WRITE})), "report")
        await rig.index()


async def test_pages_hold_each_entry_once_while_others_come_and_go(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "RANKED", 4)
    owner = await rig.user()
    made = await files(rig, owner, *(f"{'x' * (number % 2)}name {number}" for number in range(12)))
    await rig.index()
    await files(rig, owner, "name not indexed")
    ask = SearchFiles(by=host(owner), where=ROOT, text="name", limit=1)
    seen: list[str] = []
    changed = False
    page = await rig.ask(ask)
    while True:
        seen += [file.name for file in page.items]
        if page.next_page is None:
            break
        if len(seen) == 2 and not changed:  # what changes has been seen, or is new
            changed = True
            await files(rig, owner, *(f"name new {number}" for number in range(20)))
            await rig.trash(made[10])
            await rig.index()
        page = await rig.ask(SearchFiles(by=host(owner), where=ROOT, text="name", limit=1, page=page.next_page))
    stayed = ["name not indexed", *(file.name for file in made if file is not made[10])]
    assert seen[0] == "name not indexed"
    assert sorted(name for name in seen if "new" not in name and name != made[10].name) == sorted(stayed)
    with pytest.raises(Invalid):
        await rig.ask(SearchFiles(by=host(owner), where=ROOT, text="names", page=(await rig.ask(ask)).next_page))


@pytest.mark.usefixtures("bounds")
async def test_a_long_result_is_complete_whatever_the_size_of_its_pages(rig: Rig) -> None:
    owner = await rig.user()
    names = {f"{'x' * (number % 3)}name {number}{'.png' * (number % 5 == 0)}" for number in range(25)}
    await files(rig, owner, *sorted(names))
    for _ in range(2):
        for limit in (1, 2, 7, 100):
            assert sorted(await find(rig, owner, "name", limit=limit)) == sorted(names)
            assert sorted(await find(rig, owner, min_size=0, limit=limit)) == sorted(names)
            assert len(await find(rig, owner, "name", limit=limit, min_size=11)) == 0
        await rig.index()


async def test_a_change_is_found_before_the_index_follows_and_after(rig: Rig) -> None:
    owner = await rig.user()
    (file,) = await files(rig, owner, "before")
    await rig.index()
    for name in ("between", "after", "AFTER", "before"):
        await rig.rename(file, name)
        assert await find(rig, owner, name) == [name]
        for old in {"before", "between", "after"} - {name.lower()}:
            assert await find(rig, owner, old) == []
    await rig.index()
    assert await find(rig, owner, "before") == ["before"]
    assert await find(rig, owner, "between") == []


class IndexedMeanwhile:
    """A transaction in which the indexer runs right before the statement of that number."""

    def __init__(self, tx: Tx, rig: Rig, number: int) -> None:
        self._tx, self._rig, self._left = tx, rig, number

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tx, name)

    async def all(self, sql: str, *values: Any) -> list[Row]:
        self._left -= 1
        if not self._left:
            await self._do()
        return await self._tx.all(sql, *values)

    async def one(self, sql: str, *values: Any) -> Row | None:
        self._left -= 1
        if not self._left:
            await self._do()
        return await self._tx.one(sql, *values)

    async def _do(self) -> None:
        await name_index.index(self._tx, IndexNames(limit=100), self._rig.env)


@pytest.mark.parametrize("number", range(1, 7))
async def test_an_entry_that_is_indexed_during_a_search_is_found_once(rig: Rig, number: int) -> None:
    owner = await rig.user()
    old, _ = await files(rig, owner, "old", "note")
    await rig.index()
    await rig.rename(old, "notes")
    await files(rig, owner, "noted")

    async def find_meanwhile(tx: Tx) -> list[str]:
        ask = SearchFiles(by=host(owner), where=ROOT, text="note", limit=100)
        page = await search.search(cast("Tx", IndexedMeanwhile(tx, rig, number)), ask, rig.env)
        return sorted(file.name for file in page.items)

    assert await rig.catalog.write(find_meanwhile) == ["note", "noted", "notes"]


class SettledMeanwhile(IndexedMeanwhile):
    """A transaction in which everything is settled before one of its statements."""

    async def _do(self) -> None:
        while await settle(self._tx, SettleTrash(limit=100), self._rig.env):
            pass


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("number", range(1, 9))
async def test_what_is_settled_during_a_search_is_not_found_in_the_trash(
    rig: Rig, number: int, *, indexed: bool
) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner, "folder")
    await rig.file(owner, "note", where=inside(folder))
    kept = await rig.file(owner, "note kept")
    if indexed:
        await rig.index()
    for options in ({"text": "note"}, {"type": FileType.FILE}):
        await rig.trash(folder)

        async def find_meanwhile(tx: Tx, options: Any = options) -> list[str]:
            ask = SearchFiles(by=host(owner), where=ROOT, limit=100, **options)
            page = await search.search(cast("Tx", SettledMeanwhile(tx, rig, number)), ask, rig.env)
            return [file.name for file in page.items]

        assert await rig.catalog.write(find_meanwhile) == [kept.name], options
        await rig.restore(folder)
        await rig.settle()


async def test_ranking_many_words_lets_the_event_loop_run(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = await rig.user()
    words = " ".join(f"{number:02x}" for number in range(80))
    for number in range(40):
        await rig.file(owner, f"{words} {number}")
    turn, ranked_in = 0, list[int]()
    rank = Query.rank

    async def turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    def watched(query: Query, key: str) -> int | None:
        ranked_in.append(turn)
        return rank(query, key)

    monkeypatch.setattr(Query, "rank", watched)
    turning = asyncio.ensure_future(turns())
    for text, most in (("01", 40), (words, 12)):
        ranked_in.clear()
        assert len(await find(rig, owner, text)) == 40
        assert max(Counter(ranked_in).values()) == most
    turning.cancel()


async def test_a_copied_folder_is_found_with_its_contents(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner, "report folder")
    await rig.file(owner, "report inside", where=inside(folder))
    await rig.copy(folder, name="report copy")
    await rig.settle()
    for _ in range(2):
        found = sorted(await find(rig, owner, "report"))
        assert found == ["report copy", "report folder", "report inside", "report inside"]
        await rig.index()


async def test_the_check_of_the_index_tells_and_corrects_what_is_wrong(rig: Rig) -> None:
    owner = await rig.user()
    first, second, third = await files(rig, owner, "first", "second", "third")
    await rig.index()
    await rig.run("UPDATE names SET text = 'fifth' WHERE entry_id = $1", first.id)
    await rig.run("DELETE FROM names WHERE entry_id = $1", second.id)
    await rig.run("INSERT INTO names (number, entry_id, created_at, text) VALUES (1, 'stray', 1, 'stray')")
    assert set((await rig.ask(CheckNames())).wrong) == {first.id, second.id, "stray"}
    assert await find(rig, owner, "second") == []
    wrong, after = set[str](), ""
    while True:
        checked = await rig.ask(CheckNames(after=after, limit=1, correct=True))
        wrong.update(checked.wrong)
        if not (after := checked.next):
            break
    assert wrong == {first.id, second.id, "stray"}
    await rig.index()
    for file in (first, second, third):
        assert await find(rig, owner, file.name) == [file.name]


async def test_the_entries_of_a_deleted_user_leave_the_index(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    await files(rig, owner, "a report")
    await files(rig, other, "b report")
    await rig.index()
    await rig.write(users.delete, owner, now=rig.now)
    await rig.purge_all()
    await rig.index()
    assert len(await rig.rows("SELECT number FROM names")) == 1
    assert await find(rig, other, "report") == ["b report"]


WORDS = st.sampled_from(["report", "photo", "re", "a", "年度", "😀", "é", "ß", "x"])
TITLES = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)


@given(data=st.data())
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
async def test_a_drive_that_changes_is_searched_like_a_list_of_names(rig: Rig, data: st.DataObject) -> None:
    """Against a model that filters the names of all visible entries."""
    with pytest.MonkeyPatch.context() as patch:
        for bound, value in (("RANKED", 2), ("EXAMINED", 3), ("BELOW", 2)):
            patch.setattr(search, bound, value)
        owner = await rig.user()
        folder = await rig.folder(owner, "top")
        parents: dict[FileId, FileId | None] = {folder.id: None}
        live: dict[FileId, File] = {folder.id: folder}
        trashed: dict[FileId, File] = {}

        def shown() -> list[File]:
            return [
                file
                for file in live.values()
                if not any(above in trashed for above in ancestors(file.id)) and file.id not in trashed
            ]

        def ancestors(id_: FileId) -> list[FileId]:
            above, at = [], parents[id_]
            while at is not None:
                above.append(at)
                at = parents[at]
            return above

        for _ in range(data.draw(st.integers(4, 14))):
            rig.clock.advance(1)
            change = data.draw(st.sampled_from(["file", "folder", "rename", "move", "trash", "restore", "index"]))
            folders = [file for file in shown() if file.kind is FileKind.FOLDER]
            if change in ("file", "folder"):
                parent = data.draw(st.sampled_from([None, *folders]))
                where = ROOT if parent is None else inside(parent)
                name = f"{data.draw(TITLES)} {len(live)}"
                make = rig.file if change == "file" else rig.folder
                made = await make(owner, name, where=where)
                live[made.id], parents[made.id] = made, None if parent is None else parent.id
            elif change == "restore" and trashed:
                file = data.draw(st.sampled_from(list(trashed.values())))
                restored = await rig.restore(file, on_conflict=OnConflict.RENAME)
                del trashed[file.id]
                live[file.id], parents[file.id] = restored, restored.parent_id
                await rig.settle()
            elif change == "index":
                await rig.index(limit=data.draw(st.integers(1, 3)))
            elif shown():
                file = data.draw(st.sampled_from(shown()))
                if change == "rename":
                    live[file.id] = await rig.rename(
                        file, f"{data.draw(TITLES)} {len(live)}r", on_conflict=OnConflict.RENAME
                    )
                elif change == "trash":
                    await rig.trash(file)
                    trashed[file.id] = file
                elif change == "move":
                    inner = [entry for entry in folders if file.id not in (entry.id, *ancestors(entry.id))]
                    parent = data.draw(st.sampled_from([None, *inner]))
                    where = ROOT if parent is None else inside(parent)
                    asked = UpdateFile(host(owner), file.id, where=where, on_conflict=OnConflict.RENAME)
                    live[file.id] = await rig.ask(asked)
                    parents[file.id] = None if parent is None else parent.id
            text = data.draw(TITLES)
            place = data.draw(st.sampled_from([None, *(file for file in shown() if file.kind is FileKind.FOLDER)]))
            expected = {file.id for file in shown() if file.name in naive([file.name], text)}
            if place is not None:
                expected = {id_ for id_ in expected if place.id in ancestors(id_)}
            where = ROOT if place is None else inside(place)
            found = await rig.search(owner, text, where=where, limit=data.draw(st.integers(1, 3)))
            assert sorted(file.id for file in found) == sorted(expected), (change, text)
        await rig.index()


@each("name, text", [
    ("a", "a\x01\x01a"),
    ("report.pdf", "report.pdf\x01\x01re\x01\x01.p\x01\x01pd"),
    ("a b a b", "a b a b\x01\x01a \x01\x01b \x01\x01b"),
    ("年度x", "年度x\x01\x01年度\x01\x01度x"),
    ("e\u0301a \u0301b", "éa \u0301b\x01\x01éa"),
    ("❤\ufe0fab", "❤\ufe0fab\x01\x01❤\ufe0f\x01\x01ab"),
])  # fmt: skip
def test_the_index_holds_the_key_and_the_beginnings_of_words(name: str, text: str) -> None:
    assert index_text(search_key(name)) == text


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=40))
def test_the_index_of_ascii_names_follows_the_same_rule_as_that_of_others(name: str) -> None:
    key = search_key(name)
    begins = {key[at : at + 2] for at in range(len(key)) if begins_word(key, at) and not key[at].isspace()}
    indexed = index_text(key).removeprefix(key).split("\x01\x01")
    assert {begin for begin in indexed if begin and not begin[0].isspace()} == begins
