"""Folders held open, so that names are resolved below them and nowhere else.

Everything here blocks and runs in threads.  A name is a single component that
:func:`godrive.blobs.split_key` has checked or that we made.  It is opened
relative to its folder's handle without following links, so a link planted among
the blobs leads nowhere.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from godrive.paths import adopt

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_REMEMBERED = 4096


def open_folder(name: str, parent: int) -> int:
    """Open the folder *name* below the handle *parent*."""
    return os.open(name, _FOLDER, dir_fd=parent)


def make_folder(name: str, parent: int) -> None:
    """Create the folder *name* unless it exists.  When this returns, its entry in *parent* is durable."""
    with suppress(FileExistsError):  # the thread that created it may not have synced it yet
        os.mkdir(name, 0o700, dir_fd=parent)
        adopt(name, parent)
    os.fsync(parent)


class Shard:
    """An open folder of blobs whose writers share their fsyncs.

    An fsync covers every change made before it began.  So a thread that has
    waited for its turn needs none of its own if one began since it asked: of
    many waiting threads, the first syncs for all.

    If one fails, it fails for all threads that hold this shard.  The kernel
    reports an error once, and the next fsync succeeds without the lost data.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.users = 0
        self.failure: OSError | None = None
        self._turn = threading.Lock()
        self._begun = 0
        self._ended = 0

    def sync(self) -> None:
        """Make the caller's changes in this folder durable."""
        wanted = self._begun + 1
        with self._turn:
            if self.failure is not None:
                raise OSError(*self.failure.args)
            if self._ended >= wanted:
                return
            self._begun += 1
            begun = self._begun
            try:
                os.fsync(self.fd)
            except OSError as error:
                self.failure = error
                raise
            self._ended = begun


class Shards:
    """The shards below one folder, each open while a thread writes in it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._open: dict[str, Shard] = {}
        self._durable: set[str] = set()
        self._settled: set[str] = set()
        """Those in which everything that other processes had left is durable."""

    @contextmanager
    def enter(self, name: str, *, create: bool = False) -> Iterator[Shard]:
        """Hold the shard open for writing.  Raises ``FileNotFoundError`` unless it exists or *create* is set."""
        with self._lock:
            if create and name not in self._durable:
                self._make(name)  # even if it is open: a thread that only deletes in it has not made it durable
            shard = self._open.get(name)
            if shard is None or shard.failure is not None:
                try:
                    fd = open_folder(name, self._fd)
                except FileNotFoundError:
                    if not create:
                        raise
                    self._make(name)
                    fd = open_folder(name, self._fd)
                shard = self._open[name] = Shard(fd)
            shard.users += 1
        try:
            yield shard
        finally:
            with self._lock:
                shard.users -= 1
                if not shard.users:
                    if self._open.get(name) is shard:
                        del self._open[name]
                    os.close(shard.fd)

    def settle(self, name: str) -> None:
        """Make durable whether the shard has the name, for a reader that has looked it up.  Raises ``OSError``.

        A process that was killed may have linked or removed a name and not synced the folder, and so may a thread
        that is about to.  A power failure could undo what was found, so nobody may act on it before.
        """
        with self._lock:
            if name in self._settled and name not in self._open:
                return
        with suppress(FileNotFoundError), self.enter(name) as shard:
            shard.sync()
            _remember(self._settled, name)

    def _make(self, name: str) -> None:
        make_folder(name, self._fd)
        _remember(self._durable, name)

    def prune(self, name: str) -> None:
        """Remove the shard if it is empty and no thread holds it."""
        with self._lock:
            if name in self._open:
                return
            self._durable.discard(name)
            try:
                os.rmdir(name, dir_fd=self._fd)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT}:
                    raise


def _remember(names: set[str], name: str) -> None:
    if len(names) >= _REMEMBERED:
        names.clear()
    names.add(name)
