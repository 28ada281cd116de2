"""Blobs on disk that are written in several steps (:class:`~godrive.blobs.Appendable`)."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from godrive.blobs import Staged
from godrive.blobs.body_check import BodyCheck
from godrive.blobs.growing import GrowingFile, remove, unfinished
from godrive.blobs.objects import Objects
from godrive.blobs.running_digests import RunningDigests
from godrive.blobs.staged_append import APPENDED, StagedAppend
from godrive.blobs.staged_write import AHEAD, share
from godrive.errors import Gone, NotFound, UploadFinished
from godrive.memory import MemoryBudget
from godrive.model import BlobInfo, ObjectKey

if TYPE_CHECKING:
    from hashlib import _Hash as Digest

T = TypeVar("T")

STATE = "file"
"""The state of whatever has a file."""

_FEW = 16
"""Concurrent appends that have a buffer for direct writes.  More of them write to the page cache."""


_AT_ONCE = 16 << 20
"""The most bytes that one call reads again or copies."""


class DiskAppends:
    """The part of the disk store that appends."""

    _disk: ThreadPoolExecutor
    _digests: ThreadPoolExecutor
    _memory: MemoryBudget

    def __init__(self) -> None:
        self._running = RunningDigests()
        self._appending = 0

    @property
    @abstractmethod
    def _objects(self) -> Objects: ...

    @abstractmethod
    async def _run(self, call: Callable[..., T], *values: object) -> T: ...

    @abstractmethod
    async def head(self, key: ObjectKey) -> BlobInfo: ...

    @abstractmethod
    async def _claim(self, size: int) -> None: ...

    @abstractmethod
    async def _to_the_end(self, work: Coroutine[Any, Any, None]) -> None: ...

    async def append(
        self,
        staged: Staged,
        body: AsyncIterable[bytes | memoryview],
        *,
        size: int | None = None,
        mime: str = "",
        whole: bool = False,
    ) -> AsyncGenerator[Staged]:
        """See :meth:`godrive.blobs.Appendable.append`."""
        key, offset = staged.key, staged.offset
        await self._claim(0)
        digest = self._running.take(key, offset)
        file = GrowingFile(self._objects.uploads, key, offset, digest)
        are_few = self._appending < _FEW
        file.is_small = not are_few
        append = StagedAppend(
            file,
            BodyCheck(None if size is None else size - offset),
            batch=min(share(APPENDED, self._appending, halved=5), self._memory.share(APPENDED)),
            ahead=AHEAD if are_few else 1,
            disk=self._disk,
            digests=self._digests,
            memory=self._memory,
        )
        before = digest.copy() if whole and digest is not None else None
        self._appending += 1
        try:
            async for offset in append.steps(body, whole=whole):
                yield Staged(key=key, offset=offset, state=STATE)
                await self._claim(0)
        finally:
            self._appending -= 1
            await self._to_the_end(append.end(offset))
            if offset == file.start + append.received:
                self._running.keep(key, offset, digest)
            elif offset == file.start:
                self._running.keep(key, offset, before)

    async def finish(self, staged: Staged, *, sha256: str | None = None, mime: str | None = None) -> BlobInfo:
        """See :meth:`godrive.blobs.Appendable.finish`."""
        objects, key = self._objects, staged.key
        try:
            digest = self._running.take(key, staged.offset) or await self._digest(staged)
            file = GrowingFile(objects.uploads, key, staged.offset, digest)
            return await self._run(file.end, objects.shards, key, sha256, mime)
        except Gone:
            with suppress(NotFound):
                await self.head(key)
                raise UploadFinished from None
            raise

    async def _digest(self, staged: Staged) -> Digest:
        """Compute the SHA-256 of what is staged: it was joined, or another process had its first bytes."""
        digest, at = hashlib.sha256(), 0
        while at < staged.offset:  # in pieces, so that other work of the disk takes its turns in between
            file = GrowingFile(self._objects.uploads, staged.key, staged.offset)
            at += await self._run(_read, file, digest, at)
        return digest

    async def join(self, key: ObjectKey, parts: Sequence[Staged]) -> Staged:
        """See :meth:`godrive.blobs.Appendable.join`."""
        folder, joined = self._objects.uploads, 0
        offset = sum(part.offset for part in parts)
        await self._claim(offset)
        for part in parts:
            at = 0
            while at < part.offset:  # in pieces, as above
                source, target = GrowingFile(folder, part.key, part.offset), GrowingFile(folder, key, joined)
                copied = await self._run(_copy, source, target, at)
                at, joined = at + copied, joined + copied
        await self._run(_sync, GrowingFile(folder, key, joined))
        return Staged(key=key, offset=offset, state=STATE)

    async def discard(self, staged: Staged) -> None:
        """See :meth:`godrive.blobs.Appendable.discard`."""
        self._running.take(staged.key, 0)
        await self._run(remove, self._objects.uploads, staged.key)

    async def abandoned(self, before: datetime, *, after: str = "") -> AsyncIterator[ObjectKey]:
        """See :meth:`godrive.blobs.Appendable.abandoned`."""
        for key in await self._run(unfinished, self._objects.uploads, before.timestamp(), after):
            yield key


def _read(file: GrowingFile, digest: Digest, at: int) -> int:
    try:
        return file.read_into(digest, at, _AT_ONCE)
    finally:
        file.close()


def _copy(source: GrowingFile, target: GrowingFile, at: int) -> int:
    try:
        return target.take_over(source, at, _AT_ONCE)
    finally:
        source.close()
        target.close()


def _sync(file: GrowingFile) -> None:
    try:
        file.write_rest((), digested=True, last=True)
    finally:
        file.close()
