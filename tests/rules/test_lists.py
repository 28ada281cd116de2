"""Lists of a folder in every order, with folders first and without, page by page, against sorted() of Python."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from godrive.errors import Invalid
from godrive.messages.files import UpdateFile
from godrive.model import File, FileKind, Sort, UserId
from godrive.rules.names import search_key
from tests.cases import each
from tests.contracts.rig import ANYWHERE, Rig, host, inside

pytestmark = pytest.mark.anyio

KEYS: dict[str, Callable[[File], Any]] = {
    "created_at": lambda file: file.created_at,
    "name": lambda file: search_key(file.name),
    "size": lambda file: file.size_bytes,
    "modified_at": lambda file: file.modified_at,
}
BY_SIZE_OR_TIME = [Sort.SMALLEST, Sort.LARGEST, Sort.LEAST_RECENT, Sort.MOST_RECENT]


def ordered(files: list[File], sort: Sort, *, folders_first: bool = False) -> list[str]:
    """The names in that order; entries with the same key in the order of their ids."""
    key = KEYS[sort.removeprefix("-")]
    found = sorted(files, key=lambda file: (key(file), file.id), reverse=sort.startswith("-"))
    if folders_first:
        found.sort(key=lambda file: file.kind is FileKind.FILE)
    return [file.name for file in found]


async def mixture(rig: Rig, owner: UserId, where: File, count: int = 20) -> list[File]:
    """Files and folders whose sizes and times are often the same, and which did not come in any order."""
    chance = random.Random(1)
    for number in range(count):
        rig.clock.advance(number % 3)
        name = f"{chance.choice('aÄbZ')}{number}"
        if chance.random() < 0.4:
            entry = await rig.folder(owner, name, where=inside(where))
        else:
            entry = await rig.file(owner, name, size=chance.randrange(3), where=inside(where))
        if number % 2:
            modified_at = rig.now - timedelta(days=chance.randrange(3))
            await rig.ask(UpdateFile(host(owner), entry.id, modified_at=modified_at))
    await rig.file(owner, "elsewhere")
    await rig.trash(await rig.folder(owner, "trashed", where=inside(where)))
    await rig.trash(await rig.file(owner, "trashed too", where=inside(where)))
    return await rig.files(owner, where=inside(where))


async def test_a_folder_is_listed_in_every_order_whatever_the_size_of_pages(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    files = await mixture(rig, owner, folder)
    assert len(files) == 20
    for sort, folders_first, limit in itertools.product(Sort, (False, True), (1, 3, 7, 20)):
        options: dict[str, Any] = {"sort": sort, "folders_first": folders_first, "limit": limit}
        names = await rig.names(owner, where=inside(folder), **options)
        assert names == ordered(files, sort, folders_first=folders_first), options


async def test_filters_apply_in_every_order(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    files = await mixture(rig, owner, folder)
    found = [file for file in files if search_key(file.name).startswith("b") and "1" in file.name]
    assert len({file.kind for file in found}) == 2
    for sort, folders_first in itertools.product(Sort, (False, True)):
        options: dict[str, Any] = {"sort": sort, "folders_first": folders_first, "limit": 2}
        names = await rig.names(owner, where=inside(folder), prefix="B", contains="1", **options)
        assert names == ordered(found, sort, folders_first=folders_first), options


@each("kinds", ["", "folders", "files"])
async def test_folders_first_needs_neither_folders_nor_files(rig: Rig, kinds: str) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    for number in range(3):
        if kinds == "folders":
            await rig.folder(owner, str(number), where=inside(folder))
        if kinds == "files":
            await rig.file(owner, str(number), where=inside(folder))
    for limit in (1, 3):
        names = await rig.names(owner, where=inside(folder), sort=Sort.NAME, folders_first=True, limit=limit)
        assert names == (["0", "1", "2"] if kinds else [])


async def test_entries_that_come_while_pages_are_turned_shift_nothing(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    old = {file.name for file in await mixture(rig, owner, folder)}
    numbers = itertools.count()
    for sort, folders_first in itertools.product(Sort, (False, True)):
        options: dict[str, Any] = {"where": inside(folder), "sort": sort, "folders_first": folders_first, "limit": 6}
        page = await rig.page(owner, **options)
        seen = [file.name for file in page.items]
        while page.next_page is not None:
            number = next(numbers)
            if number < 30:
                await rig.file(owner, f"new {number}", size=number % 4, where=inside(folder))
                await rig.folder(owner, f"new folder {number}", where=inside(folder))
            page = await rig.page(owner, page=page.next_page, **options)
            seen += [file.name for file in page.items]
        assert len(seen) == len(set(seen))
        assert {name for name in seen if "new" not in name} == old


async def test_a_page_token_is_of_one_order_only(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner)
    await mixture(rig, owner, folder, 6)
    lists: list[dict[str, Any]] = [
        {"sort": sort, "folders_first": folders_first} for sort in Sort for folders_first in (False, True)
    ]
    for one, other in itertools.permutations(lists, 2):
        page = await rig.page(owner, where=inside(folder), limit=1, **one)
        with pytest.raises(Invalid) as refusal:
            await rig.page(owner, where=inside(folder), limit=1, page=page.next_page, **other)
        assert refusal.value.field == "page"


@each("sort", BY_SIZE_OR_TIME)
async def test_the_whole_drive_has_no_order_by_size_or_time_of_modification(rig: Rig, sort: Sort) -> None:
    owner = await rig.user()
    with pytest.raises(Invalid) as refusal:
        await rig.page(owner, where=ANYWHERE, sort=sort)
    assert refusal.value.field == "sort"
    await rig.folder(owner)
    await rig.file(owner, "file")
    assert await rig.names(owner, where=ANYWHERE, folders_first=True) == ["file"]
