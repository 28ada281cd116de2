"""After a power cut, every blob that was acknowledged is there, and every deletion."""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import pytest

from godrive.blobs import BlobDamaged
from godrive.blobs.disk import PACK_BELOW, DiskBlobStore
from godrive.errors import NotFound
from godrive.model import ObjectKey, new_id
from tests.blobs import putter
from tests.blobs.power import Recording, record
from tests.blobs.power_putter import SIZES, pieces
from tests.conftest import require_program

pytestmark = pytest.mark.anyio

STATES = 25


def recording(folder: Path, missing: str) -> Recording:
    root = folder / "blobs"
    require_program("strace", "strace")
    command = [sys.executable, "-m", "tests.blobs.power_putter", str(root), "8", missing]
    return Recording(record(command, folder / "log", Path(__file__).parents[2]), root / "packs")


async def problems(made: Recording, folder: Path, seed: int) -> list[str]:
    """What is wrong with one of the states that the disk may be in."""
    chance = random.Random(seed)
    cut = chance.randrange(made.end)
    root = folder / f"state-{seed}"
    made.restore(cut, chance, root / "packs")
    told = [line.split(" ") for line in made.said(cut)]
    put, going, gone = ({key for word, key in told if word == wanted} for wanted in ("put", "deleting", "deleted"))
    store = DiskBlobStore(root)
    await store.open()
    listed, found, wrong = set(), set(), []
    async for blob in store.list():
        listed.add(blob.key)
        try:
            data = b"".join([piece async for piece in store.get(blob.key)])
        except NotFound:  # its record is marked, and the index was not told: it was being deleted
            continue
        except BlobDamaged:
            wrong.append(f"{blob.key} is damaged")
            continue
        found.add(blob.key)
        if len(data) not in SIZES or data != putter.content(blob.key, len(data)):
            wrong.append(f"{blob.key} has other bytes")
    wrong += [f"{key} is lost" for key in put - going - found]
    wrong += [f"{key} is back" for key in gone & listed]
    status = await store.pack_status()
    wrong += status.problems if status is not None else ["there are no packs"]
    await store.close()
    shutil.rmtree(root)
    return wrong


async def test_a_power_cut_takes_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    made = recording(tmp_path, "none")
    assert len(made.said(made.end)) == 4 * (8 + 2 * 5)
    assert {seed: wrong for seed in range(STATES) if (wrong := await problems(made, tmp_path, seed))} == {}


async def lost_in_a_move(made: Recording, before: Path, folder: Path, seed: int, keys: list[ObjectKey]) -> list[str]:
    """The blobs that a power cut during a move has taken."""
    chance = random.Random(seed)
    root = folder / f"state-{seed}"
    shutil.copytree(before, root)
    made.restore(chance.randrange(made.end), chance, root)
    store, lost = DiskBlobStore(root), []
    await store.open()
    for key in keys:
        try:
            is_whole = b"".join([piece async for piece in store.get(key)]) == putter.content(key, 700)
        except (NotFound, BlobDamaged):
            is_whole = False
        if not is_whole:
            lost.append(f"{key} is lost")
    await store.close()
    shutil.rmtree(root)
    return lost


async def move(folder: Path, direction: str, missing: str = "none") -> tuple[Recording, Path, list[ObjectKey]]:
    """Record a move of blobs.  Returns also what was there before, and the keys."""
    root, before, keys = folder / "blobs", folder / "before", list[ObjectKey]()
    require_program("strace", "strace")
    store = DiskBlobStore(root, pack_below=0 if direction == "pack" else PACK_BELOW)
    await store.open()
    for _ in range(80):
        name = new_id()
        keys.append(ObjectKey(f"{name[:8]}/{name}"))
        await store.put(keys[-1], pieces(putter.content(keys[-1], 700)))
    await store.close()
    shutil.copytree(root, before)
    command = [sys.executable, "-m", "tests.blobs.mover", str(root), direction, missing]
    return Recording(record(command, folder / "log", Path(__file__).parents[2]), root), before, keys


@pytest.mark.parametrize("direction", ["pack", "unpack"])
async def test_a_power_cut_during_a_move_takes_nothing(tmp_path: Path, direction: str) -> None:
    made, before, keys = await move(tmp_path, direction)
    for seed in range(STATES):
        assert await lost_in_a_move(made, before, tmp_path, seed, keys) == []


@pytest.mark.parametrize("direction", ["pack", "unpack"])
async def test_a_power_cut_during_a_move_that_does_not_sync_is_noticed(tmp_path: Path, direction: str) -> None:
    made, before, keys = await move(tmp_path, direction, "data")
    for seed in range(4 * STATES):
        if await lost_in_a_move(made, before, tmp_path, seed, keys):
            return
    pytest.fail("Nothing was lost without a sync, so the test proves nothing.")


@pytest.mark.parametrize("missing", ["data", "folder", "index"])
async def test_without_one_of_its_syncs_a_power_cut_is_noticed(tmp_path: Path, missing: str) -> None:
    made = recording(tmp_path, missing)
    for seed in range(4 * STATES):
        if await problems(made, tmp_path, seed):
            return
    pytest.fail(f"Nothing was lost without the sync of {missing}, so the test proves nothing.")
