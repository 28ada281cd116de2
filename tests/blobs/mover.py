"""A process to be killed: moves blobs into the packs or out of them, and says when one has left its old place."""

from __future__ import annotations

import asyncio
import sys

from godrive.blobs.disk import DiskBlobStore
from godrive.blobs.objects import Objects
from godrive.blobs.packs import Packs
from godrive.blobs.packs.writer import Delete
from godrive.model import ObjectKey


def say() -> None:
    """A line for each blob."""
    sys.stdout.write("moved\n")
    sys.stdout.flush()


async def main(folder: str, direction: str) -> None:
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
    store = DiskBlobStore(folder)
    await store.open()
    await getattr(store, direction)()
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
