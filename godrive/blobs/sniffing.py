"""The type of a file whose sender did not say, from its first bytes and its name."""

from __future__ import annotations

import mimetypes

import puremagic

HEAD = 4096
"""Bytes that are enough to tell."""

UNKNOWN = "application/octet-stream"

_ZIP = b"PK\x03\x04"
_SURE = 0.8


def sniff(head: bytes, name: str) -> str:
    """A media type for content that begins with *head*.

    It is a label and nothing trusts it: content is served so that no browser
    runs it.
    """
    if not head:
        return _by_name(name, UNKNOWN)
    try:
        matches = [match for match in puremagic.magic_string(head, name) if match.mime_type]
    except puremagic.PureError:
        matches = []
    if head.startswith(_ZIP) and (not matches or matches[0].confidence < _SURE):
        # Many formats are zip files; unless the name agrees, which one is a guess.
        return "application/zip"
    if matches:
        return str(matches[0].mime_type).strip()
    return _by_name(name, "text/plain") if _is_text(head) else UNKNOWN


def _by_name(name: str, otherwise: str) -> str:
    guessed, encoding = mimetypes.guess_type(name, strict=True)
    return guessed if guessed and not encoding and guessed.startswith("text/") else otherwise


def _is_text(head: bytes) -> bool:
    """UTF-8 without control characters; the last letter may be cut."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return False
        text = head[: error.start].decode()
    return all(letter >= " " or letter in "\t\n\r\f" for letter in text)
