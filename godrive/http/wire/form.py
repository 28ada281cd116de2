"""The files of an HTML form (``multipart/form-data``, RFC 7578), as they arrive.

The parser holds one piece of the body and never a whole part.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from typing import TypeAlias
from urllib.parse import unquote

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser

from godrive.errors import Invalid, TooLarge
from godrive.http.api.problems import Malformed, UnsupportedMediaType

MOST_PARTS = 1000
"""Files and fields of one form."""
MOST_FIELD_BYTES = 65_536
"""Bytes of one field.  Fields are ignored, so one that is larger is probably a file without a file name."""
_MOST_IDLE_BYTES = 65_536
"""Bytes before the first part, or after the last one."""

_EXTENDED = re.compile(r";\s*filename\*\s*=\s*(utf-8|iso-8859-1)'[^']*'([^\s;\"]*)", re.IGNORECASE)
_PLAIN = {"Content-Encoding": ("identity",), "Content-Transfer-Encoding": ("binary", "7bit", "8bit")}
"""What these headers of a part may say: its bytes are the content."""
_Event: TypeAlias = MultipartSegment | bytes | None


class FormFile:
    """One file of a form.  Iterate over its bytes once, before the next file is asked for."""

    def __init__(self, segment: MultipartSegment, name: str, events: AsyncIterator[_Event]) -> None:
        self.name = name
        self.mime: str = segment.header("Content-Type", "")
        self._events = events
        self._ended = False

    def __aiter__(self) -> FormFile:
        return self

    async def __anext__(self) -> bytes:
        if not self._ended:
            async for event in self._events:
                if isinstance(event, bytes):
                    return event
                break
            self._ended = True
        raise StopAsyncIteration


async def read_form(body: AsyncIterable[bytes | memoryview], boundary: str) -> AsyncGenerator[FormFile]:
    """Yield the files of the form.  Skips fields, and the empty parts of file inputs that were left empty.

    Raises ``Malformed``, ``TooLarge`` (too many parts, too large a field), ``Invalid`` (a file without a name),
    ``UnsupportedMediaType`` (an encoded file), and what *body* raises.
    """
    events = _events(body, boundary)
    async for segment in events:
        assert isinstance(segment, MultipartSegment)  # noqa: S101 - every part is read to its end below
        name = _name_of(segment)
        file = FormFile(segment, name or "", events)
        if name:
            _check_plain(segment)
            yield file
        size = 0
        async for piece in file:  # what the caller left, or a part that is skipped
            size += len(piece)
            if name is None and size > MOST_FIELD_BYTES:
                raise TooLarge(f"A field has at most {MOST_FIELD_BYTES} bytes. A file needs a file name.")
        if name == "" and size:
            raise Invalid("A file of the form has no name.", field="filename")


async def _events(body: AsyncIterable[bytes | memoryview], boundary: str) -> AsyncGenerator[_Event]:
    idle = 0
    try:
        parser = PushMultipartParser(boundary, max_segment_count=MOST_PARTS)
        async for piece in body:
            idle += len(piece)
            for event in parser.parse(bytes(piece)):
                idle = 0
                yield event
            if idle > _MOST_IDLE_BYTES:
                raise Malformed("The form has too many bytes before its first part, or after its last one.")
        parser.close()
    except ParserLimitReached as error:
        raise TooLarge(f"The form is too large: {_plain(error)}.") from None
    except MultipartError as error:
        raise Malformed(f"The body is not a form: {_plain(error)}.") from None


def _plain(error: MultipartError) -> str:
    return str(error.args[0] if error.args else "").rstrip(".")  # another argument is the cause


def _check_plain(segment: MultipartSegment) -> None:
    """Raises ``UnsupportedMediaType`` if the part has its content in an encoding (RFC 7578, section 4.7)."""
    for header, plain in _PLAIN.items():
        if segment.header(header, plain[0]).strip().lower() not in plain:
            raise UnsupportedMediaType("A file of the form must not be encoded.", field=header)


def _name_of(segment: MultipartSegment) -> str | None:
    """Return the file name of the part; ``None`` for a field.  ``filename*`` (RFC 8187) takes precedence."""
    extended = _EXTENDED.search(segment.header("Content-Disposition", ""))
    if extended is not None:
        try:
            return unquote(extended[2], extended[1], "strict")
        except UnicodeDecodeError:
            raise Invalid("The file name is not Unicode.", field="filename") from None
    name: str | None = segment.filename
    return name
