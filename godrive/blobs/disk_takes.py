"""Local files that become blobs without a trip through memory: shared, linked or copied.

A file system that can share blocks (Btrfs, XFS, ZFS, bcachefs) makes a blob of a
file in constant time and room.  The blob keeps its bytes when the file is
changed later.  A hard link needs no such file system, but then file and blob are
one: who changes the file changes the blob.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import hashlib
import os
import stat
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from godrive.blobs import BlobExists, Taken, split_key
from godrive.blobs.attributes import describe
from godrive.blobs.objects import Objects
from godrive.blobs.staging import StagingFile
from godrive.model import BlobInfo, ObjectKey

T = TypeVar("T")

_FICLONE = 0x40049409
"""ioctl_ficlone(2).  The number is that of nearly all architectures; elsewhere the call fails and bytes are copied."""

_PIECE = 1 << 20
_CANNOT_SHARE = {
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.ENOTTY,
    errno.EXDEV,
    errno.EINVAL,
    errno.EPERM,
    errno.ETXTBSY,
}
_CANNOT_LINK = {errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.EACCES, errno.ENOENT}


class DiskTakes:
    """The part of the disk store that takes local files."""

    _leaving: set[asyncio.Task[Any]]

    @property
    @abstractmethod
    def _objects(self) -> Objects: ...

    @abstractmethod
    async def _claim(self, size: int) -> None: ...

    @abstractmethod
    async def _run(self, call: Callable[..., T], *values: object) -> T: ...

    async def take(
        self, key: ObjectKey, source: int, *, mime: str | None = None, link: bool = False
    ) -> tuple[BlobInfo, Taken]:
        """See :meth:`godrive.blobs.TakesFiles.take`."""
        split_key(key)
        own = os.dup(source)
        taking = asyncio.create_task(self._take(key, own, mime, link=link))
        self._leaving.add(taking)
        taking.add_done_callback(self._leaving.discard)
        taking.add_done_callback(lambda _: os.close(own))
        await asyncio.wait([taking])  # a cancelled wait leaves the descriptor to the thread that reads it
        return taking.result()

    async def _take(self, key: ObjectKey, source: int, mime: str | None, *, link: bool) -> tuple[BlobInfo, Taken]:
        objects = self._objects
        if link and (linked := await self._run(_link, objects, key, source, mime)) is not None:
            return linked, Taken.LINKED
        if (shared := await self._run(_share, objects, key, source, mime)) is not None:
            return shared, Taken.SHARED
        await self._claim(os.fstat(source).st_size)
        return await self._run(_copy, objects, key, source, mime), Taken.COPIED


def _link(objects: Objects, key: ObjectKey, source: int, mime: str | None) -> BlobInfo | None:
    """Make the file itself the blob of *key*; ``None`` if it cannot be linked, or the server could not read it."""
    file, drive = os.fstat(source), os.fstat(objects.objects)
    if file.st_uid != drive.st_uid and not file.st_mode & stat.S_IROTH:
        return None
    digest = _digest(source)
    os.fsync(source)
    shard, name = split_key(key)
    with objects.shards.enter(shard, create=True) as folder:
        try:
            os.link(f"/proc/self/fd/{source}", name, dst_dir_fd=folder.fd, follow_symlinks=True)
        except FileExistsError:
            folder.sync()  # the process that linked it may have been killed before its own sync
            raise BlobExists(digest) from None
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            return None
        folder.sync()
    return describe(key, os.fstat(source), digest, mime)


def _share(objects: Objects, key: ObjectKey, source: int, mime: str | None) -> BlobInfo | None:
    """Make a blob of the blocks of the file; ``None`` if the file system cannot."""
    file = StagingFile(objects.staging)
    try:
        own = file.open()
        try:
            fcntl.ioctl(own, _FICLONE, source)
        except OSError as error:
            if error.errno not in _CANNOT_SHARE:
                raise
            return None
        reading = os.open(f"/proc/self/fd/{own}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            digest = _digest(reading)
        finally:
            os.close(reading)
        return file.publish(objects.shards, key, digest, mime)
    finally:
        file.discard()


def _copy(objects: Objects, key: ObjectKey, source: int, mime: str | None) -> BlobInfo:
    """Make a blob of a copy of the file."""
    file = StagingFile(objects.staging)
    try:
        for piece in _pieces(source):
            file.write_large([piece])
            file.digest([piece])
        file.write([])
        return file.publish(objects.shards, key, file.hexdigest(), mime)
    finally:
        file.discard()


def _digest(fd: int) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(fd):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(fd: int) -> Iterator[bytes]:
    """Yield the bytes that the file has now.  One that grows as fast as it is read would never end."""
    offset, size = 0, os.fstat(fd).st_size
    while piece := os.pread(fd, min(_PIECE, size - offset), offset):
        offset += len(piece)
        yield piece
