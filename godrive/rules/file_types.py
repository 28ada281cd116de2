"""The families of media types that a search can ask for."""

from __future__ import annotations

from functools import cache

from godrive.model import FileType

_KINDS = (FileType.FILE, FileType.FOLDER)
_WHOLE = (FileType.IMAGE, FileType.VIDEO, FileType.AUDIO, FileType.TEXT)
"""Types that are all ``image/*``, and so on."""

_OFFICE = "application/vnd.openxmlformats-officedocument."
_OPEN = "application/vnd.oasis.opendocument."

FAMILIES: dict[FileType, tuple[str, ...]] = {
    FileType.PDF: ("application/pdf",),
    FileType.DOCUMENT: (
        "application/pdf",
        "application/msword",
        "application/rtf",
        "application/epub+zip",
        "application/vnd.apple.pages",
        _OFFICE + "wordprocessingml.document",
        _OPEN + "text",
        "text/plain",
        "text/markdown",
        "text/rtf",
    ),
    FileType.SPREADSHEET: (
        "application/vnd.ms-excel",
        "application/vnd.apple.numbers",
        _OFFICE + "spreadsheetml.sheet",
        _OPEN + "spreadsheet",
        "text/csv",
        "text/tab-separated-values",
    ),
    FileType.PRESENTATION: (
        "application/vnd.ms-powerpoint",
        "application/vnd.apple.keynote",
        _OFFICE + "presentationml.presentation",
        _OPEN + "presentation",
    ),
    FileType.ARCHIVE: (
        "application/zip",
        "application/x-zip-compressed",
        "application/gzip",
        "application/x-gzip",
        "application/x-tar",
        "application/x-bzip2",
        "application/x-xz",
        "application/zstd",
        "application/vnd.rar",
        "application/x-rar-compressed",
        "application/x-7z-compressed",
    ),
}
"""The media types of the other families, without parameters."""


@cache
def condition(type_: FileType) -> str:
    """SQL: whether the row of ``entries`` has the type.  Media types have no case and may have parameters."""
    if type_ in _KINDS:
        return f"entries.kind = '{type_.value}'"
    mime = "LOWER(entries.mime)"
    if type_ in _WHOLE:
        matches = f"{mime} LIKE '{type_.value}/%'"
    else:
        matches = " OR ".join(f"{mime} = '{name}' OR {mime} LIKE '{name};%'" for name in FAMILIES[type_])
    return f"entries.kind = 'file' AND ({matches})"
