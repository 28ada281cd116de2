"""Integrity fields of a request: ``Content-Digest`` and ``Repr-Digest`` (RFC 9530).

A request that stores bytes has no content coding and no range, so both fields
describe the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

from aiohttp import web
from http_sf import DictionaryType, StructuredFieldError, parse

from godrive.errors import DigestMismatch
from godrive.http.api.problems import Malformed

FIELDS = CONTENT_DIGEST, REPR_DIGEST = "Content-Digest", "Repr-Digest"
_LONGEST = 2048
"""Characters of a field: more than all algorithms need, and fewer than take long to parse."""
_LENGTHS = {"sha-256": 32, "sha-512": 64}


class Digests(NamedTuple):
    """What the bytes must have, in hex; ``None`` where the request says nothing."""

    sha256: str | None = None
    sha512: str | None = None


def read_digests(request: web.Request, fields: Sequence[str] = FIELDS) -> Digests:
    """Return the digests of the request in *fields*.  Other algorithms are ignored.

    Raises ``Malformed`` for a field that is not a dictionary of digests, and
    ``DigestMismatch`` if the two fields contradict each other.
    """
    found: dict[str, str] = {}
    for field in fields:
        lines = request.headers.getall(field, None)
        if lines is None:
            continue
        for algorithm, digest in _read(field, ", ".join(lines)).items():
            if found.setdefault(algorithm, digest) != digest:
                raise DigestMismatch(f"{CONTENT_DIGEST} and {REPR_DIGEST} differ.", field=field)
    return Digests(found.get("sha-256"), found.get("sha-512")) if found else _NONE


_NONE = Digests()


def _read(field: str, text: str) -> dict[str, str]:
    if len(text) > _LONGEST:
        raise Malformed(f"Must have at most {_LONGEST} characters.", field=field)
    try:
        members = cast("DictionaryType", parse(text.encode("utf-8", "surrogateescape"), tltype="dictionary"))
    except StructuredFieldError:
        raise Malformed("Must be a dictionary of digests: sha-256=:<base64>:.", field=field) from None
    digests: dict[str, str] = {}
    for algorithm, length in _LENGTHS.items():
        if algorithm in members:
            member = members[algorithm]
            value = member[0] if isinstance(member, tuple) else member
            if not isinstance(value, bytes) or len(value) != length:
                raise Malformed(f"A digest by {algorithm} is {length} bytes in base64 between colons.", field=field)
            digests[algorithm] = value.hex()
    return digests
