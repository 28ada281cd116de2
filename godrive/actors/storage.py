"""The storage actor owns the blob store and signs the requests that move bytes.

The bytes themselves travel in signed requests, never through a mailbox.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

import anyio

from godrive import own_urls
from godrive.blobs import Appendable, BlobStore, Presigner, Staged, staged_of
from godrive.blobs.admission import check_admission
from godrive.blobs.parts import PartSigner, StoredPart, plan_of, plan_parts
from godrive.blobs.sniffing import HEAD, sniff
from godrive.clock import Clock
from godrive.config import Blobs
from godrive.credentials import UrlSigner
from godrive.errors import Conflict, Gone, Invalid, NotFound, StoreUnavailable, UploadFinished
from godrive.messages.storage import (
    THROUGH_US,
    AbortParts,
    Admission,
    Admit,
    BeginParts,
    CheckStore,
    DeleteBlob,
    DigestBlob,
    DiscardStaged,
    FinishStaged,
    HeadBlob,
    JoinParts,
    ListAbandoned,
    ListBlobs,
    ListParts,
    QuarantineBlob,
    Received,
    SignArchive,
    SignGet,
    SignParts,
    SignPut,
    SniffBlob,
    Storage,
    SweepStaging,
    VouchForBlob,
)
from godrive.model import BlobInfo, ObjectKey, Page, SignedRequest, UploadState
from godrive.principal import user_of
from godrive.runtime import Actor

SLOWEST = 131_072
"""The slowest supported client, in bytes per second (1 Mbit/s).  URL lifetimes allow for it."""

SHORTEST_SIGNED, LONGEST_SIGNED = timedelta(seconds=1), timedelta(days=7)
"""Validities of a URL that stores accept."""

_CLOCKS = "Synchronise the clocks of all machines by NTP."

SHORTEST, LONGEST = 10.0, 86_400.0
"""Bounds, in seconds, of the time that a PUT to the store may go on after its URL has expired."""

UNREVOCABLE_TTL = 900.0
"""The longest validity, in seconds, of a download URL signed for an S3 store, because it cannot be revoked."""

_PROBE = ObjectKey("00000000/00000000-0000-7000-8000-000000000000")
"""A well-formed key that never exists.  A HEAD for it shows whether the store answers."""


class StorageActor(Actor[Storage]):
    """Owns the blob store.

    If clients can reach the store (it is a :class:`Presigner`), it signs its
    own URLs.  Otherwise the URLs lead to this server:
    ``PUT /v1/uploads/{id}/content`` and ``GET /v1/files/{id}/content``.
    """

    def __init__(self, blobs: BlobStore, config: Blobs, clock: Clock, urls: UrlSigner) -> None:
        self._blobs = blobs
        self._presigner = blobs if isinstance(blobs, Presigner) else None  # once: slow for a protocol
        self._appendable = blobs if isinstance(blobs, Appendable) else None
        self._part_signer = blobs if isinstance(blobs, PartSigner) else None
        self._config = config
        self._clock = clock
        self._urls = urls

    @Admit.handler
    async def admit(self, ask: Admit) -> Admission:
        size, asked = ask.size_bytes, ask.part_size
        await check_admission(self._blobs, self._config, size)
        if self._presigner is None:
            return THROUGH_US
        in_transit = min(max(SHORTEST, size / SLOWEST), LONGEST)
        s3 = self._config.s3
        plan = plan_parts(size, threshold=s3.multipart_threshold, part_size=s3.part_size, asked=asked)
        if plan is None or self._part_signer is None or not self._part_signer.signs_parts:
            return Admission(in_transit=in_transit)
        return Admission(in_transit=in_transit, part_size=plan.part_size)

    @SignPut.handler
    async def sign_put(self, ask: SignPut) -> SignedRequest:
        upload = ask.upload
        if upload.state is UploadState.COMMITTED:
            raise UploadFinished("The upload already has its bytes.")
        if upload.state is not UploadState.PENDING:
            raise Gone(upload.reason or "The upload has ended.")
        if self._presigner is not None:
            now, expires_at = self._clock.now(), upload.created_at + timedelta(seconds=self._config.upload_ttl)
            if expires_at - now < SHORTEST_SIGNED:  # the process that began the upload has another clock
                raise StoreUnavailable("The clocks of the processes of this server differ.", hint=_CLOCKS)
            return await self._presigner.presign_put(
                upload.object_key,
                size=upload.size_bytes,
                mime=upload.mime,
                sha256=upload.sha256,
                expires_at=min(expires_at, now + LONGEST_SIGNED),
            )
        return own_urls.sign_put(self._urls, ask.by, upload)

    @BeginParts.handler
    async def begin_parts(self, ask: BeginParts) -> str:
        return await self._signer.begin_parts(ask.object_key)

    @SignParts.handler
    async def sign_parts(self, ask: SignParts) -> list[SignedRequest]:
        upload, plan, until = ask.upload, plan_of(ask.upload), self._in(self._config.upload_ttl)
        return [
            await self._signer.presign_part(
                upload.object_key, upload.multipart, number, size=plan.length(number), expires_at=until
            )
            for number in ask.numbers
        ]

    @ListParts.handler
    async def list_parts(self, ask: ListParts) -> list[StoredPart]:
        found: list[StoredPart] = []
        parts = self._signer.stored_parts(ask.upload.object_key, ask.upload.multipart, after=ask.after)
        async for part in parts:
            found.append(part)
            if len(found) == ask.limit:
                break
        return found

    @JoinParts.handler
    async def join_parts(self, ask: JoinParts) -> None:
        key, multipart = ask.upload.object_key, ask.upload.multipart
        try:
            stored = [part async for part in self._signer.stored_parts(key, multipart)]
        except NotFound:
            await self._blobs.head(key)  # an earlier call has joined them, unless they were aborted
            return
        plan_of(ask.upload).check(stored, ask.claimed)
        if ask.settle and max(part.modified_at for part in stored) > self._in(-ask.settle):
            raise Conflict("The parts arrived only now.", field="parts")
        await self._signer.join_parts(key, multipart, stored)

    @AbortParts.handler
    async def abort_parts(self, ask: AbortParts) -> None:
        await self._signer.abort_parts(ask.object_key, ask.multipart)

    @property
    def _signer(self) -> PartSigner:
        if self._part_signer is None:
            raise Conflict("This store takes no parts.", field="parts")
        return self._part_signer

    @SignGet.handler
    async def sign_get(self, ask: SignGet) -> SignedRequest:
        longest = self._config.download_ttl_max
        if self._presigner is not None:
            longest = min(longest, UNREVOCABLE_TTL)
        file = ask.content.file
        expires_at = self._in(self._lifetime(ask.expires_in, file.size_bytes, longest))
        if self._presigner is not None:
            return await self._presigner.presign_get(
                ask.content.object_key,
                filename=file.name,
                mime=file.mime,
                expires_at=expires_at,
                method="HEAD" if ask.head else "GET",
            )
        claims = {"v": str(file.version_id), "user": user_of(ask.by)} | ({"inline": "1"} if ask.inline else {})
        url = self._urls.sign("GET", f"/v1/files/{file.id}/content", claims, expires_at=expires_at)
        return SignedRequest(method="HEAD" if ask.head else "GET", url=url, headers={}, expires_at=expires_at)

    @SignArchive.handler
    async def sign_archive(self, ask: SignArchive) -> SignedRequest:
        expires_at = self._in(self._lifetime(ask.expires_in, 0, self._config.download_ttl_max))
        path, claims = f"/v1/files/{ask.folder_id}/zip", {"user": user_of(ask.by)}
        url = self._urls.sign("GET", path, claims, expires_at=expires_at)
        return SignedRequest(method="GET", url=url, headers={}, expires_at=expires_at)

    def _lifetime(self, expires_in: float | None, size_bytes: int, longest: float) -> float:
        """Return the validity of a download URL in seconds, at most *longest*.

        The default is long enough for a slow client to pause and resume the
        download of a large file.
        """
        if expires_in is None:
            return min(max(self._config.download_ttl, size_bytes / SLOWEST), longest)
        if not 0 < expires_in <= longest:
            raise Invalid(
                f"A download URL is valid for more than 0 and at most {longest:g} seconds.", field="expires_in"
            )
        return expires_in

    @HeadBlob.handler
    async def head_blob(self, ask: HeadBlob) -> BlobInfo:
        if ask.multipart:
            return await self._signer.head_in_parts(ask.object_key, ask.multipart)
        return await self._blobs.head(ask.object_key)

    @VouchForBlob.handler
    async def vouch_for_blob(self, ask: VouchForBlob) -> BlobInfo | None:
        return None if self._presigner is None else self._presigner.vouch_for(ask.blob, ask.metadata)

    @DigestBlob.handler
    async def digest_blob(self, ask: DigestBlob) -> str:
        digest = hashlib.sha256()
        async for piece in self._blobs.get(ask.object_key):
            await anyio.to_thread.run_sync(digest.update, piece)
        return digest.hexdigest()

    @SniffBlob.handler
    async def sniff_blob(self, ask: SniffBlob) -> str:
        head = b"".join([piece async for piece in self._blobs.get(ask.object_key, end=HEAD)])
        return sniff(head, ask.name)

    @Received.handler
    async def received(self, ask: Received) -> int | None:
        return self._blobs.receiving(ask.object_key)

    @DeleteBlob.handler
    async def delete_blob(self, ask: DeleteBlob) -> None:
        await self._blobs.delete(ask.object_key)

    @ListBlobs.handler
    async def list_blobs(self, ask: ListBlobs) -> Page[BlobInfo]:
        items: list[BlobInfo] = []
        async for blob in self._blobs.list(after=ask.after):
            if len(items) == ask.limit:
                return Page(items=items, next_page=items[-1].key)
            items.append(blob)
        return Page(items=items)

    @QuarantineBlob.handler
    async def quarantine_blob(self, ask: QuarantineBlob) -> None:
        await self._blobs.quarantine(ask.object_key)

    @SweepStaging.handler
    async def sweep_staging(self, ask: SweepStaging) -> int:
        return await self._blobs.sweep_staging(self._in(-ask.age))

    @FinishStaged.handler
    async def finish_staged(self, ask: FinishStaged) -> BlobInfo:
        upload = ask.upload
        if self._appendable is None:
            raise Gone("The store cannot append.")
        return await self._appendable.finish(staged_of(upload), sha256=upload.sha256, mime=upload.mime or None)

    @DiscardStaged.handler
    async def discard_staged(self, ask: DiscardStaged) -> None:
        if self._appendable is not None:
            await self._appendable.discard(Staged(key=ask.object_key, state=ask.staging))

    @ListAbandoned.handler
    async def list_abandoned(self, ask: ListAbandoned) -> Page[ObjectKey]:
        items: list[ObjectKey] = []
        if self._appendable is not None:
            async for key in self._appendable.abandoned(self._in(-ask.age), after=ask.after):
                if len(items) == ask.limit:
                    return Page(items=items, next_page=items[-1])
                items.append(key)
        return Page(items=items)

    @CheckStore.handler
    async def check_store(self, ask: CheckStore) -> None:
        try:
            await self._blobs.head(_PROBE)
        except NotFound:
            return

    def _in(self, seconds: float) -> datetime:
        return self._clock.now() + timedelta(seconds=seconds)
