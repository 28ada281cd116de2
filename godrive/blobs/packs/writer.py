"""The one writer of the packs.  Everything here blocks and runs in one thread.

Theory of operation.  Puts and deletions that wait together are one group: the
records of all puts are appended to the newest pack in one write, one sync makes
them durable, and one transaction adds them to the index.  Only then are they
acknowledged, so whatever an index has is on the disk.  A deletion overwrites the
state of its record, which needs no room on a full disk; it is durable in the
record and in the index.

The index has a pack, durably, before anything is appended to it.  The
transaction of a group begins before the write, and it excludes other processes, such
as ``godrive sweep`` beside a server.  If a group fails, its pack is cut back to
where it ended; so is what a process that was killed had written.

On a full disk, puts are refused, and deletions and compaction go on in a reserve
(``godrive.reserve``), because the index needs room for them too.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeGuard

import msgspec

from godrive.blobs import BlobExists
from godrive.blobs.body_check import BodyCheck
from godrive.blobs.failures import full, is_full
from godrive.blobs.packs.files import PackFile, PackFiles, write
from godrive.blobs.packs.index import Index, Location, Pack
from godrive.blobs.packs.record import DEAD, FIRST, Damaged, PackedBlob, head
from godrive.errors import DriveError
from godrive.model import ObjectKey
from godrive.reserve import Reserve

PACK_SIZE = 128 << 20
"""A pack of at least this size is not continued."""
_PIECE = 2_047
"""The most bytes of which ``hashlib`` computes the digest without giving up the interpreter lock."""
_SMALL = 16_384
"""Bytes of a blob up to which to get the lock back takes longer than the digest."""


class Put(msgspec.Struct, eq=False):
    """A blob to store.  *place* is set when it is stored, *error* when it is refused.

    One that is a file already has been *stored_ns*.
    """

    key: ObjectKey
    chunks: Sequence[bytes | memoryview]
    check: BodyCheck
    mime: str
    stored_ns: int = 0
    is_new: bool = False
    """No blob ever had the key."""
    sha256: bytes = b""
    place: Location | None = None
    error: DriveError | None = None


class Delete(msgspec.Struct, eq=False):
    """A blob to delete.  *found* is set if there was one, *has_file* if there is one outside the packs too."""

    key: ObjectKey
    found: bool = False
    has_file: bool = False


class _Group(msgspec.Struct):
    """What a group appends to a pack."""

    number: int
    start: int
    buffers: list[bytes | memoryview] = msgspec.field(default_factory=list)
    places: list[Location] = msgspec.field(default_factory=list)
    keys: set[str] = msgspec.field(default_factory=set)

    @property
    def length(self) -> int:
        return sum(map(len, self.buffers))


class PackWriter:
    """Appends to the packs and deletes from them.

    *has_file* says whether a key has a blob outside the packs.
    """

    def __init__(self, files: PackFiles, index: Index, has_file: Callable[[ObjectKey], bool], reserve: Reserve) -> None:
        self.files = files
        self.index = index
        self._has_file = has_file
        self._reserve = reserve
        self._is_tight = not reserve.make()
        self._stored_ns = 0

    def commit(self, puts: Sequence[Put], deletes: Sequence[Delete]) -> None:
        """Store and delete, durably.  Raises ``OSError`` or ``sqlite3.Error`` if nothing was stored."""
        if self._is_tight:
            self._is_tight = not self._reserve.make()
        try:
            self._commit([] if self._is_tight else puts, deletes)
        except (OSError, sqlite3.Error) as error:
            if not self.make_room(error):
                raise
            self._commit([], deletes)
        if self._is_tight:
            for put in puts:
                put.error = put.error or full()
            self.index.checkpoint()

    def make_room(self, error: BaseException) -> bool:
        """Release the reserve if that may help against the error.  Until it is made again, nothing is stored."""
        if self._is_tight or not is_full(error):
            return False
        self._is_tight = True
        self._reserve.release()
        self.index.checkpoint()
        self._reserve.give_to_log()
        return True

    def _commit(self, puts: Sequence[Put], deletes: Sequence[Delete]) -> None:
        if not puts and not deletes:
            return
        if puts:
            self.provide()
        try:
            self._commit_to_newest(puts, deletes)
        except OSError as error:
            newest = self.index.newest()
            if error.errno != errno.EFBIG or newest is None or newest.ended == FIRST:
                raise
            with self.index.transaction():  # a limit of the file system or of the process: a new pack has room
                self.index.mark(newest.number, "full")
            self._commit(puts, deletes)

    def _commit_to_newest(self, puts: Sequence[Put], deletes: Sequence[Delete]) -> None:
        with self.index.transaction(durable=bool(deletes)):
            self._delete(deletes)
            if not puts:
                return
            newest, file = self.newest()
            group = _Group(newest.number, newest.ended)
            try:
                for put in puts:
                    self._add(put, group, file.seed)
                if group.places:
                    self.append(file, group.buffers, group.start)
                    self.index.add(group.places)
                    self.index.extend(group.number, group.start + group.length, group.length)
            except BaseException:
                with suppress(OSError):
                    os.ftruncate(file.fd, group.start)
                raise

    def _add(self, put: Put, group: _Group, seed: int) -> None:
        body = put.chunks[0] if len(put.chunks) == 1 else b"".join(put.chunks)
        put.sha256 = _digest(body)
        try:
            put.check.compare(put.sha256.hex())
            if not put.is_new and self._is_taken(put, group):
                raise BlobExists(put.sha256.hex())
        except DriveError as error:
            put.error = error
            return
        if not put.stored_ns:  # the ETag is made of the instant
            put.stored_ns = self._stored_ns = max(self._stored_ns + 1, time.time_ns())
        record_head = head(PackedBlob(put.key, put.mime, put.sha256, put.stored_ns, body), seed)
        start = group.places[-1].start + group.places[-1].length if group.places else group.start
        length = len(record_head) + len(body)
        put.place = Location(put.key, group.number, start, length, len(body), put.stored_ns, put.sha256, put.mime)
        group.keys.add(put.key)
        group.places.append(put.place)
        group.buffers += record_head, body

    def _is_taken(self, put: Put, group: _Group) -> bool:
        is_known = put.key in group.keys or self.index.find(put.key) is not None
        return is_known or (not put.stored_ns and self._has_file(put.key))

    @staticmethod
    def append(file: PackFile, buffers: Sequence[bytes | memoryview], start: int) -> None:
        """Write *buffers* to the file from *start*, and sync it."""
        write(file.fd, b"".join(buffers), start)
        os.fdatasync(file.fd)

    def _delete(self, deletes: Sequence[Delete]) -> None:
        changed: dict[int, PackFile] = {}
        for delete in deletes:
            place = self.index.find(delete.key)
            if place is None:
                continue
            delete.found, delete.has_file = True, self._has_file(delete.key)
            with suppress(FileNotFoundError, Damaged):  # a pack that is lost has nothing to delete
                file = changed[place.pack] = self.files.current(place.pack)
                state = os.pread(file.fd, len(DEAD), place.start)
                if state != DEAD and len(state) == len(DEAD):  # also one that was half written
                    write(file.fd, DEAD, place.start)
            self.index.remove(place)
        for file in changed.values():
            os.fdatasync(file.fd)

    def provide(self, but: int = 0) -> None:
        """Create a pack, unless the newest is continued and is another one than *but*.

        The index has it durably before anything is appended.  So recovery never meets a pack with torn records that
        the index does not know, which it could not tell from one that was damaged.
        """
        if self._is_continued(pack := self.index.newest()) and pack.number != but:
            return
        with self.index.transaction(durable=True):
            if not self._is_continued(pack := self.index.newest()) or pack.number == but:
                self.create()

    @staticmethod
    def _is_continued(pack: Pack | None) -> TypeGuard[Pack]:
        return pack is not None and pack.state == "open" and pack.ended < PACK_SIZE

    def newest(self) -> tuple[Pack, PackFile]:
        """The pack to append to, within a transaction.  What lies beyond its end is of no group, and cut off."""
        pack = self.index.newest()
        if self._is_continued(pack):
            with suppress(FileNotFoundError, Damaged):
                file = self.files.current(pack.number)
                size = os.fstat(file.fd).st_size
                if size > pack.ended:
                    os.ftruncate(file.fd, pack.ended)
                if size >= pack.ended:
                    return pack, file
        return self.create()

    def create(self) -> tuple[Pack, PackFile]:
        """Begin a new pack, within a transaction."""
        newest = self.index.newest()
        number = max([0 if newest is None else newest.number, *self.files.sizes()]) + 1
        self.files.create(number)
        self.index.add_pack(number, FIRST)
        return Pack(number, FIRST, 0, "open"), self.files.get(number)


def _digest(body: bytes | memoryview) -> bytes:
    """Return the SHA-256 of a blob.  That of a small one keeps the interpreter lock."""
    if len(body) > _SMALL:
        return hashlib.sha256(body).digest()
    digest, view = hashlib.sha256(), memoryview(body)
    for start in range(0, len(view), _PIECE):
        digest.update(view[start : start + _PIECE])
    return digest.digest()
