"""The event loop's side of appends: bodies received, one after another, into a file that grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from functools import partial
from typing import TYPE_CHECKING

from godrive.blobs.body_check import BodyCheck
from godrive.blobs.growing import GrowingFile
from godrive.blobs.staged_write import StagedWrite, share
from godrive.blobs.staging import LARGE_FILE

if TYPE_CHECKING:
    from hashlib import _Hash as Digest

APPENDED = 2 << 20
"""The most bytes that go to a thread in one call.  Fewer than for a put: the end of each append waits for the last."""
STEP = 64 << 20
"""Bytes after which what was received so far is made durable.  A kill loses at most this many."""
FEW = 16
"""Concurrent appends that have a buffer for direct writes.  More of them write to the page cache."""

_AHEAD = 4
"""Batches that may wait in an executor while the next one is received, if appends are few: a chunk of 8 MiB."""


class StagedAppend(StagedWrite):
    """Bodies being appended to a growing file.  Each begins with :meth:`expect`.

    The digest may lag behind, also when the next body comes.
    """

    staged: GrowingFile
    is_clean = False
    """Whether all of the last body is durable, so that the next one can follow."""

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
            digests.push(self._rest)
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
