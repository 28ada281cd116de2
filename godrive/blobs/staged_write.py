"""The event loop's side of a write: a body received into a staging file."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterable, Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from threading import Lock

from godrive.blobs.body_check import BodyCheck
from godrive.blobs.failures import failures
from godrive.blobs.folders import Shards
from godrive.blobs.staging import LARGE_FILE, StagingFile
from godrive.memory import LEAST, MemoryBudget
from godrive.model import BlobInfo, ObjectKey
from godrive.priority import give_way

_FEW = 2
_PAGE = 4096

Batch = list[bytes | memoryview]

BATCH = 4 << 20
"""The most bytes that go to a thread in one call.  A smaller body takes one call."""
AHEAD = 2
"""Batches that may wait in an executor while the next one is received."""
_IN_A_ROW = 4
"""Calls after which a thread serves others."""
_NICER = 5
"""How much nicer than the loop a thread that digests is."""


def share(most: int, users: int, *, halved: int = 4) -> int:
    """Buffer size of one transfer: *most* for one or two *users*, divided among more.

    It is at least *most*, *halved* so many times.
    """
    return max(most >> halved, most * _FEW // max(_FEW, users) & -_PAGE)


def digest_threads() -> ThreadPoolExecutor:
    """Return the threads that digest.  On Linux the loop and the writers run first, because a digest may lag behind."""
    return ThreadPoolExecutor(os.cpu_count(), "blobs-sha256", initializer=give_way, initargs=(_NICER,))


class StagedWrite:
    """A body being received into a staging file.

    One thread writes batches and another digests them while the next one
    arrives.  Only a few exist at a time, so memory does not grow with the size
    of a body; :func:`share` and *memory* bound it for any number of bodies.
    """

    def __init__(
        self,
        staged: StagingFile,
        check: BodyCheck,
        *,
        batch: int = BATCH,
        disk: Executor,
        digests: Executor,
        memory: MemoryBudget,
    ) -> None:
        self.staged = staged
        self.check = check
        staged.is_large = staged.start + (check.size or 0) > LARGE_FILE
        self._batch = batch
        self._ahead = AHEAD
        self._disk = disk
        self._digests = digests
        self._memory = memory
        self._executors: list[SerialExecutor] = []
        self._collected = 0
        self._is_receiving = True
        self._rest: Batch = []
        self._finishing: asyncio.Future[BlobInfo] | None = None

    @property
    def received(self) -> int:
        """Bytes received so far."""
        return self.check.received

    @property
    def missing(self) -> int:
        """Bytes still to be written, as far as that is known."""
        return max(self.check.size or 0, self.received) - self.staged.written

    def held_bytes(self) -> int:
        """Bytes that were received and are not written yet."""
        return self._collected + max((executor.held for executor in self._executors), default=0)

    def shed(self) -> None:
        """Write what was collected now.  The memory is free once that is done."""
        if self._is_receiving and self._rest:
            self.staged.is_small = True
            self._push()

    async def receive(self, body: AsyncIterable[bytes | memoryview]) -> None:
        """Receive *body*, and write all but the last batch.  Raises ``LengthMismatch``."""
        try:
            await self._collect(body)
        finally:
            self._is_receiving = False
        for executor in self._executors:
            await executor.settle(0)

    async def _collect(self, body: AsyncIterable[bytes | memoryview]) -> None:
        async for chunk in body:
            if self._is_batch(chunk):
                del chunk  # or it would be kept until the next one comes
                await self._pass_on()
            else:
                del chunk
        self.check.end()

    def _is_batch(self, chunk: bytes | memoryview) -> bool:
        """Add *chunk* to what is collected, and return whether that is a batch.  Raises ``LengthMismatch``."""
        self.check.count(len(chunk))
        self._rest.append(chunk)
        self._collected += len(chunk)
        if self._collected > LEAST:
            self._memory.report(self, self.held_bytes())
        return self._collected >= self._batch

    async def _pass_on(self) -> None:
        """Have the batch written, once there is room for it."""
        for executor in self._executors:
            await executor.settle(self._ahead - 1)
        if self._rest:  # unless it was shed meanwhile
            self._push()

    def _push(self) -> None:
        """Have the collected bytes written and digested."""
        for executor in self._executors or self._start():
            executor.push(self._rest)
        self._rest, self._collected = [], 0

    def _start(self) -> list[SerialExecutor]:
        """Make the executors: one that writes and one that digests."""
        self._executors = [
            SerialExecutor(self._disk, self.staged.write_large),
            SerialExecutor(self._digests, self.staged.digest),
        ]
        return self._executors

    def collected(self) -> Batch | None:
        """The whole body, if none of it had to be written yet."""
        return None if self._executors else self._rest

    async def digest(self) -> str:
        """The SHA-256 of what was received.  It cannot be published any more."""
        await asyncio.get_running_loop().run_in_executor(self._digests, self.staged.digest, self._rest)
        return self.staged.hexdigest()

    async def publish(self, shards: Shards, key: ObjectKey, mime: str | None) -> BlobInfo:
        """Make what was received the blob of *key*.  Raises as :meth:`StagingFile.finish` does."""
        loop = asyncio.get_running_loop()
        self._finishing = loop.run_in_executor(
            self._disk, self.staged.finish, self._rest, shards, key, self.check, mime
        )
        await asyncio.wait([self._finishing])  # a cancelled wait leaves the call and its outcome alone
        with failures():
            return self._finishing.result()

    async def abandon(self) -> None:
        """Prevent the publication, unless it has happened, and remove the staging file."""
        self.staged.abandoned = True
        self._rest, self._collected = [], 0
        for executor in self._executors:
            await executor.stop()
        if self._finishing is not None:
            await asyncio.wait([self._finishing])
            self._finishing.exception()
        if self.staged.begun:
            await asyncio.get_running_loop().run_in_executor(self._disk, self.staged.discard)


class SerialExecutor:
    """Runs calls one after another in the threads of a pool.

    A thread goes on with the next call without a turn of the loop in between,
    and wakes the loop only if that waits, because a future for each call costs
    the loop more.  After some calls the thread serves others.  A cancelled wait
    neither cancels a call nor loses its error.
    """

    def __init__(self, pool: Executor, call: Callable[[Batch], None]) -> None:
        self._pool = pool
        self._call = call
        self._loop = asyncio.get_running_loop()
        self._lock = Lock()
        self._waiting: deque[tuple[Callable[[Batch], object], Batch, int]] = deque()
        self._is_running = False
        self._failure: Exception | None = None
        self._told: asyncio.Future[None] | None = None
        # The loop changes what was pushed, the thread what has ended.
        self._pushed = self._pushed_bytes = self._ended = self._ended_bytes = 0

    @property
    def is_busy(self) -> bool:
        """Whether a call has not ended."""
        return self._pushed > self._ended

    @property
    def held(self) -> int:
        """Bytes in the calls that have not ended."""
        return self._pushed_bytes - self._ended_bytes

    def push(self, batch: Batch, call: Callable[[Batch], object] | None = None) -> None:
        """Queue a call with *batch*, by default that of this executor.

        Batches that wait become one, up to and with one that has another *call*,
        which must also do what the default one does.
        """
        size = sum(map(len, batch))
        self._pushed += 1
        self._pushed_bytes += size
        with self._lock:
            self._waiting.append((call or self._call, batch, size))
            was_running, self._is_running = self._is_running, True
        if not was_running:
            self._pool.submit(self._work)

    async def settle(self, left: int) -> None:
        """Wait until at most *left* calls are pending.  Raises the first error of a call, every time from then on."""
        await self._wait_until(lambda: self._failure is not None or self._pushed - self._ended <= left)
        if self._failure is not None:
            with failures():
                raise self._failure

    async def stop(self) -> None:
        """Drop the queued calls and wait for the running one."""
        self._drop()
        await self._wait_until(lambda: not self._is_running)

    async def _wait_until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            told = self._loop.create_future()
            with self._lock:
                self._told = told
            if not is_so():  # the thread may not have seen the future
                await told

    def _work(self) -> None:
        """The thread: make the calls that wait."""
        for _ in range(_IN_A_ROW):
            call, batch, calls, size = self._take()
            if not calls:
                self._tell()
                return
            try:
                call(batch)
            except Exception as error:
                self._failure = error  # first: a call that has ended is taken for one that succeeded
            finally:
                del batch
                self._ended += calls
                self._ended_bytes += size
            self._tell()
        self._pool.submit(self._work)

    def _take(self) -> tuple[Callable[[Batch], object], Batch, int, int]:
        """Return what to call, with which batch, and of how many calls and bytes that is; of none after a failure."""
        call: Callable[[Batch], object] = self._call
        batch, calls, size = Batch(), 0, 0
        with self._lock:
            while call is self._call and self._waiting and self._failure is None:
                call, more, more_bytes = self._waiting.popleft()
                batch += more
                calls, size = calls + 1, size + more_bytes
            self._is_running = calls > 0
        return call, batch, calls, size

    def _tell(self) -> None:
        """Wake the loop, if it waits."""
        with self._lock:
            told, self._told = self._told, None
        if told is not None:
            self._loop.call_soon_threadsafe(_wake, told)

    def _drop(self) -> None:
        with self._lock:
            self._pushed -= len(self._waiting)
            self._pushed_bytes -= sum([size for _, _, size in self._waiting])
            self._waiting.clear()


def _wake(told: asyncio.Future[None]) -> None:
    if not told.done():
        told.set_result(None)
