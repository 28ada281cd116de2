"""A blob on its way to disk: a file in the staging folder until it is whole and durable.

Theory of operation.  The bytes go to a staging file under a name of chance.
When all have come, their digest is noted in an extended attribute, the file is
synced, and only then does a hard link give it its final name, so that whatever
moment the power goes, a final name has all of its bytes or does not exist.  A
link, unlike a rename, fails when the name is taken: of several writers of a
key one wins.  Then the folder is synced, and the blob may be acknowledged.

A :class:`Staged` blocks and is called from threads; an :class:`Arrival` is the
side of it that lives on the event loop.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from typing import Any

from godrive.blobs import split_key
from godrive.blobs.attributes import describe, note
from godrive.blobs.failures import failures
from godrive.blobs.folders import Shards
from godrive.errors import DigestMismatch, LengthMismatch, UploadFinished
from godrive.model import BlobInfo, ObjectKey

BATCH = 1 << 20
"""Bytes that are written and digested together; a body below that takes a single hop to a thread."""
FLUSH_EVERY = 64 << 20
"""Bytes after which what was written is sent on to the disk."""

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Abandoned(Exception):
    """Whoever sent the bytes does not want them published any more."""


class Staged:
    """One staging file.  ``digest`` and ``flush`` may run beside ``write``; otherwise one call at a time."""

    def __init__(self, folder: int) -> None:
        self.name = secrets.token_hex(16)
        self.abandoned = False
        self._folder = folder
        self._fd: int | None = None
        self._hash = hashlib.sha256()

    @property
    def begun(self) -> bool:
        """Whether there is a file to discard."""
        return self._fd is not None

    def open(self) -> int:
        """The file's handle; the first call makes the file."""
        if self._fd is None:
            self._fd = os.open(self.name, _CREATE, 0o600, dir_fd=self._folder)
        return self._fd

    def write(self, chunks: Sequence[bytes]) -> None:
        """Add *chunks* to the file."""
        fd = self.open()
        for chunk in chunks:
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(fd, rest) :]

    def digest(self, chunks: Sequence[bytes]) -> None:
        """Add *chunks* to the SHA-256."""
        for chunk in chunks:
            self._hash.update(chunk)

    def flush(self) -> None:
        """Wait until the disk has what was written so far."""
        os.fdatasync(self.open())

    def finish(
        self, rest: Sequence[bytes], shards: Shards, key: ObjectKey, sha256: str | None, mime: str | None
    ) -> BlobInfo:
        """Add *rest* and make it all the blob of *key*, durably; afterwards nothing is staged.

        Raises ``DigestMismatch``, ``UploadFinished``, :class:`Abandoned`.
        """
        try:
            self.write(rest)
            self.digest(rest)
            digest = self._hash.hexdigest()
            if sha256 is not None and sha256 != digest:
                raise DigestMismatch(f"The bytes that came have the SHA-256 {digest}.")
            return self.publish(shards, key, digest, mime)
        finally:
            self.discard()

    def publish(self, shards: Shards, key: ObjectKey, digest: str | None, mime: str | None) -> BlobInfo:
        """Make what is in the file the blob of *key*, durably.  Raises ``UploadFinished``, :class:`Abandoned`."""
        fd = self.open()
        note(fd, digest, mime)
        os.fsync(fd)
        info = describe(key, fd, digest, mime)
        shard, name = split_key(key)
        with shards.enter(shard, create=True) as folder:
            if self.abandoned:
                raise Abandoned
            try:
                os.link(self.name, name, src_dir_fd=self._folder, dst_dir_fd=folder.fd, follow_symlinks=False)
            except FileExistsError:
                raise UploadFinished from None
            try:
                folder.sync()
            except OSError:
                # It may be lost with the next power cut, so it must not be found until then.
                with suppress(OSError):
                    os.unlink(name, dir_fd=folder.fd)
                raise
        return info

    def discard(self) -> None:
        """Close the file and remove its staging name; again is harmless."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
            with suppress(FileNotFoundError):
                os.unlink(self.name, dir_fd=self._folder)


class Arrival:
    """A body being received into a staging file.

    While one batch is written and digested by two threads, the next is
    received; there are never more than two, so memory does not grow.
    """

    def __init__(self, staged: Staged, size: int | None, *, disk: Executor, digests: Executor) -> None:
        self.staged = staged
        self.received = 0
        self._size = size
        self._disk = disk
        self._digests = digests
        self._rest: list[bytes] = []
        self._unflushed = 0
        self._flushing: asyncio.Future[Any] | None = None
        self._work: set[asyncio.Future[Any]] = set()

    async def receive(self, body: AsyncIterable[bytes]) -> None:
        """Take in all of *body* but the last batch.  Raises ``LengthMismatch`` unless it has the declared size."""
        async for batch in self._batches(body):
            await self._settle(self._work)
            self._work = {
                self._start(self._disk, self.staged.write, batch),
                self._start(self._digests, self.staged.digest, batch),
            }
            self._unflushed += BATCH
            if self._unflushed >= FLUSH_EVERY and (self._flushing is None or self._flushing.done()):
                await self._settle_flush()
                self._flushing = self._start(self._disk, self.staged.flush)
                self._unflushed = 0
        await self._settle(self._work)
        await self._settle_flush()

    async def _batches(self, body: AsyncIterable[bytes]) -> AsyncIterator[list[bytes]]:
        size, collected = self._size, 0
        async for chunk in body:
            self.received += len(chunk)
            if size is not None and self.received > size:
                raise LengthMismatch(f"More than the declared {size} bytes came.")
            self._rest.append(chunk)
            collected += len(chunk)
            if collected >= BATCH:
                batch, self._rest, collected = self._rest, [], 0
                yield batch
        if size is not None and self.received < size:
            raise LengthMismatch(f"Only {self.received} of the declared {size} bytes came.")

    async def publish(self, shards: Shards, key: ObjectKey, sha256: str | None, mime: str | None) -> BlobInfo:
        """Make what was received the blob of *key*.  Raises as :meth:`Staged.finish` does."""
        finishing = self._start(self._disk, self.staged.finish, self._rest, shards, key, sha256, mime)
        self._work = {finishing}
        await self._settle(self._work)
        info: BlobInfo = finishing.result()
        return info

    async def abandon(self) -> None:
        """Let nothing be published any more, unless that has happened; leave nothing staged."""
        self.staged.abandoned = True
        started = self._work | ({self._flushing} if self._flushing else set())
        if started:
            await asyncio.wait(started)
            for work in started:
                work.exception()
        if self.staged.begun:
            await self._start(self._disk, self.staged.discard)

    async def _settle_flush(self) -> None:
        if self._flushing is not None:
            # A failed write-back is reported once: to this sync, and to no later one.
            await self._settle({self._flushing})
            self._flushing = None

    async def _settle(self, work: set[asyncio.Future[Any]]) -> None:
        if work:
            # Unlike a bare await, this leaves the work alone when the wait is cancelled.
            await asyncio.wait(work)
            with failures():
                for done in work:
                    done.result()

    def _start(self, pool: Executor, call: Any, *values: Any) -> asyncio.Future[Any]:
        return asyncio.get_running_loop().run_in_executor(pool, call, *values)
