"""How a download is named, in a header that any client reads (RFC 6266, RFC 8187)."""

from __future__ import annotations

import unicodedata
from urllib.parse import quote

_SHOWN = frozenset(
    {"application/pdf", "text/plain"} | {f"image/{kind}" for kind in ("avif", "gif", "jpeg", "png", "webp")}
)
"""Types that a browser may show by itself, beside audio and video."""


_TURNING = dict.fromkeys([0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
"""Characters that change the direction of writing, so that ``gpj.exe`` is shown as ``exe.jpg`` (Unicode TR 36, 2.3)."""


def content_disposition(filename: str, mime: str, *, inline: bool = False) -> str:
    """The value of ``Content-Disposition`` for *filename*, of whatever letters.

    Clients that know RFC 8187 get the name without its bidirectional controls;
    others get one without what would need quoting or is not ASCII.  *inline*
    counts only for types that a browser may show by itself: never HTML, SVG or
    XML, which run scripts.
    """
    filename = filename.translate(_TURNING) or "download"
    kind = "inline" if inline and may_be_shown(mime) else "attachment"
    plain = unicodedata.normalize("NFKD", filename).encode("ascii", "ignore").decode()
    plain = "".join(letter for letter in plain if letter.isprintable() and letter not in '"\\%;/').strip()
    if not plain or (plain.startswith(".") and not filename.startswith(".")):
        plain = f"download{plain}"  # of a name in another script only the suffix is left, which would hide the file
    if plain == filename:
        return f'{kind}; filename="{plain}"'
    return f"{kind}; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"


def may_be_shown(mime: str) -> bool:
    """Whether a browser may show it: one harmless type, since of several with commas between browsers take the last."""
    kind = mime.partition(";")[0].strip().lower()
    return "," not in mime and (kind in _SHOWN or kind.startswith(("audio/", "video/")))
