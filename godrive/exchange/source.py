"""A local file that is being imported."""

from __future__ import annotations

import hashlib
import os
from datetime import datetime
from typing import NamedTuple

from godrive.exchange.local import OpenFolder, State, open_file, state_of
from godrive.exchange.manifest import Line

_PIECE = 1 << 20


class Source(NamedTuple):
    """An open file, its beginning, and what it was when it was opened."""

    folder: OpenFolder
    name: str
    fd: int
    head: bytes
    state: State
    line: Line | None

    @property
    def path(self) -> str:
        return self.folder.below(self.name)

    @property
    def wanted(self) -> str:
        """The name that it gets in the drive."""
        return name_of(self.name, self.line)

    @property
    def modified_at(self) -> datetime | None:
        return time_of(self.state, self.line)

    def is_same(self, *, linked: bool) -> bool:
        """Whether the file has not changed.  A hard link changes ``ctime`` too."""
        now = state_of(self.fd)
        return now[:2] == self.state[:2] if linked else now == self.state


def name_of(name: str, line: Line | None) -> str:
    """Return the name that the file gets in the drive."""
    return name if line is None else line.path.rpartition("/")[2]


def time_of(state: State, line: Line | None) -> datetime | None:
    """Return when the content was modified: as the manifest says, unless the file was changed since the export."""
    if line is not None and state.mtime_ns == line.file_ns:
        return line.modified_at
    return state.modified_at


def open_beginning(folder: OpenFolder, name: str, most: int) -> tuple[int, bytes]:
    """Open a file, and read at most *most* bytes of its beginning."""
    fd = open_file(folder, name)
    try:
        return fd, os.pread(fd, most, 0)
    except BaseException:
        os.close(fd)
        raise


def exists(folder: OpenFolder, name: str) -> bool:
    """Whether the folder has something of that name."""
    try:
        os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
    except OSError:
        return False
    return True


def digest_of(fd: int) -> str:
    """Return the SHA-256 of the bytes that an open file has now."""
    digest, offset, size = hashlib.sha256(), 0, os.fstat(fd).st_size
    while piece := os.pread(fd, min(_PIECE, size - offset), offset):
        offset += len(piece)
        digest.update(piece)
    return digest.hexdigest()
