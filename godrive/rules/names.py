"""Names of entries: which are allowed, when two are the same, and how to number one."""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence

from godrive.errors import Invalid, TooDeep
from godrive.model import name_key

MOST_NAME_CHARACTERS = 255
MOST_NAME_BYTES = 1024
MOST_DEPTH = 1024
"""The most names in a path, from the root of the drive to an entry."""
_LONGEST_SUFFIX = 16

WORD = "\x01"
"""Marks the beginning of a word in the index.  No name contains it, since it is a control character."""

_ASCII_WORD = re.compile("[0-9a-z]+|[^0-9a-z ]")
_UNSPACED = "\u0e00\u10a0\u1780\u1800\u3040\u3100\u3400\ua000\uac00\ud7b0\uf900\ufb00\U00020000\U00040000"
"""Where ranges begin and end in turn: Thai, Lao, Tibetan, Burmese, Khmer, Japanese, Chinese, and Korean, where endings
follow without a space."""
_DOTTED_I = re.compile("\u0131|i\u0307+")


def check_name(name: str, field: str = "name") -> str:
    """Return the name as it was sent.

    Raises ``Invalid`` for *field* unless it is 1 to 255 characters and at most 1024 bytes
    of UTF-8 without ``/``, ``\\``, NUL or control characters, and neither
    ``.`` nor ``..``.  Characters are counted in NFC, so that a name fits
    whichever normal form a client uses.
    """
    try:
        fits = len(name) >= 1 and _fits(name)
    except UnicodeEncodeError:
        raise Invalid("A name must be valid Unicode.", field=field) from None
    if not fits:
        raise Invalid(
            f"A name has 1 to {MOST_NAME_CHARACTERS} characters and at most {MOST_NAME_BYTES} bytes.", field=field
        )
    if name in (".", ".."):
        raise Invalid(f"{name!r} is not a name.", field=field)
    if "/" in name or "\\" in name:
        raise Invalid("A name must not contain a slash or a backslash.", field=field)
    if not name.isprintable() and any(unicodedata.category(char) == "Cc" for char in name):
        raise Invalid("A name must not contain control characters.", field=field)
    return name


def check_path(path: Sequence[str]) -> Sequence[str]:
    """Return the path as it was sent.  Raises ``Invalid`` for a name that no entry can have, ``TooDeep``."""
    check_depth(len(path), "path")
    for name in path:
        if not name:
            raise Invalid("A path must not begin with a slash, or have two in a row.", field="path")
        check_name(name, "path")
    return path


def check_depth(depth: int, field: str) -> None:
    """Raises ``TooDeep`` for *field* if a path from the root of a drive would have too many names."""
    if depth > MOST_DEPTH:
        raise TooDeep(f"A path has at most {MOST_DEPTH} names.", field=field)


def search_key(name: str) -> str:
    """Return the key that names are searched and sorted by: NFC, case-folded (Unicode 15, section 3.13, D145).

    The Turkish dotted capital and dotless small I count as ``i``.  Default case
    folding keeps them apart, but a search for ``istanbul`` should find both.
    """
    if name.isascii():
        return name.lower()
    folded = name_key(name_key(name).casefold())
    return folded if folded.isascii() else name_key(_DOTTED_I.sub("i", folded))


def begins_word(key: str, at: int) -> bool:
    """Whether a word of the search key begins at that index.

    A word begins at the first character of the name, at a letter or digit after
    something else, at every letter of a script without spaces between words, and
    at every symbol or punctuation mark.  A combining mark continues its word.
    """
    if at == 0:
        return True
    char = key[at]
    if char.isalnum():
        return not _continues(key[at - 1]) or bisect_right(_UNSPACED, char) % 2 == 1
    return not char.isspace() and unicodedata.category(char)[0] not in "MC"


def _continues(before: str) -> bool:
    if before <= "\x7f" or before.isalnum():
        return before.isalnum()
    return unicodedata.category(before)[0] == "M" and not "\ufe00" <= before <= "\ufe0f"


def index_text(key: str) -> str:
    """Return what the index holds of a search key: the key, and the first two characters of each of its words.

    The index finds three characters in a row.  The beginning of a word follows
    two :data:`WORD`, so it is found by its first character, or by both.
    """
    if key.isascii():
        starts = [word.start() for word in _ASCII_WORD.finditer(key)]
    else:
        starts = [at for at in range(len(key)) if begins_word(key, at)]
    begins = dict.fromkeys([key[at : at + 2] for at in starts])
    return (WORD + WORD).join([key, *begins])


def after_prefix(prefix: str) -> str | None:
    """Return the least text greater than every text that begins with *prefix*; ``None`` if there is none."""
    for end in range(len(prefix), 0, -1):
        last = ord(prefix[end - 1])
        if last < 0x10FFFF:
            return prefix[: end - 1] + chr(0xE000 if last == 0xD7FF else last + 1)
    return None


def numbered(name: str, number: int) -> str:
    """Return ``a.txt`` as ``a (1).txt``.  A name that becomes too long loses the end of its stem."""
    stem, dot, suffix = name.rpartition(".")
    if not stem or len(suffix) > _LONGEST_SUFFIX:
        stem, tail = name, f" ({number})"
    else:
        tail = f" ({number}){dot}{suffix}"
    if _fits(stem + tail):
        return stem + tail
    room = MOST_NAME_BYTES - len(tail.encode())
    cut = stem[: MOST_NAME_CHARACTERS - len(tail)]
    return cut.encode()[:room].decode(errors="ignore") + tail


def _fits(name: str) -> bool:
    """Whether a name is short enough, also for the indices, which hold its NFC form."""
    if name.isascii():
        return len(name) <= MOST_NAME_CHARACTERS
    forms = (name, name_key(name))
    return min(map(len, forms)) <= MOST_NAME_CHARACTERS and all(len(form.encode()) <= MOST_NAME_BYTES for form in forms)
