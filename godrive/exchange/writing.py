"""Files that appear under their names whole, or not at all.  Everything here blocks and runs in threads."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from contextlib import suppress
from typing import NamedTuple

from godrive.exchange.local import OPEN_FOLDER, OpenFolder
from godrive.exchange.manifest import NAME

PARTS = f"{NAME}.parts"
"""The folder of files that are being written, in the top folder of an export."""

_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
REFUSED_NAMES = {errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG}
"""What file systems say of a name that they cannot hold."""


class Seen(NamedTuple):
    """What has a name: whether it is a regular file, or a folder, and its length and time."""

    is_regular: bool
    is_folder: bool
    size: int
    mtime_ns: int


def look(folder: OpenFolder, name: str) -> Seen | None:
    """Return what has the name, without following a link."""
    try:
        status = os.stat(name, dir_fd=folder.fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
    mode = status.st_mode
    return Seen(stat.S_ISREG(mode), stat.S_ISDIR(mode), status.st_size, status.st_mtime_ns)


def make_folder(parent: OpenFolder, name: str, path: str) -> OpenFolder:
    """Open the folder *name*, and create it if it is absent.  Raises ``OSError``, also if it is no folder."""
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=parent.fd)
    return OpenFolder(os.open(name, OPEN_FOLDER, dir_fd=parent.fd), path)


class Parts:
    """The files that are being written.  *folds* is whether the file system takes ``a`` and ``A`` for one name."""

    def __init__(self, top: OpenFolder) -> None:
        """Make the folder of parts, and remove what an export that was killed has left in it."""
        self._top = top
        self._folder = make_folder(top, PARTS, PARTS)
        for entry in list(os.scandir(self._folder.fd)):
            os.unlink(entry.name, dir_fd=self._folder.fd)
        os.close(os.open("probe", _CREATE, 0o600, dir_fd=self._folder.fd))
        self.folds = look(self._folder, "PROBE") is not None
        os.unlink("probe", dir_fd=self._folder.fd)

    def close(self) -> None:
        """Remove the folder if it is empty."""
        self._folder.release()
        with suppress(OSError):
            os.rmdir(PARTS, dir_fd=self._top.fd)

    def create(self) -> tuple[str, int]:
        """Create a part, and return its name and an open descriptor."""
        name = secrets.token_hex(16)
        return name, os.open(name, _CREATE, 0o666, dir_fd=self._folder.fd)

    def discard(self, part: str) -> None:
        """Remove a part.  Idempotent."""
        with suppress(FileNotFoundError):
            os.unlink(part, dir_fd=self._folder.fd)

    def finish(self, part: str, fd: int, folder: OpenFolder, name: str, *, mtime_ns: int, replace: bool) -> int:
        """Make the part the file *name* of the folder, durably, and return the time that the file system kept.

        Without *replace*, raises ``FileExistsError`` if something has the name.
        """
        with suppress(OverflowError):  # a time that no file can have
            os.utime(fd, ns=(mtime_ns, mtime_ns))
        os.fsync(fd)
        kept = os.fstat(fd).st_mtime_ns
        if replace:
            os.rename(part, name, src_dir_fd=self._folder.fd, dst_dir_fd=folder.fd)
            return kept
        try:
            os.link(part, name, src_dir_fd=self._folder.fd, dst_dir_fd=folder.fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if look(folder, name) is not None:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name) from None
            os.rename(part, name, src_dir_fd=self._folder.fd, dst_dir_fd=folder.fd)
        else:
            self.discard(part)
        return kept


def write(fd: int, piece: bytes) -> None:
    """Append all of *piece*."""
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(fd, rest) :]


def seal(folder: OpenFolder, mtime_ns: int) -> int:
    """Make the entries of the folder durable, give it its time, and return the time that the file system kept."""
    os.fsync(folder.fd)
    with suppress(OverflowError):
        os.utime(folder.fd, ns=(mtime_ns, mtime_ns))
    return os.fstat(folder.fd).st_mtime_ns
