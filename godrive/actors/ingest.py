"""The ingest actor: the only way an upload becomes a file.

Theory of operation.  The truth about an upload is its row and the store's
HEAD, or an event of the store that proves what a HEAD would say (see
:class:`~godrive.messages.ingest.IngestBlob`).  Every hint that bytes arrived (a client's complete call, a bucket event,
the reconciler) leads to :meth:`IngestActor._publish`, which compares and
publishes in one catalog transaction.  Publishing is idempotent, so an event may
be lost, duplicated or late, and the process may be killed at any time: the row
stays pending, and the reconciler repeats the HEAD until the row's deadline.

An upload in one request is published by that request or not at all.  Its client
has no answer and sends the bytes again.  To publish the first ones later could
undo what the client did in between.

An upload ends at its deadline, whatever the store answers.  Only an
outage of the store or the catalog postpones the end, because the bytes may be
there; it does not count as an attempt of the upload.

When the bytes differ from what was declared, the row ends before the bytes are
deleted.  The other order could delete bytes that another caller is publishing.
If the process dies in between, the janitor's cleanup deletes the bytes.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from msgspec.structs import replace

from godrive.actors.clock_check import check_clock
from godrive.actors.concurrent import Patient, for_each
from godrive.actors.settled import Count, Settled
from godrive.blobs.parts import SentPart
from godrive.clock import Clock, ClockGuard
from godrive.config import Ingest as Settings
from godrive.errors import (
    Conflict,
    DeliveryError,
    DigestMismatch,
    DriveError,
    Gone,
    Invalid,
    LengthMismatch,
    NameTaken,
    NotFound,
    PreconditionFailed,
    StorageFull,
    StoreUnavailable,
    UploadFinished,
)
from godrive.messages.ingest import CommitUpload, EventOutcome, Ingest, IngestBlob, Reconcile, Reconciled
from godrive.messages.metadata import Metadata
from godrive.messages.pending import UploadsWithoutFolder
from godrive.messages.storage import (
    CheckStore,
    DeleteBlob,
    DigestBlob,
    DiscardStaged,
    FinishStaged,
    HeadBlob,
    JoinParts,
    ListParts,
    Received,
    SniffBlob,
    Storage,
    VouchForBlob,
)
from godrive.messages.system import DueUploads, PostponeUploads
from godrive.messages.uploads import FailUpload, FindUpload, GetUpload, PublishUpload, TouchUpload
from godrive.model import BlobInfo, ETag, File, Upload, UploadId, UploadKind, UploadState
from godrive.principal import Principal, System
from godrive.runtime import Actor, Ref

SYSTEM = System(part="ingest")
"""The principal for uploads that the server settles without a request."""

_FINAL = (LengthMismatch, DigestMismatch, PreconditionFailed)
"""Errors of publishing that no later attempt can avoid, so that the upload fails."""

SETTLE = 60.0
"""Seconds that parts are left alone after the last one has arrived, because its client joins them, or may repeat it."""

SLOWEST_READ = 8 * 1024 * 1024
"""Bytes per second at which the slowest store is read for the digest of a large blob."""

AT_ONCE = 16
"""Uploads that a reconciliation settles concurrently."""

PATIENCE, LEFT_BEHIND = 10.0, 8
"""Seconds that a reconciliation waits for one upload, and uploads that go on without it.

A large blob may be read for minutes to make its digest, and other uploads are due meanwhile.
"""


class _Refused(Exception):
    """The store is up, but fails for this object."""

    def __init__(self, error: DriveError) -> None:
        super().__init__(error)
        self.error = error


class IngestActor(Actor[Ingest]):
    """Publishes uploads whose bytes have arrived."""

    def __init__(
        self, metadata: Ref[Metadata], storage: Ref[Storage], settings: Settings, clock: Clock, guard: ClockGuard
    ) -> None:
        self._metadata = metadata
        self._storage = storage
        self._settings = settings
        self._clock = clock
        self._guard = guard
        self._patient = Patient[UploadId, Count](PATIENCE, LEFT_BEHIND)

    async def on_stop(self) -> None:
        await self._patient.stop()

    @CommitUpload.handler
    async def commit_upload(self, ask: CommitUpload) -> File:
        if ask.blob is not None:
            return await self._publish(ask.by, ask.upload_id, ask.blob, ask.upload)
        upload = await self._metadata.ask(GetUpload(ask.by, ask.upload_id))
        if upload.state not in {UploadState.PENDING, UploadState.COMMITTED}:
            raise Gone(upload.reason or "The upload has ended.")
        return await self._publish(ask.by, upload.id, await self._arrived(upload, ask.parts), upload)

    @IngestBlob.handler
    async def ingest_blob(self, ask: IngestBlob) -> EventOutcome:
        try:
            upload = await self._metadata.ask(FindUpload(SYSTEM, ask.object_key))
            if upload.state is UploadState.COMMITTED:
                return EventOutcome.PUBLISHED
            if upload.state is not UploadState.PENDING or upload.kind is UploadKind.ONCE:
                return EventOutcome.IGNORED
            blob = await self._proven(ask, upload) or await self._head(upload)
            await self._publish(SYSTEM, upload.id, blob, upload)
        except _FINAL:
            return EventOutcome.REJECTED
        except (NotFound, Gone, NameTaken):
            return EventOutcome.IGNORED
        return EventOutcome.PUBLISHED

    async def _proven(self, event: IngestBlob, upload: Upload) -> BlobInfo | None:
        """What a HEAD would say, if the event and the store's way of writing prove it, and it is all that counts."""
        if not event.certain or event.etag is None or event.at is None or event.size_bytes != upload.size_bytes:
            return None
        seen = BlobInfo(key=event.object_key, size_bytes=upload.size_bytes, etag=event.etag, modified_at=event.at)
        blob = await self._storage.ask(VouchForBlob(seen, event.metadata))
        if blob is None or not upload.mime or upload.multipart or upload.sha256 not in (None, blob.sha256):
            return None
        return blob

    @Reconcile.handler
    async def reconcile(self, ask: Reconcile) -> Reconciled:
        if not self._guard.compared:
            await check_clock(self._metadata, self._guard, self._clock)
        count = Count()
        for ended in self._patient.collect():
            count.include(ended)

        async def settle(upload: Upload) -> None:
            own = await self._patient.run(upload.id, partial(self._check, upload, is_lost=upload.id in lost))
            if own is None:
                count[Settled.LATER] += 1
            else:
                count.include(own)

        # Each call postpones the next check of the uploads it returns, so the loop ends.  Not all that are due may fit.
        due = DueUploads(after=self._settings.reconcile_after, limit=self._settings.batch)
        while uploads := await self._metadata.ask(due):
            in_folders = [upload.id for upload in uploads if upload.parent_id is not None]
            lost = await self._metadata.ask(UploadsWithoutFolder(in_folders)) if in_folders else []
            await for_each(uploads, settle, at_most=AT_ONCE)
            if count.postponed:
                await self._metadata.ask(PostponeUploads(count.postponed, after=due.after))
                break
        return count.reconciled()

    async def _check(self, upload: Upload, *, is_lost: bool) -> Count:
        """The result for one due upload."""
        count = Count()
        settled = await (self._end_lost(upload) if is_lost else self._settle(upload, count))
        count[settled] += 1
        if settled is Settled.POSTPONED:
            count.postponed.append(upload.id)
        return count

    async def _end_lost(self, upload: Upload) -> Settled:
        """End an upload whose folder was purged, so that its reserved bytes are free before its deadline."""
        await self._reject(upload.id, Gone("The folder of the upload no longer exists."))
        return Settled.FAILED

    async def _settle(self, upload: Upload, count: Count) -> Settled:
        """Publish or end one pending upload, or leave it for later.  Raises nothing but bugs."""
        try:
            if upload.kind is not UploadKind.WHOLE and not self._is_complete(upload):
                return await self._expire(upload)
            try:
                blob = await self._head_or_refused(upload)
            except NotFound:
                if upload.kind is not UploadKind.WHOLE:
                    blob = await self._finish(upload)
                elif await self._join_settled(upload):
                    blob = await self._head(upload, joined=True)
                else:
                    return await self._expire(upload)
            await self._publish(SYSTEM, upload.id, blob, upload)
            if upload.kind is not UploadKind.WHOLE:  # a kill in the middle of finishing has left it
                await self._storage.ask(DiscardStaged(upload.object_key, upload.staging))
        except _FINAL as error:
            count.note(upload, error)
            return Settled.FAILED
        except (StoreUnavailable, StorageFull, DeliveryError) as error:
            count.note(upload, error)
            return Settled.POSTPONED
        except _Refused as refused:
            count.note(upload, refused.error)
            return await self._give_up(upload, refused.error)
        except DriveError as error:
            settled = await self._give_up(upload, error)
            if settled is Settled.FAILED:
                count.note(upload, error)
            return settled
        return Settled.PUBLISHED

    async def _head_or_refused(self, upload: Upload) -> BlobInfo:
        """The store's HEAD.  Raises :class:`_Refused` when the store is up but fails for this object.

        The object is asked for twice: an outage may end between the first HEAD
        and the check of the store, and then the first failure proves nothing.
        """
        for last in (False, True):
            try:
                return await self._head(upload)
            except (StoreUnavailable, DeliveryError) as error:
                await self._storage.ask(CheckStore())  # raises during an outage
                if last:
                    raise _Refused(error) from error
        raise AssertionError("unreachable")

    def _is_complete(self, upload: Upload) -> bool:
        """Whether an upload in several appends has all of its bytes, and becomes a file.

        Not an empty one, whose client has no URL of it until it is a file: if that
        request failed or broke off, the client has begun anew, and this one would
        replace what came since.
        """
        return upload.kind is UploadKind.RESUMABLE and 0 < upload.received_bytes == upload.length

    async def _finish(self, upload: Upload) -> BlobInfo:
        """Make the blob of an upload whose client sent the last byte and did not come back."""
        try:
            return await self._complete(upload, await self._storage.ask(FinishStaged(upload)))
        except UploadFinished:
            return await self._head(upload)
        except DigestMismatch as error:
            await self._reject(upload.id, error)
            raise

    async def _expire(self, upload: Upload) -> Settled:
        """Without bytes, or without the request that brought them, end the upload at its deadline.

        Not while they are arriving.
        """
        if not self._is_overdue(upload):
            return Settled.LATER
        received = await self._received(upload)
        if received is not None:
            await self._metadata.ask(TouchUpload(SYSTEM, upload.id, received))
            return Settled.LATER
        reason = "No bytes arrived in time."
        ended = await self._metadata.ask(FailUpload(SYSTEM, upload.id, reason, UploadState.EXPIRED))
        return Settled.EXPIRED if ended.state is UploadState.EXPIRED else Settled.LATER

    async def _join_settled(self, upload: Upload) -> bool:
        """Whether the store has all parts, of which none is new: the client is gone, so nobody else joins them."""
        if not upload.multipart:
            return False
        settle = 0.0 if self._is_overdue(upload) else SETTLE
        try:
            await self._storage.ask(JoinParts(upload, settle=settle))
        except (Conflict, Invalid, NotFound):
            return False
        return True

    async def _received(self, upload: Upload) -> int | None:
        """The number of bytes received if some have come since the last check; ``None`` if nothing comes any more."""
        if not upload.multipart:
            return await self._storage.ask(Received(upload.object_key))
        try:
            parts = await self._storage.ask(ListParts(upload))
        except NotFound:
            return None
        received = sum(part.size_bytes for part in parts)
        return received if received > upload.received_bytes else None

    async def _give_up(self, upload: Upload, error: DriveError) -> Settled:
        """Bytes that cannot become a file, for example because the name is taken, end the upload at its deadline."""
        if not self._is_overdue(upload):
            return Settled.LATER
        await self._reject(upload.id, error)
        return Settled.FAILED

    def _is_overdue(self, upload: Upload) -> bool:
        """Whether the deadline has passed.  While the clock is in doubt after a jump, by the time before it too."""
        return (self._guard.due_by() or self._clock.now()) >= upload.expires_at

    async def _publish(self, by: Principal, upload_id: UploadId, blob: BlobInfo, upload: Upload | None = None) -> File:
        try:
            return await self._metadata.ask(PublishUpload(by, upload_id, blob, upload))
        except _FINAL as error:
            await self._reject(upload_id, error)
            raise

    async def _reject(self, upload_id: UploadId, error: DriveError) -> None:
        """End the upload for that reason, then delete its bytes.  The janitor repeats whatever fails here."""
        with suppress(DriveError):
            ended = await self._metadata.ask(FailUpload(SYSTEM, upload_id, error.detail))
            if ended.state is not UploadState.COMMITTED:
                await self._storage.ask(DeleteBlob(ended.object_key))

    async def _arrived(self, upload: Upload, parts: list[SentPart] | None) -> BlobInfo:
        """The blob of the upload.  Raises ``Conflict`` before it has arrived, and what ``JoinParts`` raises.

        For a committed upload, only the row counts: its bytes may be those of a
        version that was deleted since, or were not needed.
        """
        if upload.state is UploadState.COMMITTED:
            etag = ETag(upload.id)
            return BlobInfo(
                key=upload.object_key, size_bytes=upload.size_bytes, etag=etag, modified_at=upload.created_at
            )
        try:
            return await self._head(upload)
        except NotFound:
            if self._is_complete(upload):
                return await self._finish(upload)
            if not upload.multipart:
                raise Conflict("No bytes have arrived yet.") from None
        try:
            await self._storage.ask(JoinParts(upload, parts))
        except NotFound:
            lost = "The store no longer has the parts of the upload."
            await self._metadata.ask(FailUpload(SYSTEM, upload.id, lost))
            raise Gone(lost) from None
        return await self._head(upload, joined=True)

    async def _head(self, upload: Upload, *, joined: bool = False) -> BlobInfo:
        """The store's HEAD, completed.  If its parts have not been *joined* just now, none of them will be."""
        multipart = "" if joined else upload.multipart
        head = HeadBlob(upload.object_key, multipart)
        return await self._complete(upload, await self._storage.ask(head))

    async def _complete(self, upload: Upload, blob: BlobInfo) -> BlobInfo:
        """Add to the description of a blob what only the bytes can tell.

        That is the digest, if the store does not know it and one was declared, or
        the bytes came in several requests; and the media type, if none was declared.
        """
        if blob.size_bytes != upload.size_bytes:
            return blob
        if blob.sha256 is None and (upload.sha256 is not None or upload.kind is UploadKind.RESUMABLE):
            patience = max(DigestBlob.timeout, blob.size_bytes / SLOWEST_READ)
            digest = await self._storage.ask(DigestBlob(upload.object_key), timeout=patience)
            blob = replace(blob, sha256=digest)
        if not upload.mime and blob.mime is None:
            blob = replace(blob, mime=await self._storage.ask(SniffBlob(upload.object_key, upload.name)))
        return blob
