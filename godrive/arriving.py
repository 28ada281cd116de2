"""A body on its way into the blob store: peeked at, digested, and charged to the quota as it comes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterable
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

from godrive.blobs.admission import check_admission
from godrive.errors import DeliveryError, DigestMismatch, StoreUnavailable
from godrive.messages.uploads import ResizeUpload, TouchUpload
from godrive.model import Upload
from godrive.principal import Principal

if TYPE_CHECKING:
    from godrive.drive import GoDrive

Pieces = AsyncIterable[bytes | memoryview]
"""A body in pieces.  A piece must not change until the next one is requested."""


class Updatable(Protocol):
    """A digest, to which ``update`` adds bytes."""

    def update(self, data: bytes | memoryview, /) -> None: ...


LARGE_PIECE = 16_384
"""Pieces of at least this many bytes are hashed in a thread."""

TOUCH_EVERY = 10.0
"""The longest interval, in seconds, between updates of the upload's row while bytes arrive."""
TOUCH_BYTES = 32 << 20
"""The most bytes between updates.  An aborted upload receives at most this many uncharged bytes more."""

_FIRST_STEP, _LARGEST_STEP = 1 << 20, 64 << 20
"""Bounds of the bytes that are reserved ahead for a body of unknown length."""


class Arriving:
    """Iterates over the body of a pending upload.

    Every :data:`TOUCH_EVERY` seconds and :data:`TOUCH_BYTES` bytes it updates
    the row of the upload, so a running upload does not expire and an aborted
    one stops.

    If the body *grows*, its length is unknown, and the upload reserves only
    what has arrived: a piece is passed on once its bytes are reserved, and at
    the end the upload has the length of the body.  So no byte that the quota
    does not cover reaches the store.

    With *sha512* (hex), a body with another digest ends with ``DigestMismatch``.
    """

    def __init__(
        self,
        drive: GoDrive,
        by: Principal,
        upload: Upload,
        body: Pieces,
        *,
        grows: bool = False,
        sha512: str | None = None,
    ) -> None:
        self._drive = drive
        self._by = by
        self._upload = upload
        self._pieces = aiter(body)
        self._peeked = b""
        self._received = 0
        self._grows = grows
        self._reserved = upload.size_bytes
        self._sha512 = sha512
        self._digest = None if sha512 is None else hashlib.sha512()
        self._told = 0
        self._touched_at = drive.clock.monotonic()

    @property
    def size(self) -> int | None:
        """The length of the body, if it is known."""
        return None if self._grows else self._upload.size_bytes

    async def peek(self, size: int) -> bytes:
        """Return the first *size* bytes, or all if there are fewer, without consuming them."""
        while len(self._peeked) < size:
            try:
                self._peeked += await anext(self._pieces)
            except StopAsyncIteration:
                break
        return self._peeked[:size]

    def __aiter__(self) -> Arriving:
        return self

    async def __anext__(self) -> bytes | memoryview:
        piece: bytes | memoryview
        if self._peeked:
            piece, self._peeked = self._peeked, b""
        else:
            try:
                piece = await anext(self._pieces)
            except StopAsyncIteration:
                await self._end()
                raise
        self._received += len(piece)
        if self._grows and self._received > self._reserved:
            await self._grow()
        else:
            await self._touch()
        if self._digest is not None:
            await update(self._digest, piece)
        return piece

    async def _end(self) -> None:
        if self._digest is not None and self._digest.hexdigest() != self._sha512:
            raise DigestMismatch(f"The bytes that arrived have the SHA-512 {self._digest.hexdigest()}.")
        if self._grows and self._received != self._reserved:
            await self._resize(self._received)

    async def _grow(self) -> None:
        """Reserve what has arrived, and more ahead, so that a long body needs few updates."""
        limit = self._drive.config.blobs.max_upload_bytes
        await check_admission(
            self._drive.blobs, self._drive.config.blobs, self._received, self._received - self._reserved
        )
        await self._resize(min(self._received + ahead_of(self._received), limit))

    async def _resize(self, most: int) -> None:
        """Reserve *most* bytes, or what the quota leaves.  Raises ``QuotaExceeded`` if that is less than arrived."""
        upload = await self._drive.metadata.ask(ResizeUpload(self._by, self._upload.id, self._received, most))
        self._reserved = upload.size_bytes
        self._note()

    async def _touch(self) -> None:
        if self._drive.clock.monotonic() - self._touched_at < TOUCH_EVERY and self._received - self._told < TOUCH_BYTES:
            return
        self._note()
        with suppress(DeliveryError, StoreUnavailable):  # the next update succeeds
            await self._drive.metadata.ask(TouchUpload(self._by, self._upload.id, self._received))

    def _note(self) -> None:
        self._touched_at, self._told = self._drive.clock.monotonic(), self._received


def ahead_of(received: int) -> int:
    """Return how many bytes to reserve ahead for a body of unknown length."""
    return min(max(received, _FIRST_STEP), _LARGEST_STEP)


async def update(digest: Updatable, piece: bytes | memoryview) -> None:
    """Update the digest with a piece, in a thread if that takes long."""
    if len(piece) < LARGE_PIECE:
        digest.update(piece)
    else:
        await asyncio.to_thread(digest.update, piece)


async def digest_of(body: Pieces, *, at_most: int) -> str | None:
    """Return the SHA-256 of the whole body in hex; ``None`` if it is longer than *at_most* bytes."""
    digest, received = hashlib.sha256(), 0
    async for piece in body:
        received += len(piece)
        if received > at_most:
            return None
        await update(digest, piece)
    return digest.hexdigest()
