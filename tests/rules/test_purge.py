"""Purges of trees: bytes go before rows, from below, whatever is interrupted, and no blob that is still wanted."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from godrive.errors import NotFound
from godrive.messages.files import EmptyTrash, OpenContent, RestoreFile
from godrive.messages.system import (
    ClaimPurges,
    DueEvents,
    FinishPurge,
    Purge,
    SettleTrash,
)
from godrive.model import (
    File,
    FileEventKind,
    FileId,
    ObjectKey,
    UserId,
)
from godrive.rules import users
from tests.contracts.rig import GRACE, ROOT, Rig, host, inside

pytestmark = pytest.mark.anyio


class Store:
    """The blobs that a store would have, and a janitor that may die at any point of its work."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.blobs: set[ObjectKey] = set()

    async def fill(self) -> None:
        self.blobs = {row[0] for row in await self.rig.rows("SELECT object_key FROM versions")}

    async def work(self, purge: Purge, steps: int = 10**6) -> None:
        """Delete the bytes, one key a step, and then the rows."""
        for key in purge.object_keys[:steps]:
            self.blobs.discard(key)
        if steps > len(purge.object_keys):
            await self.rig.ask(FinishPurge(purge.file_id, purge.revision))

    async def check(self) -> None:
        """No entry that may still be read or restored has lost its bytes, and no row went before them."""
        rows = await self.rig.rows("SELECT v.object_key, e.state FROM versions v JOIN entries e ON e.id = v.file_id")
        for key, state in rows:
            assert key in self.blobs or state == "purging", state
        assert self.blobs <= {key for key, _ in rows}, "bytes are left that no row knows"
        orphans = "SELECT 1 FROM entries e WHERE e.parent_id <> '' AND NOT EXISTS "
        assert await self.rig.rows(f"{orphans} (SELECT 1 FROM entries p WHERE p.id = e.parent_id)") == []
        assert await self.rig.drift() == 0

    async def sweep(self) -> list[FileId]:
        """Work until nothing is due."""
        purged: list[FileId] = []
        while claimed := await self.rig.ask(ClaimPurges(limit=3)):
            for purge in claimed:
                await self.work(purge)
                purged.append(purge.file_id)
            await self.check()
        return purged


async def tree(rig: Rig, owner: UserId, name: str = "top", *, depth: int = 3, width: int = 2) -> list[File]:
    """Folders in folders with files in each, from the top down."""
    made = [await rig.folder(owner, name)]
    for level in range(depth):
        folder = made[-1]
        made += [await rig.file(owner, f"{number}", where=inside(folder)) for number in range(width)]
        if level < depth - 1:
            made.append(await rig.folder(owner, "deeper", where=inside(folder)))
    return made


@pytest.mark.parametrize("settled", [False, True])
async def test_a_tree_goes_from_below_and_its_top_is_the_one_event(rig: Rig, settled: bool) -> None:
    owner = await rig.user()
    made, store = await tree(rig, owner), Store(rig)
    await store.fill()
    kept = await rig.file(owner, "kept")
    await rig.trash(made[0])
    if settled:
        await rig.settle()
    await rig.purge(made[0])
    store.blobs |= {(await rig.ask(OpenContent(by=host(owner), file_id=kept.id))).object_key}
    gone: list[str] = []
    while claimed := await rig.ask(ClaimPurges(limit=1)):
        await store.work(claimed[0])
        left = {row[0] for row in await rig.rows("SELECT id FROM entries")}
        gone += [file.id for file in made if file.id not in left and file.id not in gone]
        await store.check()
        assert await rig.names(owner) == ["kept"]
    assert set(gone) == {file.id for file in made}
    assert gone[-1] == made[0].id
    order = {file_id: place for place, file_id in enumerate(gone)}
    assert all(order[file.id] < order[file.parent_id] for file in made if file.parent_id is not None)
    purged = [event for event in await rig.ask(DueEvents(limit=1000)) if event.kind is FileEventKind.PURGED]
    assert [event.file_id for event in purged] == [made[0].id]
    usage = await rig.usage(owner)
    assert (usage.used_bytes, usage.live_bytes) == (10, 10)
    assert await rig.rows("SELECT * FROM unsettled WHERE owner_id = $1 AND folder_id <> $2", owner, made[0].id) == []


async def test_what_was_trashed_by_itself_moves_to_the_root_with_its_own_date(rig: Rig) -> None:
    owner = await rig.user()
    outer = await rig.folder(owner, "outer")
    middle = await rig.folder(owner, "middle", where=inside(outer))
    inner = await rig.folder(owner, "inner", where=inside(middle))
    deep = await rig.file(owner, "deep", where=inside(inner))
    store = Store(rig)
    await store.fill()
    await rig.trash(outer)
    await rig.restore(outer)
    rig.clock.advance(GRACE / 2)
    tombstone = await rig.trash(inner)
    await rig.trash(outer)
    await rig.purge(outer)
    assert [file.id for file in await rig.binned(owner)] == [inner.id]
    assert set(await store.sweep()) == {outer.id, middle.id}
    (listed,) = await rig.binned(owner)
    assert (listed.id, listed.parent_id, listed.purge_at) == (inner.id, None, tombstone.purge_at)
    await rig.settle()
    assert (await rig.usage(owner)).trash_bytes == deep.size_bytes
    restored = await rig.restore(inner)
    assert restored.parent_id is None
    assert await rig.names(owner, where=ROOT) == ["inner"]
    assert (await rig.get(owner, deep.id)).parent_id == inner.id
    await rig.settle()
    assert await rig.names(owner) == ["deep"]
    tombstone = await rig.trash(inner)
    rig.clock.advance(GRACE - 1)
    assert await store.sweep() == []
    rig.clock.advance(1)
    assert set(await store.sweep()) == {inner.id, deep.id}
    assert store.blobs == set()


async def share(rig: Rig, source: File, target: File) -> None:
    """Let the target refer to the source's blob, as a copy does."""
    await rig.run(
        "UPDATE versions SET object_key = (SELECT v.object_key FROM versions v WHERE v.file_id = $1) "
        "WHERE file_id = $2",
        source.id,
        target.id,
    )


async def test_a_blob_shared_with_a_tree_goes_with_the_last_that_refers_to_it(rig: Rig) -> None:
    owner = await rig.user()
    made = await tree(rig, owner, depth=2)
    kept, twins = await rig.file(owner, "kept"), [file for file in made if file.size_bytes]
    for twin in twins:
        await share(rig, kept, twin)
    store = Store(rig)
    await store.fill()
    (key,) = store.blobs
    await rig.trash(made[0])
    await rig.purge(made[0])
    await store.sweep()
    assert (await rig.ask(OpenContent(by=host(owner), file_id=kept.id))).object_key == key
    assert store.blobs == {key}
    await rig.trash(kept)
    await rig.purge(kept)
    assert await store.sweep() == [kept.id]
    assert store.blobs == set()


async def test_two_trees_with_common_blobs_go_together(rig: Rig) -> None:
    owner = await rig.user()
    one, other = await tree(rig, owner, "one"), await tree(rig, owner, "other")
    for source, target in zip(one, other, strict=True):
        if source.size_bytes:
            await share(rig, source, target)
    store = Store(rig)
    await store.fill()
    for made in (one, other):
        await rig.trash(made[0])
    await rig.ask(EmptyTrash(by=host(owner)))
    assert set(await store.sweep()) == {file.id for file in one + other}
    assert store.blobs == set()
    assert (await rig.usage(owner)).used_bytes == 0


async def test_a_folder_of_many_goes_in_batches(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("godrive.rules.purges._CHILDREN_AT_ONCE", 3)
    owner = await rig.user()
    folder = await rig.folder(owner)
    files = [await rig.file(owner, f"{number}", where=inside(folder)) for number in range(10)]
    store = Store(rig)
    await store.fill()
    await rig.trash(folder)
    await rig.purge(folder)
    purged = await store.sweep()
    assert set(purged) == {folder.id, *(file.id for file in files)}
    assert purged.count(folder.id) >= 4
    assert store.blobs == set()


@given(seed=st.integers(0, 2**32))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_purge_that_is_interrupted_anywhere_is_carried_on(rig: Rig, seed: int) -> None:
    """The janitor dies between any two of its steps; what it had claimed comes back to the next one."""
    chance, owner, store = random.Random(seed), await rig.user(), Store(rig)
    made: list[File] = []
    for name in ("one", "two"):
        made += await tree(rig, owner, name, depth=chance.choice([1, 2, 4]), width=chance.choice([1, 3]))
    files = [file for file in made if file.size_bytes]
    for _ in range(3):
        await share(rig, *chance.sample(files, 2))
    await store.fill()
    inner = chance.sample(made, 3)
    for file in [*inner, *(file for file in made if file.parent_id is None)]:
        try:
            await rig.trash(file)
        except NotFound:  # it lies in another that was trashed
            continue
    if chance.random() < 0.3:
        await rig.write(users.delete, owner, now=rig.now)
    else:
        await rig.ask(EmptyTrash(by=host(owner)))
    for _ in range(chance.randrange(30)):
        if chance.random() < 0.3:
            await rig.ask(SettleTrash(limit=2))
        for purge in await rig.ask(ClaimPurges(limit=chance.choice([1, 2, 5]))):
            await store.work(purge, chance.choice([0, 1, 10, 10]))
        rig.clock.advance(chance.choice([0, 30, 4000]))
        await store.check()
    for _ in range(3):
        rig.clock.advance(4000)
        await store.sweep()
        await rig.settle()
    assert await rig.rows("SELECT * FROM entries WHERE owner_id = $1", owner) == []
    assert await rig.rows("SELECT * FROM unsettled WHERE owner_id = $1", owner) == []
    assert store.blobs == set()


async def test_a_deleted_user_s_trees_go_with_all_their_bytes(rig: Rig) -> None:
    owner, other = await rig.user(), await rig.user()
    made, foreign = await tree(rig, owner), await tree(rig, other)
    await rig.trash(made[3])  # a folder in the middle
    store = Store(rig)
    await store.fill()
    await rig.write(users.delete, owner, now=rig.now)
    with pytest.raises(NotFound):
        await rig.ask(RestoreFile(by=host(owner), file_id=made[3].id))
    assert set(await store.sweep()) == {file.id for file in made}
    await rig.settle()
    assert {row[0] for row in await rig.rows("SELECT id FROM entries")} == {file.id for file in foreign}
    assert len(store.blobs) == len([file for file in foreign if file.size_bytes])
    assert await rig.rows("SELECT * FROM unsettled") == []
