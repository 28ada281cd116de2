"""Media types as RFC 9110, section 8.3.1, writes them: names without case, parameters in any order, quoted or not."""

from __future__ import annotations

import re
from functools import lru_cache

import msgspec

from godrive.errors import Invalid

_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_TYPE = re.compile(rf"[ \t]*({_WORD}/{_WORD})")
_PARAMETER = re.compile(rf'[ \t]*;[ \t]*(?:({_WORD})[ \t]*=[ \t]*(?:({_WORD})|"((?:[^"\\]|\\.)*)"))?', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_UTF_8 = {"utf-8", "utf8"}


class MediaType(msgspec.Struct, frozen=True):
    """``type/subtype`` in lower case and its parameters, their names in lower case."""

    name: str
    parameters: tuple[tuple[str, str], ...] = ()

    @property
    def charset(self) -> str | None:
        """The ``charset`` in lower case, ``None`` without one."""
        charset = dict(self.parameters).get("charset")
        return None if charset is None else charset.lower()

    @property
    def may_be_utf_8(self) -> bool:
        """Whether the charset is UTF-8 or not stated."""
        return self.charset is None or self.charset in _UTF_8

    def agrees_with(self, other: MediaType) -> bool:
        """Whether both can describe the same bytes.

        The charset does not count: clients add one to text that has none
        declared.  Nor does any other parameter that only one of them has.
        """
        mine, others = dict(self.parameters), dict(other.parameters)
        shared = (mine.keys() & others.keys()) - {"charset"}
        return self.name == other.name and all(mine[name] == others[name] for name in shared)


@lru_cache(maxsize=512)
def parse_media_type(text: str) -> MediaType:
    """Read a media type.  Spaces around ``=`` and empty parameters are tolerated.  Raises ``Invalid``."""
    type_ = _TYPE.match(text)
    if type_ is None:
        raise Invalid("That is not a media type.")
    parameters: dict[str, str] = {}
    at = type_.end()
    while match := _PARAMETER.match(text, at):
        at = match.end()
        if match[1] is not None:
            value = match[2] if match[2] is not None else _ESCAPED.sub(r"\1", match[3])
            parameters.setdefault(match[1].lower(), value)
    if text[at:].strip(" \t"):
        raise Invalid("That is not a media type.")
    return MediaType(type_[1].lower(), tuple(parameters.items()))
