"""Conditional and partial reads (RFC 9110, sections 13 and 14)."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from aiohttp import hdrs, web

from godrive.errors import Invalid, PreconditionFailed, RangeNotSatisfiable
from godrive.http.api.reading import entity_tags
from godrive.model import ETag

ANY = ETag("*")
"""Stands for any tag."""

_SPAN = re.compile(r"(\d*)-(\d*)", re.ASCII)
_DIGITS = 18
"""More than any size has, and fewer than a number that is slow to parse."""
_BEYOND = 10**_DIGITS
_SECOND = timedelta(seconds=1)


def is_known(request: web.Request, etag: str) -> bool | None:
    """Whether ``If-None-Match`` names *etag*, compared weakly (section 13.1.2); ``None`` without the header.

    Raises ``Invalid``.
    """
    known = entity_tags(request, hdrs.IF_NONE_MATCH)
    if known is None:
        return None
    return not known or any(tag == etag for _, tag in known)


def known_tags(request: web.Request) -> tuple[ETag, ...]:
    """Return the tags of ``If-None-Match``, :data:`ANY` for ``*``, none without the header.  Raises ``Invalid``."""
    known = entity_tags(request, hdrs.IF_NONE_MATCH)
    if known is None:
        return ()
    return tuple([ETag(tag) for _, tag in known]) or (ANY,)


def check_absent(request: web.Request) -> None:
    """Check a request to write what exists already.  Raises ``PreconditionFailed`` for ``If-None-Match: *``."""
    if entity_tags(request, hdrs.IF_NONE_MATCH) == []:
        raise exists("The content already exists.")


def must_be_new(request: web.Request) -> bool:
    """Whether the request may only create something: ``If-None-Match: *``.  Raises ``Invalid`` for entity tags."""
    absent = entity_tags(request, hdrs.IF_NONE_MATCH)
    if absent:
        raise Invalid("Only * is supported here.", field=hdrs.IF_NONE_MATCH)
    return absent is not None


def exists(detail: str) -> PreconditionFailed:
    """Return the error of a request that may only create something."""
    return PreconditionFailed(detail, field=hdrs.IF_NONE_MATCH)


def check_no_date(request: web.Request) -> None:
    """Raises ``Invalid`` for a request that changes something only if nothing has changed since a date.

    Entries have entity tags: a date is too coarse to tell two changes apart, and if it were ignored, the client would
    overwrite what it does not know.  With ``If-Match``, the date does not count (section 13.1.4).
    """
    if hdrs.IF_UNMODIFIED_SINCE not in request.headers or hdrs.IF_MATCH in request.headers:
        return
    if _date(request, hdrs.IF_UNMODIFIED_SINCE) is not None:
        raise Invalid("Send If-Match with the entity tag instead.", field=hdrs.IF_UNMODIFIED_SINCE)


def is_unmodified(request: web.Request, etag: ETag, modified_at: datetime) -> bool:
    """Whether the client has the current content, so that the answer is ``304``.

    *modified_at* is in whole seconds.  Raises ``PreconditionFailed``, and
    ``Invalid`` for a malformed entity tag.
    """
    wanted = entity_tags(request, hdrs.IF_MATCH)
    if wanted is not None:
        if wanted and not any(tag == etag and not weak for weak, tag in wanted):
            raise PreconditionFailed("The content has changed.", field=hdrs.IF_MATCH)
    elif (since := _date(request, hdrs.IF_UNMODIFIED_SINCE)) is not None and modified_at > since:
        raise PreconditionFailed("The content has changed since.", field=hdrs.IF_UNMODIFIED_SINCE)
    known = is_known(request, etag)
    if known is not None:
        return known
    since = _date(request, hdrs.IF_MODIFIED_SINCE)
    return since is not None and modified_at <= since


def wanted_span(
    request: web.Request, etag: ETag, modified_at: datetime, size: int, now: datetime
) -> tuple[int, int] | None:
    """The one range of bytes (start, end beyond the last) to answer with ``206``; ``None`` for the whole.

    Several ranges, an unknown unit and an ``If-Range`` that does not hold are
    answered with the whole.  Raises ``RangeNotSatisfiable``.
    """
    unit, equals, ranges = request.headers.get(hdrs.RANGE, "").partition("=")
    if request.method != hdrs.METH_GET or not equals or unit.strip().lower() != "bytes":
        return None
    if not _is_current(request, etag, modified_at, now):
        return None
    spans = [_SPAN.fullmatch(part.strip()) for part in ranges.split(",") if part.strip()]
    found = [_span(match[1], match[2], size) for match in spans if match is not None]
    if not spans or len(found) < len(spans) or all(span is None for span in found):
        raise RangeNotSatisfiable(f"The content has {size} bytes.", field=hdrs.RANGE)
    return found[0] if len(found) == 1 and size else None


def _span(first: str, last: str, size: int) -> tuple[int, int] | None:
    """One satisfiable range.  A suffix of empty content is all of it."""
    if not first:
        length = _position(last)
        return (max(0, size - length), size) if length else None
    start, end = _position(first), _position(last) + 1 if last else size
    return (start, min(end, size)) if start < min(end, size) else None


def _position(digits: str) -> int:
    """The number that *digits* are; of any that are beyond all content, the same one (section 14.1.1)."""
    significant = digits.lstrip("0")
    return int(significant or 0) if len(significant) <= _DIGITS else _BEYOND


def _is_current(request: web.Request, etag: ETag, modified_at: datetime, now: datetime) -> bool:
    """Whether ``If-Range`` holds.  The comparison is strong: a date counts only after its second has passed."""
    said = request.headers.get(hdrs.IF_RANGE)
    if said is None:
        return True
    if said.lstrip().startswith(('"', "W/")):
        return said.strip() == f'"{etag}"'
    return _date(request, hdrs.IF_RANGE) == modified_at and now - modified_at >= _SECOND


def _date(request: web.Request, header: str) -> datetime | None:
    """The date in that header; ``None`` if it is absent or malformed."""
    try:
        date = parsedate_to_datetime(request.headers.get(header, ""))
    except (ValueError, OverflowError, TypeError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
