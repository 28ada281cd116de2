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
from godrive.blobs.growing import GrowingFile, remove, unfinished
from godrive.blobs.kept_appends import KeptAppends
from godrive.blobs.objects import Objects
from godrive.blobs.running_digests import RunningDigests
from godrive.blobs.staged_append import StagedAppend
from godrive.errors import Gone, NotFound, UploadFinished
from godrive.memory import MemoryBudget
from godrive.model import BlobInfo, ObjectKey

if TYPE_CHECKING:
    from hashlib import _Hash as Digest

T = TypeVar("T")

STATE = "file"
"""The state of whatever has a file."""

_AT_ONCE = 16 << 20
"""The most bytes that one call reads again or copies."""


class DiskAppends:
    """The part of the disk store that appends."""

    _disk: ThreadPoolExecutor
    _digests: ThreadPoolExecutor
    _memory: MemoryBudget

    def __init__(self) -> None:
        self._running = RunningDigests()
        self._kept = KeptAppends(self._running)
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
        append = await self._kept.take(key, offset) or self._begin(staged)
        append.expect(size, among=self._appending)
        before: Digest | None = None
        self._appending += 1
        try:
            if whole:
                before = await append.digest_of_all()
            async for offset in append.steps(body, whole=whole):
                yield Staged(key=key, offset=offset, state=STATE)
                await self._claim(0)
        finally:
            self._appending -= 1
            if append.is_clean:
                self._kept.keep(key, append)
            else:
                await self._to_the_end(append.cut_off(offset))
                if offset == staged.offset:
                    self._running.keep(key, offset, before)

    def _begin(self, staged: Staged) -> StagedAppend:
        """Go on with a file that is not open."""
        key, offset = staged.key, staged.offset
        file = GrowingFile(self._objects.uploads, key, offset, self._running.take(key, offset))
        return StagedAppend(file, disk=self._disk, digests=self._digests, memory=self._memory)

    async def finish(self, staged: Staged, *, sha256: str | None = None, mime: str | None = None) -> BlobInfo:
        """See :meth:`godrive.blobs.Appendable.finish`."""
        key, shards = staged.key, self._objects.shards
        append = await self._kept.take(key, staged.offset) or self._begin(staged)
        try:
            digest = await append.digest_of_all() or await self._digest(staged)
            return await self._run(append.staged.end, shards, key, digest.hexdigest(), sha256, mime)
        except Gone:
            with suppress(NotFound):
                await self.head(key)
                raise UploadFinished from None
            raise
        finally:
            await self._to_the_end(append.close())

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
        await self._kept.take(staged.key)
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
        file.write_durably((), digested=True, last=True)
    finally:
        file.close()
