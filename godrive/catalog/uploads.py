"""Uploads: from intent to file, or to their end."""

from __future__ import annotations

from datetime import datetime

from godrive.catalog import Tx
from godrive.catalog.pages import PageTokens
from godrive.model import (
    BlobInfo,
    Cleanup,
    File,
    FileId,
    ObjectKey,
    OnConflict,
    Page,
    Upload,
    UploadId,
    UploadState,
    UserId,
)


async def begin(
    tx: Tx,
    owner_id: UserId,
    *,
    name: str,
    mime: str,
    size_bytes: int,
    now: datetime,
    ttl: float,
    sha256: str | None = None,
    parent_id: FileId | None = None,
    on_conflict: OnConflict = OnConflict.FAIL,
) -> Upload:
    """As ``BeginUpload`` says; the upload and its URL live *ttl* seconds."""
    ...


async def get(tx: Tx, upload_id: UploadId, *, owner_id: UserId | None = None) -> Upload:
    """As ``GetUpload`` says."""
    ...


async def find(tx: Tx, object_key: ObjectKey) -> Upload:
    """As ``FindUpload`` says."""
    ...


async def list_page(
    tx: Tx,
    owner_id: UserId,
    *,
    tokens: PageTokens,
    limit: int = 100,
    page: str | None = None,
    state: UploadState | None = None,
) -> Page[Upload]:
    """As ``ListUploads`` says."""
    ...


async def touch(tx: Tx, upload_id: UploadId, received_bytes: int, *, now: datetime, ttl: float) -> Upload:
    """As ``TouchUpload`` says; the deadline becomes *ttl* seconds from now, never earlier than it was."""
    ...


async def publish(tx: Tx, upload_id: UploadId, blob: BlobInfo, *, now: datetime) -> File:
    """As ``PublishUpload`` says."""
    ...


async def fail(
    tx: Tx, upload_id: UploadId, reason: str, *, now: datetime, state: UploadState = UploadState.FAILED
) -> Upload:
    """As ``FailUpload`` says."""
    ...


async def abort(tx: Tx, owner_id: UserId, upload_id: UploadId, *, now: datetime) -> Upload:
    """As ``AbortUpload`` says."""
    ...


async def due(tx: Tx, *, after: float, limit: int, now: datetime) -> list[Upload]:
    """As ``DueUploads`` says.  A write: it counts the attempts."""
    ...


async def due_cleanups(tx: Tx, *, limit: int, now: datetime) -> list[Cleanup]:
    """As ``DueCleanups`` says.  A write: it counts the attempts."""
    ...


async def finish_cleanup(tx: Tx, upload_id: UploadId, *, now: datetime) -> None:
    """As ``FinishCleanup`` says."""
    ...


async def counts(tx: Tx) -> dict[str, int]:
    """As ``UploadCounts`` says."""
    ...
