"""Properties and favorites: set, merged, found, and gone with their entry."""

from __future__ import annotations

from typing import Any

import pytest

from godrive.catalog import Row, Tx
from godrive.errors import Invalid, PreconditionFailed
from godrive.messages.files import ListByProperty, ListFavorites, UpdateFile
from godrive.messages.system import ClaimPurges, FinishPurge
from godrive.model import File, PropertyValue, UserId
from godrive.rules.marks import MOST_PROPERTIES
from tests.cases import each
from tests.contracts.rig import GRACE, Rig, host, inside

pytestmark = pytest.mark.anyio

REFUSED: dict[str, dict[str, PropertyValue | None]] = {
    "a key with a space": {"a b": 1},
    "an empty key": {"": 1},
    "a key that ends with a line feed": {"a\n": 1},
    "a long key": {"a" * 65: 1},
    "a long text": {"a": "é" * 513},
    "a NUL": {"a": "\0"},
    "a lone surrogate": {"a": "\ud800"},
    "a number over 64 bits": {"a": 2**63},
    "infinity": {"a": float("inf")},
    "not a number": {"a": float("nan")},
    "too many": {f"k{number}": number for number in range(MOST_PROPERTIES + 1)},
    "too many bytes": {f"k{number}": "x" * 1000 for number in range(9)},
}


async def update(rig: Rig, file: File, **options: Any) -> File:
    return await rig.ask(UpdateFile(by=host(file.owner_id), file_id=file.id, **options))


async def found(
    rig: Rig, owner: UserId, key: str, value: PropertyValue | None = None, *, limit: int = 100
) -> list[str]:
    """The names of all entries with the property, sorted, by way of as many pages as it takes."""
    page = await rig.ask(ListByProperty(host(owner), key, value, limit))
    names = [file.name for file in page.items]
    while page.next_page is not None:
        page = await rig.ask(ListByProperty(host(owner), key, value, limit, page.next_page))
        names += [file.name for file in page.items]
    return sorted(names)  # entries of one millisecond have no order


async def favorites(rig: Rig, owner: UserId, *, limit: int = 100) -> list[str]:
    page = await rig.ask(ListFavorites(host(owner), limit))
    names = [file.name for file in page.items]
    while page.next_page is not None:
        page = await rig.ask(ListFavorites(host(owner), limit, page.next_page))
        names += [file.name for file in page.items]
    return sorted(names)  # entries of one millisecond have no order


async def index_rows(rig: Rig) -> list[Row]:
    async def read(tx: Tx) -> list[Row]:
        return await tx.all("SELECT entry_id, key, value FROM properties ORDER BY entry_id, key")

    return await rig.catalog.read(read)


async def test_properties_are_merged_and_null_removes_one(rig: Rig) -> None:
    file = await rig.file(await rig.user())
    first = await update(rig, file, properties={"color": "blue", "count": 3, "done": False, "share": 0.5})
    assert first.properties == {"color": "blue", "count": 3, "done": False, "share": 0.5}
    second = await update(rig, first, properties={"count": None, "color": "red", "new": "x"}, if_match=first.etag)
    assert second.properties == {"color": "red", "done": False, "share": 0.5, "new": "x"}
    assert await rig.get(file.owner_id, file.id) == second
    assert [row[1:] for row in await index_rows(rig)] == [
        ("color", '"red"'), ("done", "false"), ("new", '"x"'), ("share", "0.5"),
    ]  # fmt: skip
    assert (await update(rig, second, properties=dict.fromkeys(second.properties))).properties == {}
    assert await index_rows(rig) == []


async def test_an_update_that_changes_nothing_keeps_the_etag(rig: Rig) -> None:
    file = await update(rig, await rig.file(await rig.user()), favorite=True, properties={"n": 1})
    assert await update(rig, file, favorite=True, properties={"n": 1.0, "absent": None}) == file
    assert (await update(rig, file, favorite=False)).etag != file.etag
    assert (await update(rig, file, properties={"n": True})).properties["n"] is True


async def test_name_and_properties_change_together_or_not_at_all(rig: Rig) -> None:
    owner = await rig.user()
    file, folder = await rig.file(owner), await rig.folder(owner)
    with pytest.raises(Invalid):
        await update(rig, file, name="b.txt", where=inside(folder), properties={"bad key": 1})
    assert await rig.get(owner, file.id) == file
    moved = await update(rig, file, name="b.txt", where=inside(folder), favorite=True, properties={"k": "v"})
    assert (moved.name, moved.parent_id, moved.favorite, moved.properties) == ("b.txt", folder.id, True, {"k": "v"})
    with pytest.raises(PreconditionFailed):
        await update(rig, file, properties={"k": "w"}, if_match=file.etag)


@each("kind", REFUSED)
async def test_what_cannot_be_kept_is_refused(rig: Rig, kind: str) -> None:
    file = await rig.file(await rig.user())
    with pytest.raises(Invalid) as raised:
        await update(rig, file, properties=REFUSED[kind])
    assert raised.value.field == "properties"
    assert await index_rows(rig) == []


async def test_a_property_is_found_by_key_and_by_value_in_pages(rig: Rig) -> None:
    owner, stranger = await rig.user(), await rig.user()
    values: list[PropertyValue] = [1, 1.0, "1", True, 2]
    for number, value in enumerate(values):
        await update(rig, await rig.file(owner, f"{number}"), properties={"n": value})
    await update(rig, await rig.file(stranger, "other"), properties={"n": 1})
    assert await found(rig, owner, "n", limit=2) == ["0", "1", "2", "3", "4"]
    assert await found(rig, owner, "n", 1, limit=1) == ["0", "1"]
    assert await found(rig, owner, "n", "1") == ["2"]
    assert await found(rig, owner, "n", True) == ["3"]
    assert await found(rig, owner, "m") == []
    with pytest.raises(Invalid):
        await found(rig, owner, "%")


async def test_favorites_include_folders_and_nothing_from_the_trash(rig: Rig) -> None:
    owner = await rig.user()
    folder = await update(rig, await rig.folder(owner), favorite=True, properties={"k": 1})
    inner = await update(rig, await rig.file(owner, "inner", where=inside(folder)), favorite=True, properties={"k": 1})
    await update(rig, await rig.file(owner, "top"), favorite=True, properties={"k": 1})
    assert await favorites(rig, owner, limit=1) == ["folder", "inner", "top"]
    await rig.trash(folder)
    assert await favorites(rig, owner) == ["top"] == await found(rig, owner, "k")
    await rig.settle()
    assert await favorites(rig, owner) == ["top"] == await found(rig, owner, "k")
    await rig.restore(folder)
    await rig.settle()
    assert await favorites(rig, owner) == ["folder", "inner", "top"] == await found(rig, owner, "k")
    assert (await rig.get(owner, inner.id)).favorite


async def test_a_purge_removes_the_properties(rig: Rig) -> None:
    owner = await rig.user()
    file = await update(rig, await rig.file(owner), properties={"k": 1}, favorite=True)
    await rig.trash(file)
    rig.clock.advance(GRACE)
    for purge in await rig.ask(ClaimPurges(100)):
        await rig.ask(FinishPurge(purge.file_id, purge.revision))
    assert await index_rows(rig) == []
    assert await favorites(rig, owner) == []
