"""Copy blobs from one store to another, and find all that cannot be copied."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress

from godrive.backup.contents import Named
from godrive.backup.rests import Pace
from godrive.blobs import BlobDamaged, BlobStore
from godrive.counted import counted
from godrive.errors import Conflict, DigestMismatch, LengthMismatch, NotFound, StoreUnavailable, UploadFinished
from godrive.model import ObjectKey

NAMED = 10
"""The most damaged blobs that an error names."""

_PROBE = ObjectKey("probe/none")


class Damaged:
    """The blobs that could not be copied, because the *source* does not have what was stored.  The rest is copied."""

    def __init__(self, source: BlobStore) -> None:
        self._source = source
        self._count = 0
        self._first: list[str] = []

    async def copy(self, target: BlobStore, blob: Named, pace: Pace | None = None) -> bool:
        """Copy a blob, unless it is there, and check that it is what was stored.  Returns whether the target has it.

        Raises ``StorageFull``, ``StoreUnavailable``.
        """
        try:
            body = paced(self._read(blob.object_key), pace)
            await target.put(blob.object_key, body, size=blob.size_bytes, sha256=blob.sha256)
        except UploadFinished:
            return True  # an earlier run has copied it
        except (NotFound, LengthMismatch, DigestMismatch, BlobDamaged) as error:
            self._count += 1
            if self._count <= NAMED:
                self._first.append(f"{blob.object_key}: {error.detail}")
            return False
        return True

    async def _read(self, key: ObjectKey) -> AsyncIterator[bytes]:
        try:
            async for piece in self._source.get(key):
                yield piece
        except BlobDamaged:
            raise
        except StoreUnavailable as error:
            with suppress(NotFound):
                await self._source.head(_PROBE)  # raises if the store is down, which is no fault of this blob
            raise BlobDamaged(error.detail, hint=error.hint) from error

    def check(self, hint: str) -> None:
        """Raise ``Conflict`` with the first of them if there are any."""
        if not self._count:
            return
        more = f" And {self._count - NAMED} more." if self._count > NAMED else ""
        blobs = " ".join(self._first)
        raise Conflict(f"{counted(self._count, 'blob')} cannot be copied. {blobs}{more}", hint=hint)


async def paced(body: AsyncIterator[bytes], pace: Pace | None) -> AsyncIterator[bytes]:
    """Yield the pieces of *body*, each after *pace* was awaited with its length."""
    async for piece in body:
        if pace is not None:
            await pace(len(piece))
        yield piece
