"""Turn requests into values: bodies, queries, paths and headers.  A refusal names the field at fault."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum, EnumType
from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints
from urllib.parse import unquote_to_bytes

import msgspec
from aiohttp import hdrs, web

from godrive.errors import Invalid, NotFound, PreconditionFailed
from godrive.http.api.media_types import parse_media_type
from godrive.http.api.problems import Malformed, UnsupportedMediaType
from godrive.http.api.wording import in_words

T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)

_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_FIELD = re.compile(r"`\$\.?([^`]*)`$")
_NAMED = re.compile(r"(?:unknown|required) field `([^`]*)`")
_ETAG = re.compile(r'\s*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"\s*(?:,|$)')
_SHORT, _KNOWN = 64, 500
_DIGITS = 18
"""More than any limit has, and fewer than a number that is slow to parse."""


def check_media_type(request: web.Request) -> None:
    """Raises ``UnsupportedMediaType`` unless ``Content-Type`` is JSON in UTF-8 or absent."""
    encoding = request.headers.get(hdrs.CONTENT_ENCODING)
    if encoding is not None and encoding.strip().lower() != "identity":
        raise UnsupportedMediaType("The body must not be compressed.", field=hdrs.CONTENT_ENCODING)
    said = request.headers.get(hdrs.CONTENT_TYPE)
    if said is None or said == "application/json":
        return
    try:
        media_type = parse_media_type(said)
    except Invalid:
        raise UnsupportedMediaType("The body must be application/json.", field=hdrs.CONTENT_TYPE) from None
    name = media_type.name
    if name != "application/json" and not (name.startswith("application/") and name.endswith("+json")):
        raise UnsupportedMediaType("The body must be application/json.", field=hdrs.CONTENT_TYPE)
    if not media_type.may_be_utf_8:
        raise UnsupportedMediaType("The body must be UTF-8.", field=hdrs.CONTENT_TYPE)


def json_reader(type_: type[T], *, required: bool) -> Callable[[bytes], T | None]:
    """Return a function that reads JSON as *type_*.  It raises ``Malformed``, or ``Invalid`` with the field."""

    @cache
    def decoder() -> msgspec.json.Decoder[T]:  # not before the first body: to make them all delays the start
        return msgspec.json.Decoder(type_)

    def read(body: bytes) -> T | None:
        if not body:
            if required:
                raise Malformed("A JSON body is required.")
            return None
        try:
            return decoder().decode(body)
        except msgspec.ValidationError as error:
            raise _invalid(error, type_) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(f"The body is not JSON: {_ascii(str(error))}.") from None

    return read


def query_reader(type_: type[S]) -> Callable[[web.Request], S]:
    """Return a function that reads the query as *type_*, which is frozen: each parameter known, and given once.

    Short queries repeat, so their values are kept.
    """
    known: dict[str, S] = {}

    def read(request: web.Request) -> S:
        raw = request.rel_url.raw_query_string
        found = known.get(raw)
        if found is None:
            found = parse(request)
            if len(raw) <= _SHORT:
                if len(known) > _KNOWN:
                    known.clear()
                known[raw] = found
        return found

    def parse(request: web.Request) -> S:
        _check_encoding(request.rel_url.raw_query_string)
        parsers = _parsers(type_)
        values: dict[str, Any] = {}
        for name, text in request.query.items():
            parser = parsers.get(name)
            if parser is None:
                raise Invalid("Unknown query parameter.", field=_ascii(name))
            if name in values:
                raise Invalid("The query parameter must not be repeated.", field=name)
            values[name] = parser(name, _check_text(name, text))
        try:
            return msgspec.convert(values, type_)
        except msgspec.ValidationError as error:
            raise _invalid(error, type_) from None

    return read


@cache
def _parsers(type_: type[msgspec.Struct]) -> Mapping[str, Callable[[str, str], Any]]:
    """The parser of each parameter.  Kept, because to evaluate annotations takes long."""
    hints = get_type_hints(type_, include_extras=True)
    return {field.encode_name: _parser(hints[field.name]) for field in msgspec.structs.fields(type_)}


def _check_encoding(query: str) -> None:
    """Raises ``Invalid`` unless the escapes are UTF-8: aiohttp replaces others, so that different names become one."""
    if "%" not in query:
        return
    for parameter in query.split("&"):
        name, _, text = parameter.partition("=")
        try:
            unquote_to_bytes(text).decode()
        except UnicodeDecodeError:
            raise Invalid("Must be UTF-8.", field=_ascii(name)) from None


def _check_text(name: str, text: str) -> str:
    """Return *text*.  Raises ``Invalid`` if it contains a NUL."""
    if "\0" in text:
        raise Invalid("Must not contain NUL.", field=name)
    return text


def read_id(request: web.Request, name: str) -> str:
    """Return an id from the path.  Raises ``NotFound`` for text that cannot be an id."""
    value = request.match_info[name]
    if _ID.fullmatch(value) is None:
        raise NotFound()
    return value


def entity_tags(request: web.Request, header: str) -> list[tuple[bool, str]] | None:
    """Return the (weak, opaque) tags of ``If-Match`` or ``If-None-Match``: none for ``*``, ``None`` without the header.

    RFC 9110, sections 8.8.3 and 13.1.  Raises ``Invalid``.
    """
    lines = request.headers.getall(header, None)
    if lines is None:
        return None
    text = ",".join(lines)
    if text.strip() == "*":
        return []
    tags, at = [], 0
    while at < len(text):
        match = _ETAG.match(text, at)
        if match is None:
            raise Invalid('Must be "*" or a list of quoted entity tags.', field=header)
        tags.append((match[1] is not None, match[2]))
        at = match.end()
    if not tags:
        raise Invalid('Must be "*" or a list of quoted entity tags.', field=header)
    return tags


def strong_tags(request: web.Request) -> list[str] | None:
    """The tags of ``If-Match`` that can match; ``None`` where any will do.

    Raises ``PreconditionFailed``, ``Invalid``.
    """
    tags = entity_tags(request, hdrs.IF_MATCH)
    if not tags:
        return None
    strong = [tag for weak, tag in tags if not weak]
    if not strong:
        raise PreconditionFailed("A weak entity tag never matches.", field=hdrs.IF_MATCH)
    return strong


def combined(request: web.Request, name: str) -> str | None:
    """Return a header; ``None`` without it.  Lines of one name are one list (RFC 9110, section 5.2).

    So what must be a single value is malformed if it was sent twice, and no reader takes one and another the other.
    """
    lines = request.headers.getall(name, None)
    return None if lines is None else ", ".join(lines)


def header_text(value: str, longest: int) -> str:
    """Return a header as text that any store takes: Unicode without control characters, cut to *longest*."""
    clean = value.encode("utf-8", "replace").decode()
    return "".join(character for character in clean[:longest] if character.isprintable())


def _invalid(error: msgspec.ValidationError, type_: Any) -> Invalid:
    text = str(error)
    named = _NAMED.search(text)
    placed = _FIELD.search(text)
    parts = [found for found in (placed[1] if placed else "", named[1] if named else "") if found]
    detail = in_words(text.partition(" - at `")[0])
    if detail.startswith("Invalid enum value") and (choices := _choices(type_, parts[-1])):
        detail = f"Must be one of: {', '.join(choices)}"
    return Invalid(f"{_ascii(detail)}.", field=_ascii(".".join(parts)) or None)


def _choices(type_: Any, name: str) -> list[str]:
    """What a field of a struct may be, if it is one of a few texts."""
    if not (isinstance(type_, type) and issubclass(type_, msgspec.Struct)):
        return []
    hint = get_type_hints(type_, include_extras=True).get(name)
    return [
        str(choice.value if isinstance(choice, Enum) else choice)
        for each in _types_of(hint)
        for choice in (get_args(each) if get_origin(each) is Literal else each if isinstance(each, EnumType) else ())
    ]


def _parser(hint: Any) -> Callable[[str, str], Any]:
    types_ = _types_of(hint) - {NoneType}
    if types_ == {int}:
        return _integer
    if types_ == {bool}:
        return _boolean
    if all(type_ in (str, datetime) or get_origin(type_) is Literal or issubclass(type_, str) for type_ in types_):
        return _string
    raise TypeError(f"A query cannot have a parameter of type {hint}")


def _types_of(hint: Any) -> set[Any]:
    if get_origin(hint) is Annotated:
        return _types_of(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return {type_ for part in get_args(hint) for type_ in _types_of(part)}
    return {hint}


def _integer(name: str, text: str) -> int:
    if not text.removeprefix("-").isdecimal() or not text.isascii() or len(text) > _DIGITS:
        raise Invalid("Must be an integer.", field=name)
    return int(text)


def _boolean(name: str, text: str) -> bool:
    if text not in {"true", "false"}:
        raise Invalid("Must be true or false.", field=name)
    return text == "true"


def _string(name: str, text: str) -> str:
    return text


def _ascii(text: str) -> str:
    """Return what a client sent in a form that is safe to send back."""
    return text.encode("ascii", "backslashreplace").decode()[:200].replace("\0", "\\0")
