"""Two gateways change the same tree at the same moment: the result is that of one after the other, in some order.

A rival holds the owner's lock until both wait for it, so each has read what
it reads before the lock, and only one of them is first.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from msgspec.structs import replace

from godrive import config
from godrive.catalog import Tx
from godrive.catalog.postgres import PostgresCatalog
from godrive.catalog.postgres_pool import Connection, connect
from godrive.errors import DriveError
from godrive.messages.batches import Act, RunBatch, Step
from godrive.messages.files import EmptyTrash, UpdateFile
from godrive.messages.system import FinishVersion
from godrive.messages.uploads import StoreFile
from godrive.messages.versions import DeleteVersion, RestoreVersion
from godrive.model import At, File, FileId, ObjectKey, OnConflict, Upload, UploadId, UserId, VersionId, new_id
from godrive.rules import copies
from tests.contracts.rig import ROOT, Rig, host, inside

pytestmark = pytest.mark.anyio

PAIRS = int(os.environ.get("GODRIVE_TEST_RACES", "10"))
"""How many pairs of changes are tried, of all that there are."""


class Scene:
    """The same for each owner.

    There are ``a/x`` with two versions, ``a/b/y``, an empty folder ``d``, ``t`` in the trash, and three uploads.
    """

    def __init__(
        self, rig: Rig, owner: UserId, entries: dict[str, File], uploads: dict[OnConflict, Upload], new: Upload
    ) -> None:
        self.rig, self.owner, self.entries, self.uploads, self.new = rig, owner, entries, uploads, new

    @classmethod
    async def make(cls, rig: Rig) -> Scene:
        owner = await rig.user()
        a, d = await rig.folder(owner, "a"), await rig.folder(owner, "d")
        b = await rig.folder(owner, "b", where=inside(a))
        made = {"a": a, "b": b, "d": d}
        for name, where, size in (("x", inside(a), 1), ("y", inside(b), 2), ("t", ROOT, 4)):
            made[name] = await rig.file(owner, name, size=size, where=where)
        await rig.trash(made["t"])
        made["old x"] = made["x"]
        made["x"] = await rig.file(owner, "x", size=16, where=inside(a), on_conflict=OnConflict.REPLACE)
        uploads = {
            on_conflict: await rig.begin(owner, "x", size=8, where=inside(a), on_conflict=on_conflict)
            for on_conflict in (OnConflict.REPLACE, OnConflict.RENAME)
        }
        return cls(rig, owner, made, uploads, await rig.begin(owner, "z", size=32, where=inside(b)))

    async def state(self) -> list[Any]:
        """What the owner has, without ids: paths, sizes, states, and the usage."""
        rows = await self.rig.rows(
            "SELECT id, parent_id, name, state, size_bytes FROM entries WHERE owner_id = $1", self.owner
        )
        by_id = {row[0]: row for row in rows}

        def path(id_: str, seen: int = 0) -> str:
            assert seen < 10, "a folder lies in itself"
            _, parent, name, state, size = by_id[id_]
            above = path(parent, seen + 1) if parent else ""
            return f"{above}/{name}:{size}:{state}"

        usage = await self.rig.usage(self.owner)
        counts = await self.rig.rows(
            "SELECT entry_count, upload_count, version_count FROM users WHERE id = $1", self.owner
        )
        return [sorted(path(row[0]) for row in rows), usage.used_bytes, usage.version_bytes, counts]

    @property
    def version(self) -> tuple[FileId, VersionId]:
        """The version of x that was replaced."""
        old = self.entries["old x"]
        assert old.version_id is not None
        return old.id, old.version_id

    def step(self, act: Act, name: str | None = None, where: str | None = None, new: str | None = None) -> Step:
        which = None if name is None else self.entries[name].id
        place = None if where is None else ROOT if where == "root" else inside(self.entries[where])
        return Step(act=act, which=which, where=place, name=new)


Change = Callable[[Scene, Rig], Awaitable[Any]]


def step(*args: Any, atomic: bool = True) -> Change:
    async def change(scene: Scene, rig: Rig) -> Any:
        ask = RunBatch(by=host(scene.owner), steps=[scene.step(*args)], atomic=atomic)
        return await rig.ask(ask)

    return change


async def put(scene: Scene, rig: Rig) -> None:
    await rig.publish(scene.uploads[OnConflict.REPLACE])


async def put_beside(scene: Scene, rig: Rig) -> None:
    await rig.publish(scene.uploads[OnConflict.RENAME])


async def put_new(scene: Scene, rig: Rig) -> None:
    await rig.publish(scene.new)


async def put_at_once(scene: Scene, rig: Rig) -> None:
    """Without an upload."""
    blob = rig.blob(replace(scene.new, object_key=ObjectKey(new_id())))
    where = inside(scene.entries["b"])
    await rig.ask(StoreFile(host(scene.owner), where, "s", "a/b", blob, UploadId(new_id())))


async def put_at_path(scene: Scene, rig: Rig) -> None:
    """In one statement, if the folders that were seen on the path are still the same."""
    blob = rig.blob(replace(scene.new, object_key=ObjectKey(new_id())))
    where = At(path=("a", "b"))
    await rig.ask(StoreFile(host(scene.owner), where, "p", "a/b", blob, UploadId(new_id())))


async def restore_version(scene: Scene, rig: Rig) -> None:
    file_id, version_id = scene.version
    await rig.ask(RestoreVersion(host(scene.owner), file_id, version_id))


async def delete_version(scene: Scene, rig: Rig) -> None:
    """And the janitor removes it at once."""
    file_id, version_id = scene.version
    await rig.ask(DeleteVersion(host(scene.owner), file_id, version_id))
    await rig.ask(FinishVersion(version_id))


def rename(name: str, new: str) -> Change:
    """In one statement, if what was seen before it is still so."""

    async def change(scene: Scene, rig: Rig) -> Any:
        return await rig.ask(UpdateFile(host(scene.owner), scene.entries[name].id, new))

    return change


async def empty(scene: Scene, rig: Rig) -> None:
    await rig.ask(EmptyTrash(by=host(scene.owner)))


async def batch(scene: Scene, rig: Rig) -> None:
    steps = [scene.step(Act.MOVE, "x", "d"), scene.step(Act.TRASH, "b"), scene.step(Act.MKDIR, None, "a", "n")]
    await rig.ask(RunBatch(by=host(scene.owner), steps=steps, atomic=True))


async def copy_slowly(scene: Scene, rig: Rig) -> None:
    await rig.copy(scene.entries["a"], name="slow")


SLOW = "copy a in several transactions"
"""The only change that is not one transaction: the other may come between two of its own."""

CHANGES: dict[str, Change] = {
    "move a into d": step(Act.MOVE, "a", "d"),
    "move d into b": step(Act.MOVE, "d", "b"),
    "move x to the root": step(Act.MOVE, "x", "root"),
    "rename x to t": step(Act.RENAME, "x", None, "t"),
    "rename x to s at once": rename("x", "s"),
    "rename y to n at once": rename("y", "n"),
    "rename d to t at once": rename("d", "t"),
    "copy a into d": step(Act.COPY, "a", "d"),
    "copy y to the root as t": step(Act.COPY, "y", "root", "t"),
    SLOW: copy_slowly,
    "trash a": step(Act.TRASH, "a"),
    "trash x": step(Act.TRASH, "x"),
    "restore t": step(Act.RESTORE, "t"),
    "purge t": step(Act.PURGE, "t"),
    "make the folder t": step(Act.MKDIR, None, "root", "t"),
    "make a folder in b": step(Act.MKDIR, None, "b", "n"),
    "replace x": put,
    "put another x": put_beside,
    "put a new one into b": put_new,
    "put one into b at once": put_at_once,
    "put one at the path a/b at once": put_at_path,
    "rename b to c at once": rename("b", "c"),
    "restore the version before of x": restore_version,
    "delete the version before of x": delete_version,
    "empty the trash": empty,
    "several at once": batch,
}


async def attempt(change: Change, scene: Scene, rig: Rig) -> str:
    """Carry out the change.  Return the code of its error."""
    try:
        await change(scene, rig)
    except DriveError as error:
        return error.code
    return ""


@pytest.fixture
async def gateways(own_database: str) -> AsyncIterator[tuple[Rig, Rig, Connection]]:
    """Two gateways on one database, and a rival."""
    catalogs = [PostgresCatalog(config.Catalog(dsn=own_database, pool_size=4)) for _ in range(2)]
    for catalog in catalogs:
        await catalog.open()
    rival = await connect(own_database)
    yield Rig(catalogs[0]), Rig(catalogs[1]), rival
    await rival.close()
    for catalog in catalogs:
        await catalog.close()


async def waiting(rig: Rig) -> int:
    """How many connections wait for a lock."""

    async def blocked(tx: Tx) -> int:
        row = await tx.one(
            "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        assert row is not None
        return int(row[0])

    return await rig.catalog.read(blocked)


@pytest.mark.timeout(3600)
async def test_two_changes_at_once_end_as_one_after_the_other(
    gateways: tuple[Rig, Rig, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "MOST_AT_ONCE", 3)
    one, other, rival = gateways
    pairs = list(itertools.combinations_with_replacement(CHANGES, 2))
    for names in random.sample(pairs, min(PAIRS, len(pairs))):
        changes = [CHANGES[name] for name in names]
        ends: list[Any] = []
        for order in ((0, 1), (1, 0)):
            scene = await Scene.make(one)
            codes = {number: await attempt(changes[number], scene, one) for number in order}
            ends.append((codes, await scene.state()))
        scene = await Scene.make(one)
        await rival.execute("BEGIN")
        await rival.execute("SELECT 1 FROM users WHERE id = $1 FOR UPDATE", scene.owner)
        async with anyio.create_task_group() as tasks:
            found: dict[int, str] = {}

            async def run(
                number: int, change: Change, rig: Rig, scene: Scene = scene, found: dict[int, str] = found
            ) -> None:
                found[number] = await attempt(change, scene, rig)

            tasks.start_soon(run, 0, changes[0], one)
            tasks.start_soon(run, 1, changes[1], other)
            with suppress(TimeoutError):
                async with asyncio.timeout(1):
                    while await waiting(one) < 2:
                        await anyio.sleep(0.002)  # the server tells nobody
            await rival.execute("COMMIT")
        end = found, await scene.state()
        if SLOW in names:
            assert all(code in (ends[0][0][number], ends[1][0][number]) for number, code in found.items()), names
        else:
            assert end in ends, f"{names}: {end}\n{ends[0]}\n{ends[1]}"
        assert await one.drift() == 0
