"""Base64 for URLs, strictly."""

from __future__ import annotations

import re
from base64 import urlsafe_b64decode, urlsafe_b64encode

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")


def base64url(data: bytes) -> str:
    """Base64 for URLs (RFC 4648, section 5), without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def unbase64url(text: str) -> bytes:
    """The bytes.  Raises ``ValueError`` for characters outside the alphabet, which the standard library lets pass."""
    if _BASE64URL.fullmatch(text) is None:
        raise ValueError("not Base64 for URLs")
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
