"""The event loop's side of an append: a body received into a file that grows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from functools import partial

from godrive.blobs.growing import GrowingFile
from godrive.blobs.staged_write import SerialExecutor, StagedWrite

APPENDED = 2 << 20
"""The most bytes that go to a thread in one call.  Fewer than for a put: the end of each append waits for the last."""
STEP = 64 << 20
"""Bytes after which what was received so far is made durable.  A kill loses at most this many."""


class StagedAppend(StagedWrite):
    """A body being appended to a growing file."""

    staged: GrowingFile
    _syncing: SerialExecutor | None = None

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
            yield await self._make_durable(last=ended)
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

    async def _make_durable(self, *, last: bool) -> int:
        """Write the rest, sync, and return the length.  One call does both, because each costs a change of threads.

        The digest may lag behind; :meth:`end` waits for it.
        """
        rest, self._rest, self._collected = self._rest, [], 0
        write = partial(self.staged.write_rest, digested=bool(self._executors), last=last)
        if self._executors:
            self._syncing, digests = self._executors
            digests.push(rest)
        else:
            self._syncing = SerialExecutor(self._disk, write)
        self._syncing.push(rest, write)
        await self._syncing.settle(0)
        return self.staged.durable

    async def end(self, durable: int) -> None:
        """Stop writing, finish the digest of what was passed on, cut off what is not durable, and close the file."""
        self._rest, self._collected = [], 0
        if self._syncing is not None:
            await self._syncing.stop()
        if self._executors:
            disk, digests = self._executors
            await disk.stop()
            await digests.settle(0)
        self._memory.report(self, 0)
        if self.staged.begun:
            await asyncio.get_running_loop().run_in_executor(self._disk, self.staged.cut, durable)
