"""Local folders and files, opened one name at a time without following links, so that nothing leads out of them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import NamedTuple

OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class OpenFolder:
    """An open folder.  It is closed when nobody holds it any more.

    *path* is below the top folder, which has none.
    """

    def __init__(self, fd: int, path: str) -> None:
        self.fd = fd
        self.path = path
        self._held = 1

    def hold(self) -> OpenFolder:
        """Keep it open until one more :meth:`release`."""
        self._held += 1
        return self

    def release(self) -> None:
        """Let it close."""
        self._held -= 1
        if not self._held:
            os.close(self.fd)

    def below(self, name: str) -> str:
        """Return the path of an entry below the top folder."""
        return f"{self.path}/{name}" if self.path else name


class Found(NamedTuple):
    """An entry of a local folder.  *special* says what it is if it is neither a file nor a folder."""

    name: str
    is_folder: bool
    special: str


class State(NamedTuple):
    """What changes when a file does."""

    size: int
    mtime_ns: int
    ctime_ns: int

    @property
    def modified_at(self) -> datetime | None:
        """The time of modification, in microseconds; ``None`` if it is in no year from 1 to 9999."""
        return instant(self.mtime_ns)


def instant(ns: int) -> datetime | None:
    """Return the instant *ns* nanoseconds after 1970, in microseconds; ``None`` if it is in no year from 1 to 9999."""
    try:
        return _EPOCH + timedelta(microseconds=ns // 1000)
    except OverflowError:
        return None


def nanoseconds(at: datetime) -> int:
    """Return the instant in nanoseconds since 1970."""
    return (at - _EPOCH) // timedelta(microseconds=1) * 1000


def scan(folder: OpenFolder) -> Iterator[list[Found]]:
    """Yield the entries of a folder, some at a time."""
    with os.scandir(folder.fd) as entries:
        while batch := list(islice(entries, 500)):
            yield [found for entry in batch if (found := _found(entry)) is not None]


def _found(entry: os.DirEntry[str]) -> Found | None:
    try:
        mode = stat.S_IFMT(entry.stat(follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return None  # it has gone meanwhile
    special = "" if mode in (stat.S_IFDIR, stat.S_IFREG) else _KINDS.get(mode, "neither a file nor a folder")
    return Found(entry.name, mode == stat.S_IFDIR, special)


def open_file(folder: OpenFolder, name: str) -> int:
    """Open a file for reading.  Raises ``OSError``, also for what is no regular file."""
    fd = os.open(name, _OPEN_FILE, dir_fd=folder.fd)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(0, "It is not a regular file")
    return fd


def state_of(fd: int) -> State:
    """Return what changes when the open file does."""
    status = os.fstat(fd)
    return State(status.st_size, status.st_mtime_ns, status.st_ctime_ns)
