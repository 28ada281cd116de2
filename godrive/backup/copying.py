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

DAMAGE = (LengthMismatch, DigestMismatch, BlobDamaged)
"""What a store, or the one that gets the bytes, says of a blob that is not what was stored."""

_PROBE = ObjectKey("probe/none")


class Damaged:
    """The blobs that could not be copied, because the *source* does not have what was stored.  The rest is copied."""

    def __init__(self, source: BlobStore) -> None:
        self._source = source
        self._first: list[str] = []
        self.count = 0

    async def copy(self, target: BlobStore, blob: Named, pace: Pace | None = None) -> bool:
        """Copy a blob, unless it is there, and check that it is what was stored.  Returns whether the target has it.

        Raises ``StorageFull``, ``StoreUnavailable``.
        """
        try:
            body = paced(sound(self._source, blob.object_key), pace)
            await target.put(blob.object_key, body, size=blob.size_bytes, sha256=blob.sha256)
        except UploadFinished:
            return True  # an earlier run has copied it
        except DAMAGE as error:
            self.count += 1
            if self.count <= NAMED:
                self._first.append(f"{blob.object_key}: {error.detail}")
            return False
        return True

    @property
    def text(self) -> str:
        """How many there are, and why, of the first."""
        more = f" And {self.count - NAMED} more." if self.count > NAMED else ""
        return f"{counted(self.count, 'blob')} cannot be copied. {' '.join(self._first)}{more}"

    def check(self, hint: str) -> None:
        """Raise ``Conflict`` if there are any."""
        if self.count:
            raise Conflict(self.text, hint=hint)


async def sound(store: BlobStore, key: ObjectKey) -> AsyncIterator[bytes]:
    """Yield the bytes of a blob.  Raises ``BlobDamaged`` if the store can do so for others, and not for this one."""
    try:
        async for piece in store.get(key):
            yield piece
    except BlobDamaged:
        raise
    except NotFound as error:
        raise BlobDamaged(error.detail) from error
    except StoreUnavailable as error:
        with suppress(NotFound):
            await store.head(_PROBE)  # raises if the store is down, which is no fault of this blob
        raise BlobDamaged(error.detail, hint=error.hint) from error


async def paced(body: AsyncIterator[bytes], pace: Pace | None) -> AsyncIterator[bytes]:
    """Yield the pieces of *body*, each after *pace* was awaited with its length."""
    async for piece in body:
        if pace is not None:
            await pace(len(piece))
        yield piece
