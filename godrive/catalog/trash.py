"""The trash: put, list, restore, purge."""

from __future__ import annotations

from datetime import datetime

from godrive.catalog import Tx
from godrive.catalog.pages import PageTokens
from godrive.model import ETag, File, FileId, OnConflict, Page, Purge, Tombstone, UserId


async def put(
    tx: Tx, owner_id: UserId, file_id: FileId, *, now: datetime, grace: float, if_match: ETag | None = None
) -> Tombstone:
    """As ``TrashFile`` says; it may be purged *grace* seconds from now."""
    ...


async def list_page(
    tx: Tx, owner_id: UserId, *, tokens: PageTokens, limit: int = 100, page: str | None = None
) -> Page[File]:
    """As ``ListTrash`` says."""
    ...


async def restore(
    tx: Tx,
    owner_id: UserId,
    file_id: FileId,
    *,
    now: datetime,
    on_conflict: OnConflict = OnConflict.FAIL,
    if_match: ETag | None = None,
) -> File:
    """As ``RestoreFile`` says."""
    ...


async def purge(tx: Tx, owner_id: UserId, file_id: FileId, *, now: datetime, if_match: ETag | None = None) -> None:
    """As ``PurgeFile`` says."""
    ...


async def empty(tx: Tx, owner_id: UserId, *, now: datetime) -> int:
    """As ``EmptyTrash`` says."""
    ...


async def claim_purges(tx: Tx, *, limit: int, now: datetime) -> list[Purge]:
    """As ``ClaimPurges`` says.  A write: it counts the attempts."""
    ...


async def finish_purge(tx: Tx, file_id: FileId, *, now: datetime) -> None:
    """As ``FinishPurge`` says."""
    ...
