"""The format of a pack: a file of records, each with a blob and all that is known about it.

::

    pack     "GDPACK1\\n", a random seed of 4 bytes, then records without gaps
    record   state    4 bytes: "blob", or "dead" once the blob is deleted
             check    CRC-32 of the rest of the head, beginning with the seed
             check    CRC-32 of the body
             size     of the body, 4 bytes
             stored   nanoseconds since 1970, 8 bytes
             sha256   32 bytes
             lengths  of the key, 1 byte, and of the media type, 2 bytes
             key, media type, body

All numbers are little-endian.  The state is the only part that changes, and no
checksum covers it, so a deletion overwrites 4 bytes in place.  The seed is known
to nobody, so the body of a blob cannot contain what passes for a record when a
damaged pack is searched for records.
"""

from __future__ import annotations

import struct
from itertools import product
from typing import NamedTuple
from zlib import crc32

MAGIC = b"GDPACK1\n"
LIVE, DEAD = b"blob", b"dead"

_STATES = frozenset(bytes(mixture) for mixture in product(*zip(LIVE, DEAD, strict=True)))

FIRST = len(MAGIC) + 4
"""Where the first record of a pack begins."""

_HEAD = struct.Struct("<4sIIIQ32sBH")
_CHECKED = 8
"""Where the checked part of a head begins."""


class Damaged(Exception):
    """The bytes are not those that were written."""


class Record(NamedTuple):
    """The head of a record."""

    is_live: bool
    key: str
    mime: str
    sha256: bytes
    stored_ns: int
    size: int
    head: int
    """The length of the head in bytes."""
    check: int

    @property
    def length(self) -> int:
        """The length of the record in bytes."""
        return self.head + self.size

    def body(self, data: memoryview) -> memoryview:
        """The body in the record *data*.  Raises :class:`Damaged`."""
        body = data[self.head : self.length]
        if len(body) != self.size or crc32(body) != self.check:
            raise Damaged(f"The bytes of the blob {self.key} are damaged.")
        return body


class PackedBlob(NamedTuple):
    """A blob and all that is known about it."""

    key: str
    mime: str
    sha256: bytes
    stored_ns: int
    body: bytes | memoryview


def head(content: PackedBlob, seed: int) -> bytes:
    """The head of the record of a blob in the pack with that seed."""
    key, mime, sha256, stored_ns, body = content
    name, kind = key.encode(), mime.encode("utf-8", "surrogateescape")
    rest = _HEAD.pack(LIVE, 0, crc32(body), len(body), stored_ns, sha256, len(name), len(kind))[_CHECKED:] + name + kind
    return b"%b%b%b" % (LIVE, crc32(rest, seed).to_bytes(4, "little"), rest)


def parse(data: memoryview, start: int, seed: int) -> Record | None:
    """The head at *start*, ``None`` if it continues beyond *data*.  Raises :class:`Damaged`."""
    if len(data) - start < _HEAD.size:
        return None
    state, check, body_check, size, stored_ns, sha256, key, mime = _HEAD.unpack_from(data, start)
    if state not in _STATES:
        raise Damaged("No record begins here.")
    names = start + _HEAD.size
    end = names + key + mime
    if end > len(data):
        return None
    if crc32(data[start + _CHECKED : end], seed) != check:
        raise Damaged("The head of a record is damaged.")
    text = str(data[names:end], "utf-8", "surrogateescape")
    return Record(state != DEAD, text[:key], text[key:], sha256, stored_ns, size, end - start, body_check)
