"""The disk store for operators: move small blobs into packs and out of them, and list all sizes."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import TypeVar

from godrive.blobs.key_ranges import keys_in
from godrive.blobs.objects import Objects
from godrive.blobs.packs import Packs, PackStatus, moving
from godrive.blobs.pages import AT_ONCE, KeyPage, Page, aligned
from godrive.model import BlobInfo

T = TypeVar("T")


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

    async def key_pages(self) -> AsyncGenerator[KeyPage, None]:
        """See :meth:`godrive.blobs.pages.KeyPages.key_pages`."""
        pages, after = self._objects.key_pages(AT_ONCE), ""
        while (page := await self._run(next, pages, None)) is not None:
            upto, files = page
            while after < upto:
                packed = ""
                if self._packs is None:
                    after = upto
                else:
                    after, packed = await self._packs.keys_within(after, upto, AT_ONCE)
                reached = bisect_right(files, after)
                some, files = files[:reached], files[reached:]
                yield KeyPage(after, " ".join(sorted([*keys_in(packed), *some])) if some else packed)

    async def size_pages(self) -> AsyncGenerator[Page, None]:
        """See :meth:`godrive.blobs.pages.SizePages.size_pages`."""
        async for files, packed in aligned(self._file_pages(), self._packed_pages()):
            if not packed:
                yield files
            elif not files:
                yield packed
            else:
                both = packed | files
                yield {key: both[key] for key in sorted(both)}

    async def _file_pages(self) -> AsyncGenerator[Page, None]:
        pages = self._objects.size_pages(AT_ONCE)
        while (page := await self._run(next, pages, None)) is not None:
            yield page

    async def _packed_pages(self) -> AsyncGenerator[Page, None]:
        if self._packs is not None:
            after = ""
            while page := await self._packs.sizes_after(after, AT_ONCE):
                yield page
                after = next(reversed(page))

    async def pack_status(self) -> PackStatus | None:
        """The state of the packs; ``None`` if there are none."""
        return None if self._packs is None else await self._packs.status()
