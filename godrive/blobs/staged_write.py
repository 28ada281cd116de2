"""A body on its way to a staging file, as the event loop sees it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable
from concurrent.futures import Executor

from godrive.blobs.failures import failures
from godrive.blobs.folders import Shards
from godrive.blobs.staging import StagingFile
from godrive.errors import LengthMismatch
from godrive.model import BlobInfo, ObjectKey

_FEW = 2
_PAGE = 4096

Batch = list[bytes | memoryview]

BATCH = 4 << 20
"""Bytes that go to a thread together, at most; a body below that takes a single trip."""
AHEAD = 2
"""Batches that may be in a lane, beside the one that is being received."""


def share(most: int, users: int) -> int:
    """What each of so many may take where few may take *most*, so that together they take no more than a few."""
    return max(most >> 4, most * _FEW // max(_FEW, users) & -_PAGE)


class StagedWrite:
    """A body being received into a staging file.

    While some batches are written by one thread and digested by another, the
    next is received; there are never more than a few, so memory does not grow
    with the size of a body, and by :func:`share` hardly with their number.
    """

    def __init__(
        self, staged: StagingFile, size: int | None, *, batch: int = BATCH, disk: Executor, digests: Executor
    ) -> None:
        self.staged = staged
        self.received = 0
        self._size = size
        self._batch = batch
        self._disk = disk
        self._digests = digests
        self._lanes: list[SerialExecutor] = []
        self._rest: Batch = []
        self._finishing: asyncio.Future[BlobInfo] | None = None

    @property
    def missing(self) -> int:
        """Bytes that still have to find room, as far as that is known."""
        return max(self._size or 0, self.received) - self.staged.written

    async def receive(self, body: AsyncIterable[bytes | memoryview]) -> None:
        """Take in all of *body* but the last batch.  Raises ``LengthMismatch`` unless it has the declared size."""
        async for batch in self._batches(body):
            if not self._lanes:
                self._lanes = [
                    SerialExecutor(self._disk, self.staged.write_large),
                    SerialExecutor(self._digests, self.staged.digest),
                ]
            for lane in self._lanes:
                await lane.settle(AHEAD - 1)
                lane.push(batch)
        for lane in self._lanes:
            await lane.settle(0)

    async def _batches(self, body: AsyncIterable[bytes | memoryview]) -> AsyncIterator[Batch]:
        size, collected = self._size, 0
        async for chunk in body:
            self.received += len(chunk)
            if size is not None and self.received > size:
                raise LengthMismatch(f"More than the declared {size} bytes came.")
            self._rest.append(chunk)
            collected += len(chunk)
            if collected >= self._batch:
                batch, self._rest, collected = self._rest, [], 0
                yield batch
        if size is not None and self.received < size:
            raise LengthMismatch(f"Only {self.received} of the declared {size} bytes came.")

    async def publish(self, shards: Shards, key: ObjectKey, sha256: str | None, mime: str | None) -> BlobInfo:
        """Make what was received the blob of *key*.  Raises as :meth:`StagingFile.finish` does."""
        loop = asyncio.get_running_loop()
        self._finishing = loop.run_in_executor(self._disk, self.staged.finish, self._rest, shards, key, sha256, mime)
        with failures():
            return await asyncio.shield(self._finishing)

    async def abandon(self) -> None:
        """Let nothing be published any more, unless that has happened; leave nothing staged."""
        self.staged.abandoned = True
        for lane in self._lanes:
            await lane.stop()
        if self._finishing is not None:
            await asyncio.wait([self._finishing])
            self._finishing.exception()
        if self.staged.begun:
            await asyncio.get_running_loop().run_in_executor(self._disk, self.staged.discard)


class SerialExecutor:
    """One call after another in the threads of a pool.

    Nothing here is undone by a cancelled wait: unlike a bare ``await`` of the
    future, ``asyncio.wait`` leaves the call and its outcome alone.
    """

    def __init__(self, pool: Executor, call: Callable[[Batch], None]) -> None:
        self._pool = pool
        self._call = call
        self._waiting: deque[Batch] = deque()
        self._running: asyncio.Future[None] | None = None

    def push(self, batch: Batch) -> None:
        """Call with *batch* after those before."""
        self._waiting.append(batch)
        if self._running is None:
            self._next()

    async def settle(self, left: int) -> None:
        """Wait until at most that many calls are left.  Raises what a call raised, once and for all."""
        while self._running is not None and len(self._waiting) + 1 > left:
            running = self._running
            await asyncio.wait([running])
            with failures():
                running.result()

    async def stop(self) -> None:
        """Make no more calls, and wait for the one under way."""
        self._waiting.clear()
        if self._running is not None:
            await asyncio.wait([self._running])

    def _next(self) -> None:
        self._running = asyncio.get_running_loop().run_in_executor(self._pool, self._call, self._waiting.popleft())
        self._running.add_done_callback(self._ended)

    def _ended(self, ended: asyncio.Future[None]) -> None:
        if ended.exception() is not None:
            self._waiting.clear()
        elif self._waiting:
            self._next()
        else:
            self._running = None
