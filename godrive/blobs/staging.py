"""A blob being written: a file in the staging folder until it is whole and durable.

Theory of operation.  The bytes go to a file in the staging folder.  It has no
name if the file system supports that, because such a file is cheapest to create
and a kill leaves nothing of it; otherwise it has a random name.  When all bytes
have arrived, their digest is written to an extended attribute, the file is
synced, and then a hard link gives it its final name.  So after a power failure a
final name has all of its bytes or does not exist.  A link, unlike a rename,
fails if the name is taken, so of several writers of a key one wins.  Then the
folder is synced, and the blob may be acknowledged.

Large files are written past the page cache if the file system can, from the
beginning if their length is known.  That saves copying.  The final sync has
nothing left to write, so it does not delay the syncs of small files.  And data
that is read often stays in memory.

Everything here blocks and runs in threads.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from godrive.blobs import BlobExists, split_key
from godrive.blobs.attributes import describe, note
from godrive.blobs.body_check import BodyCheck
from godrive.blobs.folders import Shards
from godrive.errors import UploadFinished
from godrive.model import BlobInfo, ObjectKey
from godrive.paths import adopt_file

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_UNNAMED = os.O_WRONLY | os.O_CLOEXEC | getattr(os, "O_TMPFILE", os.O_CREAT | os.O_EXCL)
_DIRECT = getattr(os, "O_DIRECT", 0)
_BUFFER = 2 << 20
_BLOCK = 4096
_LARGE = 16 * _BLOCK
LARGE_FILE = 16 * _BUFFER
"""Bytes of a file after which it is large."""
_AT_ONCE = 16
"""The most chunks of one write."""
_REFUSALS = 4
"""Chunks whose memory is not aligned, after which no other one is expected to be."""


class Abandoned(Exception):
    """The put was abandoned before its blob was published."""


class Staging(NamedTuple):
    """The open staging folder, and whether its files have names."""

    fd: int
    named: bool


class StagingFile:
    """One staging file.  ``digest`` may run beside ``write``; otherwise one call at a time."""

    def __init__(self, folder: Staging, *, name: str = "", start: int = 0) -> None:
        self.name = name or (secrets.token_hex(16) if folder.named else "")
        self.start = start
        """The length of the file before the first write."""
        self.abandoned = False
        self.is_small = False
        """Keep no buffer between two writes: the body comes slowly, or memory is short."""
        self.is_large = False
        """It is known that the file becomes large."""
        self.written = 0
        self._folder = folder
        self._fd: int | None = None
        self._direct_writer: DirectWriter | None = None
        self._hash = hashlib.sha256()

    @property
    def begun(self) -> bool:
        """Whether there is a file to discard."""
        return self._fd is not None

    def open(self) -> int:
        """The file's handle.  The first call creates the file."""
        if self._fd is None:
            self._fd = self.create()
        return self._fd

    def create(self) -> int:
        """Create the file."""
        folder, named = self._folder
        name, flags = (self.name, _CREATE) if named else (".", _UNNAMED)
        fd = os.open(name, flags, 0o600, dir_fd=folder)
        adopt_file(fd, folder)
        return fd

    def write_large(self, chunks: Sequence[bytes | memoryview]) -> None:
        """Append *chunks* to a file that may become large."""
        if self.is_small:
            self.write(chunks)
            return
        if self._direct_writer is None:
            after = 0 if self.is_large else LARGE_FILE
            self._direct_writer = DirectWriter(self.open(), self.start + self.written, after=after)
        self._direct_writer.write_all([memoryview(chunk) for chunk in chunks])
        self.written += sum(map(len, chunks))

    def write(self, chunks: Sequence[bytes | memoryview]) -> None:
        """Add *chunks* to the file, and all that was kept back before."""
        fd = self.open()
        if self._direct_writer is not None:
            self._direct_writer.end()
            self._direct_writer = None
        for chunk in chunks:
            _write(fd, memoryview(chunk))
            self.written += len(chunk)

    def digest(self, chunks: Sequence[bytes | memoryview]) -> None:
        """Update the SHA-256 with *chunks*."""
        for chunk in chunks:
            self._hash.update(chunk)

    def hexdigest(self) -> str:
        """The SHA-256 of what was digested."""
        return self._hash.hexdigest()

    def finish(
        self, rest: Sequence[bytes | memoryview], shards: Shards, key: ObjectKey, check: BodyCheck, mime: str | None
    ) -> BlobInfo:
        """Append *rest*, publish the file durably as the blob of *key*, and remove it from staging.

        Raises ``DigestMismatch``, ``UploadFinished``, :class:`Abandoned`.
        """
        try:
            self.write(rest)
            self.digest(rest)
            digest = self.hexdigest()
            check.compare(digest)
            return self.publish(shards, key, digest, mime)
        finally:
            self.discard()

    def publish(self, shards: Shards, key: ObjectKey, digest: str | None, mime: str | None) -> BlobInfo:
        """Make what is in the file the blob of *key*, durably.  Raises ``UploadFinished``, :class:`Abandoned`."""
        fd = self.open()
        note(fd, digest, mime)
        os.fsync(fd)
        info = describe(key, os.fstat(fd), digest, mime)
        shard, name = split_key(key)
        with shards.enter(shard, create=True) as folder:
            if self.abandoned:
                raise Abandoned
            try:
                self.link(name, folder.fd)
            except FileExistsError:
                folder.sync()  # the process that linked it may have been killed before its own sync
                raise (UploadFinished() if digest is None else BlobExists(digest)) from None
            try:
                folder.sync()
            except OSError:
                # It may be lost with the next power cut, so it must not be found until then.
                with suppress(OSError):
                    os.unlink(name, dir_fd=folder.fd)
                raise
        return info

    def link(self, name: str, folder: int) -> None:
        """Link the file as *name* in *folder*.  Raises ``FileExistsError``."""
        if self._folder.named:
            os.link(self.name, name, src_dir_fd=self._folder.fd, dst_dir_fd=folder, follow_symlinks=False)
        else:
            os.link(f"/proc/self/fd/{self.open()}", name, dst_dir_fd=folder, follow_symlinks=True)

    def close(self) -> None:
        """Close the file.  Idempotent."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            self._direct_writer = None

    def discard(self) -> None:
        """Close the file and remove its staging name.  Idempotent."""
        if self._fd is not None:
            self.close()
            if self._folder.named:
                with suppress(FileNotFoundError):
                    os.unlink(self.name, dir_fd=self._folder.fd)


class DirectWriter:
    """Appends to a file of *length* bytes in large blocks, and past the page cache *after* so many bytes.

    Direct I/O needs aligned offset, length and memory.  An aligned chunk is
    written as it is, others through an aligned buffer.
    """

    def __init__(self, fd: int, length: int = 0, *, after: int = LARGE_FILE) -> None:
        self._fd = fd
        self._after = after
        self._buffer: memoryview | None = None
        self._filled = 0
        self._written = length
        self._wanted = bool(_DIRECT) and length % _BLOCK == 0
        self._direct = False
        self._refusals = 0

    def write_all(self, chunks: Sequence[memoryview]) -> None:
        """Append *chunks*.  Several of whole blocks are one write, because each waits for the disk."""
        whole: list[memoryview] = []
        for chunk in chunks:
            if len(chunk) % _BLOCK or not chunk or self._filled:
                self._write_whole(whole)
                whole = []
                self.write(chunk)
            else:
                whole.append(chunk)
                if len(whole) == _AT_ONCE:
                    self._write_whole(whole)
                    whole = []
        self._write_whole(whole)

    def _write_whole(self, chunks: list[memoryview]) -> None:
        while len(chunks) > 1 and self._refusals < _REFUSALS:
            written = self._put(chunks, ours=False)
            if not written:
                break
            while chunks and written >= len(chunks[0]):
                written -= len(chunks.pop(0))
            if written:
                chunks[0] = chunks[0][written:]
        for chunk in chunks:
            self.write(chunk)

    def write(self, chunk: memoryview) -> None:
        """Append *chunk*.  Bytes that do not fill the buffer may stay in it."""
        may_be_aligned = self._refusals < _REFUSALS
        while chunk:
            blocks = len(chunk) - len(chunk) % _BLOCK
            if blocks and not self._filled and may_be_aligned:
                written = self._put([chunk[:blocks]], ours=False)
                may_be_aligned = written > 0
                chunk = chunk[written:]
                continue
            room = _BUFFER - self._filled
            if self._filled and blocks >= _LARGE and may_be_aligned:
                room = -self._filled % _BLOCK  # a large chunk goes on where its memory is in step with the file
            taken = min(len(chunk), room)
            self._keep(chunk[:taken])
            chunk = chunk[taken:]
            if taken == room:
                self._flush()

    def _keep(self, chunk: memoryview) -> None:
        """Add *chunk* to the buffer, which exists only once a chunk needs it."""
        if self._buffer is None:
            self._buffer = memoryview(mmap.mmap(-1, _BUFFER))  # a mapping is aligned to pages
        self._buffer[self._filled : self._filled + len(chunk)] = chunk
        self._filled += len(chunk)

    def end(self) -> None:
        """Write what is in the buffer, and return the handle to ordinary I/O."""
        self._stop()
        self._flush()

    def flush_blocks(self) -> int:
        """Write the whole blocks of the buffer, and return how many bytes stay in it."""
        if self._buffer is None:
            return 0
        left = memoryview(bytes(self._buffer[self._filled - self._filled % _BLOCK : self._filled]))
        self._filled -= len(left)
        self._flush()
        self._buffer = None
        if left:
            self._keep(left)
        return len(left)

    def _flush(self) -> None:
        if self._buffer is None:
            return
        rest = self._buffer[: self._filled]
        while rest:
            rest = rest[self._put([rest], ours=True) :]
        self._filled = 0

    def _put(self, data: Sequence[memoryview], *, ours: bool) -> int:
        """Write a part of *data* and return its length, which is 0 if direct I/O refused it."""
        if self._wanted and not self._direct and self._written >= self._after:
            self._direct = _set_direct(self._fd, True)
            self._wanted = self._direct
        try:
            written = os.write(self._fd, data[0]) if len(data) == 1 else os.writev(self._fd, data)
        except OSError as error:
            if error.errno != errno.EINVAL or not self._direct:
                raise
            if ours:
                self._stop()  # this file system has no direct I/O after all
            self._refusals += 1
            return 0
        self._written += written
        if written % _BLOCK:
            self._stop()
        return written

    def _stop(self) -> None:
        self._wanted = False
        if self._direct:
            self._direct = _set_direct(self._fd, False)


def _set_direct(fd: int, direct: bool) -> bool:
    """Switch direct I/O, and return whether it is on."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL) & ~_DIRECT
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | _DIRECT if direct else flags)
    except OSError:  # EINVAL: this file system has no direct I/O
        return False
    return direct


def _write(fd: int, data: memoryview) -> None:
    while data:
        data = data[os.write(fd, data) :]
