"""The metadata actor: what this server's configuration and clock add to the rules of the catalog.

The rules themselves are in ``godrive.catalog``; an operation may be run more
than once, so each reads the clock before it begins.
"""

from __future__ import annotations

from godrive.actors.batching import Batcher
from godrive.catalog import Catalog
from godrive.clock import Clock
from godrive.config import Config
from godrive.messages.metadata import (
    AbortUpload,
    AcquireLease,
    BeginUpload,
    ClaimKey,
    ClaimPurges,
    CountChanges,
    DropEvents,
    DueCleanups,
    DueEvents,
    DueUploads,
    EmptyTrash,
    FailUpload,
    FindUpload,
    FinishCleanup,
    FinishPurge,
    GetFile,
    GetUpload,
    KnownKeys,
    ListFiles,
    ListTrash,
    ListUploads,
    Metadata,
    OpenContent,
    PostponeUploads,
    Prune,
    PublishUpload,
    PurgeFile,
    ReleaseLease,
    RenameFile,
    RestoreFile,
    SettleKey,
    TouchUpload,
    TrashFile,
    UploadCounts,
    UsageDrift,
)
from godrive.model import (
    Cleanup,
    Content,
    File,
    FileEvent,
    ObjectKey,
    Page,
    Pruned,
    Purge,
    StoredReply,
    Tombstone,
    Upload,
    UserId,
)
from godrive.rules import files, housekeeping, outbox, trash, uploads
from godrive.rules.page_tokens import PageTokens
from godrive.runtime import Actor


class MetadataActor(Actor[Metadata]):
    """Owns files, uploads and the trash.

    It keeps nothing between messages, so any number may be under way: reads
    run beside writes, and writes that wait together share one commit, as
    counts of changes that wait together share one statement.
    """

    def __init__(self, catalog: Catalog, config: Config, clock: Clock, tokens: PageTokens) -> None:
        self._catalog = catalog
        self._config = config
        self._clock = clock
        self._tokens = tokens
        self._changes = Batcher(self._count_changes)

    # Files

    @ListFiles.handler
    async def list_files(self, ask: ListFiles) -> Page[File]:
        return await self._catalog.read(
            lambda tx: files.list_page(
                tx,
                ask.owner_id,
                tokens=self._tokens,
                limit=ask.limit,
                page=ask.page,
                parent_id=ask.parent_id,
                sort=ask.sort,
                prefix=ask.prefix,
                contains=ask.contains,
            )
        )

    @CountChanges.handler
    async def count_changes(self, ask: CountChanges) -> int:
        return await self._changes.get(ask.owner_id)

    async def _count_changes(self, owner_ids: list[UserId]) -> dict[UserId, int]:
        return await self._catalog.read(lambda tx: files.count_changes(tx, owner_ids))

    @GetFile.handler
    async def get_file(self, ask: GetFile) -> File:
        return await self._catalog.read(lambda tx: files.get(tx, ask.owner_id, ask.file_id))

    @RenameFile.handler
    async def rename_file(self, ask: RenameFile) -> File:
        now = self._clock.now()
        return await self._catalog.write(
            lambda tx: files.rename(tx, ask.owner_id, ask.file_id, ask.name, now=now, if_match=ask.if_match)
        )

    @OpenContent.handler
    async def open_content(self, ask: OpenContent) -> Content:
        return await self._catalog.read(
            lambda tx: files.open_content(tx, ask.file_id, owner_id=ask.owner_id, version_id=ask.version_id)
        )

    # The trash

    @TrashFile.handler
    async def trash_file(self, ask: TrashFile) -> Tombstone:
        now, grace = self._clock.now(), self._config.janitor.trash_grace
        return await self._catalog.write(
            lambda tx: trash.put(tx, ask.owner_id, ask.file_id, now=now, grace=grace, if_match=ask.if_match)
        )

    @ListTrash.handler
    async def list_trash(self, ask: ListTrash) -> Page[File]:
        return await self._catalog.read(
            lambda tx: trash.list_page(tx, ask.owner_id, tokens=self._tokens, limit=ask.limit, page=ask.page)
        )

    @RestoreFile.handler
    async def restore_file(self, ask: RestoreFile) -> File:
        now = self._clock.now()
        return await self._catalog.write(
            lambda tx: trash.restore(
                tx, ask.owner_id, ask.file_id, now=now, on_conflict=ask.on_conflict, if_match=ask.if_match
            )
        )

    @PurgeFile.handler
    async def purge_file(self, ask: PurgeFile) -> None:
        now = self._clock.now()
        await self._catalog.write(lambda tx: trash.purge(tx, ask.owner_id, ask.file_id, now=now, if_match=ask.if_match))

    @EmptyTrash.handler
    async def empty_trash(self, ask: EmptyTrash) -> int:
        now = self._clock.now()
        return await self._catalog.write(lambda tx: trash.empty(tx, ask.owner_id, now=now))

    @ClaimPurges.handler
    async def claim_purges(self, ask: ClaimPurges) -> list[Purge]:
        now = self._clock.now()
        return await self._catalog.write(lambda tx: trash.claim_purges(tx, limit=ask.limit, now=now))

    @FinishPurge.handler
    async def finish_purge(self, ask: FinishPurge) -> None:
        now = self._clock.now()
        await self._catalog.write(lambda tx: trash.finish_purge(tx, ask.file_id, now=now))

    # Uploads

    @BeginUpload.handler
    async def begin_upload(self, ask: BeginUpload) -> Upload:
        now, ttl = self._clock.now(), self._config.blobs.upload_ttl + ask.in_transit
        return await self._catalog.write(
            lambda tx: uploads.begin(
                tx,
                ask.owner_id,
                name=ask.name,
                mime=ask.mime,
                size_bytes=ask.size_bytes,
                now=now,
                ttl=ttl,
                sha256=ask.sha256,
                parent_id=ask.parent_id,
                on_conflict=ask.on_conflict,
            )
        )

    @GetUpload.handler
    async def get_upload(self, ask: GetUpload) -> Upload:
        return await self._catalog.read(lambda tx: uploads.get(tx, ask.upload_id, owner_id=ask.owner_id))

    @FindUpload.handler
    async def find_upload(self, ask: FindUpload) -> Upload:
        return await self._catalog.read(lambda tx: uploads.find(tx, ask.object_key))

    @ListUploads.handler
    async def list_uploads(self, ask: ListUploads) -> Page[Upload]:
        return await self._catalog.read(
            lambda tx: uploads.list_page(
                tx, ask.owner_id, tokens=self._tokens, limit=ask.limit, page=ask.page, state=ask.state
            )
        )

    @TouchUpload.handler
    async def touch_upload(self, ask: TouchUpload) -> Upload:
        now, ttl = self._clock.now(), self._config.blobs.upload_ttl
        return await self._catalog.write(
            lambda tx: uploads.touch(tx, ask.upload_id, ask.received_bytes, now=now, ttl=ttl)
        )

    @PublishUpload.handler
    async def publish_upload(self, ask: PublishUpload) -> File:
        now = self._clock.now()
        return await self._catalog.write(lambda tx: uploads.publish(tx, ask.upload_id, ask.blob, now=now))

    @FailUpload.handler
    async def fail_upload(self, ask: FailUpload) -> Upload:
        now = self._clock.now()
        return await self._catalog.write(
            lambda tx: uploads.fail(tx, ask.upload_id, ask.reason, now=now, state=ask.state)
        )

    @AbortUpload.handler
    async def abort_upload(self, ask: AbortUpload) -> Upload:
        now = self._clock.now()
        return await self._catalog.write(lambda tx: uploads.abort(tx, ask.owner_id, ask.upload_id, now=now))

    @DueUploads.handler
    async def due_uploads(self, ask: DueUploads) -> list[Upload]:
        now = self._clock.now()
        return await self._catalog.write(lambda tx: uploads.due(tx, after=ask.after, limit=ask.limit, now=now))

    @PostponeUploads.handler
    async def postpone_uploads(self, ask: PostponeUploads) -> None:
        now = self._clock.now()
        await self._catalog.write(lambda tx: uploads.postpone(tx, ask.upload_ids, after=ask.after, now=now))

    @DueCleanups.handler
    async def due_cleanups(self, ask: DueCleanups) -> list[Cleanup]:
        now = self._clock.now()
        return await self._catalog.write(lambda tx: uploads.due_cleanups(tx, limit=ask.limit, now=now))

    @FinishCleanup.handler
    async def finish_cleanup(self, ask: FinishCleanup) -> None:
        now = self._clock.now()
        await self._catalog.write(lambda tx: uploads.finish_cleanup(tx, ask.upload_id, now=now))

    @UploadCounts.handler
    async def upload_counts(self, ask: UploadCounts) -> dict[str, int]:
        return await self._catalog.read(uploads.counts)

    # Housekeeping

    @KnownKeys.handler
    async def known_keys(self, ask: KnownKeys) -> list[ObjectKey]:
        return await self._catalog.read(lambda tx: housekeeping.known_keys(tx, ask.object_keys))

    @Prune.handler
    async def prune(self, ask: Prune) -> Pruned:
        now, retention = self._clock.now(), self._config.janitor.upload_retention
        return await self._catalog.write(
            lambda tx: housekeeping.prune(tx, limit=ask.limit, now=now, retention=retention)
        )

    @ClaimKey.handler
    async def claim_key(self, ask: ClaimKey) -> StoredReply | None:
        now = self._clock.now()
        return await self._catalog.write(
            lambda tx: housekeeping.claim_key(tx, ask.owner_id, ask.key, ask.fingerprint, now=now)
        )

    @SettleKey.handler
    async def settle_key(self, ask: SettleKey) -> None:
        now = self._clock.now()
        await self._catalog.write(lambda tx: housekeeping.settle_key(tx, ask.owner_id, ask.key, ask.stored, now=now))

    @UsageDrift.handler
    async def usage_drift(self, ask: UsageDrift) -> int:
        return await self._catalog.read(housekeeping.usage_drift)

    @DueEvents.handler
    async def due_events(self, ask: DueEvents) -> list[FileEvent]:
        return await self._catalog.read(lambda tx: outbox.pending(tx, limit=ask.limit))

    @DropEvents.handler
    async def drop_events(self, ask: DropEvents) -> None:
        await self._catalog.write(lambda tx: outbox.drop(tx, ask.events))

    @AcquireLease.handler
    async def acquire_lease(self, ask: AcquireLease) -> bool:
        now = self._clock.now()
        return await self._catalog.write(
            lambda tx: housekeeping.acquire_lease(tx, ask.name, ask.holder, now=now, ttl=ask.ttl)
        )

    @ReleaseLease.handler
    async def release_lease(self, ask: ReleaseLease) -> None:
        await self._catalog.write(lambda tx: housekeeping.release_lease(tx, ask.name, ask.holder))
