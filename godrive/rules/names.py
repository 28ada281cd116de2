"""Names of entries: which are allowed, when two are the same, and how to number one."""

from __future__ import annotations

import unicodedata

from godrive.errors import Invalid
from godrive.model import name_key

MOST_NAME_BYTES = 255
_LONGEST_SUFFIX = 16


def check_name(name: str) -> str:
    """The name, as sent.

    Raises ``Invalid`` unless it is 1 to 255 bytes of UTF-8 with no ``/``,
    ``\\``, NUL or control character, and neither ``.`` nor ``..``.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise Invalid("A name must be valid Unicode.", field="name") from None
    if not 1 <= size <= MOST_NAME_BYTES:
        raise Invalid(f"A name has 1 to {MOST_NAME_BYTES} bytes, and this has {size}.", field="name")
    if name in (".", ".."):
        raise Invalid(f"{name!r} is not a name.", field="name")
    if "/" in name or "\\" in name:
        raise Invalid("A name must not contain a slash or a backslash.", field="name")
    if not name.isprintable() and any(unicodedata.category(char) == "Cc" for char in name):
        raise Invalid("A name must not contain control characters.", field="name")
    return name


def search_key(name: str) -> str:
    """What names are searched and sorted by: NFC, without case (Unicode 15, section 3.13, D145)."""
    return name_key(name_key(name).casefold())


def after_prefix(prefix: str) -> str | None:
    """The least text greater than every text that begins with *prefix*; ``None`` when there is none."""
    for end in range(len(prefix), 0, -1):
        last = ord(prefix[end - 1])
        if last < 0x10FFFF:
            return prefix[: end - 1] + chr(0xE000 if last == 0xD7FF else last + 1)
    return None


def numbered(name: str, number: int) -> str:
    """``a.txt`` as ``a (1).txt``; what is too long loses the end of its stem."""
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix) > _LONGEST_SUFFIX:
        stem, tail = name, f" ({number})"
    else:
        tail = f" ({number}){dot}{suffix}"
    room = MOST_NAME_BYTES - len(tail.encode())
    return stem.encode()[:room].decode(errors="ignore") + tail
