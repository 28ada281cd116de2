"""Ids of everything that is stored."""

from __future__ import annotations

import os
import struct
import time
from collections import deque

_MANY = struct.Struct("10s" * 64)
_VERSION = bytes([0x70 | byte & 0x0F for byte in range(256)])
_VARIANT = bytes([0x80 | byte & 0x3F for byte in range(256)])

tails: deque[bytes] = deque()
"""The last 80 bits of the next ids; any thread may take some.

To ask the system for each id lets go of the interpreter lock, and to get it back from
threads that write takes longer than the rest.
"""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=tails.clear)  # otherwise parent and child would make the same ids


def new_id() -> str:
    """Return a UUIDv7 (RFC 9562, section 5.7): 48 bits of milliseconds and 74 random bits."""
    while True:
        try:
            tail = tails.pop()
            break
        except IndexError:
            tails.extend(_MANY.unpack(_random_tails()))
    millis = time.time_ns() // 1_000_000
    digits = (millis.to_bytes(6, "big") + tail).hex()  # faster than a UUID object; every request creates several
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _random_tails() -> bytearray:
    """Return random bytes with the version and the variant of a UUIDv7 in each 10 of them."""
    many = bytearray(os.urandom(_MANY.size))
    many[::10] = many[::10].translate(_VERSION)
    many[2::10] = many[2::10].translate(_VARIANT)
    return many
