"""Reads of packed blobs, on the event loop while everything is in memory.

A hop to a thread and back costs several times as much as a read of a page that
the kernel has.  So a read begins on the loop, where nothing may wait for the
disk: the kernel is asked for bytes of the page cache only (``RWF_NOWAIT``), and
no file is opened.  The index is read as the catalog is: if a look-up had to wait
for the disk, the reads that follow go to threads for a while.  Nothing is mapped,
so a file that somebody cuts short is an error and not a signal.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from pathlib import Path

from godrive.blobs.packs.files import PackFile, PackFiles
from godrive.blobs.packs.index import Index, Location
from godrive.blobs.packs.record import Damaged, parse
from godrive.blobs.packs.recovery import problems
from godrive.blobs.pages import GONE
from godrive.page_cache import disk_reads

_NOWAIT = getattr(os, "RWF_NOWAIT", None)
_REST = 0.25
"""Seconds for which reads go to threads after the disk was slow."""


class WouldWait(Exception):
    """The read has to wait for the disk, and must run in a thread."""


class PackReader:
    """Finds and reads blobs in the packs of *files*."""

    def __init__(self, path: Path, files: PackFiles) -> None:
        self._files = files
        self._small = Index(path, read_only=True)
        try:
            self._large = Index(path, read_only=True)
        except (OSError, sqlite3.Error):
            self._small.close()
            raise
        self._lock = threading.Lock()
        self._rest_until = 0.0

    def close(self) -> None:
        """Close the index.  Idempotent."""
        self._small.close()
        with self._lock:
            self._large.close()

    def find_now(self, key: str) -> Location | None:
        """The place of a blob.  For the event loop.  Raises :class:`WouldWait`."""
        now = time.monotonic()
        if now < self._rest_until:
            raise WouldWait
        before = disk_reads()
        try:
            return self._small.find(key)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                raise
            raise WouldWait from None
        finally:
            if disk_reads() != before:
                self._rest_until = now + _REST

    def find(self, key: str) -> Location | None:
        """The place of a blob.  For threads."""
        with self._lock:
            return self._large.find(key)

    def after(self, key: str, limit: int) -> list[Location]:
        """The next *limit* blobs in key order.  For threads."""
        with self._lock:
            return self._large.after(key, limit)

    def sizes_after(self, key: str, limit: int) -> dict[str, int]:
        """The sizes of what the packs still have of the next *limit* blobs, in key order.  For threads."""
        with self._lock:
            found, packs = self._large.sizes_after(key, limit), self._large.packs()
        if not found or not problems(packs, self._files.sizes()):
            return found
        return {place.key: self._left(place) for place in self.after(key, len(found))}

    def _left(self, place: Location) -> int:
        """The bytes that are left of the body of the blob at *place*."""
        try:
            file = self._files.get(place.pack)
        except (FileNotFoundError, Damaged):
            return GONE if self.find(place.key) == place else place.size  # it was deleted or moved
        left = os.fstat(file.fd).st_size - (place.start + place.length - place.size)
        return GONE if left < 0 else min(place.size, left)

    def keys_within(self, after: str, upto: str, limit: int) -> tuple[str, str]:
        """The next *limit* keys in a range, and how far they reach.  For threads."""
        with self._lock:
            return self._large.keys_within(after, upto, limit)

    def read_now(self, place: Location) -> bytes | None:
        """The blob at *place*; ``None`` if it was deleted.  For the event loop.

        Raises :class:`WouldWait`, :class:`Damaged`.
        """
        file = self._files.opened(place.pack)
        if file is None or _NOWAIT is None:
            raise WouldWait
        data = bytearray(place.length)
        try:
            read = os.preadv(file.fd, [data], place.start, _NOWAIT)
        except OSError:  # not in memory, or a file system that cannot tell; a thread finds any other reason
            raise WouldWait from None
        if read < place.length:
            raise WouldWait
        return _body(file, place, memoryview(data))

    def read(self, place: Location) -> bytes | None:
        """The blob at *place*; ``None`` if it was deleted or moved.  For threads.

        Raises ``OSError``, :class:`Damaged`.
        """
        try:
            file = self._files.get(place.pack)
        except FileNotFoundError:
            if self.find(place.key) != place:
                return None
            raise Damaged(f"The pack {place.pack}, which has the blob {place.key}, is missing.") from None
        return _body(file, place, memoryview(os.pread(file.fd, place.length, place.start)))

    def salvage(self, place: Location) -> bytes:
        """What is left of the body of the blob at *place*, whatever its checksums say.  For threads."""
        try:
            file = self._files.get(place.pack)
        except (FileNotFoundError, Damaged):
            return b""
        return os.pread(file.fd, place.length, place.start)[place.length - place.size :]


def _body(file: PackFile, place: Location, data: memoryview) -> bytes | None:
    try:
        record = parse(data, 0, file.seed)
    except Damaged:
        record = None
    if record is None or record.key != place.key or record.length != place.length:
        raise Damaged(f"The head of the blob {place.key} is damaged.")
    body = record.body(data)
    return bytes(body) if record.is_live else None
