"""Counts in sentences for people."""

from __future__ import annotations


def counted(number: int, what: str) -> str:
    """Return the number with the noun *what*, which is singular, in the right form: "1 blob" or "2 blobs"."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
