"""Read a path of names from the URL of a request, exactly as the client sent it."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from aiohttp import web

from godrive.errors import Invalid
from godrive.model import At

PARAMETER = "path"
"""The placeholder of a path in the paths of operations.  It matches the rest of the URL, with its slashes."""

_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


def read_path(request: web.Request) -> At:
    """Return the entry that the URL names.

    Takes the raw path, which no library has normalized, splits it at ``/`` and
    decodes each name once.  So ``%2F`` is a slash in a name, ``%252F`` is the
    name ``%2F`` and ``+`` is a plus.  One slash at the end counts for nothing.
    The rules check the names: an empty name, ``.``, ``..`` and a slash in a
    name are ``Invalid``.  Raises ``Invalid`` also for text that is not UTF-8, an
    incomplete escape and a fragment.
    """
    url = request.rel_url
    resource = request.match_info.route.resource
    assert resource is not None  # noqa: S101 - only the handlers of errors have none
    before = resource.canonical.count("/")  # with the prefix under which we are mounted
    raw = url.raw_path.split("/", before)[before]
    if url.raw_fragment:
        raise Invalid("A number sign in a name must be encoded as %23.", field=PARAMETER)
    if not raw:
        return At(path=())
    names = split_path(raw)
    if "%" in raw or not raw.isascii():
        names = [_decode(name) for name in names]
    return At(path=tuple(names))


def split_path(text: str) -> list[str]:
    """Split at the slashes; one at the end counts for nothing."""
    names = text.split("/")
    if len(names) > 1 and not names[-1]:
        names.pop()
    return names


def _decode(raw: str) -> str:
    if _BAD_ESCAPE.search(raw):
        raise Invalid("A percent sign in a name must be encoded as %25.", field=PARAMETER)
    try:
        return unquote_to_bytes(raw.encode("utf-8", "surrogateescape")).decode()
    except UnicodeError:
        raise Invalid("A path must be UTF-8.", field=PARAMETER) from None
