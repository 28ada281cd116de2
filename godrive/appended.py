"""The body of one append on its way into the blob store: bounded, charged to the quota, compared with its checksum."""

from __future__ import annotations

import asyncio
import hashlib
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Protocol

from godrive.arriving import TOUCH_EVERY, Pieces, ahead_of, update
from godrive.blobs.admission import check_admission
from godrive.errors import ChecksumMismatch, DeliveryError, Invalid, LengthMismatch, StoreUnavailable, UploadTakenOver
from godrive.messages.uploads import ResizeUpload, TouchUpload
from godrive.model import Upload
from godrive.principal import Principal

if TYPE_CHECKING:
    from godrive.drive import GoDrive

CHECKSUMS = {"sha1": 20, "sha256": 32, "md5": 16, "crc32": 4}
"""The algorithms of checksums, and the length of a digest by each."""


_LINGER = 0.05
"""Seconds without a piece after which a body that is to end has no more on its way."""
_LINGER_AT_MOST = 0.5


class Checksum(NamedTuple):
    """What the bytes of one append must have: the *digest* by one of :data:`CHECKSUMS`."""

    algorithm: str
    digest: bytes


class _Hash(Protocol):
    """A checksum: ``update`` adds bytes, ``digest`` returns its value."""

    def update(self, data: bytes | memoryview, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes | memoryview, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


def _hash(algorithm: str) -> _Hash:
    if algorithm not in CHECKSUMS:
        raise Invalid(f"A checksum is one of {', '.join(CHECKSUMS)}.", field="checksum")
    return _Crc32() if algorithm == "crc32" else hashlib.new(algorithm, usedforsecurity=False)


class AppendedBody:
    """Iterates over the *pieces* of an append.

    Raises ``LengthMismatch`` instead of a piece that exceeds the length of the
    upload, ``QuotaExceeded`` and ``TooLarge`` instead of one that cannot be
    reserved, ``ChecksumMismatch`` at the end, and ``UploadTakenOver`` after
    :meth:`end`.  While bytes come, the upload does not expire.
    """

    def __init__(
        self, drive: GoDrive, by: Principal, pieces: Pieces, checksum: Checksum | None, *, size: int | None = None
    ) -> None:
        self.ended = False
        """Whether no piece comes any more, for whatever reason."""
        self._drive = drive
        self._by = by
        self._pieces = aiter(pieces)
        self._take_arrived: Callable[[], bytes | memoryview] = getattr(pieces, "take_arrived", bytes)
        """Returns what has come of a body that collects small pieces, or a part of it, without waiting."""
        self._checksum = checksum
        self._hash = None if checksum is None else _hash(checksum.algorithm)
        self._size = size
        self._ends_at: float | None = None
        self._waiting: asyncio.Timeout | None = None

    def begin(self, upload: Upload) -> None:
        """Note the upload to which the pieces are appended.  Call this first.

        Raises ``LengthMismatch`` if it is known that they exceed its length.
        """
        if upload.length is not None and self._size is not None and upload.received_bytes + self._size > upload.length:
            raise LengthMismatch(f"The upload has {upload.length} bytes.", field="content_length")
        self._upload = upload
        self._received = upload.received_bytes
        self._reserved = upload.size_bytes
        self._touched_at = self._drive.clock.monotonic()

    async def refuse(self, upload: Upload) -> None:
        """Receive nothing, because the upload has all of its bytes.  Raises ``LengthMismatch`` if there is a byte."""
        self.begin(upload)
        async for _ in self:
            pass

    @property
    def counts_as_whole(self) -> bool:
        """Whether only all of the pieces count."""
        return self._checksum is not None

    def end(self) -> None:
        """End the body after what has arrived of it.  Idempotent.

        Of a client whose line was cut, bytes may wait in the socket that it would have to send again.
        """
        if self._ends_at is None:
            self._ends_at = asyncio.get_running_loop().time() + _LINGER_AT_MOST
            if self._waiting is not None:
                self._waiting.reschedule(self._deadline())

    def _deadline(self) -> float | None:
        """Return when to wait for a piece no longer."""
        if self._ends_at is None:
            return None
        return min(self._ends_at, asyncio.get_running_loop().time() + _LINGER)

    def __aiter__(self) -> AppendedBody:
        return self

    async def __anext__(self) -> bytes | memoryview:
        try:
            piece = await self._next()
            self._received += len(piece)
            await self._admit()
            if self._hash is not None:
                await update(self._hash, piece)
        except BaseException:
            self.ended = True
            raise
        return piece

    async def _next(self) -> bytes | memoryview:
        if self._ends_at is not None and asyncio.get_running_loop().time() >= self._ends_at:
            raise UploadTakenOver
        try:
            async with asyncio.timeout_at(self._deadline()) as self._waiting:
                return await anext(self._pieces)
        except TimeoutError:
            if self._ends_at is None:
                raise
            if piece := self._take_arrived():
                return piece
            raise UploadTakenOver from None
        except StopAsyncIteration:
            if self._hash is not None and self._checksum is not None and self._hash.digest() != self._checksum.digest:
                raise ChecksumMismatch(f"The bytes have another {self._checksum.algorithm} checksum.") from None
            raise
        finally:
            self._waiting = None

    async def _admit(self) -> None:
        upload = self._upload
        if upload.length is not None:
            if self._received > upload.length:
                raise LengthMismatch(f"More than the declared {upload.length} bytes arrived.")
        elif self._received > self._reserved:
            await self._reserve()
            return
        if self._drive.clock.monotonic() - self._touched_at >= TOUCH_EVERY:
            self._touched_at = self._drive.clock.monotonic()
            with suppress(DeliveryError, StoreUnavailable):  # the next one succeeds
                await self._drive.metadata.ask(TouchUpload(self._by, upload.id, 0))

    async def _reserve(self) -> None:
        """Reserve what has arrived, and more ahead, so that a long body needs few updates."""
        config = self._drive.config.blobs
        await check_admission(self._drive.blobs, config, self._received, self._received - self._reserved)
        most = min(self._received + ahead_of(self._received), config.max_upload_bytes)
        writer = self._upload.writer
        upload = await self._drive.metadata.ask(ResizeUpload(self._by, self._upload.id, self._received, most, writer))
        self._upload = upload  # its length may have been declared meanwhile
        self._reserved = upload.size_bytes
        self._touched_at = self._drive.clock.monotonic()
