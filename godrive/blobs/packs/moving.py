"""Moves small blobs that are files into the packs, and packed blobs out of them.

A blob is durable in its new place before it leaves the old one, and each reader
looks at both.  If the process is killed in between, the blob is in both places
with the same bytes, and the next run removes one.  A blob that somebody deletes
during its move is deleted from both places at the end of the move.  If the
process is killed before that, the blob stays in its new place, nothing refers to
it, and the janitor moves it to quarantine: to prevent it, every deletion of a
file would have to wait for the lock of the index.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from godrive.blobs import BlobDamaged, BlobExists
from godrive.blobs.attributes import MIME, SHA256, noted
from godrive.blobs.body_check import BodyCheck
from godrive.blobs.objects import Objects
from godrive.blobs.packs import Packs
from godrive.blobs.packs.index import Location
from godrive.blobs.packs.writer import Put
from godrive.blobs.staging import StagingFile
from godrive.errors import Conflict, DigestMismatch, NotFound, UploadFinished
from godrive.model import BlobInfo, ObjectKey
from godrive.paths import open_or_create

LOCK = "moving.lock"
_AT_ONCE = 32

Run = Callable[..., Awaitable[Any]]
"""Runs a call in a thread."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let no other process move blobs.  Raises ``Conflict`` if one does."""
    lock = open_or_create(folder / LOCK)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Conflict("Another process is moving blobs into or out of the packs.") from None
    finally:
        os.close(lock)


async def pack(objects: Objects, packs: Packs, run: Run, files: AsyncIterator[BlobInfo], below: int) -> int:
    """Pack the files of at most *below* bytes, and return how many.  One that is damaged stays a file."""
    moved, waiting = 0, list[ObjectKey]()
    async for info in files:
        if info.size_bytes <= below:
            waiting.append(info.key)
        if len(waiting) == _AT_ONCE:
            moved += await _together(_pack(objects, packs, run, key) for key in waiting)
            waiting = []
    return moved + await _together(_pack(objects, packs, run, key) for key in waiting)


async def _together(moves: Iterable[Coroutine[Any, Any, bool]]) -> int:
    """Make the moves side by side, and return how many blobs were moved.

    If one fails, its error is raised when all have ended, so that none goes on beside the next run.
    """
    results = await asyncio.gather(*moves, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results.count(True)


async def _pack(objects: Objects, packs: Packs, run: Run, key: ObjectKey) -> bool:
    try:
        put = await run(_read, objects, key)
        await packs.move(put)
    except (NotFound, DigestMismatch):
        return False
    except BlobExists as error:
        place = await packs.find(key)
        if place is None or place.sha256.hex() != error.sha256:
            return False
        if not await _is_whole(packs, key):  # the next run packs it again
            await packs.delete(key)
            return False
        return bool(await run(objects.delete, key))  # an earlier run was interrupted here
    if await run(objects.delete, key):
        return True
    await packs.delete(key)  # it was deleted meanwhile
    return False


async def _is_whole(packs: Packs, key: ObjectKey) -> bool:
    """Whether a blob in the index can be read: its deletion may have been interrupted after its record."""
    try:
        return await packs.read(key) is not None
    except BlobDamaged:
        return False


def _read(objects: Objects, key: ObjectKey) -> Put:
    fd = objects.open_file(key)
    try:
        status = os.fstat(fd)
        check, mime = BodyCheck(status.st_size, noted(fd, SHA256)), noted(fd, MIME)
        content = os.pread(fd, status.st_size, 0)
    finally:
        os.close(fd)
    return Put(key, [content], check, mime or "", stored_ns=status.st_mtime_ns)


async def unpack(objects: Objects, packs: Packs, run: Run) -> int:
    """Make every packed blob a file, and return how many.

    Raises ``BlobDamaged`` for the first that is damaged, when all others are files.
    """
    moved, after, damaged = 0, "", list[BlobDamaged]()

    async def unpack_whole(place: Location) -> bool:
        try:
            return await _unpack(objects, packs, run, place)
        except BlobDamaged as error:
            damaged.append(error)
            return False

    while places := await packs.places_after(after, _AT_ONCE):
        moved += await _together(unpack_whole(place) for place in places)
        after = places[-1].key
    if damaged:
        raise BlobDamaged(
            f"{len(damaged)} damaged blobs stay in the packs; all others ({moved}) are files now. "
            f"The first of them: {damaged[0].detail}",
            hint="`godrive fsck --digests` names all.",
        )
    return moved


async def _unpack(objects: Objects, packs: Packs, run: Run, place: Location) -> bool:
    key = ObjectKey(place.key)
    content = await packs.read(key)
    if content is None:
        return False
    try:
        await run(_write, objects, key, [content], place)
    except UploadFinished:
        try:
            is_same = await run(_content, objects, key) == content
        except NotFound:
            return False  # it was deleted meanwhile
        if not is_same:
            raise
    if (await packs.delete(key)).found:
        return True
    await run(objects.delete, key)  # it was deleted meanwhile
    return False


def _write(objects: Objects, key: ObjectKey, chunks: Sequence[bytes], place: Location) -> None:
    file = StagingFile(objects.staging)
    try:
        file.write(chunks)
        os.utime(file.open(), ns=(place.stored_ns, place.stored_ns))  # the ETag is made of it
        file.publish(objects.shards, key, place.sha256.hex(), place.mime or None)
    finally:
        file.discard()


def _content(objects: Objects, key: ObjectKey) -> bytes:
    fd = objects.open_file(key)
    try:
        return os.pread(fd, os.fstat(fd).st_size, 0)
    finally:
        os.close(fd)
