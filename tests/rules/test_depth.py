"""No entry lies deeper than 1024 names, whatever is created, moved or restored in whatever order."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godrive.errors import Cycle, Gone, NotFound, TooDeep
from godrive.messages.files import GetFile, ListFiles, MakeFolder, RestoreFile, UpdateFile
from godrive.messages.metadata import Metadata
from godrive.messages.uploads import BeginUpload
from godrive.model import At, File, FileKind, UserId
from godrive.principal import ApiToken, Scope
from godrive.rules import names
from godrive.rules.names import MOST_DEPTH
from godrive.runtime import Ask
from tests.cases import each
from tests.contracts.rig import ROOT, Rig, host, inside

pytestmark = pytest.mark.anyio


def at(*path: str, parents: bool = False) -> At:
    return At(path=path, parents=parents)


async def chain(rig: Rig, owner: UserId, levels: int, name: str = "d") -> File:
    """The deepest of so many folders, each in the one before it."""
    return await rig.ask(MakeFolder(host(owner), at(*[name] * (levels - 1), parents=True), name))


async def test_nothing_lies_deeper_than_1024_names(rig: Rig) -> None:
    owner = await rig.user()
    by = host(owner)
    deepest = await chain(rig, owner, MOST_DEPTH)
    path = ["d"] * MOST_DEPTH
    assert await rig.ask(GetFile(by, at(*path))) == deepest
    assert (await rig.ask(ListFiles(by, at(*path)))).items == []
    other = await rig.folder(owner, "other")
    file = await rig.file(owner, "file")
    refused: list[Ask[Metadata, Any]] = [
        GetFile(by, at(*path, "d")),
        MakeFolder(by, at(*path), "x"),
        MakeFolder(by, inside(deepest), "x"),
        MakeFolder(by, at(*path, "x", parents=True), "x"),
        MakeFolder(by, at(*["e"] * MOST_DEPTH, parents=True), "x"),
        BeginUpload(by, at(*path), "x", "a/b", 1),
        BeginUpload(by, inside(deepest), "x", "a/b", 1),
        BeginUpload(by, at(*["e"] * MOST_DEPTH, parents=True), "x", "a/b", 1),
        UpdateFile(by, file.id, where=inside(deepest)),
        UpdateFile(by, other.id, where=at(*path)),
        UpdateFile(by, at("d"), where=inside(other)),
    ]
    for ask in refused:
        with pytest.raises(TooDeep) as refusal:
            await rig.ask(ask)
        assert refusal.value.field in ("path", "parent_id")
    assert sorted(await rig.names(owner, where=ROOT)) == ["d", "file", "other"]
    above = at(*path[:-1])
    assert (await rig.file(owner, "file", where=above)).parent_id == deepest.parent_id
    await rig.ask(UpdateFile(by, other.id, where=above))


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no path have more than 8 names."""
    monkeypatch.setattr(names, "MOST_DEPTH", 8)


@pytest.mark.usefixtures("shallow")
@each("levels, below, fits", [(4, 4, True), (4, 5, False), (1, 7, True), (7, 1, True), (1, 8, False), (7, 2, False)])
async def test_a_tree_moves_only_to_where_all_of_it_fits(rig: Rig, levels: int, below: int, fits: bool) -> None:
    owner = await rig.user()
    await chain(rig, owner, levels, "a")
    if below > 1:
        await chain(rig, owner, below - 1, "b")
    await rig.file(owner, "b", where=at(*["b"] * (below - 1)))  # the last level is a file
    ask = UpdateFile(host(owner), at("b"), where=at(*["a"] * levels))
    if fits:
        await rig.ask(ask)
        assert (await rig.ask(GetFile(host(owner), at(*["a"] * levels, *["b"] * below)))).kind is FileKind.FILE
    else:
        with pytest.raises(TooDeep):
            await rig.ask(ask)


@pytest.mark.usefixtures("shallow")
async def test_a_tree_in_the_trash_still_counts_where_it_would_be_restored(rig: Rig) -> None:
    owner = await rig.user()
    by = host(owner)
    await chain(rig, owner, 4, "a")
    await chain(rig, owner, 5, "b")
    tall = await rig.ask(GetFile(by, at("b", "b")))
    await rig.trash(tall)
    with pytest.raises(TooDeep):  # moved, the folder would have no room for what may be restored
        await rig.ask(UpdateFile(by, at("b"), where=at(*["a"] * 4)))
    await rig.restore(tall)
    assert (await rig.ask(GetFile(by, at(*["b"] * 5)))).kind is FileKind.FOLDER


@pytest.mark.usefixtures("shallow")
async def test_a_confined_token_restores_into_its_folder_only_what_fits(rig: Rig) -> None:
    owner = await rig.user()
    await chain(rig, owner, 7, "a")
    top = await rig.ask(GetFile(host(owner), at(*["a"] * 6)))
    gone = await rig.ask(GetFile(host(owner), at(*["a"] * 7)))
    by = ApiToken(user_id=owner, token_id="t", scopes=frozenset({Scope.FILES_DELETE}), folder_id=top.id)
    file = await rig.file(owner, "file", where=inside(gone))
    await rig.trash(file)
    await rig.trash(gone)
    restored = await rig.ask(RestoreFile(by, file.id))
    assert restored.parent_id == top.id
    assert await rig.ask(GetFile(host(owner), at(*["a"] * 6, "file"))) == restored


@pytest.mark.usefixtures("shallow")
async def test_an_upload_whose_folder_was_moved_to_the_last_level_is_gone(rig: Rig) -> None:
    owner = await rig.user()
    folder = await rig.folder(owner, "folder")
    upload = await rig.begin(owner, "f", where=inside(folder))
    await chain(rig, owner, 7, "a")
    await rig.ask(UpdateFile(host(owner), folder.id, where=at(*["a"] * 7)))
    with pytest.raises(Gone):
        await rig.publish(upload)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["folder", "file", "move", "trash", "restore"]), st.integers(0, 20), st.integers(0, 20)
        ),
        max_size=30,
    )
)
async def test_every_folder_is_higher_than_what_lies_in_it(rig: Rig, steps: list[tuple[str, int, int]]) -> None:
    """By induction over the levels, what a move checks is then true of every entry below the one that is moved."""
    owner = await rig.user()
    by = host(owner)
    made: list[File] = [await rig.folder(owner, "top")]
    for step, one, other in steps:
        entry, parent = made[one % len(made)], made[other % len(made)]
        with suppress(NotFound, Cycle):
            if step == "folder":
                made.append(await rig.folder(owner, f"d{len(made)}", where=inside(parent)))
            elif step == "file":
                made.append(await rig.file(owner, f"f{len(made)}", where=inside(parent)))
            elif step == "move":
                await rig.ask(UpdateFile(by, entry.id, where=inside(parent)))
            elif step == "trash":
                await rig.trash(entry)
            else:
                await rig.restore(entry)
    rows = await rig.rows("SELECT id, parent_id, height FROM entries WHERE owner_id = $1", owner)
    heights = {row[0]: row[2] for row in rows}
    assert all(parent_id == "" or heights[parent_id] > height for _, parent_id, height in rows)
