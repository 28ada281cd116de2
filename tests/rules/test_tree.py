"""Trees in the trash and out of it: what is shown where at every moment, against a model that walks to the root."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest

from godrive.catalog import Tx
from godrive.errors import NotFound
from godrive.messages.files import PurgeFile, RestoreFile, TrashFile
from godrive.messages.metadata import Metadata
from godrive.messages.system import ClaimPurges, FinishPurge, SettleTrash
from godrive.model import File
from godrive.rules import files, rows
from godrive.rules.registry import RULES
from godrive.runtime import Ask
from godrive.tree import SETTLED_AT_ONCE
from tests.contracts.rig import ROOT, Rig, host, inside

pytestmark = pytest.mark.anyio


async def test_a_purge_that_is_faster_than_the_settling_shows_nothing(rig: Rig) -> None:
    owner = await rig.user()
    outer = await rig.folder(owner, "outer")
    inner = await rig.folder(owner, "inner", where=inside(outer))
    await rig.file(owner, "deep", where=inside(inner))
    await rig.trash(outer)
    await rig.purge(outer)
    for purge in await rig.ask(ClaimPurges(limit=10)):
        await rig.ask(FinishPurge(purge.file_id, purge.revision))
    while await rig.ask(SettleTrash(limit=1)):
        assert await rig.names(owner) == await rig.names(owner, contains="d") == []
    assert await rig.names(owner) == []
    usage = await rig.usage(owner)
    assert (usage.live_bytes, usage.trash_bytes) == (0, 10)
    assert await rig.drift() == 0


async def test_what_a_tree_shows_by_folder_is_right_at_once_and_in_the_whole_drive_when_it_has_settled(
    rig: Rig,
) -> None:
    owner = await rig.user()
    outer = await rig.folder(owner, "outer")
    inner = await rig.folder(owner, "inner", where=inside(outer))
    for number in range(4):
        await rig.file(owner, f"in {number}", where=inside(outer))
        await rig.file(owner, f"deep {number}", where=inside(inner))
    await rig.file(owner, "top")
    everything = set(await rig.names(owner))
    tags = await rig.read(files.read_changes, [owner])

    await rig.trash(outer)
    assert await rig.names(owner) == await rig.names(owner, limit=2) == ["top"]
    assert await rig.names(owner, where=ROOT) == ["top"]
    assert await rig.names(owner, contains="deep") == []
    assert (await rig.usage(owner)).used_bytes == 90
    await rig.settle(1)
    assert (await rig.usage(owner)).live_bytes == 10
    assert await rig.names(owner, limit=1) == ["top"]
    assert await rig.read(files.read_changes, [owner]) != tags

    await rig.restore(outer)
    assert len(await rig.names(owner, where=inside(inner))) == 4
    assert set(await rig.names(owner, where=ROOT)) == {"outer", "top"}
    assert (await rig.usage(owner)).used_bytes == 90
    assert set(await rig.names(owner, limit=1)) <= everything
    await rig.settle(1)
    assert (await rig.usage(owner)).live_bytes == 90
    assert set(await rig.names(owner, limit=1)) == everything
    assert await rig.drift() == 0


async def test_a_child_in_the_trash_by_itself_stays_there_when_its_folder_comes_back(rig: Rig) -> None:
    owner = await rig.user()
    outer = await rig.folder(owner, "outer")
    inner = await rig.folder(owner, "inner", where=inside(outer))
    deep = await rig.file(owner, "deep", where=inside(inner))
    beside = await rig.file(owner, "beside", where=inside(outer))
    await rig.trash(inner)
    rig.clock.advance(1)
    await rig.trash(outer)
    assert [file.name for file in await rig.binned(owner)] == ["outer", "inner"]
    await rig.settle(1)
    await rig.restore(outer)
    await rig.settle(1)
    assert await rig.names(owner) == ["beside"]
    assert await rig.names(owner, where=inside(outer)) == ["beside"]
    with pytest.raises(NotFound):
        await rig.get(owner, deep.id)
    assert (await rig.restore(inner)).parent_id == outer.id
    assert (await rig.get(owner, deep.id)).parent_id == inner.id
    await rig.settle(1)
    assert set(await rig.names(owner)) == {"beside", "deep"}
    assert (await rig.usage(owner)).live_bytes == deep.size_bytes + beside.size_bytes
    assert await rig.drift() == 0


class Counted:
    """A transaction that counts what is asked of it."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self.statements = 0
        self.rows = 0
        """The most rows that one statement was run for."""

    async def run_each(self, sql: str, rows: list[Any]) -> None:
        self.statements += 1
        self.rows = max(self.rows, len(rows))
        await self._tx.run_each(sql, rows)

    def __getattr__(self, name: str) -> Any:
        if name not in ("sinks", "changed", "joins"):
            self.statements += 1
        return getattr(self._tx, name)


async def cost(rig: Rig, ask: Ask[Metadata, Any]) -> Counted:
    """What the rule of the message asks of its transaction."""

    async def operation(tx: Tx) -> Counted:
        counted = Counted(tx)
        await RULES[type(ask)].run(cast("Tx", counted), ask, rig.env)
        return counted

    return await rig.catalog.write(operation)


async def count(rig: Rig, ask: Ask[Metadata, Any]) -> int:
    """The statements that the rule of the message runs."""
    return (await cost(rig, ask)).statements


async def test_a_tree_is_trashed_and_restored_by_as_many_statements_as_an_empty_folder(rig: Rig) -> None:
    owner = await rig.user()
    empty, full = await rig.folder(owner, "empty"), await rig.folder(owner, "full")
    parent = full
    for depth in range(5):
        for number in range(10):
            await rig.file(owner, f"{number}", where=inside(parent))
        parent = await rig.folder(owner, f"level {depth}", where=inside(parent))
    by = host(owner)
    asks: list[type[TrashFile | RestoreFile | PurgeFile]] = [TrashFile, RestoreFile, TrashFile, PurgeFile]
    for ask in asks:
        costs = [await count(rig, ask(by, folder.id)) for folder in (empty, full)]
        assert costs[0] == costs[1] <= 8, (ask, costs)
    assert await rig.drift() == 0


@pytest.mark.slow
async def test_a_tree_settles_in_steps_of_a_bounded_size_between_which_others_write(rig: Rig) -> None:
    """``scripts/bench settle`` measures how long other writers wait beside a tree of 100 000."""
    owner = await rig.user()
    folder = await rig.folder(owner, "large")
    await fill(rig, folder, folders=10, files=200)
    for change in (rig.trash, rig.restore):
        await change(folder)
        steps = []
        while await rig.rows("SELECT 1 FROM unsettled"):
            steps.append(await cost(rig, SettleTrash(limit=SETTLED_AT_ONCE)))
        assert len(steps) == 1 + 10 * math.ceil(200 / SETTLED_AT_ONCE)
        assert max(step.rows for step in steps) == SETTLED_AT_ONCE
        assert max(step.statements for step in steps) <= 9
    assert len(await rig.files(owner, limit=1000)) == 10 * 200
    assert (await rig.usage(owner)).live_bytes == 2000
    assert await rig.drift() == 0


async def fill(rig: Rig, top: File, *, folders: int, files: int) -> None:
    """Put so many folders with so many files each into a folder, past the rules."""
    columns = (
        "INSERT INTO entries (id, owner_id, list_state, parent_id, kind, name, name_key, search_key, mime, size_bytes, "
        "version_id, created_at, updated_at, modified_at, revision, state) "
        "VALUES ($1, $2, $3, $4, $3, $5, $5, $5, '', $6, $7, $8, $8, $8, $8, 'live')"
    )
    at = rows.micros(rig.now)

    async def folder(tx: Tx, number: int) -> None:
        id_ = f"{top.id}/{number}"
        await tx.run(columns, id_, top.owner_id, "folder", top.id, f"{number}", 0, None, at + number)
        inner = [f"{id_}/{file}" for file in range(files)]
        await tx.run_each(
            columns,
            [
                (file_id, top.owner_id, "file", id_, f"{file}", 1, file_id, at + file)
                for file, file_id in enumerate(inner)
            ],
        )
        await tx.run_each(
            "INSERT INTO versions (id, file_id, revision, object_key, mime, size_bytes, created_at, modified_at) "
            "VALUES ($1, $1, 0, $1, '', 1, 0, 0)",
            [(file_id,) for file_id in inner],
        )

    for number in range(folders):
        await rig.write(folder, number)
    await rig.run(
        "UPDATE users SET live_bytes = live_bytes + $2, entry_count = entry_count + $3 WHERE id = $1",
        top.owner_id,
        folders * files,
        folders * (files + 1),
    )
    assert await rig.drift() == 0
