"""The event loop's side of appends: bodies received, one after another, into a file that grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from concurrent.futures import Executor
from functools import partial
from typing import TYPE_CHECKING

from godrive.blobs.body_check import BodyCheck
from godrive.blobs.growing import GrowingFile
from godrive.blobs.staged_write import Batch, StagedWrite, share
from godrive.blobs.staging import LARGE_FILE
from godrive.memory import MemoryBudget

if TYPE_CHECKING:
    from hashlib import _Hash as Digest

APPENDED = 2 << 20
"""The most bytes that go to a thread in one call.  Fewer than for a put: the end of each append waits for the last."""
STEP = 64 << 20
"""Bytes after which what was received so far is made durable.  A kill loses at most this many."""
FEW = 16
"""Concurrent appends that have a buffer for direct writes.  More of them write to the page cache."""

_AHEAD = 4
"""Batches that may wait to be written while the next one is received, if appends are few: a chunk of 8 MiB."""
_UNDIGESTED = 6
"""Batches after which a digest begins before the body has ended: more than a chunk of 8 MiB."""
_ALONE = 2
"""Concurrent appends whose digests begin late.  Of more, one has bytes to digest while another receives."""


class StagedAppend(StagedWrite):
    """Bodies being appended to a growing file.  Each begins with :meth:`expect`.

    The digest may lag behind, also when the next body comes.  It begins when a body
    has ended, because until then the client, the loop and the disk need the
    processors, and while the last bytes become durable they do not.
    """

    staged: GrowingFile
    is_clean = False
    """Whether all of the last body is durable, so that the next one can follow."""
    _undigested = 0

    def __init__(self, staged: GrowingFile, *, disk: Executor, digests: Executor, memory: MemoryBudget) -> None:
        super().__init__(staged, BodyCheck(None), disk=disk, digests=digests, memory=memory)
        self._to_digest: Batch = []

    @property
    def offset(self) -> int:
        """The length of the file that is durable."""
        return self.staged.durable

    def expect(self, size: int | None, *, among: int) -> None:
        """Expect a body of a blob of *size* bytes, while *among* others are being appended."""
        are_few = among < FEW
        self.is_clean = False
        self.check = BodyCheck(None if size is None else size - self.offset)
        self.staged.is_small = not are_few
        self.staged.is_large = (size or 0) > LARGE_FILE
        self._batch = min(share(APPENDED, among, halved=5), self._memory.share(APPENDED))
        self._ahead = _AHEAD if are_few else 1
        self._may_wait = _UNDIGESTED * self._batch if among < _ALONE else 0

    def held_bytes(self) -> int:
        """Bytes that were received, and are not yet written or not yet digested."""
        if not self._executors:
            return self._collected
        disk, digests = self._executors
        return self._collected + max(disk.held, digests.held + self._undigested)

    def shed(self) -> None:
        """Write and digest what waits now.  The memory is free once that is done."""
        super().shed()
        self._digest()

    async def _pass_on(self) -> None:
        """Have the batch written, once there is room for it, and digested, if much waits for that."""
        await super()._pass_on()
        if self._undigested and self._executors[1].held + self._undigested > self._may_wait:
            self._digest()

    def _push(self) -> None:
        """Have the collected bytes written, and keep them to be digested."""
        disk, _ = self._executors or self._start()
        disk.push(self._rest)
        self._to_digest += self._rest
        self._undigested += self._collected
        self._rest, self._collected = [], 0

    def _digest(self) -> None:
        """Have digested what was kept for that."""
        if self._to_digest:
            self._executors[1].push(self._to_digest)
            self._to_digest, self._undigested = [], 0

    async def steps(self, body: AsyncIterable[bytes | memoryview], *, whole: bool) -> AsyncGenerator[int]:
        """Receive *body*, and yield the length of the file each time that more of it is durable.

        If *body* raises, what it yielded before is made durable, unless only the *whole* counts.
        """
        pieces = aiter(body)
        failure: Exception | None = None
        ended = False
        while not ended:
            try:
                ended = await self._receive_step(pieces, endless=whole)
            except Exception as error:
                if whole:
                    raise
                failure, ended = error, True
            await self._make_durable(last=ended)
            self.is_clean = ended
            yield self.offset
        if failure is not None:
            raise failure

    async def _receive_step(self, pieces: AsyncIterator[bytes | memoryview], *, endless: bool) -> bool:
        """Receive one step of the body, and return whether the body has ended."""
        until = self.received + STEP
        self._is_receiving = True
        try:
            async for chunk in pieces:
                if self._is_batch(chunk):
                    del chunk  # or it would be kept until the next one comes
                    await self._pass_on()
                    if self.received >= until and not endless:
                        return False
                else:
                    del chunk
        finally:
            self._is_receiving = False
        return True

    async def _make_durable(self, *, last: bool) -> None:
        """Write the rest and sync, in one call, because each costs a change of threads.

        The same call digests a body that needs no other one.
        """
        disk, digests = self._executors or self._start()
        apart = digests.is_busy or self._collected < self.received
        if apart:
            self._to_digest += self._rest
            self._digest()
        disk.push(self._rest, partial(self.staged.write_durably, digested=apart, last=last))
        self._rest, self._collected = [], 0
        await disk.settle(0)

    async def digest_of_all(self) -> Digest | None:
        """Return the SHA-256 of all that was received; ``None`` if that of the first bytes is not known."""
        await self._settle()
        return self.staged.running and self.staged.running.copy()

    async def close(self) -> None:
        """Close the file, once the digest needs no more bytes.  Idempotent."""
        await self._settle()
        await self._leave(self.staged.close)

    async def cut_off(self, length: int) -> None:
        """Stop writing, cut off what was written after *length* bytes, and close the file."""
        self._rest, self._collected = [], 0
        self._to_digest, self._undigested = [], 0
        for executor in self._executors:
            await executor.stop()
        await self._leave(partial(self.staged.cut, length))

    async def _settle(self) -> None:
        for executor in self._executors:
            await executor.settle(0)

    async def _leave(self, call: Callable[[], None]) -> None:
        self._memory.report(self, 0)
        if self.staged.begun:
            await asyncio.get_running_loop().run_in_executor(self._disk, call)
