"""How a download is named and typed (RFC 6266, RFC 8187)."""

from __future__ import annotations

import re
import unicodedata
from urllib.parse import quote

UNKNOWN = "application/octet-stream"

_SHOWN = frozenset(
    {"application/pdf", "text/plain"} | {f"image/{kind}" for kind in ("avif", "gif", "jpeg", "png", "webp")}
)
"""Types that a browser may display, besides audio and video."""

_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+", re.ASCII)
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([A-Za-z0-9_.:+-]+)"?', re.IGNORECASE)

_ACTIVE = re.compile(
    r"""
    .*[/+]xml(-.*)?                                 # with SVG, XHTML and RSS
    | .*/(x?html?|xslt?|mathml|svg)([.+-].*)?
    | .*/(x-)?(java|ecma|j|live)script[\d.]*
    | (multipart|message)/.*                        # may contain a page
    | application/(x-)?shockwave-flash
    """,
    re.VERBOSE,
)


TURNING = dict.fromkeys([0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
"""Characters that change the direction of writing, so that ``gpj.exe`` is shown as ``exe.jpg`` (Unicode TR 36, 2.3)."""


def content_disposition(filename: str, mime: str, *, inline: bool = False) -> str:
    """The value of ``Content-Disposition`` for a *filename* of any characters.

    Clients that know RFC 8187 get the name without its bidirectional controls,
    others an ASCII version without characters that need quoting.  *inline*
    counts only for types that browsers display without running scripts: never
    HTML, SVG or XML.
    """
    filename = filename.translate(TURNING) or "download"
    kind = "inline" if inline and may_be_shown(mime) else "attachment"
    plain = unicodedata.normalize("NFKD", filename).encode("ascii", "ignore").decode()
    plain = "".join(letter for letter in plain if letter.isprintable() and letter not in '"\\%;/').strip()
    if not plain or (plain.startswith(".") and not filename.startswith(".")):
        plain = f"download{plain}"  # only the suffix is ASCII, and alone it would make a hidden file
    if plain == filename:
        return f'{kind}; filename="{plain}"'
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


def inert(mime: str) -> str:
    """A type for *mime* that no browser runs, for a store that cannot send a content security policy.

    It is *mime* without parameters except the charset, or ``application/octet-stream``.
    """
    kind = mime.partition(";")[0].strip().lower()
    if "," in mime or not _TYPE.fullmatch(kind) or _ACTIVE.fullmatch(kind):
        return UNKNOWN
    charset = _CHARSET.search(mime) if kind.startswith("text/") else None
    return f"{kind}; charset={charset[1]}" if charset else kind


def may_be_shown(mime: str) -> bool:
    """Whether *mime* is one harmless type.  Of several separated by commas, browsers take the last."""
    kind = mime.partition(";")[0].strip().lower()
    return "," not in mime and (kind in _SHOWN or kind.startswith(("audio/", "video/")))
