"""Ids of everything that is stored."""

from __future__ import annotations

import os
import struct
import time
from collections import deque

_MANY = struct.Struct("10s" * 64)

tails: deque[bytes] = deque()
"""Random bytes for the next ids; any thread may take some.

To ask the system for each id lets go of the interpreter lock, and to get it back from
threads that write takes longer than the rest.
"""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=tails.clear)  # otherwise parent and child would make the same ids


def new_id() -> str:
    """Return a UUIDv7 (RFC 9562, section 5.7): 48 bits of milliseconds and 74 random bits."""
    while True:
        try:
            tail = int.from_bytes(tails.pop(), "big")
            break
        except IndexError:
            tails.extend(_MANY.unpack(os.urandom(_MANY.size)))
    millis = time.time_ns() // 1_000_000
    value = (millis & 0xFFFF_FFFF_FFFF) << 80 | tail
    value = value & ~(0xF << 76) | 7 << 76
    value = value & ~(0x3 << 62) | 2 << 62
    digits = f"{value:032x}"  # twice as fast as a UUID object; every request creates several
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
