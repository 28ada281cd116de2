"""The files of packs, held open below their folder."""

from __future__ import annotations

import os
import re
import stat
import threading
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

from godrive.blobs.packs.record import FIRST, MAGIC, Damaged
from godrive.paths import adopt

_NAME = re.compile(r"([0-9]{8,18})\.pack", re.ASCII)
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_AT_ONCE = 64


class PackFile:
    """An open pack.  It is closed when nothing refers to it any more, so a reader never meets a number used anew."""

    def __init__(self, fd: int) -> None:
        """Take over the descriptor.  Raises :class:`Damaged` if it is not of a pack."""
        self.fd = fd
        start = os.pread(fd, FIRST, 0)
        if len(start) < FIRST or not start.startswith(MAGIC):
            raise Damaged("The file is not a pack.")
        self.seed = int.from_bytes(start[len(MAGIC) :], "little")

    def __del__(self) -> None:
        os.close(self.fd)


class PackFiles:
    """Opens the packs of a folder.  Any thread may call it."""

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._open: OrderedDict[int, PackFile] = OrderedDict()
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the folder and every pack that nobody reads.  Idempotent."""
        with self._lock:
            self._open.clear()
            if self.fd >= 0:
                os.close(self.fd)
                self.fd = -1

    def opened(self, number: int) -> PackFile | None:
        """The pack, if it is open."""
        with self._lock:
            return self._open.get(number)

    def get(self, number: int) -> PackFile:
        """The pack, opened if it is not.  Raises ``FileNotFoundError``, :class:`Damaged`."""
        with self._lock:
            file = self._open.get(number)
            if file is None:
                file = self._open[number] = PackFile(os.open(name(number), _FLAGS, dir_fd=self.fd))
                while len(self._open) > _OPEN_AT_ONCE:
                    self._open.popitem(last=False)
            else:
                self._open.move_to_end(number)
            return file

    def current(self, number: int) -> PackFile:
        """As :meth:`get`, but the file that has the name now, to which what is written can be found again."""
        file = self.get(number)
        if os.fstat(file.fd).st_nlink:
            return file
        self.release(number)
        return self.get(number)

    def create(self, number: int) -> None:
        """Create an empty pack, durably.  Raises ``FileExistsError``."""
        fd = os.open(name(number), _FLAGS | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=self.fd)
        try:
            adopt(name(number), self.fd)
            write(fd, MAGIC + os.urandom(FIRST - len(MAGIC)), 0)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.fsync(self.fd)

    def remove(self, number: int) -> None:
        """Remove a pack, durably.  Idempotent."""
        self.release(number)
        with suppress(FileNotFoundError):
            os.unlink(name(number), dir_fd=self.fd)
            os.fsync(self.fd)

    def release(self, number: int) -> None:
        """Close the pack, unless somebody reads it."""
        with self._lock:
            self._open.pop(number, None)

    def release_removed(self) -> None:
        """Close the packs that another process has removed, or replaced by another file."""
        with self._lock:
            for number, file in [*self._open.items()]:
                if not os.fstat(file.fd).st_nlink:
                    del self._open[number]

    def sizes(self) -> dict[int, int]:
        """The size of every pack in the folder, in the order of their numbers."""
        found = {}
        for entry in os.scandir(self.fd):
            if match := _NAME.fullmatch(entry.name):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    found[int(match[1])] = status.st_size
        return dict(sorted(found.items()))


def write(fd: int, data: bytes, start: int) -> None:
    """Write all of *data*, of which each call may take a part.  Raises ``OSError``."""
    left = memoryview(data)
    while left:
        written = os.pwrite(fd, left, start)
        left, start = left[written:], start + written


def name(number: int) -> str:
    """The name of a pack."""
    return f"{number:08}.pack"
