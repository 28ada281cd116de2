"""What an operator does with the disk store: move small blobs into the packs and out of them, and list all keys."""

from __future__ import annotations

import heapq
from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TypeVar

from godrive.blobs.objects import Objects
from godrive.blobs.packs import Packs, PackStatus, moving
from godrive.model import BlobInfo, ObjectKey

T = TypeVar("T")

_KEYS_AT_ONCE = 10_000


class DiskMoves:
    """The part of the disk store that an operator needs for its packs."""

    pack_below: int
    _path: Path
    _packs: Packs | None

    @property
    @abstractmethod
    def _objects(self) -> Objects: ...

    @abstractmethod
    async def _run(self, call: Callable[..., T], *values: object) -> T: ...

    @abstractmethod
    def _list_files(self, after: str) -> AsyncGenerator[BlobInfo, None]: ...

    async def pack(self) -> int:
        """Pack the small blobs that are files, and return how many.  Others may use the store meanwhile."""
        if self._packs is None:
            return 0
        with moving.alone(self._path / "packs"):
            files = self._list_files("")
            return await moving.pack(self._objects, self._packs, self._run, files, self.pack_below)

    async def unpack(self) -> int:
        """Make every packed blob a file, and return how many there were.  Others may use the store meanwhile."""
        if self._packs is None:
            return 0
        with moving.alone(self._path / "packs"):
            return await moving.unpack(self._objects, self._packs, self._run)

    async def key_pages(self) -> AsyncGenerator[list[ObjectKey], None]:
        """See :meth:`godrive.blobs.KeyPages.key_pages`."""
        packed: Iterator[ObjectKey] = iter(()) if self._packs is None else self._packs.keys()

        def next_page() -> list[ObjectKey]:
            return list(islice(keys, _KEYS_AT_ONCE))

        keys = heapq.merge(self._objects.keys(), packed)  # one that is being moved comes twice
        while page := await self._run(next_page):
            yield page

    async def pack_status(self) -> PackStatus | None:
        """What the packs have; ``None`` if there are none."""
        return None if self._packs is None else await self._packs.status()
