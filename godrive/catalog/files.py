"""Live entries: list, get, rename, and the one way to their bytes."""

from __future__ import annotations

from datetime import datetime

from godrive.catalog import Tx
from godrive.catalog.pages import PageTokens
from godrive.model import Content, ETag, File, FileId, Page, Sort, UserId, VersionId


async def list_page(
    tx: Tx,
    owner_id: UserId,
    *,
    tokens: PageTokens,
    limit: int = 100,
    page: str | None = None,
    parent_id: FileId | None = None,
    sort: Sort = Sort.NEWEST,
    prefix: str | None = None,
    contains: str | None = None,
) -> Page[File]:
    """As ``ListFiles`` says."""
    ...


async def get(tx: Tx, owner_id: UserId, file_id: FileId) -> File:
    """One live entry.  Raises ``NotFound``."""
    ...


async def rename(
    tx: Tx, owner_id: UserId, file_id: FileId, name: str, *, now: datetime, if_match: ETag | None = None
) -> File:
    """As ``RenameFile`` says."""
    ...


async def open_content(
    tx: Tx, file_id: FileId, *, owner_id: UserId | None = None, version_id: VersionId | None = None
) -> Content:
    """As ``OpenContent`` says."""
    ...
