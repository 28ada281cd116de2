"""A process whose system calls are recorded: puts and deletes small blobs, and says when each is durable.

The third argument names what it leaves out, to show that the test would notice.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager

from godrive.blobs.disk import DiskBlobStore
from godrive.blobs.packs import compaction, writer
from godrive.blobs.packs.index import Index
from godrive.model import ObjectKey, new_id
from tests.blobs.putter import content

SIZES = (0, 10, 700, 3000)


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    yield data


def say(word: str, key: str) -> None:
    """Tell the recorder."""
    os.write(1, f"{word} {key}\n".encode())


async def work(store: DiskBlobStore, rounds: int) -> None:
    """Put blobs, and delete two of three."""
    for number in range(rounds):
        name = new_id()
        key = ObjectKey(f"{name[:8]}/{name}")
        data = content(key, SIZES[number % len(SIZES)])
        await store.put(key, pieces(data), size=len(data))
        say("put", key)
        if number % 3:
            say("deleting", key)
            await store.delete(key)
            say("deleted", key)


async def main(folder: str, rounds: int, missing: str) -> None:
    """Four at a time, with packs so small that some are left and removed."""
    writer.PACK_SIZE, compaction.SMALLEST, compaction.STEP = 20_000, 4_000, 3_000
    fsync, transaction = os.fsync, Index.transaction

    def without_folders(fd: int) -> None:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            fsync(fd)

    if missing == "data":
        os.fdatasync = lambda fd: None
    elif missing == "folder":
        os.fsync = without_folders  # type: ignore[assignment]
    elif missing == "index":

        def exchanged(self: Index, *, durable: bool = False) -> AbstractContextManager[None]:
            """Sync what need not be, so that the rows of a blob are on the disk before its deletion is not."""
            return transaction(self, durable=not durable)

        Index.transaction = exchanged  # type: ignore[method-assign, assignment]
    store = DiskBlobStore(folder)
    await store.open()
    await asyncio.gather(*(work(store, rounds) for _ in range(4)))
    await asyncio.sleep(0.05)  # a compaction that was begun may end
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
