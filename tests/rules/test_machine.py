"""A state machine of a drive: every operation on a tree, against a model, compared after every step.

The model knows what each entry is, where it lies, and whether it is in the trash
or on its way out.  From this follow the lists, the usage, the references to
blobs, the changes that a client is told, and what a search finds.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from godrive import config
from godrive.catalog import Catalog, Sinks
from godrive.catalog.postgres import PostgresCatalog
from godrive.catalog.sqlite import SqliteCatalog
from godrive.errors import DriveError
from godrive.messages.batches import Act, RunBatch, Step
from godrive.messages.changes import ListChanges
from godrive.messages.files import EmptyTrash, GetFile, SearchFiles
from godrive.messages.metadata import Metadata
from godrive.messages.system import ClaimPurges, FinishPurge, IndexNames, SettleTrash
from godrive.messages.uploads import AbortUpload, BeginUpload
from godrive.model import At, File, FileId, In, OnConflict, Spot, UserId, Which
from godrive.rules import copies, users
from godrive.rules.names import search_key
from godrive.runtime import Ask
from godrive.testing import quick_folder
from tests.contracts.rig import ANYWHERE, ROOT, Rig, host
from tests.engines import empty
from tests.rules.drive_model import MOST_ENTRIES, QUOTA, Ids, Model, Node

T = TypeVar("T")

EXAMPLES, STEPS = (
    int(os.environ.get(f"GODRIVE_TEST_{name}", default)) for name, default in (("LIVES", 4), ("STEPS", 20))
)
NAMES = st.sampled_from(["a", "b", "é", "e\u0301", "A"])
KEEP = st.sampled_from([OnConflict.FAIL, OnConflict.RENAME])
PICK = st.integers(0, 10**6)
SEARCHED = "a"


class DriveMachine(RuleBasedStateMachine):
    """One owner's drive, and the model."""

    rig: ClassVar[Rig]
    runner: ClassVar[asyncio.Runner]

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.blobs: set[str] = set()
        self.cursor = ""
        self.indexed = False

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def attempt(self, message: Ask[Metadata, Any]) -> tuple[Any, DriveError | None]:
        """The reply, or the error."""
        try:
            return self.run(self.rig.ask(message)), None
        except DriveError as error:
            return None, error

    @initialize()
    def begin(self) -> None:
        self.owner: UserId = self.run(self.rig.user(quota=QUOTA))
        self.by = host(self.owner)
        self.cursor = self.run(self.rig.ask(ListChanges(by=self.by))).cursor
        self.batch_of([Step(act=Act.MKDIR, where=ROOT, name="b"), Step(act=Act.MKDIR, where=At(path=("b",)), name="b")])
        for at in (1, 5):  # a file in the root, and one in a folder
            self.upload_to(self.where(at), "a", 10, OnConflict.FAIL)

    # What to do it with

    def choose(self, pick: int, *, folders: bool = False, end: str = "") -> Node | None:
        """One of the entries, preferably one that can be seen or is in the trash; any other now and then."""
        found = [node for node in self.model.nodes.values() if node.is_folder or not folders]
        likely = [node for node in found if node.end == end and (end or self.model.visible(node.id))]
        found = likely if likely and pick % 10 else found
        return found[pick // 10 % len(found)] if found else None

    def which(self, node: Node, pick: int) -> Which:
        by_path = pick % 3 == 0 and self.model.visible(node.id)
        return At(path=self.model.names(node.id)) if by_path else FileId(node.id)

    def where(self, pick: int) -> Spot:
        folder = self.choose(pick, folders=True)
        if folder is None or pick % 4 == 0:
            return ROOT
        if pick % 3 == 0 and self.model.visible(folder.id):
            return At(path=self.model.names(folder.id))
        return In(folder_id=FileId(folder.id))

    def step_of(self, act: Act, pick: int, at: int, name: str | None, on_conflict: OnConflict) -> Step | None:
        """A step for some entry and some folder; ``None`` if there is nothing."""
        if act is Act.MKDIR:
            return Step(act=act, where=self.where(at), name=name or "a")
        node = self.choose(pick, end="trashed" if act in (Act.RESTORE, Act.PURGE) else "")
        if node is None:
            return None
        which = FileId(node.id) if act in (Act.RESTORE, Act.PURGE) else self.which(node, pick)
        step = Step(act=act, which=which, on_conflict=on_conflict)
        if act is Act.MOVE or (act is Act.COPY and at % 5):
            return Step(act=act, which=which, where=self.where(at), name=name, on_conflict=on_conflict)
        return Step(act=act, which=which, name=name or "a", on_conflict=on_conflict) if act is Act.RENAME else step

    def follow(self, step: Step, file: File | None, code: str) -> None:
        """Do in the model what was done, and compare the result."""
        ids = self.run(self.ids_below(file.id)) if step.act is Act.COPY and file is not None else None
        made = "" if file is None else str(file.id)
        assert self.model.do(step, made=made, ids=ids) == code, step

    async def ids_below(self, top: str) -> Ids:
        """The ids of all entries below the copy, by parent and key of the name, as the rows say."""
        rows = await self.rig.rows("SELECT id, parent_id, name_key FROM entries WHERE owner_id = $1", self.owner)
        return {(parent, key): id_ for id_, parent, key in rows}

    # What can happen

    @rule(
        act=st.sampled_from([*Act, Act.MKDIR, Act.MOVE, Act.COPY]),
        pick=PICK,
        at=PICK,
        name=st.none() | NAMES,
        on_conflict=KEEP,
    )
    def change(self, act: Act, pick: int, at: int, name: str | None, on_conflict: OnConflict) -> None:
        if (step := self.step_of(act, pick, at, name, on_conflict)) is not None:
            self.batch_of([step])

    @rule(
        steps=st.lists(st.tuples(st.sampled_from(Act), PICK, PICK, st.none() | NAMES, KEEP), min_size=2, max_size=5),
        atomic=st.booleans(),
    )
    def batch(self, steps: list[tuple[Act, int, int, str | None, OnConflict]], atomic: bool) -> None:
        made = [step for values in steps if (step := self.step_of(*values)) is not None]
        if atomic:
            self.atomic_batch_of(made)
        else:
            self.batch_of(made)

    def batch_of(self, steps: list[Step]) -> None:
        outcomes = self.run(self.rig.ask(RunBatch(by=self.by, steps=steps)))
        for step, outcome in zip(steps, outcomes, strict=True):
            self.follow(step, outcome.file, "" if outcome.failure is None else outcome.failure.code)

    def atomic_batch_of(self, steps: list[Step]) -> None:
        outcomes, error = self.attempt(RunBatch(by=self.by, steps=steps, atomic=True))
        if error is not None:
            supposed = deepcopy(self.model)
            codes = [supposed.do(step, made=f"new {n}") for n, step in enumerate(steps)]
            number = next(number for number, code in enumerate(codes) if code)
            assert codes[number] == error.code
            assert (error.field or "").partition(".")[0] == f"operations[{number}]"
            return
        for step, outcome in zip(steps, outcomes, strict=True):
            self.follow(step, outcome.file, "")

    @rule(at=PICK, name=NAMES, size=st.sampled_from([0, 10, 100]), on_conflict=st.sampled_from(OnConflict))
    def upload(self, at: int, name: str, size: int, on_conflict: OnConflict) -> None:
        self.upload_to(self.where(at), name, size, on_conflict)

    def upload_to(self, where: Spot, name: str, size: int, on_conflict: OnConflict) -> None:
        model = self.model
        parent = model.place(where)
        holder = model.holder(parent, name)
        expected = ""
        if parent == "missing" or not model.visible(parent):
            expected = "not_found"
        elif holder is not None and (
            on_conflict is OnConflict.FAIL or (on_conflict is OnConflict.REPLACE and holder.is_folder)
        ):
            expected = "name_taken"
        elif model.is_too_much(1, size):
            expected = "quota_exceeded"
        upload, error = self.attempt(BeginUpload(self.by, where, name, "a/b", size, on_conflict=on_conflict))
        assert ("" if error is None else error.code) == expected
        if upload is None:
            return
        self.blobs.add(upload.object_key)
        file = self.run(self.rig.publish(upload))
        blob = (str(upload.object_key), size)
        if holder is not None and on_conflict is OnConflict.REPLACE:
            assert file.id == holder.id
            holder.blobs.insert(0, blob)
            model.changes.append(("updated", holder.id))
            return
        settled = model.settle_name(parent, name, on_conflict)
        assert file.name == settled
        model.nodes[file.id] = Node(file.id, parent, file.name, is_folder=False, blobs=[blob])
        model.changes.append(("created", file.id))

    @rule(name=NAMES)
    def begin_upload(self, name: str) -> None:
        upload, error = self.attempt(BeginUpload(self.by, ROOT, name, "a/b", 10, on_conflict=OnConflict.RENAME))
        expected = "quota_exceeded" if self.model.is_too_much(1, 10) else ""
        assert ("" if error is None else error.code) == expected
        if upload is not None:
            self.model.pending[upload.id] = 10

    @rule(pick=PICK)
    def abort_upload(self, pick: int) -> None:
        if pending := self.model.pending:
            upload_id = list(pending)[pick % len(pending)]
            self.run(self.rig.ask(AbortUpload(by=self.by, upload_id=upload_id)))
            del pending[upload_id]

    @rule(pick=PICK)
    def copy_and_purge(self, pick: int) -> None:
        """A copy outlives its source, whose purge a sweep carries out to the end."""
        if (node := self.choose(pick)) is not None:
            which = FileId(node.id)
            self.batch_of([Step(act=Act.COPY, which=which, where=ROOT, on_conflict=OnConflict.RENAME)])
            self.batch_of([Step(act=Act.TRASH, which=which), Step(act=Act.PURGE, which=which)])
            self.sweep_to_the_end()

    def sweep_to_the_end(self) -> None:
        while purges := self.run(self.rig.ask(ClaimPurges(limit=50))):
            for purge in purges:
                self.blobs.difference_update(purge.object_keys)
                self.run(self.rig.ask(FinishPurge(purge.file_id, purge.revision)))
        self.run(self.forget())

    @rule()
    def empty_trash(self) -> None:
        trashed = [node for node in self.model.nodes.values() if node.end == "trashed"]
        assert self.run(self.rig.ask(EmptyTrash(by=self.by))) == len(trashed)
        for node in trashed:
            node.end = "purging"

    @rule(limit=st.sampled_from([1, 2, 100]))
    def settle(self, limit: int) -> None:
        self.run(self.rig.ask(SettleTrash(limit=limit)))

    @rule()
    def settle_to_the_end(self) -> None:
        self.run(self.rig.settle())
        while self.run(self.rig.ask(IndexNames(limit=100))):
            pass
        self.indexed = True

    @rule(limit=st.sampled_from([1, 2, 50]), finish=st.booleans(), later=st.sampled_from([0, 4000]))
    def sweep(self, limit: int, finish: bool, later: int) -> None:
        """What is claimed is not always finished: then it is due again later."""
        for purge in self.run(self.rig.ask(ClaimPurges(limit=limit))):
            if finish:
                self.blobs.difference_update(purge.object_keys)
                self.run(self.rig.ask(FinishPurge(purge.file_id, purge.revision)))
        self.rig.clock.advance(later)
        self.run(self.forget())

    @rule()
    def wait(self) -> None:
        self.rig.clock.advance(1)

    async def forget(self) -> None:
        """Let the model forget what is gone, and move to the root what lay in it by itself."""
        rows = await self.rig.rows("SELECT id, parent_id FROM entries WHERE owner_id = $1", self.owner)
        nodes, parents = self.model.nodes, dict(rows)
        for node in [node for node in nodes.values() if node.id not in parents]:
            assert not self.model.visible(node.id), "only what is being purged goes"
            assert not any(child.id in parents for child in self.model.children(node.id)), "from the bottom up"
        for node in nodes.values():
            if node.parent is not None and parents.get(node.id) == "":
                assert node.end, "only what was trashed by itself moves to the root"
                node.parent = None
        for id_ in [id_ for id_ in nodes if id_ not in parents]:
            if nodes.pop(id_).end:
                self.model.changes.append(("purged", id_))

    # What must be true after every step

    @invariant()
    def agrees(self) -> None:
        if self.cursor:
            self.run(self.compare())

    async def compare(self) -> None:
        rig, model = self.rig, self.model
        shown = [node for node in model.nodes.values() if model.visible(node.id)]
        await self.compare_lists(shown)
        await self.compare_usage(shown)
        await self.compare_blobs()
        await self.compare_changes()
        for node in model.nodes.values():
            if not model.visible(node.id):
                with pytest.raises(DriveError):
                    await rig.get(self.owner, FileId(node.id))
        if shown:
            last = shown[-1]
            by_path = await rig.ask(GetFile(by=self.by, file_id=At(path=model.names(last.id))))
            assert by_path == await rig.get(self.owner, FileId(last.id))

    async def compare_lists(self, shown: list[Node]) -> None:
        rig, owner = self.rig, self.owner
        for folder in [None, *[node.id for node in shown if node.is_folder]]:
            where: Spot = ROOT if folder is None else In(folder_id=FileId(folder))
            found = {(f.id, f.name, f.parent_id, f.size_bytes) for f in await rig.files(owner, where=where)}
            assert found == {(n.id, n.name, n.parent, n.size) for n in shown if n.parent == folder}
        trashed = {node.id for node in self.model.nodes.values() if node.end == "trashed"}
        assert {file.id for file in await rig.binned(owner)} == trashed
        waits = "SELECT 1 FROM unsettled WHERE owner_id = $1"
        self.settled = await rig.rows(waits, owner) == []
        files = {file.id for file in await rig.files(owner, where=ANYWHERE)}
        listed = {node.id for node in shown if not node.is_folder}
        assert files <= listed
        assert not self.settled or files == listed
        page = await rig.ask(SearchFiles(by=self.by, where=ROOT, text=SEARCHED, limit=100))
        found_ids = {file.id for file in page.items}
        matching = {node.id for node in shown if search_key(node.name).startswith(SEARCHED)}
        assert found_ids <= matching
        assert not (self.settled and self.indexed) or found_ids == matching
        self.indexed = False

    async def compare_usage(self, shown: list[Node]) -> None:
        usage = await self.rig.usage(self.owner)
        assert usage.used_bytes == self.model.used
        assert usage.reserved_bytes == self.model.reserved
        assert usage.version_bytes == sum(size for n in self.model.nodes.values() for _, size in n.blobs[1:])
        assert not self.settled or usage.live_bytes == sum(node.size for node in shown)
        counts = "SELECT entry_count, upload_count FROM users WHERE id = $1"
        assert await self.rig.rows(counts, self.owner) == [(len(self.model.nodes), len(self.model.pending))]
        assert await self.rig.drift() == 0

    async def compare_blobs(self) -> None:
        """Every entry refers to its blobs, and no blob is gone that an entry may still need."""
        sql = (
            "SELECT v.file_id, v.object_key, e.state FROM versions v JOIN entries e ON e.id = v.file_id "
            "WHERE e.owner_id = $1 ORDER BY v.file_id, v.revision DESC"
        )
        keys: dict[str, list[str]] = {}
        for file_id, key, state in await self.rig.rows(sql, self.owner):
            keys.setdefault(file_id, []).append(key)
            assert key in self.blobs or state == "purging"
        assert keys == {n.id: [key for key, _ in n.blobs] for n in self.model.nodes.values() if n.blobs}

    async def compare_changes(self) -> None:
        page = await self.rig.ask(ListChanges(by=self.by, cursor=self.cursor, limit=1000))
        self.cursor = page.cursor
        told = [(change.change.value, str(change.id)) for change in page.changes]
        purged = [change for change in self.model.changes if change[0] == "purged"]
        assert sorted(told) == sorted(self.model.changes)
        assert purged or told == self.model.changes
        for change in page.changes:
            visible = change.id in self.model.nodes and self.model.visible(change.id)
            assert (change.entry is not None) == visible
        self.model.changes = []

    def teardown(self) -> None:
        if self.cursor:
            self.run(self.leave())

    async def leave(self) -> None:
        """The owner is deleted: nothing is left, and nothing is still counted."""
        rig = self.rig
        await rig.write(users.delete, self.owner, now=rig.now)
        await rig.settle()
        rig.clock.advance(4000)  # what was claimed and not finished becomes due again
        await rig.purge_all()
        for table in ("entries", "unsettled", "copies"):
            assert await rig.rows(f"SELECT * FROM {table} WHERE owner_id = $1", self.owner) == []
        assert await rig.drift() == 0


async def open_(catalog: Catalog) -> None:
    await catalog.open()
    if isinstance(catalog, PostgresCatalog):
        await catalog.write(empty)


@contextmanager
def opened(runner: asyncio.Runner, catalog: Catalog) -> Iterator[Rig]:
    runner.run(open_(catalog))
    try:
        rig = Rig(catalog)
        rig.configure("auth", max_entries=MOST_ENTRIES)
        yield rig
    finally:
        runner.run(catalog.close())


@pytest.mark.parametrize("engine", ["sqlite", pytest.param("postgres", marks=pytest.mark.servers)])
@pytest.mark.timeout(3600)
def test_every_life_of_a_drive_agrees_with_the_model(
    engine: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "MOST_AT_ONCE", 3)  # so that small trees take several transactions
    with quick_folder() as folder, asyncio.Runner() as runner:
        catalog: Catalog = SqliteCatalog(Path(folder) / "godrive.db", sinks=Sinks(nats=True))
        if engine == "postgres":
            catalog = PostgresCatalog(config.Catalog(dsn=request.getfixturevalue("database")), sinks=Sinks(nats=True))
        with opened(runner, catalog) as rig:

            class Machine(DriveMachine):
                """The machine on this catalog."""

            Machine.rig, Machine.runner = rig, runner
            run_state_machine_as_test(
                Machine,
                settings=settings(
                    max_examples=EXAMPLES if engine == "sqlite" else max(4, EXAMPLES // 5),
                    stateful_step_count=STEPS,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
