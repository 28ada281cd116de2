"""The catalogs of snapshots, one after another in one file: only the parts that differ are fetched."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from godrive.backup.rests import NEVER, Rests
from godrive.backup.still import PART
from godrive.backup.target import DIGEST, Snapshot, Target
from godrive.backup.together import for_each
from godrive.errors import refused
from godrive.paths import create_file


class CatalogFile:
    """A file of its own at *path* that :meth:`load` makes the catalog of a snapshot, with its log beside it."""

    def __init__(self, target: Target, path: Path, rests: Rests = NEVER) -> None:
        self._target = target
        self._path = path
        self._rests = rests
        self._has: list[bytes] = []

    async def load(self, snapshot: Snapshot) -> None:
        """Make it the catalog of the snapshot.

        Every part that is fetched is compared with its digest.  Raises
        ``NotFound``, ``BlobDamaged``, ``DigestMismatch``, ``StorageFull``; the next call then fetches every part again.
        """
        image = await self._target.image(snapshot)
        log = self._path.with_name(f"{self._path.name}-wal")
        for path in (log, self._path.with_name(f"{self._path.name}-shm")):
            path.unlink(missing_ok=True)
        has, self._has = self._has, []
        if not has:
            self._path.unlink(missing_ok=True)
        has = await self._fetch(self._path, image.size, image.file, has)
        if image.log:
            await self._fetch(log, len(image.log) // DIGEST * PART, image.log, [])
        self._has = has

    async def _fetch(self, path: Path, size: int, digests: bytes, has: list[bytes]) -> list[bytes]:
        """Fetch the parts that differ from what the file *has*, and return what it has then."""
        wanted = [digests[at : at + DIGEST] for at in range(0, len(digests), DIGEST)]
        with _writing(path):
            if not has:
                create_file(path, b"", mode=0o600)
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)

        async def differing() -> AsyncIterator[int]:
            for number, digest in enumerate(wanted):
                if number >= len(has) or has[number] != digest:
                    yield number

        async def fetch(number: int) -> None:
            await self._rests.pause()
            part = await self._target.part(wanted[number])
            with _writing(path):
                await asyncio.to_thread(_write, fd, part, number * PART)

        try:
            await for_each(differing(), fetch)
            with _writing(path):
                os.ftruncate(fd, size)
        finally:
            os.close(fd)
        return wanted


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Raise ``StorageFull``, ``StoreUnavailable`` or ``ConfigError`` for what the system says."""
    try:
        yield
    except OSError as error:
        raise refused(f"The catalog of a snapshot cannot be written to {path}", error) from error


def _write(fd: int, data: bytes, at: int) -> None:
    """Write all of it: a disk with little room takes a part, and the next call says that it is full."""
    while data:
        written = os.pwrite(fd, data, at)
        data, at = data[written:], at + written
