"""A process to be killed: puts blobs for ever, and says which are stored.

The content of a blob follows from its key, so that the finder can tell
whether it is whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator

from godrive.blobs.disk import PACK_BELOW, DiskBlobStore
from godrive.errors import StorageFull
from godrive.model import ObjectKey, new_id


def content(key: str, length: int) -> bytes:
    """The bytes that belong under *key*."""
    digest = hashlib.sha256(key.encode()).digest()
    return (digest * (length // len(digest) + 1))[:length]


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


async def put_for_ever(folder: str, length: int, kind: str) -> None:
    """Four at a time; a line for each that is stored, and one when there is no more room."""
    store = DiskBlobStore(folder, named=kind == "named", pack_below=PACK_BELOW if kind == "packed" else 0)
    await store.open()

    async def put_one_after_another() -> None:
        while True:
            name = new_id()
            key = ObjectKey(f"{name[:8]}/{name}")
            await store.put(key, pieces(content(key, length)), size=length)
            sys.stdout.write(f"{key}\n")
            sys.stdout.flush()

    try:
        async with asyncio.TaskGroup() as puts:
            for _ in range(4):
                puts.create_task(put_one_after_another())
    except* StorageFull:
        await store.close()
        sys.stdout.write("full\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(put_for_ever(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
