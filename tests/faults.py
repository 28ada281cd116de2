"""Stores that fail where they are told to: the n-th operation from now, in one of several ways."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from datetime import datetime
from enum import Enum, auto
from typing import TypeVar

import anyio

from godrive.blobs import BlobStore
from godrive.catalog import Catalog, Tx
from godrive.errors import DriveError, StoreUnavailable
from godrive.model import BlobInfo, ObjectKey

T = TypeVar("T")


class Bug(Exception):
    """What no driver raises on purpose."""


class Fault(Enum):
    """How an operation fails."""

    REFUSED = auto()
    """It is not done, and says so."""
    ANSWER_LOST = auto()
    """It is done, and says that it is not."""
    BUG = auto()
    """It is not done, and the driver raises something that is not an answer."""
    HANGS = auto()
    """It waits until :meth:`Faults.heal`, and is done then."""


class Faults:
    """The operations of all stores of a drive in one row; number *at* fails."""

    def __init__(self, at: int | None = None, fault: Fault = Fault.REFUSED) -> None:
        self.struck = False
        self.hanging = anyio.Event()
        self._operations = 0
        self._at = at
        self._fault = fault
        self._healed = anyio.Event()

    def heal(self) -> None:
        """From now on all is well."""
        self._at = None
        self._healed.set()

    async def run(self, operation: Callable[[], Awaitable[T]]) -> T:
        number, self._operations = self._operations, self._operations + 1
        if number != self._at:
            return await operation()
        self.struck = True
        match self._fault:
            case Fault.REFUSED:
                raise StoreUnavailable("The store is down.")
            case Fault.BUG:
                raise Bug
            case Fault.HANGS:
                self.hanging.set()
                await self._healed.wait()
                return await operation()
            case Fault.ANSWER_LOST:
                await operation()
                raise StoreUnavailable("The store went away.")


class FaultyCatalog:
    """A catalog whose reads and writes may fail."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.faults = Faults()

    async def open(self) -> None:
        await self._catalog.open()

    async def close(self) -> None:
        await self._catalog.close()

    @property
    def problem(self) -> DriveError | None:
        return self._catalog.problem

    async def read(self, operation: Callable[[Tx], Awaitable[T]], *, chore: bool = False, large: bool = False) -> T:
        return await self.faults.run(lambda: self._catalog.read(operation, chore=chore))

    async def write(self, operation: Callable[[Tx], Awaitable[T]], *, chore: bool = False, answers: int = 1) -> T:
        return await self.faults.run(lambda: self._catalog.write(operation, chore=chore))


class FaultyBlobs:
    """A blob store whose every operation may fail."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self.faults = Faults()

    async def open(self) -> None:
        await self._blobs.open()

    async def close(self) -> None:
        await self._blobs.close()

    async def put(
        self,
        key: ObjectKey,
        body: AsyncIterable[bytes | memoryview],
        *,
        size: int | None = None,
        sha256: str | None = None,
        mime: str | None = None,
    ) -> BlobInfo:
        return await self.faults.run(lambda: self._blobs.put(key, body, size=size, sha256=sha256, mime=mime))

    async def get(self, key: ObjectKey, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        async for piece in self._blobs.get(key, start=start, end=end):
            yield piece

    async def head(self, key: ObjectKey) -> BlobInfo:
        return await self.faults.run(lambda: self._blobs.head(key))

    async def delete(self, key: ObjectKey) -> None:
        await self.faults.run(lambda: self._blobs.delete(key))

    async def list(self, *, after: str = "") -> AsyncIterator[BlobInfo]:
        async def all_() -> list[BlobInfo]:
            return [blob async for blob in self._blobs.list(after=after)]

        for blob in await self.faults.run(all_):
            yield blob

    async def quarantine(self, key: ObjectKey) -> None:
        await self.faults.run(lambda: self._blobs.quarantine(key))

    async def sweep_staging(self, before: datetime) -> int:
        return await self.faults.run(lambda: self._blobs.sweep_staging(before))

    async def free_bytes(self) -> int | None:
        return await self._blobs.free_bytes()

    def receiving(self, key: ObjectKey) -> int | None:
        return self._blobs.receiving(key)
