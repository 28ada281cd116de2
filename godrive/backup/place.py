"""The place of a backup: a folder, or a part of a bucket, as a blob store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from godrive import config
from godrive.blobs import BlobStore
from godrive.clock import Clock
from godrive.errors import ConfigError, StorageFull
from godrive.opening import FolderLock
from godrive.paths import exists


@asynccontextmanager
async def opened_store(
    name: str, settings: config.Config, clock: Clock, *, create: bool = False
) -> AsyncIterator[tuple[BlobStore, str]]:
    """Open the store of the backup at *name*, as it is, and yield it and its full name.

    Raises ``ConfigError`` if it does not exist, unless *create*, or if another process uses it.
    """
    parts = urlsplit(name)
    lock: FolderLock | None = None
    if parts.scheme == "s3":
        from godrive.blobs.s3 import S3BlobStore  # noqa: PLC0415

        prefix = f"{parts.path.strip('/')}/" if parts.path.strip("/") else ""
        s3 = msgspec.structs.replace(settings.blobs.s3, bucket=parts.netloc, prefix=prefix, create_bucket=create)
        store: BlobStore = S3BlobStore(s3, clock=clock, guest=True)
    else:
        from godrive.blobs.disk import DiskBlobStore  # noqa: PLC0415

        folder = _folder(name, settings, create=create)
        name, lock = str(folder), FolderLock(folder / "blobs.lock")
        lock.acquire()
        if create:  # a process that was killed may have linked files, which count, and not synced their folders
            await asyncio.to_thread(os.sync)
        store = DiskBlobStore(folder)
    try:
        try:
            with filling(name):
                await store.open()
            yield store, name
        finally:
            await store.close()
    finally:
        if lock is not None:
            lock.release()


@contextmanager
def filling(name: str) -> Iterator[None]:
    """Say of ``StorageFull`` that it is the backup *name* that is full, and not the drive."""
    try:
        yield
    except StorageFull as error:
        hint = "Make room there, for example with godrive backup prune, and run it again: what was copied stays."
        raise StorageFull(f"There is no room in the backup {name}.", hint=hint) from error


def _folder(name: str, settings: config.Config, *, create: bool) -> Path:
    folder = Path(name).absolute()
    if create:
        settings.check_backup(folder)
    elif not exists(folder / "objects"):
        raise ConfigError(f"There is no backup in {folder}.", hint="godrive backup create makes one.")
    if exists(folder / "godrive.db") or folder == settings.blobs_path.absolute():
        raise ConfigError(f"{folder} is the folder of a drive, not of a backup.")
    return folder
