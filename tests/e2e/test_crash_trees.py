"""The server is killed in the middle of copies, batches and moves of trees: each is whole or not there at all."""

from __future__ import annotations

import itertools
import os
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest

from godrive.catalog.sqlite import SqliteCatalog
from godrive.messages.system import ClearCopies
from godrive.rules import tree_copies
from tests.contracts.rig import Rig
from tests.drive_server import DriveServer
from tests.e2e.client import Client, Json
from tests.e2e.ledger import GONE

pytestmark = pytest.mark.anyio

ROUNDS = int(os.environ.get("GODRIVE_TEST_KILLS", "1"))
FOLDERS, EACH, PAIR = 6, 50, 12
FILES = 3

Names = dict[str, Any]


@dataclass
class Work:
    """What was asked for, and of that what was answered."""

    numbers: Any = field(default_factory=itertools.count)
    copied: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)

    async def copy(self, client: Client, source: Json) -> None:
        """Copy the tree again and again, until the server is gone."""
        while True:
            name = f"copy {next(self.numbers)}"
            await client.request("POST", f"/v1/files/{source['id']}/copy", {"name": name})
            self.copied.add(name)

    async def batch(self, client: Client) -> None:
        """Make some folders at once, each with the same beginning of its name."""
        while True:
            number = next(self.numbers)
            steps = [{"op": "mkdir", "name": f"made {number}.{member}"} for member in range(PAIR)]
            await client.request("POST", "/v1/batch", {"operations": steps, "atomic": True})
            self.made.add(f"made {number}")

    async def move(self, client: Client, tree: Json, target: Json) -> None:
        """Move a tree to and fro, and into the trash and back."""
        while True:
            await client.request("PATCH", f"/v1/files/{tree['id']}", {"parent_id": target["id"]})
            await client.request("DELETE", f"/v1/files/{tree['id']}")
            await client.request("POST", f"/v1/files/{tree['id']}/restore")
            await client.request("PATCH", f"/v1/files/{tree['id']}", {"parent_id": "root"})


async def until_gone(work: Any) -> None:
    with suppress(*GONE):
        await work


async def names(client: Client, folder: Json, levels: int = 2) -> Names:
    """What is in a folder, by name, two levels deep: the folders of the third are empty."""
    listed = await client.files(f"/v1/files?parent_id={folder['id']}")
    return {
        f["name"]: await names(client, f, levels - 1) if f["kind"] == "folder" and levels > 1 else f["sha256"]
        for f in listed
    }


async def make_tree(client: Client, name: str) -> Json:
    """A folder with folders with folders, and some files."""
    top = await client.request("POST", "/v1/folders", {"name": name})
    outer = [{"op": "mkdir", "name": f"{n}", "parent_id": top["id"]} for n in range(FOLDERS)]
    inner = [{"op": "mkdir", "name": f"{m}", "parent_path": f"{name}/{n}"} for n in range(FOLDERS) for m in range(EACH)]
    for steps in (outer, inner):
        results = await client.request("POST", "/v1/batch", {"operations": steps})
        assert {result["status"] for result in results["results"]} == {201}
    for number in range(FILES):
        content = os.urandom(100)
        await client.put(await client.intent(f"{number}.bin", content, parent_id=top["id"]), content)
    return top


async def check(client: Client, work: Work, expected: Names, moved: tuple[Json, Names]) -> None:
    """What is there is whole, and what was answered is there."""
    top = await client.files("/v1/files?parent_id=root")
    found = Counter(f["name"].partition(".")[0] for f in top if f["name"].startswith("made "))
    assert set(found.values()) <= {PAIR}
    assert work.made <= found.keys()
    copies = {f["name"]: f for f in top if f["name"].startswith("copy ")}
    assert work.copied <= copies.keys()
    for copy in copies.values():
        assert await names(client, copy) == expected
    tree, moved_names = moved
    await client.request("POST", f"/v1/files/{tree['id']}/restore")  # in case the kill found it in the trash
    assert await names(client, tree) == moved_names
    for copy in copies.values():
        await client.request("DELETE", f"/v1/files/{copy['id']}")
    work.copied.clear()


async def test_whenever_it_is_killed_a_copy_a_batch_and_a_move_are_whole_or_not_there(
    drive_server: DriveServer,
) -> None:
    drive_server.tables["janitor"]["sweep_every"] = 600.0  # what is left over is looked at here
    work, left_over = Work(), 0
    drive_server.start()
    async with Client.connect(drive_server.url) as client:
        await client.enter()
        source, moved = [await make_tree(client, name) for name in ("source", "moved")]
        target = await client.request("POST", "/v1/folders", {"name": "target"})
        expected = await names(client, source)
        moved_names = await names(client, moved)
    for _ in range(ROUNDS):
        async with Client.connect(drive_server.url) as client:
            await client.enter()
            async with anyio.create_task_group() as tasks:
                for job in (work.copy(client, source), work.batch(client), work.move(client, moved, target)):
                    tasks.start_soon(until_gone, job)
                await anyio.sleep(random.uniform(0.1, 0.7))
                await anyio.to_thread.run_sync(drive_server.kill9)
        left_over += await left(drive_server)
        drive_server.start()
        async with Client.connect(drive_server.url) as client:
            await client.enter()
            await check(client, work, expected, (moved, moved_names))
    await anyio.to_thread.run_sync(drive_server.stop)
    print(f"{left_over} unfinished copies in {ROUNDS} kills, {len(work.made)} batches")
    await check_catalog(drive_server)


async def left(server: DriveServer) -> int:
    """Clear the copies that the kill has interrupted, as the janitor would a minute later.  Return their number."""
    catalog = SqliteCatalog(server.data / "godrive.db")
    await catalog.open()
    try:
        rig, count = Rig(catalog), 0
        assert await rig.drift() == 0
        rig.clock.advance(tree_copies.PATIENCE)
        while await rig.ask(ClearCopies()):
            count += 1
        return count
    finally:
        await catalog.close()


async def check_catalog(server: DriveServer) -> None:
    """The usage is exact, and once the janitor has cleared what was left over, nothing is left of it."""
    catalog = SqliteCatalog(server.data / "godrive.db")
    await catalog.open()
    try:
        rig = Rig(catalog)
        assert await rig.drift() == 0
        rig.clock.advance(tree_copies.PATIENCE)
        while await rig.ask(ClearCopies()):
            pass
        await rig.purge_all()
        await rig.settle()
        assert await rig.drift() == 0
        assert await rig.rows("SELECT id FROM entries WHERE state IN ('building', 'purging')") == []
        assert await rig.rows("SELECT id FROM copies UNION ALL SELECT folder_id FROM uncopied") == []
        orphans = "SELECT id FROM entries e WHERE parent_id <> '' AND NOT EXISTS "
        assert await rig.rows(f"{orphans} (SELECT 1 FROM entries p WHERE p.id = e.parent_id)") == []
        reserved = await rig.rows("SELECT reserved_bytes FROM users")
        assert reserved == [(0,)]
    finally:
        await catalog.close()
