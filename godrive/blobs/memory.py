"""Blobs in memory: for tests and throw-away drives."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from datetime import datetime

from godrive.blobs import BlobExists, SmallBlob, Staged, split_key
from godrive.blobs.body_check import BodyCheck
from godrive.clock import Clock, SystemClock
from godrive.errors import DriveError, Gone, NotFound, StorageFull, UploadFinished
from godrive.model import BlobInfo, ETag, ObjectKey

CHUNK = 256 * 1024
"""The largest chunk that ``get`` yields."""


PACK_BELOW = 16_384
"""The largest blob that is stored without an upload, as the disk store does."""


class MemoryBlobStore:
    """Keeps blobs for as long as the object lives.  *capacity* is its size in bytes."""

    def __init__(self, *, clock: Clock | None = None, capacity: int | None = None) -> None:
        self.pack_below = PACK_BELOW
        self._clock = clock or SystemClock()
        self._capacity = capacity
        self._blobs: dict[ObjectKey, tuple[BlobInfo, bytes]] = {}
        self._arriving: dict[ObjectKey, list[bytearray]] = {}
        self._used = 0
        self._staged: dict[ObjectKey, tuple[bytes, datetime]] = {}
        self.quarantined: dict[ObjectKey, bytes] = {}

    async def open(self) -> None:
        """Does nothing."""

    async def close(self) -> None:
        """Does nothing: the blobs are still there when the store is opened again."""

    async def put(
        self,
        key: ObjectKey,
        body: AsyncIterable[bytes | memoryview],
        *,
        size: int | None = None,
        sha256: str | None = None,
        mime: str | None = None,
    ) -> BlobInfo:
        """See :meth:`godrive.blobs.BlobStore.put`.  The whole body is held in memory."""
        split_key(key)
        received, check = bytearray(), BodyCheck(size, sha256)
        self._arriving.setdefault(key, []).append(received)
        try:
            async for chunk in body:
                received += chunk
                check.count(len(chunk))
                self._check_room(len(received))
            check.end()
            return self._publish(key, bytes(received), check, mime)
        finally:
            self._forget(key, received)

    def _check_room(self, size: int) -> None:
        if self._capacity is not None and self._used + size > self._capacity:
            raise StorageFull

    async def put_each(self, blobs: Sequence[SmallBlob]) -> list[BlobInfo | DriveError]:
        """See :meth:`godrive.blobs.Packing.put_each`."""
        return [self._put_small(blob) for blob in blobs]

    def _put_small(self, blob: SmallBlob) -> BlobInfo | DriveError:
        split_key(blob.key)
        try:
            self._check_room(len(blob.content))
            return self._publish(blob.key, blob.content, BodyCheck(len(blob.content), blob.sha256), blob.mime)
        except DriveError as error:
            return error

    def _publish(self, key: ObjectKey, data: bytes, check: BodyCheck, mime: str | None) -> BlobInfo:
        digest = hashlib.sha256(data).hexdigest()
        check.compare(digest)
        if key in self._blobs:
            raise BlobExists(digest)
        info = BlobInfo(
            key=key,
            size_bytes=len(data),
            etag=ETag(digest),
            modified_at=self._clock.now(),
            sha256=digest,
            mime=mime,
        )
        self._blobs[key] = info, data
        self._used += len(data)
        return info

    def _forget(self, key: ObjectKey, received: bytearray) -> None:
        remaining = [other for other in self._arriving[key] if other is not received]
        if remaining:
            self._arriving[key] = remaining
        else:
            del self._arriving[key]

    async def get(self, key: ObjectKey, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """See :meth:`godrive.blobs.BlobStore.get`."""
        data = memoryview(self._find(key)[1])[start:end]
        for offset in range(0, len(data), CHUNK):
            yield bytes(data[offset : offset + CHUNK])

    async def head(self, key: ObjectKey) -> BlobInfo:
        """See :meth:`godrive.blobs.BlobStore.head`."""
        return self._find(key)[0]

    def _find(self, key: ObjectKey) -> tuple[BlobInfo, bytes]:
        split_key(key)
        try:
            return self._blobs[key]
        except KeyError:
            raise NotFound("There is no such blob.") from None

    async def delete(self, key: ObjectKey) -> None:
        """See :meth:`godrive.blobs.BlobStore.delete`."""
        self._take(key)

    def _take(self, key: ObjectKey) -> bytes | None:
        split_key(key)
        found = self._blobs.pop(key, None)
        if found is None:
            return None
        self._used -= len(found[1])
        return found[1]

    async def list(self, *, after: str = "") -> AsyncIterator[BlobInfo]:
        """See :meth:`godrive.blobs.BlobStore.list`."""
        for key in sorted(self._blobs):
            if key > after and key in self._blobs:
                yield self._blobs[key][0]

    async def quarantine(self, key: ObjectKey) -> None:
        """See :meth:`godrive.blobs.BlobStore.quarantine`.  The bytes go to ``quarantined``."""
        data = self._take(key)
        if data is not None:
            self.quarantined[key] = data

    async def sweep_staging(self, before: datetime) -> int:
        """See :meth:`godrive.blobs.BlobStore.sweep_staging`.  An unfinished put leaves nothing."""
        return 0

    async def free_bytes(self) -> int | None:
        """The capacity that is left."""
        return None if self._capacity is None else max(0, self._capacity - self._used)

    def receiving(self, key: ObjectKey) -> int | None:
        """See :meth:`godrive.blobs.BlobStore.receiving`."""
        arriving = self._arriving.get(key)
        return None if arriving is None else max(map(len, arriving))

    async def append(
        self,
        staged: Staged,
        body: AsyncIterable[bytes | memoryview],
        *,
        size: int | None = None,
        mime: str = "",
        whole: bool = False,
    ) -> AsyncGenerator[Staged]:
        """See :meth:`godrive.blobs.Appendable.append`.  Every chunk of *body* is a step."""
        split_key(staged.key)
        data = self._take_staged(staged)
        check = BodyCheck(None if size is None else size - staged.offset)
        try:
            async for chunk in body:
                check.count(len(chunk))
                self._check_room(len(data) + len(chunk) - self._staged_bytes(staged.key))
                data += chunk
                if not whole:
                    self._stage(staged.key, data)
                    yield Staged(key=staged.key, offset=len(data), state="memory")
        except BaseException:
            self._stage(staged.key, data[: staged.offset] if whole else data)
            raise
        self._stage(staged.key, data)
        yield Staged(key=staged.key, offset=len(data), state="memory")

    def _stage(self, key: ObjectKey, data: bytearray) -> None:
        self._used += len(data) - self._staged_bytes(key)
        self._staged[key] = bytes(data), self._clock.now()

    def _staged_bytes(self, key: ObjectKey) -> int:
        return len(self._staged[key][0]) if key in self._staged else 0

    def _take_staged(self, staged: Staged) -> bytearray:
        if self._staged_bytes(staged.key) < staged.offset:
            raise Gone("The bytes of the upload are lost.")
        return bytearray(self._staged[staged.key][0][: staged.offset] if staged.offset else b"")

    async def finish(self, staged: Staged, *, sha256: str | None = None, mime: str | None = None) -> BlobInfo:
        """See :meth:`godrive.blobs.Appendable.finish`."""
        if staged.key in self._blobs:
            await self.discard(staged)
            raise UploadFinished
        data = self._take_staged(staged)
        info = self._publish(staged.key, bytes(data), BodyCheck(None, sha256), mime)
        await self.discard(staged)
        return info

    async def join(self, key: ObjectKey, parts: Sequence[Staged]) -> Staged:
        """See :meth:`godrive.blobs.Appendable.join`."""
        data = bytearray().join(map(self._take_staged, parts))
        self._check_room(len(data))
        self._stage(key, data)
        return Staged(key=key, offset=len(data), state="memory")

    async def discard(self, staged: Staged) -> None:
        """See :meth:`godrive.blobs.Appendable.discard`."""
        self._used -= self._staged_bytes(staged.key)
        self._staged.pop(staged.key, None)

    async def abandoned(self, before: datetime, *, after: str = "") -> AsyncIterator[ObjectKey]:
        """See :meth:`godrive.blobs.Appendable.abandoned`."""
        for key, (_, written_at) in sorted(self._staged.items()):
            if key > after and written_at < before:
                yield key
