"""Blobs in memory: for tests, and for drives that are thrown away."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterable, AsyncIterator
from datetime import datetime

from godrive.blobs import BlobExists, split_key
from godrive.clock import Clock, SystemClock
from godrive.errors import DigestMismatch, LengthMismatch, NotFound, StorageFull
from godrive.model import BlobInfo, ETag, ObjectKey

PIECE = 256 * 1024
"""Bytes that one step of ``get`` yields at most."""


class MemoryBlobStore:
    """Keeps blobs for as long as the object lives; *capacity* is the bytes it has room for."""

    def __init__(self, *, clock: Clock | None = None, capacity: int | None = None) -> None:
        self._clock = clock or SystemClock()
        self._capacity = capacity
        self._blobs: dict[ObjectKey, tuple[BlobInfo, bytes]] = {}
        self._arriving: dict[ObjectKey, list[bytearray]] = {}
        self._used = 0
        self.quarantined: dict[ObjectKey, bytes] = {}

    async def open(self) -> None:
        """Nothing to prepare."""

    async def close(self) -> None:
        """Nothing to release: what was stored is still there when opened again."""

    async def put(
        self,
        key: ObjectKey,
        body: AsyncIterable[bytes | memoryview],
        *,
        size: int | None = None,
        sha256: str | None = None,
        mime: str | None = None,
    ) -> BlobInfo:
        """See :meth:`godrive.blobs.BlobStore.put`; the whole body is held, of course."""
        split_key(key)
        received = bytearray()
        self._arriving.setdefault(key, []).append(received)
        try:
            async for chunk in body:
                received += chunk
                if size is not None and len(received) > size:
                    raise LengthMismatch(f"More than the declared {size} bytes came.")
                if self._capacity is not None and self._used + len(received) > self._capacity:
                    raise StorageFull
            if size is not None and len(received) < size:
                raise LengthMismatch(f"Only {len(received)} of the declared {size} bytes came.")
            return self._publish(key, bytes(received), sha256, mime)
        finally:
            self._forget(key, received)

    def _publish(self, key: ObjectKey, data: bytes, sha256: str | None, mime: str | None) -> BlobInfo:
        digest = hashlib.sha256(data).hexdigest()
        if sha256 is not None and sha256 != digest:
            raise DigestMismatch(f"The bytes that came have the SHA-256 {digest}.")
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
        for offset in range(0, len(data), PIECE):
            yield bytes(data[offset : offset + PIECE])

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
        """See :meth:`godrive.blobs.BlobStore.quarantine`; the bytes go to ``quarantined``."""
        data = self._take(key)
        if data is not None:
            self.quarantined[key] = data

    async def sweep_staging(self, before: datetime) -> int:
        """An unfinished put leaves nothing behind here."""
        return 0

    async def free_bytes(self) -> int | None:
        """What is left of the capacity."""
        return None if self._capacity is None else max(0, self._capacity - self._used)

    def receiving(self, key: ObjectKey) -> int | None:
        """See :meth:`godrive.blobs.BlobStore.receiving`."""
        arriving = self._arriving.get(key)
        return None if arriving is None else max(map(len, arriving))
