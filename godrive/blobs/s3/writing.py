"""Operations that change what is stored: put, delete, quarantine, sweep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager, suppress
from datetime import datetime
from functools import partial
from typing import Any

from msgspec.structs import replace

from godrive.blobs.disposition import UNKNOWN
from godrive.blobs.s3.body import PartReader, part_size
from godrive.blobs.s3.bucket import Bucket
from godrive.blobs.s3.client import BODY_DEADLINE
from godrive.blobs.s3.info import DIGEST_KEY, WRITER_KEY, blob_info
from godrive.blobs.s3.multipart import UnfinishedMultipart
from godrive.errors import NotFound, StoreUnavailable, UploadFinished
from godrive.model import BlobInfo, ObjectKey, new_id


class Writing(Bucket):
    """See :class:`~godrive.blobs.BlobStore`."""

    def receiving(self, key: ObjectKey) -> int | None:
        """See :meth:`godrive.blobs.BlobStore.receiving`.  Counts puts through this process only."""
        bodies = self.arriving.get(key)
        return max(body.received for body in bodies) if bodies else None

    @contextmanager
    def _receive(self, key: ObjectKey, body: PartReader) -> Iterator[None]:
        self.arriving.setdefault(key, []).append(body)
        try:
            yield
        finally:
            self.arriving[key].remove(body)
            if not self.arriving[key]:
                del self.arriving[key]

    async def put(
        self,
        key: ObjectKey,
        body: AsyncIterable[bytes | memoryview],
        *,
        size: int | None = None,
        sha256: str | None = None,
        mime: str | None = None,
    ) -> BlobInfo:
        """See :meth:`godrive.blobs.BlobStore.put`.

        After ``StoreUnavailable`` the blob may be stored, whole, because the
        answer of the store may have been lost.
        """
        self.layout.object(key)
        arriving = PartReader(body, size=size, sha256=sha256, memory=self.memory, slots=self.slots)
        kind = mime or UNKNOWN
        with self._receive(key, arriving):
            async with (
                arriving.receiving(),
                aclosing(arriving.parts(lambda number: part_size(number, size, smallest=self.part))) as parts,
            ):
                first = await anext(parts)
                if arriving.ended:
                    await self.put_whole(key, first, kind, arriving.sha256)
                else:
                    sending = _Parts(arriving, first, parts)
                    del first
                    await self._put_in_parts(key, sending, kind, {DIGEST_KEY: sha256} if sha256 else {})
        head = await self.look(self.layout.object(key))
        return replace(blob_info(key, head), sha256=arriving.sha256)

    async def put_whole(self, key: ObjectKey, data: bytes, mime: str, sha256: str) -> None:
        """Store *data* as the blob.  Raises ``UploadFinished``."""
        place, writer = self.layout.object(key), new_id()
        create_only = (await self.honours()).conditional_put
        condition: dict[str, Any] = {"IfNoneMatch": "*"} if create_only else {}
        async with self.publishing(key):
            if not create_only:
                await self.refuse_existing(place)
            try:
                await self.client.call(
                    "put_object",
                    Key=place,
                    Body=data,
                    ContentType=mime,
                    Metadata={DIGEST_KEY: sha256, WRITER_KEY: writer},
                    deadline=BODY_DEADLINE,
                    **condition,
                )
            except UploadFinished as error:
                await self._check_stored(error, writer, place)

    async def _put_in_parts(self, key: ObjectKey, sending: _Parts, mime: str, metadata: dict[str, str]) -> None:
        place, writer = self.layout.object(key), new_id()
        await self.refuse_existing(place)  # before many bytes are sent in vain
        multipart = await self.multipart.begin(place, mime, {WRITER_KEY: writer} | metadata)
        try:
            parts: list[tuple[int, str]] = []
            while sending.part is not None:
                number = len(parts) + 1
                parts.append((number, await sending.send(partial(self.multipart.send, place, multipart, number))))
            await self.publish_parts(key, multipart, parts, writer)
        except BaseException:
            await self.multipart.give_up(place, multipart)
            raise

    async def publish_parts(self, key: ObjectKey, multipart: str, parts: list[tuple[int, str]], writer: str) -> None:
        """Make a blob of the parts.  Idempotent for the same *writer*.  Raises ``UploadFinished``, ``NotFound``."""
        place = self.layout.object(key)
        async with self.publishing(key):
            try:
                await self.join_once(place, multipart, parts)
            except (UploadFinished, NotFound) as error:
                await self._check_stored(error, writer, place)

    async def _check_stored(self, error: UploadFinished | NotFound, writer: str, place: str) -> None:
        """Raise *error* unless an earlier attempt of this put has stored the object."""
        head = await self.look_if_any(place)
        if head is None and isinstance(error, UploadFinished):  # such an attempt may still be under way
            raise StoreUnavailable("The store is busy with another request for the object.") from error
        if head is None or head.get("Metadata", {}).get(WRITER_KEY) != writer:
            raise error

    async def delete(self, key: ObjectKey) -> None:
        """See :meth:`godrive.blobs.BlobStore.delete`."""
        await self.client.call("delete_object", Key=self.layout.object(key))
        if not self.capabilities.direct:
            await self.client.call("delete_object", Key=self.layout.arrival(key))

    async def quarantine(self, key: ObjectKey) -> None:
        """See :meth:`godrive.blobs.BlobStore.quarantine`.  The blob moves below ``quarantine/``."""
        place = self.layout.object(key)
        head = await self.look_if_any(place)
        if head is not None:
            await self.transfer(place, head, self.layout.quarantine(key))
            await self.client.call("delete_object", Key=place)

    async def sweep_staging(self, before: datetime) -> int:
        """See :meth:`godrive.blobs.BlobStore.sweep_staging`.

        Aborts multipart uploads of copies that have not grown since, deletes
        what probes left, and publishes what clients sent.  It never deletes what
        a client sent: its upload may still be pending, and if not it is an
        orphan.  Those of blobs are :meth:`godrive.blobs.Appendable.abandoned`.
        """
        swept = 0
        ours = (self.layout.quarantined, self.layout.probes)
        async for upload in self.multipart.unfinished(ours):
            if await self.is_idle(upload, before):
                await self.multipart.give_up(upload.place, upload.id)
                swept += 1
        following = {"NextContinuationToken": "ContinuationToken"}
        for prefix in (self.layout.incoming, self.layout.probes):
            async for entry in self.client.pages("list_objects_v2", "Contents", following, Prefix=prefix):
                if entry["LastModified"] < before:
                    key = self.layout.object_key(entry["Key"])
                    if key is None:
                        await self.client.call("delete_object", Key=entry["Key"])
                    else:
                        with suppress(NotFound):  # it has been published or deleted since
                            await self.settle(key)
                    swept += 1
        return swept

    async def is_idle(self, upload: UnfinishedMultipart, before: datetime) -> bool:
        """Whether the multipart upload was begun, and has last grown, before that instant."""
        if upload.begun_at >= before:
            return False
        with suppress(NotFound):
            async for part in self.multipart.parts(upload.place, upload.id):
                if part.modified_at >= before:
                    return False
        return True


class _Parts:
    """The parts of a body: one is sent while the next one arrives.  No more than these two are in memory."""

    def __init__(self, body: PartReader, first: bytes, rest: AsyncIterator[bytes]) -> None:
        self.part: bytes | None = first
        self._body = body
        self._rest = rest

    async def send(self, send: Callable[[bytes], Coroutine[Any, Any, str]]) -> str:
        """Send the part, and make the next one the part; ``None`` after the last one."""
        assert self.part is not None  # noqa: S101 - the caller has checked
        task = asyncio.create_task(send(self.part))
        task.add_done_callback(self._body.note_sent)
        self.part = None
        try:
            self.part = await anext(self._rest, None)
            return await task
        finally:
            if not task.done():
                task.cancel()
            await asyncio.wait([task])
