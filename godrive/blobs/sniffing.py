"""Find the media type of content whose sender did not declare one, from its first bytes and its name."""

from __future__ import annotations

import re

from godrive.blobs.disposition import UNKNOWN

HEAD = 4096
"""Bytes that are enough to tell."""

TEXT = "text/plain"

_ZIP = b"PK\x03\x04"
_SURE = 0.8
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")
_LONGEST_CUT = 3

_TEXTUAL = (
    (re.compile(rb"%PDF-\d\.\d"), "application/pdf"),
    (re.compile(rb"\{\\rtf\d*\\"), "application/rtf"),
)
"""Formats whose files can be text throughout, by a signature that prose does not begin with."""

_OF_NAMES = {
    "css": "text/css",
    "csv": "text/csv",
    "ics": "text/calendar",
    "json": "application/json",
    "md": "text/markdown",
    "tsv": "text/tab-separated-values",
    "txt": TEXT,
    "vcf": "text/vcard",
}
"""Types of text by the suffix of the name: those that no browser runs."""

_RUN = re.compile(
    r"(text|application)/(html|xml|.*\+xml|xslt?|(x-)?(java|ecma|live|j|vb|type)script[\d.]*|wasm|cache-manifest)"
    r"|image/svg.*|text/x-component|application/(x-shockwave-flash|(x-)?java.*|hta)|multipart/.*|message/.*"
)
"""Types that a browser runs, or unpacks into what it runs."""


def sniff(head: bytes, name: str) -> str:
    """Return a media type for content that begins with *head*: up to ``HEAD`` bytes, fewer only if that is all.

    Bytes that are UTF-8 without control characters are text, whatever
    signature they begin with.  The type is never one that a browser runs: it is
    a guess, and the sender may be someone who wants it to be HTML.
    """
    if not head:
        return _text_type(name) if _suffix(name) in _OF_NAMES else UNKNOWN
    if is_utf_8(head):
        for pattern, mime in _TEXTUAL:
            if pattern.match(head):
                return mime
        return _text_type(name)
    found = _by_signature(head, name)
    return UNKNOWN if _RUN.fullmatch(found) else found


def is_utf_8(head: bytes) -> bool:
    """Whether it is UTF-8 without control characters; the last character of a full *head* may be cut."""
    try:
        text = head.decode()
    except UnicodeDecodeError as error:
        cut = len(head) >= HEAD and error.reason == "unexpected end of data" and len(head) - error.start <= _LONGEST_CUT
        if not cut:
            return False
        text = head[: error.start].decode()
    return _CONTROL.search(text) is None


def _by_signature(head: bytes, name: str) -> str:
    import puremagic  # noqa: PLC0415 - it parses all signatures that it knows, and most files declare their type

    try:
        matches = [match for match in puremagic.magic_string(head, name) if match.mime_type]
    except puremagic.PureError:
        matches = []
    if head.startswith(_ZIP) and (not matches or matches[0].confidence < _SURE):
        # Many formats are zip files; unless the name agrees, which one is a guess.
        return "application/zip"
    return str(matches[0].mime_type).strip().lower() if matches else UNKNOWN


def _text_type(name: str) -> str:
    return _OF_NAMES.get(_suffix(name), TEXT)


def _suffix(name: str) -> str:
    stem, _, suffix = name.rpartition(".")
    return suffix.lower() if stem else ""
