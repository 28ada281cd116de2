"""The folders of the disk store.  Everything here blocks and runs in threads."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from godrive.blobs import are_names, is_key, split_key
from godrive.blobs.attributes import MIME, SHA256, describe, noted
from godrive.blobs.failures import is_full
from godrive.blobs.folders import Shards, make_folder, open_folder
from godrive.blobs.pages import END
from godrive.blobs.staging import Staging, StagingFile
from godrive.errors import NotFound
from godrive.model import BlobInfo, ObjectKey
from godrive.paths import make_path

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO}


class Objects:
    """Blobs, staging files and quarantine below one root.  Errors of the system come out as ``OSError``."""

    def __init__(self, root: Path, *, named: bool = False) -> None:
        """Create missing folders, and test how files can be created and linked: unnamed ones unless *named*."""
        make_path(root)
        self._handles = [os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)]
        try:
            for name in ("objects", "staging", "quarantine", "uploads"):
                self.make(name)
                self._handles.append(open_folder(name, self._handles[0]))
            _, self.objects, staging, self._quarantine, self.uploads = self._handles
            self.shards = Shards(self.objects)
            self.staging = Staging(staging, named=named or not _has_unnamed(staging))
            if self.staging.named:
                try:
                    _try_link(self.staging)
                except OSError as error:
                    if not is_full(error):  # there is no room to try, and reads and deletions need none
                        raise
        except OSError:
            self.close()
            raise

    def make(self, name: str) -> None:
        """Create a folder below the root, durably, unless it exists."""
        make_folder(name, self._handles[0])

    def close(self) -> None:
        """Close every handle.  Idempotent."""
        while self._handles:
            os.close(self._handles.pop())

    def open_file(self, key: ObjectKey) -> int:
        """A read-only descriptor of the blob.  Raises ``NotFound``, also for anything but a regular file."""
        shard, name = split_key(key)
        try:
            folder = open_folder(shard, self.objects)
            try:
                fd = os.open(name, _READ, dir_fd=folder)
            finally:
                os.close(folder)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            raise NotFound("There is no such blob.") from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise NotFound("There is no such blob.")
        return fd

    def head(self, key: ObjectKey) -> BlobInfo:
        """Describe the blob without reading it.  When this returns, the blob is durable.  Raises ``NotFound``."""
        fd = self.open_file(key)
        try:
            self.shards.settle(split_key(key)[0])
            return describe(key, os.fstat(fd), noted(fd, SHA256), noted(fd, MIME))
        finally:
            os.close(fd)

    def has_file(self, key: ObjectKey) -> bool:
        """Whether the blob is a file."""
        try:
            return stat.S_ISREG(os.stat(key, dir_fd=self.objects, follow_symlinks=False).st_mode)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            return False

    def heads(self, keys: Iterable[ObjectKey]) -> list[BlobInfo]:
        """Describe those of the blobs that exist, with three system calls for each instead of ten."""
        found = []
        for key in keys:
            path = f"/proc/self/fd/{self.objects}/{key}"
            try:
                status = os.stat(key, dir_fd=self.objects, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    found.append(describe(key, status, noted(path, SHA256), noted(path, MIME)))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
        return found

    def shards_after(self, after: str) -> list[str]:
        """The shards that may have keys greater than *after*, in key order."""
        # "a-b/x" sorts before "a/x", because the slash is part of the key.
        shards = (path.name for path in os.scandir(self.objects) if is_key(f"{path.name}/0"))
        return sorted((name for name in shards if f"{name}/~" > after), key=lambda name: f"{name}/")

    def keys_after(self, shard: str, after: str) -> list[ObjectKey]:
        """The keys of one shard that are greater than *after*, in order."""
        return sorted(ObjectKey(key) for key in self._keys(shard) if key > after)

    def _keys(self, shard: str) -> list[str]:
        """The keys of one shard."""
        try:
            folder = open_folder(shard, self.objects)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            return []
        try:
            names = os.listdir(folder)  # noqa: PTH208 - of a handle
        finally:
            os.close(folder)
        if not are_names(names):
            names = [name for name in names if is_key(f"{shard}/{name}")]
        return [f"{shard}/{name}" for name in names]

    def key_pages(self, at_least: int) -> Iterator[tuple[str, list[str]]]:
        """The keys of all blobs, in order, in pages of whole shards, of *at_least* so many but for the last.

        Each with how far it reaches.
        """
        found: list[str] = []
        for shard in self.shards_after(""):
            found += sorted(self._keys(shard))
            if len(found) >= at_least:
                yield f"{shard}/{END}", found
                found = []
        yield END, found

    def size_pages(self, at_most: int) -> Iterator[dict[ObjectKey, int]]:
        """The sizes of all blobs, in key order, in pages of *at_most* so many."""
        found: list[tuple[ObjectKey, int]] = []
        for shard in self.shards_after(""):
            found += self._sizes(shard)
            while len(found) >= at_most:
                yield dict(found[:at_most])
                del found[:at_most]
        yield dict(found)

    def _sizes(self, shard: str) -> Iterator[tuple[ObjectKey, int]]:
        """The sizes of the blobs of one shard, in key order."""
        try:
            folder = open_folder(shard, self.objects)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            return
        try:
            found = {entry.name: entry for entry in os.scandir(folder)}
            for name in sorted(found):
                if not is_key(key := f"{shard}/{name}"):
                    continue
                with suppress(FileNotFoundError):  # deleted meanwhile
                    status = found[name].stat(follow_symlinks=False)
                    if stat.S_ISREG(status.st_mode):
                        yield ObjectKey(key), status.st_size
        finally:
            os.close(folder)

    def delete(self, key: ObjectKey) -> bool:
        """Delete the blob durably, and return whether there was one."""
        shard, name = split_key(key)
        try:
            with self.shards.enter(shard) as folder:
                os.unlink(name, dir_fd=folder.fd)
                folder.sync()
        except FileNotFoundError:
            self.shards.settle(shard)
            return False
        self.shards.prune(shard)
        return True

    def set_aside(self, key: ObjectKey) -> None:
        """Move the blob to the quarantine, durably, without overwriting anything.  Idempotent."""
        shard, name = split_key(key)
        aside = f"{shard}.{name}.{secrets.token_hex(4)}"
        with suppress(FileNotFoundError):
            with self.shards.enter(shard) as folder:
                os.rename(name, aside, src_dir_fd=folder.fd, dst_dir_fd=self._quarantine)
                os.fsync(self._quarantine)
                folder.sync()
            self.shards.prune(shard)

    def set_bytes_aside(self, key: ObjectKey, data: bytes) -> None:
        """Keep *data* in the quarantine, durably, as if it were the file of the blob."""
        aside = f"{key.replace('/', '.')}.{secrets.token_hex(4)}"
        fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=self._quarantine)
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(fd, left) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.fsync(self._quarantine)

    def sweep(self, before: float, arriving: Collection[str]) -> int:
        """Remove staging files last written before that time and not *arriving*, and return how many.

        Leaves folders, which are not ours.
        """
        swept = 0
        for entry in os.scandir(self.staging.fd):
            with suppress(FileNotFoundError, IsADirectoryError):
                status = os.stat(entry.name, dir_fd=self.staging.fd, follow_symlinks=False)
                if entry.name not in arriving and status.st_mtime < before:
                    os.unlink(entry.name, dir_fd=self.staging.fd)
                    swept += 1
        return swept

    def free_bytes(self) -> int:
        """Free space on the file system for this user."""
        status = os.fstatvfs(self.objects)
        return status.f_bavail * status.f_frsize


def _has_unnamed(staging: int) -> bool:
    """Whether unnamed files can be linked later, which needs a file system with O_TMPFILE, and /proc."""
    try:
        _try_link(Staging(staging, named=False))
    except OSError:
        return False
    return True


def _try_link(staging: Staging) -> None:
    probe = StagingFile(staging)
    try:
        probe.open()
        linked = f"{secrets.token_hex(16)}.link"
        probe.link(linked, staging.fd)
        os.unlink(linked, dir_fd=staging.fd)
    finally:
        probe.discard()
