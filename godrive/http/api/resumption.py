"""The headers of resumable uploads as the IETF defines them (draft-ietf-httpbis-resumable-upload), as values.

They are structured fields (RFC 9651).  A field with another value is ignored, as the specification demands.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from aiohttp import web
from http_sf import StructuredFieldError, parse
from multidict import istr

from godrive.http.api.problems import InconsistentLength, Malformed

COMPLETE, OFFSET, LENGTH = istr("Upload-Complete"), istr("Upload-Offset"), istr("Upload-Length")
LIMIT, INTEROP = istr("Upload-Limit"), istr("Upload-Draft-Interop-Version")
PARTIAL = "application/partial-upload"
"""The media type of bytes that are appended."""

_LONGEST = 64
_TRUE, _FALSE = "?1", "?0"


class ProtocolVersion(NamedTuple):
    """What differs between the versions of the protocol."""

    interim: dict[str, str]
    """Headers of a ``104`` that tell the client which version it is of."""
    max_age: str = "max-age"
    """The name of the limit on the life of an upload."""
    appended: int = 204
    """The status of an answer to bytes after which more will follow."""
    tells_end: bool = False
    """Whether the answer to the last bytes has the offset too."""
    completes: bool = False
    """Whether bytes that are appended are the last ones if the client does not say it."""


def _named(version: int) -> dict[str, str]:
    return {INTEROP: str(version)}


VERSIONS: dict[int | None, ProtocolVersion] = {
    # drafts 04 and 05, which Apple's URLSession implements
    6: ProtocolVersion(_named(6), max_age="expires", appended=201, tells_end=True, completes=True),
    7: ProtocolVersion(_named(7)),  # drafts 06 to 08
    8: ProtocolVersion(_named(8)),  # drafts 09 to 11
    9: ProtocolVersion(_named(9)),  # draft 12
    10: ProtocolVersion(_named(10)),  # drafts from 13 on
    None: ProtocolVersion({}),  # the RFC, whose clients do not say a version
}
"""The versions by what a client sends in ``Upload-Draft-Interop-Version``."""


class Wish(NamedTuple):
    """What a request says of the upload that it begins or continues."""

    is_complete: bool
    """Whether its content is all that is left."""
    length: int | None
    """The length of the whole upload, if it is known."""
    version: ProtocolVersion


def read_version(request: web.Request) -> ProtocolVersion | None:
    """Return the client's version of the draft; ``None`` if the server does not implement it."""
    if INTEROP not in request.headers:
        return VERSIONS[None]
    sent = _item(request, INTEROP)
    return VERSIONS.get(sent) if type(sent) is int else None


def read_wish(request: web.Request, offset: int, size: int | None) -> Wish | None:
    """Return what the request wants, with *size* bytes of content that begin at *offset*.

    ``None`` if it is not one of this protocol, or does without: then the content is complete.  Raises
    ``InconsistentLength``, and ``Malformed`` for a part of an upload in a version that the server does not speak.
    """
    version = read_version(request)
    is_complete = _item(request, COMPLETE)
    if COMPLETE not in request.headers and version is not None and version.completes:
        is_complete = True
    if type(is_complete) is not bool:
        return None
    if version is None:
        if is_complete:
            return None
        raise Malformed("This server does not speak that version of resumable uploads.", field=INTEROP)
    said = _item(request, LENGTH)
    length = said if type(said) is int and said >= 0 else None
    end = None if size is None else offset + size
    if length is not None and end is not None and (length != end if is_complete else length < end):
        raise InconsistentLength(f"The content ends at {end}, the upload at {length}.", field=LENGTH)
    return Wish(is_complete, end if length is None and is_complete else length, version)


def is_part(request: web.Request) -> bool:
    """Whether the content is not all that is left of an upload."""
    return COMPLETE in request.headers and _item(request, COMPLETE) is False


def read_offset(request: web.Request) -> int | None:
    """Return ``Upload-Offset``."""
    offset = _item(request, OFFSET)
    return offset if type(offset) is int and offset >= 0 else None


def boolean(value: bool) -> str:
    """Return a boolean as a structured field."""
    return _TRUE if value else _FALSE


def _item(request: web.Request, name: str) -> Any:
    """Return the value of a field, without parameters; ``None`` if it is absent or malformed."""
    lines = request.headers.getall(name, ())
    if len(lines) != 1 or len(lines[0]) > _LONGEST:
        return None
    try:
        value, _ = cast("tuple[object, object]", parse(lines[0].encode("utf-8", "surrogateescape"), tltype="item"))
    except StructuredFieldError:
        return None
    return value
