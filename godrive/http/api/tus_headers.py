"""The request headers of tus 1.0, as values.  An invalid header raises ``Malformed`` with its name."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Collection, Mapping
from typing import NamedTuple
from urllib.parse import urljoin

from aiohttp import hdrs, web
from multidict import istr
from yarl import URL

from godrive.appended import CHECKSUMS, Checksum
from godrive.errors import PreconditionFailed
from godrive.http.api.problems import Malformed

VERSION = "1.0.0"
CHUNK = "application/offset+octet-stream"
"""The media type of bytes that are appended."""

RESUMABLE, TUS_VERSION = istr("Tus-Resumable"), istr("Tus-Version")
OFFSET, LENGTH, DEFER_LENGTH = istr("Upload-Offset"), istr("Upload-Length"), istr("Upload-Defer-Length")
METADATA, CHECKSUM, CONCAT = istr("Upload-Metadata"), istr("Upload-Checksum"), istr("Upload-Concat")
OVERRIDE = istr("X-HTTP-Method-Override")

HUGE = 2**63 - 1
"""What a larger number is read as.  No offset or length reaches it."""

MOST_METADATA = 4096
"""Characters of ``Upload-Metadata``: it is kept with the upload."""

_DIGITS = re.compile(r"[0-9]{1,64}")
_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]+")  # visible, without the comma
_UPLOAD = re.compile(r"(.*)/v1/tus/([0-9A-Za-z_-]{1,64})", re.DOTALL)


class UnsupportedTusVersion(PreconditionFailed):
    """The client speaks another version of tus."""

    code = "unsupported_tus_version"
    title = "Version of tus is not supported"


class Concat(NamedTuple):
    """What ``Upload-Concat`` says: a part, or the whole of these parts."""

    is_part: bool
    parts: tuple[str, ...] = ()


def header(request: web.Request, name: str) -> str | None:
    """Return a header that may be sent once.  Raises ``Malformed``."""
    values = request.headers.getall(name, ())
    if len(values) > 1:
        raise Malformed("The header must not be repeated.", field=name)
    return values[0].strip() if values else None


def number(request: web.Request, name: str) -> int | None:
    """Return a header with a number of bytes.  Raises ``Malformed`` unless it consists of digits."""
    text = header(request, name)
    if text is None:
        return None
    if _DIGITS.fullmatch(text) is None:
        raise Malformed("Must be a non-negative integer.", field=name)
    return min(int(text), HUGE)


def check_version(request: web.Request) -> None:
    """Raises ``UnsupportedTusVersion`` unless the client speaks tus 1.0.0.  Reading needs no version."""
    version = header(request, RESUMABLE)
    if version != VERSION and not (version is None and request.method in (hdrs.METH_GET, hdrs.METH_HEAD)):
        raise UnsupportedTusVersion(f"This server speaks tus {VERSION}.", field=RESUMABLE)


def read_length(request: web.Request) -> int | None:
    """Return the length of a new upload; ``None`` if it is deferred.  Raises ``Malformed``."""
    length, deferred = number(request, LENGTH), header(request, DEFER_LENGTH)
    if deferred not in (None, "1"):
        raise Malformed("Must be 1.", field=DEFER_LENGTH)
    if (length is None) == (deferred is None):
        raise Malformed(f"Send either {LENGTH} or {DEFER_LENGTH}.", field=LENGTH)
    return length


def read_metadata(request: web.Request, known: Collection[str]) -> tuple[str, Mapping[str, str]]:
    """Return ``Upload-Metadata`` as it was sent, and the values of the *known* keys.  Raises ``Malformed``.

    These are text.  One that a script has made of nothing (``null``, ``undefined``) is left out.
    """
    sent = ",".join(request.headers.getall(METADATA, ())).strip()
    if not sent.isascii() or len(sent) > MOST_METADATA:
        raise Malformed(f"Must have at most {MOST_METADATA} ASCII characters.", field=METADATA)
    found: dict[str, bytes] = {}
    for pair in filter(None, map(str.strip, sent.split(","))):
        key, _, encoded = pair.partition(" ")
        if _KEY.fullmatch(key) is None:
            raise Malformed("A key has visible ASCII characters only.", field=METADATA)
        if key in found:
            raise Malformed(f"The key {key} must not be repeated.", field=METADATA)
        found[key] = _decode(encoded.strip(), METADATA)
    said = {key: _text(found[key], key) for key in known if key in found}
    return sent, {key: value for key, value in said.items() if value not in ("", "null", "undefined")}


def read_checksum(request: web.Request) -> Checksum | None:
    """Return ``Upload-Checksum``.  Raises ``Malformed``."""
    text = header(request, CHECKSUM)
    if text is None:
        return None
    algorithm, _, encoded = text.partition(" ")
    if algorithm not in CHECKSUMS:
        raise Malformed(f"The algorithm is one of {', '.join(CHECKSUMS)}.", field=CHECKSUM)
    digest = _decode(encoded.strip(), CHECKSUM)
    if len(digest) != CHECKSUMS[algorithm]:
        raise Malformed(f"A digest by {algorithm} has {CHECKSUMS[algorithm]} bytes.", field=CHECKSUM)
    return Checksum(algorithm, digest)


def read_concat(request: web.Request, base: str) -> Concat | None:
    """Return what ``Upload-Concat`` says.  Raises ``Malformed``.

    The parts are URLs of this server, which begin with *base*, or relative to the request.
    """
    text = header(request, CONCAT)
    if text is None:
        return None
    if text == "partial":
        return Concat(is_part=True)
    kind, _, urls = text.partition(";")
    parts = tuple(_upload_of(url, request, base) for url in urls.split())
    if kind != "final" or not parts or not text.isascii():
        raise Malformed("Must be `partial`, or `final;` and the URLs of uploads.", field=CONCAT)
    return Concat(is_part=False, parts=parts)


def _upload_of(url: str, request: web.Request, base: str) -> str:
    """Return the id in the URL of an upload."""
    try:
        own = URL(base)
        asked = f"{base}/v1/{request.rel_url.raw_path.partition('/v1/')[2]}"  # without the prefix of a mount
        found = URL(urljoin(asked, url), encoded=True)
        match = None if found.raw_fragment else _UPLOAD.fullmatch(found.raw_path_qs)
        if match is not None and found.origin() == own.origin() and match[1] in ("", own.raw_path.rstrip("/")):
            return match[2]
    except ValueError:
        pass
    raise Malformed("Must name uploads of this server.", field=CONCAT)


def _decode(encoded: str, field: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise Malformed("A value is not Base64.", field=field) from None


def _text(value: bytes, key: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise Malformed(f"The value of {key} is not the Base64 of text in UTF-8.", field=METADATA) from None
