"""A process on a small file system of its own: fills it, and tells what works on it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from godrive.blobs.disk import DiskBlobStore
from godrive.errors import DriveError, NotFound, StorageFull
from godrive.model import ObjectKey, new_id
from tests.blobs.putter import content, pieces

LENGTH = 4096
COUNT = 600


def fill(path: Path) -> None:
    """Take all the room there is."""
    with path.open("ab", buffering=0) as file:
        for piece in (1 << 20, 1 << 12, 1):
            try:
                while file.write(bytes(piece)) == piece:
                    pass
            except OSError:
                pass


async def put(store: DiskBlobStore) -> ObjectKey:
    """Store a blob whose bytes follow from its key."""
    key = ObjectKey(f"shard/{new_id()}")
    await store.put(key, pieces(content(key, LENGTH)), size=LENGTH)
    return key


async def check(store: DiskBlobStore, keys: set[ObjectKey]) -> None:
    """Check that the store has exactly these blobs."""
    assert {blob.key async for blob in store.list()} == keys
    for key in keys:
        assert b"".join([piece async for piece in store.get(key)]) == content(key, LENGTH)


async def main(disk: Path) -> dict[str, object]:
    """Fill the disk, delete on it, and store again when there is room."""
    store, filler = DiskBlobStore(disk / "blobs"), disk / "filler"
    await store.open()
    keys = {await put(store) for _ in range(COUNT)}
    fill(filler)
    outcomes = await asyncio.gather(*(put(store) for _ in range(100)), return_exceptions=True)
    keys |= {outcome for outcome in outcomes if not isinstance(outcome, BaseException)}
    refused = {type(each).__name__ for each in outcomes if isinstance(each, Exception)}
    seen: dict[str, object] = {"refused": sorted(refused)}
    await check(store, keys)
    fill(filler)
    unneeded = sorted(keys)[: COUNT - 50]
    together = [*(store.delete(key) for key in unneeded), *(put(store) for _ in range(10))]
    ends = await asyncio.gather(*together, return_exceptions=True)
    seen["deleted"] = sum(end is None for end in ends)
    seen["others"] = sorted({type(end).__name__ for end in ends if end is not None})
    keys -= set(unneeded)
    await check(store, keys)
    try:
        await store.head(unneeded[0])
    except NotFound:
        seen["gone"] = True
    os.truncate(filler, filler.stat().st_size - (1 << 19))  # too little to store anything
    keys.remove(deleted := min(keys))
    await store.delete(deleted)
    assert store._packs is not None
    if store._packs._ended is not None:
        await asyncio.wait([store._packs._ended])  # until what is left is in another pack
    await store.close()
    store = DiskBlobStore(disk / "blobs")
    await store.open()  # in the room that the log of the index has given back
    await check(store, keys)
    seen["packed"] = sum(path.stat().st_size for path in (disk / "blobs" / "packs").glob("*.pack")) < COUNT * LENGTH / 2
    filler.unlink()
    keys.add(await put(store))
    await store.close()
    (disk / "blobs" / "packs" / "index.db").unlink()
    store = DiskBlobStore(disk / "blobs")
    await store.open()
    await check(store, keys)
    seen["reserve"] = (disk / "blobs" / "packs" / "index.db-reserve").stat().st_size
    await store.close()
    return seen


if __name__ == "__main__":
    try:
        found = asyncio.run(main(Path(sys.argv[1])))
    except (StorageFull, DriveError) as error:
        found = {"error": f"{type(error).__name__}: {error.detail}"}
    sys.stdout.write(json.dumps(found))
