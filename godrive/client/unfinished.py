"""Remember unfinished copies: a small file for each large upload and download, beside the log-ins.

Only the owner can read it.  Its name is the digest of what is copied from where
to where, so that the same command finds it again.  A command locks it while it
copies, because two commands would take the upload from each other.
"""

from __future__ import annotations

import fcntl
import os
import time
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from godrive.client.logins import folder
from godrive.errors import Conflict

_KEPT = 30 * 86_400.0
"""Seconds after which a file is deleted: no server keeps an upload without new bytes for that long."""


class CopyNote:
    """Where the id of an upload, or of the version that is downloaded, is kept.  It is locked until :meth:`close`."""

    def __init__(self, path: Path, file: int) -> None:
        self._path = path
        self._file = file

    def read(self) -> str | None:
        """Return the id, if there is one."""
        return os.pread(self._file, 1024, 0).decode("ascii", "replace") or None

    def write(self, wanted: str) -> None:
        """Keep the id, durably."""
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, wanted.encode(), 0)
        os.fsync(self._file)

    def clear(self) -> None:
        """Forget the id: the copy has finished, or cannot be continued."""
        os.ftruncate(self._file, 0)

    def close(self) -> None:
        """Unlock the note, and delete it if it has no id."""
        if self.read() is None:
            self._path.unlink(missing_ok=True)
        os.close(self._file)


class Unfinished:
    """The notes of one *kind*: ``uploads`` or ``downloads``."""

    def __init__(self, kind: str) -> None:
        self._folder = folder() / kind

    def open(self, **what: object) -> CopyNote:
        """Open and lock the note on *what* is copied.  Blocks on the disk.

        Raises ``Conflict`` if another command copies the same, ``OSError``.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / sha256(msgspec.json.encode(what, order="sorted")).hexdigest()
        while True:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                raise Conflict("Another command is copying this file.") from None
            if os.fstat(file).st_nlink:
                return CopyNote(path, file)
            os.close(file)  # the command that had it has just deleted it

    def sweep(self) -> None:
        """Delete notes that no server remembers."""
        with suppress(OSError):
            for path in self._folder.iterdir():
                if path.stat().st_mtime < time.time() - _KEPT:
                    path.unlink(missing_ok=True)
