"""A process to be killed: moves blobs into the packs or out of them, and says when one has left its old place.

If it leaves out the syncs of *data*, a power cut is noticed.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from collections.abc import Callable

from godrive.blobs.disk import DiskBlobStore
from godrive.blobs.objects import Objects
from godrive.blobs.packs import Packs, writer
from godrive.blobs.packs.writer import Delete
from godrive.model import ObjectKey


def say() -> None:
    """A line for each blob."""
    sys.stdout.write("moved\n")
    sys.stdout.flush()


def of_folders(fd: int, fsync: Callable[[int], None] = os.fsync) -> None:
    if stat.S_ISDIR(os.fstat(fd).st_mode):
        fsync(fd)


async def main(folder: str, direction: str, missing: str) -> None:
    """Move all blobs."""
    leave_file, leave_pack = Objects.delete, Packs.delete

    def delete_file(self: Objects, key: ObjectKey) -> bool:
        found = leave_file(self, key)
        say()
        return found

    async def delete_packed(self: Packs, key: ObjectKey) -> Delete:
        found = await leave_pack(self, key)
        say()
        return found

    if direction == "pack":
        Objects.delete = delete_file  # type: ignore[method-assign]
    else:
        Packs.delete = delete_packed  # type: ignore[method-assign]
    if missing == "data":
        os.fdatasync, os.fsync = (lambda fd: None), of_folders  # type: ignore[assignment]
    writer.PACK_SIZE, store = 20_000, DiskBlobStore(folder, named=True)
    await store.open()
    await getattr(store, direction)()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
