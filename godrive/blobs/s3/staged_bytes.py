"""The staged bytes of a blob in a bucket: how the state describes them, and how an append continues them."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from godrive.blobs import Staged
from godrive.blobs.body_check import BodyCheck
from godrive.blobs.parts import StoredPart
from godrive.errors import Gone, MailboxFull

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator
    from hashlib import _Hash as Digest


class Noted(msgspec.Struct, frozen=True, array_like=True):
    """The state of what is staged.

    *upload* is the id of the multipart upload, and *writer* its mark on the
    object; both are empty before the first part.  The first *parts* parts count.
    They have *in_parts* bytes, and *seal* is a digest of their ETags.  What
    follows these bytes is the object *tail*, if any.
    """

    upload: str = ""
    writer: str = ""
    parts: int = 0
    in_parts: int = 0
    seal: str = ""
    tail: str = ""

    @classmethod
    def of(cls, staged: Staged) -> Noted:
        """Read the state.  Raises ``Gone`` if it is that of another kind of store."""
        if not staged.state:
            return cls()
        try:
            return msgspec.json.decode(staged.state, type=cls)
        except msgspec.DecodeError:
            raise Gone("The bytes of the upload are in another store.") from None

    def staged(self, staged: Staged, offset: int) -> Staged:
        """Return what is staged now, of which *staged* was the beginning."""
        return Staged(key=staged.key, offset=offset, state=msgspec.json.encode(self).decode())

    def with_part(self, size: int, etag: str) -> Noted:
        """Return the state with one more part, which has the bytes of the tail and others."""
        return replace(
            self, parts=self.parts + 1, in_parts=self.in_parts + size, seal=_sealed(self.seal, etag), tail=""
        )

    def matches(self, parts: Sequence[StoredPart]) -> bool:
        """Whether these are the parts that count."""
        seal = ""
        for part in parts:
            seal = _sealed(seal, part.etag)
        numbers = [part.number for part in parts]
        return numbers == [*range(1, self.parts + 1)] and seal == self.seal


def _sealed(seal: str, etag: str) -> str:
    return hashlib.sha256(f"{seal} {etag}".encode()).hexdigest()[:32]


class TailedBody:
    """Yields the *tail* and then *body*, and ends with it.

    An error of *body* ends it too, and is kept as ``error``.  The tail is read
    only if *body* has any bytes.  Those are counted, and added to *digest*.
    """

    def __init__(
        self,
        tail: AsyncIterator[bytes],
        body: AsyncIterable[bytes | memoryview],
        check: BodyCheck,
        digest: Digest | None,
    ) -> None:
        self.error: Exception | None = None
        self.ended = False
        self._waiting: asyncio.Timeout | None = None
        self._tail = tail
        self._body = body
        self._check = check
        self._digest = digest
        self.received = 0
        """Bytes of *body*."""

    async def pieces(self, begin: Callable[[int], Awaitable[None]]) -> AsyncGenerator[bytes | memoryview]:
        """Yield the pieces.

        *begin* is awaited with the length of the first piece of *body* before the tail is read, which takes a
        connection and memory.
        """
        pieces = aiter(self._body)
        while (piece := await self._next(pieces)) is not None:
            if not self.received:
                await begin(len(piece))
                async with aclosing(self._tail) as tail:  # type: ignore[type-var]
                    async for earlier in tail:
                        yield earlier
            self.received += len(piece)
            if self._digest is not None:
                self._digest.update(piece)
            yield piece

    def end(self) -> bool:
        """End, with ``MailboxFull``, if *body* is being waited for.  Returns whether that is so."""
        if self._waiting is None:
            return False
        self._waiting.reschedule(asyncio.get_running_loop().time())
        return True

    async def _next(self, pieces: AsyncIterator[bytes | memoryview]) -> bytes | memoryview | None:
        try:
            async with asyncio.timeout(None) as self._waiting:
                piece = await anext(pieces)
            self._check.count(len(piece))
        except StopAsyncIteration:
            piece = None
        except Exception as error:
            ended = isinstance(error, TimeoutError) and self._waiting is not None and self._waiting.expired()
            self.error = MailboxFull("There is no memory for a body that does not come.") if ended else error
            piece = None
        finally:
            self._waiting = None
        self.ended = piece is None
        return piece
