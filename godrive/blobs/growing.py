"""A blob that is written in several steps: a named file that grows until it is whole.

The file is called after its key, in the folder ``uploads/``, and the caller
knows how many of its bytes count.  Bytes after them were written by a step that
did not end; the next step cuts them off.  A step is durable when the file is
synced, and its name when the folder is.  The file stays open between two steps
that follow closely (:mod:`godrive.blobs.kept_appends`).  To publish, the whole file gets its
final name by a link, as every blob does (:mod:`godrive.blobs.staging`).

Everything here blocks and runs in threads.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from godrive.blobs import is_key, split_key
from godrive.blobs.body_check import BodyCheck
from godrive.blobs.folders import Shards
from godrive.blobs.staging import Staging, StagingFile
from godrive.errors import Gone, UploadFinished
from godrive.model import BlobInfo, ObjectKey

if TYPE_CHECKING:
    from hashlib import _Hash as Digest

_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_READ_AT_ONCE = 1 << 20


class GrowingFile(StagingFile):
    """The file of *key* below *folder*, of which the first *start* bytes count."""

    def __init__(self, folder: int, key: ObjectKey, start: int, digest: Digest | None = None) -> None:
        super().__init__(Staging(folder, named=True), name=name_of(key), start=start)
        self.durable = start
        """The length that is durable."""
        self.running = digest
        """The SHA-256 of what was digested, if that of the first bytes is known."""

    def create(self) -> int:
        """Open the file and cut off what does not count.  Raises ``Gone`` if it is shorter than that."""
        folder = self._folder.fd
        try:
            fd = os.open(self.name, _OPEN if self.start else _OPEN | os.O_CREAT, 0o600, dir_fd=folder)
        except FileNotFoundError:
            raise _lost() from None
        try:
            status = os.fstat(fd)
            if status.st_size < self.start or not stat.S_ISREG(status.st_mode):
                raise _lost()
            os.ftruncate(fd, self.start)
            os.lseek(fd, self.start, os.SEEK_SET)
            if not self.start:
                os.fsync(folder)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def digest(self, chunks: Sequence[bytes | memoryview]) -> None:
        """Update the SHA-256, if that of the bytes before is known."""
        if self.running is not None:
            for chunk in chunks:
                self.running.update(chunk)

    def write_durably(self, chunks: Sequence[bytes | memoryview], *, digested: bool, last: bool) -> None:
        """Write *chunks*, and make *durable* what was written.  Raises ``Gone`` if somebody has removed the file.

        Unless they are *digested* elsewhere, also update the SHA-256.  All blocks
        are written; what is left of the last one waits for the next bytes, so that
        direct I/O can go on, except after the *last* ones.
        """
        fd = self.open()
        if self._direct_writer is None:
            self.write(chunks)
        else:
            self.write_large(chunks)
        if not digested:
            self.digest(chunks)
        waiting = 0 if self._direct_writer is None else self._direct_writer.flush_blocks()
        if waiting and last:
            self.write(())
            waiting = 0
        os.fdatasync(fd)
        if not os.fstat(fd).st_nlink:
            raise _lost()
        self.durable = self.start + self.written - waiting

    def cut(self, length: int) -> None:
        """Cut off what was written after *length* bytes, if it can be, and close the file."""
        if self._fd is not None:
            with suppress(OSError):  # the next step cuts it off
                if os.fstat(self._fd).st_size > length:
                    os.ftruncate(self._fd, length)
            self.close()

    def end(self, shards: Shards, key: ObjectKey, digest: str, sha256: str | None, mime: str | None) -> BlobInfo:
        """Publish the file, which has this *digest*, durably as the blob of *key*, and remove its name here.

        Raises ``DigestMismatch`` (the file stays), ``UploadFinished``, ``Gone``.
        """
        BodyCheck(None, sha256).compare(digest)
        try:
            info = self.publish(shards, key, digest, mime)
        except UploadFinished:
            self.discard()
            raise
        self.discard()
        return info

    def link(self, name: str, folder: int) -> None:
        """See :meth:`StagingFile.link`.  Raises ``Gone`` if somebody has removed the file."""
        try:
            super().link(name, folder)
        except FileNotFoundError:
            raise _lost() from None

    def read_into(self, digest: Digest, at: int, most: int) -> int:
        """Update a SHA-256 with at most *most* bytes of the file, from *at* on.  Returns their number."""
        fd, end = self.open(), min(at + most, self.start)
        start = at
        while at < end:
            piece = os.pread(fd, min(_READ_AT_ONCE, end - at), at)
            if not piece:
                raise _lost()
            digest.update(piece)
            at += len(piece)
        return at - start

    def take_over(self, other: GrowingFile, at: int, most: int) -> int:
        """Append a copy of at most *most* bytes of the file *other*, from *at* on.  Returns their number."""
        copied = os.copy_file_range(other.open(), self.open(), min(most, other.start - at), offset_src=at)
        if not copied:
            raise _lost()
        self.written += copied
        return copied


def name_of(key: ObjectKey) -> str:
    """The name of the file of *key*."""
    return ".".join(split_key(key))


def unfinished(folder: int, before: float, after: str) -> list[ObjectKey]:
    """The keys greater than *after* of files that were last written before that time, in order."""
    found = []
    for entry in os.scandir(folder):
        key = entry.name.replace(".", "/", 1)
        with suppress(FileNotFoundError):
            status = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
            if key > after and is_key(key) and stat.S_ISREG(status.st_mode) and status.st_mtime < before:
                found.append(ObjectKey(key))
    return sorted(found)


def remove(folder: int, key: ObjectKey) -> None:
    """Remove the file of *key*.  Idempotent."""
    with suppress(FileNotFoundError):
        os.unlink(name_of(key), dir_fd=folder)


def _lost() -> Gone:
    return Gone("The bytes of the upload are lost.")
