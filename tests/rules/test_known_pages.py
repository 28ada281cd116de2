"""Pages that are read with what was known of them before: always what a reading without it gives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import msgspec
import pytest

from godrive.actors.known_pages import KnownPages
from godrive.errors import Forbidden, NotFound
from godrive.messages.files import ListFiles, Listing, ReadList, UpdateFile
from godrive.messages.versions import ListVersions, RestoreVersion
from godrive.model import At, File, FileId, OnConflict, Page, Place, Sort, UserId
from godrive.principal import ApiToken, Scope
from godrive.rules import listings, lists
from godrive.rules.listings import KnownPage
from tests.cases import ON_POSTGRES
from tests.contracts.rig import ANYWHERE, ROOT, SERVER, Rig, host, inside

pytestmark = pytest.mark.anyio

Change = Callable[[Rig, list[File], File], Awaitable[object]]


def update(**values: object) -> Change:
    """A change of what a client keeps with the second file."""

    async def change(rig: Rig, files: list[File], folder: File) -> object:
        values_now = {name: value(rig) if callable(value) else value for name, value in values.items()}
        return await rig.ask(UpdateFile(host(files[1].owner_id), files[1].id, **values_now))  # type: ignore[arg-type]

    return change


async def replace_bytes(rig: Rig, files: list[File], folder: File) -> object:
    return await rig.file(files[1].owner_id, files[1].name, size=7, on_conflict=OnConflict.REPLACE)


async def restore_version(rig: Rig, files: list[File], folder: File) -> object:
    by = host(files[1].owner_id)
    versions = await rig.ask(ListVersions(by, files[1].id))
    return await rig.ask(RestoreVersion(by, files[1].id, versions.items[-1].id))


async def rename_all(rig: Rig, files: list[File], folder: File) -> object:
    for number, file in enumerate(files):
        await rig.rename(file, f"renamed {number}")
    return files


CHANGES: dict[str, Change] = {
    "nothing": lambda rig, files, folder: rig.get(files[0].owner_id, files[0].id),
    "rename": lambda rig, files, folder: rig.rename(files[1], "zz"),
    "favorite": update(favorite=True),
    "modified_at": update(modified_at=lambda rig: rig.now - timedelta(days=9)),
    "replace": replace_bytes,
    "restore a version": restore_version,
    "move": lambda rig, files, folder: rig.ask(
        UpdateFile(host(files[2].owner_id), files[2].id, where=inside(folder), name="moved")
    ),
    "trash": lambda rig, files, folder: rig.trash(files[3]),
    "restore": lambda rig, files, folder: rig.restore(files[3]),
    "add": lambda rig, files, folder: rig.file(files[0].owner_id, "new"),
    "trash a folder": lambda rig, files, folder: rig.trash(folder),
    "restore a folder": lambda rig, files, folder: rig.restore(folder),
    "settle": lambda rig, files, folder: rig.settle(10),
    "set back the clock": lambda rig, files, folder: set_back(rig, files[0]),
    "properties": update(properties={"colour": "red"}),
    "no properties": update(properties={"colour": None}),
    "rename all": rename_all,
}
"""Everything that a list can show, in this order."""


async def set_back(rig: Rig, file: File) -> object:
    rig.clock.jump(-3600)
    return await rig.rename(file, "in the past")


async def read(rig: Rig, ask: ListFiles, known: lists.Known | None) -> Page[File]:
    return await rig.catalog.read(lambda tx: lists.read_page(tx, ask, rig.env, known))


async def test_whatever_has_changed_a_known_page_is_the_same_as_one_that_is_read_anew(rig: Rig) -> None:
    owner = await rig.user()
    files = [await rig.file(owner, f"file {number}") for number in range(7)]
    folder = await rig.folder(owner, "folder")
    await rig.file(owner, "inside", where=inside(folder))
    places: list[Place] = [ROOT, ANYWHERE, inside(folder)]
    asks = [
        ListFiles(host(owner), place, limit, sort=sort, prefix=prefix)
        for place in places
        for sort in (Sort.NEWEST, Sort.NAME, *((Sort.LARGEST, Sort.MOST_RECENT) if place is not ANYWHERE else ()))
        for limit, prefix in ((3, None), (100, None), (100, "f"))
    ]
    known: dict[int, lists.Known] = {}
    reused = 0
    for name, change in CHANGES.items():
        rig.clock.advance(1)
        await change(rig, files, folder)
        for number, ask in enumerate(asks):
            try:
                page = await read(rig, ask, None)
            except Exception as error:  # the folder is in the trash
                with pytest.raises(type(error)):
                    await read(rig, ask, known.get(number))
                continue
            again = await read(rig, ask, known.get(number))
            assert again == page, (name, ask)
            reused += sum(known.get(number, {}).get((file.id, file.revision)) is file for file in again.items)
            known[number] = {(file.id, file.revision): file for file in page.items}
    assert reused > 500


async def read_far(rig: Rig, ask: ReadList, known: KnownPage | None) -> tuple[Listing, KnownPage] | None:
    asked = listings.prepare(ask, rig.env, known)
    assert asked is not None
    question = asked.question
    (row,) = await rig.catalog.read(lambda tx: tx.one_each(question.sql, [question.values]))
    return listings.finish(ask, asked, row, rig.env, nonce="n")


@ON_POSTGRES
async def test_a_list_in_one_row_is_the_same_as_one_that_is_read_in_full(rig: Rig) -> None:
    owner = await rig.user()
    files = [await rig.file(owner, f"file {number}") for number in range(7)]
    folder = await rig.folder(owner, "folder")
    await rig.file(owner, "inside", where=inside(folder))
    empty = await rig.folder(owner, "empty", where=inside(folder))
    places: list[Place] = [ROOT, ANYWHERE, inside(folder), inside(empty)]
    asks = [
        ReadList(host(owner), place, limit, sort=sort, prefix=prefix)
        for place in places
        for sort in (Sort.NEWEST, Sort.NAME, *((Sort.LARGEST,) if place is not ANYWHERE else ()))
        for limit, prefix in ((3, None), (100, None), *(((100, "f"),) if sort is Sort.NAME else ()))
    ]
    known: dict[int, KnownPage] = {}
    reused = left = 0
    for name, change in CHANGES.items():
        rig.clock.advance(1)
        await change(rig, files, folder)
        for number, ask in enumerate(asks):
            try:
                full = await rig.read(lists.read_list, ask, rig.env, owner, nonce="n")
            except NotFound:  # the folder is in the trash
                assert await read_far(rig, ask, known.get(number)) is None
                continue
            found = await read_far(rig, ask, known.get(number))
            if found is None:
                assert name in ("trash a folder", "restore a folder", "properties"), (name, ask)
                left += 1
                continue
            assert found[0] == full, (name, ask)
            before = {} if number not in known else known[number].files
            reused += sum(before.get(key) is file for key, file in found[1].files.items())
            known[number] = found[1]
            if ask.limit == 3 and found[1].page.next_page:  # and from there on
                following = msgspec.structs.replace(ask, page=found[1].page.next_page)
                after = await read_far(rig, following, None)
                assert after is not None or name == "properties"
                assert (
                    after is None
                    or after[0].page == (await rig.read(lists.read_list, following, rig.env, owner, nonce="n")).page
                )
    assert reused > 400
    assert 0 < left < 50


@ON_POSTGRES
async def test_a_list_in_one_row_is_for_nobody_else(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    folder = await rig.folder(owner, "folder")
    file = await rig.file(owner, "file", where=inside(folder))
    for place in (inside(folder), inside(file)):
        assert await read_far(rig, ReadList(host(other), place), None) is None
    assert await read_far(rig, ReadList(host(owner), inside(file)), None) is None
    found = await read_far(rig, ReadList(host(owner), inside(folder)), None)
    assert found is not None
    strange = await read_far(rig, ReadList(host(other), ANYWHERE), found[1])
    assert strange is not None
    assert strange[0].page == Page(items=[])
    await rig.run("UPDATE users SET state = 'disabled' WHERE id = $1", owner)
    assert await read_far(rig, ReadList(host(owner), ANYWHERE), None) is None


@ON_POSTGRES
async def test_what_one_row_cannot_answer_is_read_in_full(rig: Rig) -> None:
    by = host(UserId("owner"))
    confined = ApiToken(user_id=by.user_id, token_id="t", scopes=frozenset(Scope), folder_id=FileId("folder"))
    for ask in (
        ReadList(by, At(path=("a",))),
        ReadList(by, ROOT, contains="a"),
        ReadList(by, ROOT, prefix="a"),
        ReadList(by, ROOT, folders_first=True),
        ReadList(by, ROOT, 101),
        ReadList(confined, ANYWHERE),
        ReadList(SERVER, ROOT),
    ):
        assert listings.prepare(ask, rig.env, None) is None, ask
    blind = ApiToken(user_id=by.user_id, token_id="t", scopes=frozenset({Scope.FILES_WRITE}), folder_id=None)
    with pytest.raises(Forbidden):
        listings.prepare(ReadList(blind, ROOT), rig.env, None)


async def test_what_follows_a_known_page_is_the_next_page(rig: Rig) -> None:
    owner: UserId = await rig.user()
    for number in range(5):
        await rig.file(owner, f"{number}")
    for sort in Sort:
        names: list[str] = []
        token: str | None = None
        while True:
            ask = ListFiles(host(owner), ROOT, 2, token, sort)
            first = await read(rig, ask, None)
            page = await read(rig, ask, {(file.id, file.revision): file for file in first.items})
            assert page == first
            names += [file.name for file in page.items]
            token = page.next_page
            if token is None:
                break
        assert sorted(names) == list("01234")


def test_what_is_known_of_the_oldest_pages_is_forgotten_first() -> None:
    pages: KnownPages[str] = KnownPages(most=6)
    pages.put("a", "a", 2)
    pages.put("b", "b", 2)
    pages.put("a", "a again", 1)
    pages.put("c", "c", 2)
    assert pages.get("b") is None
    assert pages.get("a") == "a again"
    pages.put("large", "large", 6)
    assert pages.get("large") is None
    assert pages.get("c") is None


def test_pages_without_files_are_forgotten_too() -> None:
    pages: KnownPages[int] = KnownPages(most=10)
    for number in range(100):
        pages.put(number, number, 0)
    assert [number for number in range(100) if pages.get(number) is not None] == list(range(90, 100))
