"""What uploads and downloads have in common: several files at once, progress, and where an entry goes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from os import stat_result
from typing import Protocol

import anyio

from godrive.client.remote import Entry, Remote
from godrive.errors import DriveError, NameTaken, NotFound

Job = Callable[[], Awaitable[None]]

TWICE = "An entry of that name was named before it, and would be replaced."
"""Why one of several sources is not copied into a folder."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


class Progress(Protocol):
    """Is told what happens to each file."""

    def found(self, size: int) -> None:
        """*size* more bytes are to be copied."""

    def moved(self, size: int) -> None:
        """*size* bytes were copied.  Negative if they have to be copied again."""

    def done(self, name: str, size: int) -> None:
        """A file is complete."""

    def skipped(self, name: str, size: int) -> None:
        """A file is there already."""

    def failed(self, name: str, reason: str) -> None:
        """A file or folder was not copied."""


class Moved:
    """The progress of one file, which may go back."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._reported = 0

    def to(self, offset: int) -> None:
        """The file is copied up to *offset*."""
        self._progress.moved(offset - self._reported)
        self._reported = offset


async def run(jobs: AsyncIterator[Job], at_once: int) -> None:
    """Run the jobs, at most *at_once* concurrently, and keep no others in memory."""
    send, receive = anyio.create_memory_object_stream[Job](0)

    async def work() -> None:
        async with receive.clone() as mine:
            async for job in mine:
                await job()

    async with receive, anyio.create_task_group() as tasks, send:
        for _ in range(at_once):
            tasks.start_soon(work)
        async for job in jobs:
            await send.send(job)


async def is_folder(remote: Remote, path: str) -> bool:
    """Whether the server has a folder at *path*."""
    try:
        return (await remote.get(path)).is_folder
    except NotFound:
        return False


async def place(remote: Remote, path: str, name: str) -> tuple[str, str]:
    """Return where *path* puts an entry called *name*: the id of the folder, and the new name.

    As with ``mv``, an existing folder receives the entry under its own name.
    Raises ``NotFound`` (the folder, also if *path* ends in a slash), ``NameTaken``
    (a file has the path).
    """
    try:
        found = await remote.get(path)
    except NotFound:
        if path.endswith("/"):
            raise NotFound(f"There is no folder {path}.") from None
        above, _, last = path.rstrip("/").rpartition("/")
        return (await remote.get(above)).id, last
    if not found.is_folder:
        raise NameTaken(f"{path} is a file already.")
    return found.id, name


def modified_at(status: stat_result) -> datetime:
    """Return when a file of this machine was last modified, in microseconds, which servers keep.

    Some file systems have times that servers do not.  The result is then the nearest that they have.
    """
    try:
        return _EPOCH + timedelta(microseconds=status.st_mtime_ns // 1000)
    except OverflowError:
        return _LAST if status.st_mtime_ns > 0 else _FIRST


def is_dated(entry: Entry, status: stat_result) -> bool:
    """Whether a file has the size and the time of modification of the entry, and so most likely its bytes."""
    return status.st_size == entry.size_bytes and modified_at(status) == entry.modified_at


def reason(error: OSError | DriveError) -> str:
    """Return the reason of a failure, for a person."""
    return error.detail if isinstance(error, DriveError) else (error.strerror or str(error))
