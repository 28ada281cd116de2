"""What happened in a run: a digest always, and lines to read on demand."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import msgspec

_encode = msgspec.msgpack.Encoder().encode


class Trace:
    """Records events.  Two runs of a seed record the same ones.

    A *detail* is for people and may contain addresses in memory, so it does not count.
    """

    def __init__(self, now: Callable[[], float], write: Callable[[str], None] | None = None) -> None:
        self._now = now
        self._write = write
        self.digest = 0
        self.count = 0
        self.is_read = write is not None
        """Whether somebody reads the lines, so that it pays to describe more."""

    def write_only(self, kind: str, who: str, text: str) -> None:
        """Write a line that does not count, because it may contain addresses in memory."""
        if self._write is not None:
            self._write(f"{self._now():12.6f}  {who:<12} {kind:<10} {text}")

    def __call__(self, kind: str, who: str, **details: Any) -> None:
        self.count += 1
        detail = details.pop("detail", "")
        self.digest = zlib.crc32(_encode((self._now(), kind, who, details)), self.digest)
        if self._write is not None:
            shown = " ".join(f"{name}={value}" for name, value in details.items())
            self._write(f"{self._now():12.6f}  {who:<12} {kind:<10} {shown} {detail}")
