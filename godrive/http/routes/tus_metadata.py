"""What clients of tus say about a file in ``Upload-Metadata`` and in the query, under the names that they use.

Names and types are those of tus-js-client and tusd (``filename``, ``filetype``), of Uppy (``name``, ``type``,
``relativePath``), of ownCloud's clients and rclone (``mtime``), of browsers (``lastModified``), and of our own API.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from godrive.blobs.disposition import UNKNOWN
from godrive.errors import Invalid
from godrive.http.api.paths import split_path
from godrive.http.api.tus_headers import METADATA
from godrive.http.api.wording import in_words
from godrive.http.routes.files import ROOT, EntryId, spot_of
from godrive.http.routes.uploads import Digest
from godrive.model import At, FileId, OnConflict, Spot

KNOWN = (
    "filename",
    "name",
    "filetype",
    "type",
    "relativePath",
    "path",
    "parent_id",
    "on_conflict",
    "modified_at",
    "mtime",
    "lastModified",
    "sha256",
)
"""The keys that are read here."""

UNTITLED = "untitled"
"""The name of a file without one; a number makes it unique."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The file that an upload is to become."""

    where: Spot
    name: str
    mime: str
    on_conflict: OnConflict
    modified_at: datetime | None
    sha256: str | None


def read_wanted(meta: Mapping[str, str], base: At | None, parent_id: str | None, on_conflict: OnConflict) -> Wanted:
    """Return what the metadata and the query (*base*, *parent_id*, *on_conflict*) ask for.  Raises ``Invalid``.

    What the metadata say of the folder begins at *base*.
    """
    *folders, last = split_path(meta.get("relativePath", "").removeprefix("/"))
    name = meta.get("filename") or meta.get("name") or last
    if "on_conflict" in meta:
        on_conflict = _read(meta, "on_conflict", OnConflict)
    mime = (meta.get("filetype") or meta.get("type") or "").strip()
    return Wanted(
        where=_place(meta, base, parent_id, folders),
        name=name or UNTITLED,
        mime="" if mime.lower() == UNKNOWN else mime,
        on_conflict=on_conflict if name else OnConflict.RENAME,
        modified_at=_modified_at(meta),
        sha256=_read(meta, "sha256", Digest).lower() if "sha256" in meta else None,
    )


def _place(meta: Mapping[str, str], base: At | None, parent_id: str | None, folders: list[str]) -> Spot:
    """Return the folder.  The folders of a relative path are created."""
    if "parent_id" in meta:
        if parent_id is not None:
            raise Invalid("Name the folder in the query or in the metadata, not in both.", field="parent_id")
        parent_id = _read(meta, "parent_id", EntryId)
    if parent_id is not None and (base is not None or "path" in meta):
        raise Invalid("Send either a path or a parent_id.", field="parent_id")
    above = [*(() if base is None else base.path), *(split_path(meta["path"]) if "path" in meta else ()), *folders]
    if not above:
        return spot_of(parent_id)
    below = None if parent_id in (None, ROOT) else FileId(parent_id)
    return At(path=tuple(above), parents=bool(folders), below=below)


def _modified_at(meta: Mapping[str, str]) -> datetime | None:
    """Return when the content was last modified: RFC 3339, seconds since 1970, or milliseconds."""
    for key, unit in (("modified_at", 0.0), ("mtime", 1.0), ("lastModified", 1000.0)):
        if key in meta:
            try:
                if unit:
                    return datetime.fromtimestamp(_read(meta, key, float) / unit, UTC)
                at: datetime = _read(meta, key, Annotated[datetime, Meta(tz=True)])
                return at.astimezone(UTC)
            except (ValueError, OverflowError, OSError):
                raise Invalid(f"{key} in {METADATA} must lie in the years 1 to 9999.", field=key) from None
    return None


def _read(meta: Mapping[str, str], key: str, type_: Any) -> Any:
    """Return a value as *type_*.  Raises ``Invalid``."""
    try:
        return msgspec.convert(meta[key], type_, strict=False)
    except msgspec.ValidationError as error:
        raise Invalid(f"{key} in {METADATA}: {in_words(str(error))}.", field=key) from None
