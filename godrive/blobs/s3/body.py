"""A body on its way in: cut into parts, counted and hashed, never held whole."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable

from godrive.errors import DigestMismatch, LengthMismatch, TooLarge

MIB = 1024 * 1024
MAX_PARTS = 10_000
"""Parts of one multipart upload, at most (Amazon S3 user guide, "multipart upload limits")."""

PART_SIZE = 8 * MIB
"""Bytes of a part, unless there would be too many."""

_DOUBLE_EVERY = MAX_PARTS // 4


class Body:
    """*chunks* as they come, held to the declared *size* and *sha256*."""

    def __init__(self, chunks: AsyncIterable[bytes | memoryview], *, size: int | None, sha256: str | None) -> None:
        self._chunks = chunks
        self._size = size
        self._declared = sha256
        self._digest = hashlib.sha256()
        self.received = 0

    @property
    def sha256(self) -> str:
        """Of all that has come so far, in hex."""
        return self._digest.hexdigest()

    async def parts(self, length: Callable[[int], int]) -> AsyncGenerator[bytes]:
        """Parts of *length(number)* bytes, the last one shorter; an empty body is one empty part.

        Raises ``LengthMismatch`` at the first byte too many, and with
        ``DigestMismatch`` before the last part is handed out.
        """
        number = 1
        wanted = length(number)
        held = bytearray()
        async for chunk in self._chunks:
            self._count(chunk)
            held += chunk
            while len(held) > wanted:  # what is held may be the last part: more has to come first
                yield bytes(held[:wanted])
                del held[:wanted]
                number += 1
                wanted = length(number)
        self._check()
        yield bytes(held)

    def _count(self, chunk: bytes | memoryview) -> None:
        self.received += len(chunk)
        if self._size is not None and self.received > self._size:
            raise LengthMismatch(f"More than the declared {self._size} bytes came.")
        self._digest.update(chunk)

    def _check(self) -> None:
        if self._size is not None and self.received < self._size:
            raise LengthMismatch(f"Only {self.received} of the declared {self._size} bytes came.")
        if self._declared is not None and self._declared != self.sha256:
            raise DigestMismatch(f"The bytes that came have the SHA-256 {self.sha256}.")


def part_size(number: int, size: int | None, *, smallest: int = PART_SIZE) -> int:
    """Bytes of part *number* (from 1) of a body of *size* bytes.

    Of an unknown size, parts double every quarter of the allowed number, so
    that little is held for the usual body and a large one still fits.
    """
    if number > MAX_PARTS:
        raise TooLarge("The body has more parts than a store takes.")
    if size is None:
        return int(smallest << ((number - 1) // _DOUBLE_EVERY))
    planned = -(-size // MAX_PARTS)
    return max(smallest, -(-planned // MIB) * MIB)
