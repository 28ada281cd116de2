"""Text of a server, for a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return *text* without characters that a terminal would act on."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)
