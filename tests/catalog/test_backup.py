"""A catalog that is put back from a copy never gives a tag again for something else."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from godrive.catalog import sqlite_file
from godrive.catalog.sqlite import SqliteCatalog
from godrive.errors import DriveError
from godrive.model import ETag, File, UserId
from godrive.rules import files
from tests.contracts.rig import ROOT, Rig, inside

pytestmark = pytest.mark.anyio


class Seen:
    """What each tag stood for when it was given."""

    def __init__(self) -> None:
        self.lists: dict[tuple[str, UserId, int], object] = {}
        self.entries: dict[ETag, File] = {}

    async def look(self, rig: Rig, owners: list[UserId]) -> None:
        """Compare what is listed now with what the same tags stood for before."""
        nonce = await rig.read(files.read_nonce)
        changes = await rig.read(files.read_changes, owners)
        for owner in owners:
            top = await rig.files(owner, where=ROOT)
            folders = [await rig.files(owner, where=inside(entry)) for entry in top if entry.version_id is None]
            listed = [top, await rig.files(owner), folders]
            assert self.lists.setdefault((nonce, owner, changes[owner]), listed) == listed
            for entry in [*top, *await rig.binned(owner)]:
                assert self.entries.setdefault(entry.etag, entry) == entry


async def change(rig: Rig, owner: UserId, chance: random.Random) -> None:
    """Something that shows in a list, or is refused."""
    entries = await rig.files(owner, where=ROOT)
    trashed = await rig.binned(owner)
    name = f"{chance.randrange(4)}"
    try:
        match chance.randrange(5):
            case 0:
                await rig.file(owner, name, size=chance.randrange(5))
            case 1:
                await rig.folder(owner, name)
            case 2 if entries:
                await rig.rename(chance.choice(entries), name)
            case 3 if entries:
                await rig.trash(chance.choice(entries))
            case 4 if trashed:
                await rig.restore(chance.choice(trashed))
    except DriveError:
        return


@pytest.mark.parametrize("pace", [0.0, 0.001])
async def test_no_tag_is_given_twice_for_different_content_after_a_restore(tmp_path: Path, pace: float) -> None:
    chance, seen = random.Random(1), Seen()
    path, copy = tmp_path / "godrive.db", tmp_path / "copy.db"
    catalog = SqliteCatalog(path)
    await catalog.open()
    rig = Rig(catalog)
    owners = [await rig.user() for _ in range(2)]

    async def live(steps: int) -> None:
        for _ in range(steps):
            await change(rig, chance.choice(owners), chance)
            await seen.look(rig, owners)
            rig.clock.advance(pace)

    await live(20)
    sqlite_file.copy(path, copy)
    for _ in range(3):
        await live(20)
        await rig.settle()
        await seen.look(rig, owners)
        await catalog.close()
        for name in ("godrive.db", "godrive.db-wal", "godrive.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        path.write_bytes(copy.read_bytes())
        rig.clock.advance(0.001)  # it takes longer than that to put a catalog back
        rig.catalog = catalog = SqliteCatalog(path)
        await catalog.open()
        await seen.look(rig, owners)
    await live(20)
    await catalog.close()
    assert len(seen.lists) > 30
    assert len(seen.entries) > 30


async def test_two_catalogs_have_different_tags(tmp_path: Path) -> None:
    nonces = set()
    for name in ("one", "other"):
        catalog = SqliteCatalog(tmp_path / f"{name}.db")
        await catalog.open()
        nonces.add(await catalog.read(files.read_nonce))
        await catalog.close()
    assert len(nonces) == 2
    assert all(len(nonce) >= 16 for nonce in nonces)
