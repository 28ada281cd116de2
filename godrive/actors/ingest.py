"""The ingest actor: the only way an upload becomes a file.

Theory of operation.  The truth about an upload is its row and the store's
HEAD.  Whoever believes that bytes arrived (the client that calls complete, a
bucket event, the reconciler) ends up in :meth:`IngestActor._publish`, which
compares and publishes in one transaction of the catalog; repeating it finds
the same file.  So an event may be lost, doubled or late, and this process may
be killed at any instant: the row stays pending, and the reconciler asks HEAD
again until the row's deadline.

When the bytes are not what was declared, the row ends before the bytes are
deleted.  The other order could delete the bytes of an upload that somebody
else is publishing; in this one a crash in between leaves bytes that the
janitor's cleanup removes.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from enum import Enum, auto

from msgspec.structs import replace

from godrive.actors.concurrent import for_each
from godrive.clock import Clock
from godrive.config import Ingest as Settings
from godrive.errors import (
    Conflict,
    DeliveryError,
    DigestMismatch,
    DriveError,
    Gone,
    LengthMismatch,
    NameTaken,
    NotFound,
    StorageFull,
    StoreUnavailable,
)
from godrive.messages.ingest import CommitUpload, Ingest, IngestBlob, Outcome, Reconcile, Reconciled
from godrive.messages.metadata import (
    DueUploads,
    FailUpload,
    FindUpload,
    GetUpload,
    Metadata,
    PublishUpload,
    TouchUpload,
)
from godrive.messages.storage import DeleteBlob, DigestBlob, HeadBlob, Received, Storage
from godrive.model import BlobInfo, File, Upload, UploadId, UploadState
from godrive.runtime import Actor, Ref

AT_ONCE = 16
"""Uploads that one reconciliation settles at the same time."""


class _Settled(Enum):
    """What became of a due upload; ``LATER`` is tried again."""

    PUBLISHED = auto()
    FAILED = auto()
    EXPIRED = auto()
    LATER = auto()


class IngestActor(Actor[Ingest]):
    """Turns bytes that arrived into files."""

    def __init__(self, metadata: Ref[Metadata], storage: Ref[Storage], settings: Settings, clock: Clock) -> None:
        self._metadata = metadata
        self._storage = storage
        self._settings = settings
        self._clock = clock

    @CommitUpload.handler
    async def commit_upload(self, ask: CommitUpload) -> File:
        if ask.blob is not None and ask.owner_id is None:
            return await self._publish(ask.upload_id, ask.blob)
        upload = await self._metadata.ask(GetUpload(ask.upload_id, ask.owner_id))
        if upload.state not in {UploadState.PENDING, UploadState.COMMITTED}:
            raise Gone(upload.reason or "The upload has ended.")
        return await self._publish(upload.id, ask.blob or await self._arrived(upload))

    @IngestBlob.handler
    async def ingest_blob(self, ask: IngestBlob) -> Outcome:
        try:
            upload = await self._metadata.ask(FindUpload(ask.object_key))
            if upload.state is UploadState.COMMITTED:
                return Outcome.PUBLISHED
            if upload.state is not UploadState.PENDING:
                return Outcome.IGNORED
            await self._publish(upload.id, await self._head(upload))
        except (LengthMismatch, DigestMismatch):
            return Outcome.REJECTED
        except (NotFound, Gone, NameTaken):
            return Outcome.IGNORED
        return Outcome.PUBLISHED

    @Reconcile.handler
    async def reconcile(self, ask: Reconcile) -> Reconciled:
        count: Counter[_Settled] = Counter()

        async def settle(upload: Upload) -> None:
            count[await self._settle(upload)] += 1

        # Each call puts the next check of what it returns off, so this ends.
        due = DueUploads(after=self._settings.reconcile_after, limit=self._settings.batch)
        while uploads := await self._metadata.ask(due):
            await for_each(uploads, settle, at_most=AT_ONCE)
            if len(uploads) < due.limit:
                break
        return Reconciled(
            checked=count.total(),
            published=count[_Settled.PUBLISHED],
            failed=count[_Settled.FAILED],
            expired=count[_Settled.EXPIRED],
        )

    async def _settle(self, upload: Upload) -> _Settled:
        """Publish or end one pending upload, or leave it for later; only a bug gets out of here."""
        try:
            try:
                blob = await self._head(upload)
            except NotFound:
                return await self._expire(upload)
            await self._publish(upload.id, blob)
        except (LengthMismatch, DigestMismatch):
            return _Settled.FAILED
        except (StoreUnavailable, StorageFull, DeliveryError):
            return _Settled.LATER
        except DriveError as error:
            return await self._give_up(upload, error)
        return _Settled.PUBLISHED

    async def _expire(self, upload: Upload) -> _Settled:
        """No bytes: end the upload at its deadline, unless they are on their way right now."""
        if self._clock.now() < upload.expires_at:
            return _Settled.LATER
        received = await self._storage.ask(Received(upload.object_key))
        if received is not None:
            await self._metadata.ask(TouchUpload(upload.id, received))
            return _Settled.LATER
        reason = "No bytes arrived in time."
        ended = await self._metadata.ask(FailUpload(upload.id, reason, UploadState.EXPIRED))
        return _Settled.EXPIRED if ended.state is UploadState.EXPIRED else _Settled.LATER

    async def _give_up(self, upload: Upload, error: DriveError) -> _Settled:
        """The bytes are here but cannot be a file, for the name is taken, say: their owner has until the deadline."""
        if self._clock.now() < upload.expires_at:
            return _Settled.LATER
        await self._reject(upload.id, error)
        return _Settled.FAILED

    async def _publish(self, upload_id: UploadId, blob: BlobInfo) -> File:
        try:
            return await self._metadata.ask(PublishUpload(upload_id, blob))
        except (LengthMismatch, DigestMismatch) as error:
            await self._reject(upload_id, error)
            raise

    async def _reject(self, upload_id: UploadId, error: DriveError) -> None:
        """End the upload for that reason, then remove its bytes; the janitor does what fails here."""
        with suppress(DriveError):
            ended = await self._metadata.ask(FailUpload(upload_id, error.detail))
            if ended.state is not UploadState.COMMITTED:
                await self._storage.ask(DeleteBlob(ended.object_key))

    async def _arrived(self, upload: Upload) -> BlobInfo:
        """What the store has for the upload."""
        try:
            return await self._head(upload)
        except NotFound:
            if upload.state is UploadState.COMMITTED:
                raise Gone("The file was deleted.") from None
            raise Conflict("No bytes have arrived yet.") from None

    async def _head(self, upload: Upload) -> BlobInfo:
        """The store's HEAD; a digest that was declared but that the store did not check is found out by reading."""
        blob = await self._storage.ask(HeadBlob(upload.object_key))
        unchecked = upload.sha256 is not None and blob.sha256 is None and upload.state is UploadState.PENDING
        if unchecked and blob.size_bytes == upload.size_bytes:
            blob = replace(blob, sha256=await self._storage.ask(DigestBlob(upload.object_key)))
        return blob
