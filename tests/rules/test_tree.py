"""Trees in the trash and out of it: what is shown where at every moment, against a model that walks to the root."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godrive.catalog import Tx
from godrive.errors import Cycle, NotFound
from godrive.messages.files import EmptyTrash, OpenContent, PurgeFile, RestoreFile, TrashFile, UpdateFile
from godrive.messages.metadata import Metadata
from godrive.messages.system import ClaimPurges, FinishPurge, SettleTrash
from godrive.model import File, FileId, FileKind, OnConflict, Place, Sort, Spot, UserId
from godrive.rules import files, rows, users
from godrive.rules.registry import RULES
from godrive.runtime import Ask
from godrive.tree import SETTLED_AT_ONCE
from tests.contracts.rig import ROOT, Rig, host, inside

pytestmark = pytest.mark.anyio


@dataclass
class Node:
    """An entry as the model knows it.  *end* is "", "trashed" or "purging", and only of the entry itself."""

    file: File
    parent: Node | None
    end: str = ""

    @property
    def is_folder(self) -> bool:
        return self.file.kind is FileKind.FOLDER

    @property
    def path(self) -> list[Node]:
        """The node and all above it."""
        return [self] if self.parent is None else [self, *self.parent.path]

    @property
    def visible(self) -> bool:
        return not any(node.end for node in self.path)


class Life:
    """Does random things to the tree of one owner, and to the model."""

    def __init__(self, rig: Rig, owner: UserId, seed: int) -> None:
        self.rig, self.owner, self.chance = rig, owner, random.Random(seed)
        self.nodes: list[Node] = []
        self.gone: list[FileId] = []
        self.numbers = iter(range(10**6))

    async def grow(self, count: int) -> None:
        for _ in range(count):
            await self.add()

    def some(self, *, end: str, visible: bool | None = None) -> Node | None:
        fits = [node for node in self.nodes if node.end == end and visible in (None, node.visible)]
        return self.chance.choice(fits) if fits else None

    async def add(self) -> None:
        """A file or a folder somewhere, with a size that tells it from all others."""
        number = next(self.numbers)
        parents: list[Node | None] = [None, *[node for node in self.nodes if node.visible and node.is_folder]]
        parent = self.chance.choice(parents[-4:])
        where: Spot = ROOT if parent is None else inside(parent.file)
        if self.chance.random() < 0.5:
            file = await self.rig.folder(self.owner, f"d{number}", where=where)
        else:
            file = await self.rig.file(self.owner, f"f{number}", size=2 ** (number % 40), where=where)
        self.nodes.append(Node(file, parent))

    async def trash(self) -> None:
        if (node := self.some(end="", visible=True)) is not None:
            await self.rig.trash(node.file)
            node.end = "trashed"

    async def move(self) -> None:
        """A file or a folder to another folder, if that does not lie in it."""
        node, target = self.some(end="", visible=True), self.some(end="", visible=True)
        if target is not None and not target.is_folder:
            target = None
        if node is None:
            return
        where = ROOT if target is None else inside(target.file)
        ask = UpdateFile(by=host(self.owner), file_id=node.file.id, where=where, on_conflict=OnConflict.RENAME)
        if node.is_folder and target is not None and node in target.path:
            with pytest.raises(Cycle):
                await self.rig.ask(ask)
            return
        assert (await self.rig.ask(ask)).parent_id == (target and target.file.id)
        node.parent = target

    async def restore(self) -> None:
        if (node := self.some(end="trashed")) is not None:
            restored = await self.rig.restore(node.file, on_conflict=OnConflict.RENAME)
            node.end = ""
            if node.parent is not None and not node.parent.visible:
                node.parent = None
            assert restored.parent_id == (node.parent and node.parent.file.id)

    async def settle(self) -> None:
        await self.rig.ask(SettleTrash(limit=self.chance.choice([1, 2, 3])))

    async def settle_to_the_end(self) -> None:
        await self.rig.settle(self.chance.choice([1, 2, 100]))
        usage = await self.rig.usage(self.owner)
        assert usage.live_bytes == sum(node.file.size_bytes for node in self.nodes if node.visible)

    async def purge(self) -> None:
        if (node := self.some(end="trashed")) is not None:
            await self.rig.purge(node.file)
            node.end = "purging"

    async def empty(self) -> None:
        trashed = [node for node in self.nodes if node.end == "trashed"]
        assert await self.rig.ask(EmptyTrash(by=host(self.owner))) == len(trashed)
        for node in trashed:
            node.end = "purging"

    async def claim(self) -> None:
        """One step of a sweep: what is claimed is not always finished."""
        for purge in await self.rig.ask(ClaimPurges(limit=self.chance.choice([1, 2, 50]))):
            if self.chance.random() < 0.8:
                await self.rig.ask(FinishPurge(purge.file_id, purge.revision))
        self.rig.clock.advance(self.chance.choice([0, 4000]))
        await self.follow()

    async def follow(self) -> None:
        """Let the model forget what is gone, and move to the root what lay in it by itself."""
        rows = await self.rig.rows("SELECT id, parent_id FROM entries WHERE owner_id = $1", self.owner)
        parents = dict(rows)
        for node in [node for node in self.nodes if node.file.id not in parents]:
            assert not node.visible, "only what is being purged goes"
            assert not any(child.parent is node for child in self.nodes if child.file.id in parents and not child.end)
            self.nodes.remove(node)
            self.gone.append(node.file.id)
        for node in self.nodes:
            if node.parent is not None and parents[node.file.id] == "":
                assert node.end, "only what was trashed by itself moves to the root"
                assert not node.parent.visible
                node.parent = None

    async def step(self) -> None:
        actions = [self.add, self.trash, self.trash, self.restore, self.restore, self.settle, self.settle, self.purge]
        actions += [self.claim, self.empty, self.settle_to_the_end, self.move]
        weights = [3, 3, 3, 3, 3, 4, 4, 1, 2, 0.3, 1, 4]
        await self.chance.choices(actions, weights)[0]()
        self.rig.clock.advance(self.chance.choice([0, 0, 1]))
        await self.compare()

    async def compare(self) -> None:
        rig, owner = self.rig, self.owner
        visible = [node for node in self.nodes if node.visible]
        for node in self.nodes:
            await self.compare_one(node)
        await self.compare_folder(None)
        for node in visible:
            if node.is_folder:
                await self.compare_folder(node)
        assert {file.id for file in await rig.binned(owner, limit=3)} == {
            node.file.id for node in self.nodes if node.end == "trashed"
        }
        shown = {node.file.id for node in visible if not node.is_folder}
        settled = await rig.rows("SELECT 1 FROM unsettled WHERE owner_id = $1", owner) == []
        for options in ({"sort": Sort.NAME}, {"sort": Sort.OLDEST, "contains": "F"}, {"limit": 2, "prefix": "f"}):
            found = [file.id for file in await rig.files(owner, **options)]
            assert len(found) == len(set(found))
            assert set(found) <= shown, "the list of the whole drive shows what is in the trash"
            assert not settled or set(found) == shown
        usage = await rig.usage(owner)
        assert usage.used_bytes == sum(node.file.size_bytes for node in self.nodes)
        if settled:
            assert usage.live_bytes == sum(node.file.size_bytes for node in visible)
        assert await rig.drift() == 0

    async def compare_one(self, node: Node) -> None:
        if node.visible:
            assert (await self.rig.get(self.owner, node.file.id)).name.startswith(node.file.name)
            return
        with pytest.raises(NotFound):
            await self.rig.get(self.owner, node.file.id)
        with pytest.raises(NotFound):
            await self.rig.ask(OpenContent(by=host(self.owner), file_id=node.file.id))
        if node.is_folder:
            with pytest.raises(NotFound):
                await self.rig.names(self.owner, where=inside(node.file))
            with pytest.raises(NotFound):
                await self.rig.folder(self.owner, "new", where=inside(node.file))

    async def compare_folder(self, folder: Node | None) -> None:
        where: Place = ROOT if folder is None else inside(folder.file)
        found = {file.id for file in await self.rig.files(self.owner, where=where, limit=2)}
        assert found == {node.file.id for node in self.nodes if node.visible and node.parent is folder}


@given(seed=st.integers(0, 2**32))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_every_life_of_a_tree_agrees_with_the_model(rig: Rig, seed: int) -> None:
    life = Life(rig, await rig.user(), seed)
    await life.grow(8)
    for _ in range(25):
        await life.step()
    await life.settle_to_the_end()
    await life.compare()
    await rig.write(users.delete, life.owner, now=rig.now)
    await rig.settle()
    rig.clock.advance(4000)  # what was claimed and not finished becomes due again
    await rig.purge_all()
    for table in ("entries", "unsettled"):
        assert await rig.rows(f"SELECT * FROM {table} WHERE owner_id = $1", life.owner) == []
    assert await rig.drift() == 0


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
        if name not in ("sinks", "changed"):
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
        assert len(steps) == 1 + 10 * 2
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
