"""Blobs that are written in several steps (:class:`~godrive.blobs.Appendable`).

Theory of operation.  The bytes go into the parts of one multipart upload, whose
size is planned from the length of the blob.  A store takes no part under 5 MiB
except the last one.  So bytes that do not fill a part when a step ends are the
*tail*: an object of its own below ``staging/``, with a new name each time.  The
next step reads it again and puts its bytes before its own.  The state names the
multipart upload, how many of its parts count, and the tail.

A part that a step sent, but whose end its caller did not keep, is sent again
under the same number.  (To skip the number would be simpler, but Ceph completes
no upload of which a part is left out.)  If the store carries out both requests
in the wrong order, the bytes are the same, unless the first step ended within
that part.  So the state has a digest of the ETags of the parts, and a blob is
made only of exactly these.  A body that breaks off makes no part, only a tail:
its client may have gone on through another process long before this one knows.

The store computes no digest of the whole.  This process keeps a running one; if
another process had the first bytes, the caller reads the blob once to know it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Sequence
from contextlib import aclosing, suppress
from datetime import datetime
from typing import Any

from msgspec.structs import replace

from godrive.blobs import Staged
from godrive.blobs.body_check import BodyCheck
from godrive.blobs.disposition import UNKNOWN
from godrive.blobs.running_digests import RunningDigests
from godrive.blobs.s3.body import MAX_PARTS, PartReader, part_size
from godrive.blobs.s3.bucket import COPY_LIMIT
from godrive.blobs.s3.client import BODY_DEADLINE
from godrive.blobs.s3.info import WRITER_KEY, blob_info
from godrive.blobs.s3.multipart import UnfinishedMultipart
from godrive.blobs.s3.reading import Reading
from godrive.blobs.s3.spans import Span, pieced
from godrive.blobs.s3.staged_bytes import Noted, TailedBody
from godrive.blobs.s3.writing import Writing
from godrive.errors import DriveError, Gone, Invalid, NotFound, TooLarge, UploadFinished
from godrive.model import BlobInfo, ObjectKey, new_id

SMALLEST_PART = 5 * 1024 * 1024
"""The fewest bytes of a part that is not the last one (Amazon S3 user guide, "multipart upload limits")."""


class Appends(Reading, Writing):
    """The part of the store that appends."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._running = RunningDigests()

    async def append(
        self,
        staged: Staged,
        body: AsyncIterable[bytes | memoryview],
        *,
        size: int | None = None,
        mime: str = "",
        whole: bool = False,
    ) -> AsyncGenerator[Staged]:
        """See :meth:`godrive.blobs.Appendable.append`.  Holds at most two parts in memory."""
        key, noted = staged.key, Noted.of(staged)
        first, before = noted.parts + 1, noted.tail
        digest = self._running.take(key, staged.offset, staged.state)
        restored = digest.copy() if whole and digest is not None else None
        check = BodyCheck(None if size is None else size - staged.offset)
        source = TailedBody(self._tail(key, noted, staged.offset), body, check, digest)
        reader: PartReader

        async def begin(first: int) -> None:
            await reader.take_slot(first)

        pieces = source.pieces(begin)
        reader = PartReader(
            pieces,
            size=None,
            sha256=None,
            memory=self.memory,
            slots=self.slots,
            digested=False,
            end=source.end,
        )
        durable = staged.offset
        try:
            async with (
                reader.receiving(),
                aclosing(pieces),
                aclosing(reader.parts(lambda number: self._planned(first + number - 1, size))) as parts,
            ):
                part = await anext(parts)
                while not reader.ended:
                    noted = await self._begun(key, noted, mime)
                    sending = asyncio.create_task(self._send(key, noted, part))
                    sending.add_done_callback(reader.note_sent)
                    arriving = asyncio.create_task(_next(parts))
                    del part
                    try:
                        await asyncio.wait([sending])
                        noted = sending.result()
                        if not (whole or source.ended):
                            durable = noted.in_parts
                            yield noted.staged(staged, durable)
                        part = await arriving
                    finally:
                        sending.cancel()
                        arriving.cancel()
                        await asyncio.wait([sending, arriving])
                if source.error is None or not whole:
                    if source.error is not None and source.received:
                        noted = await self._stage_tail(key, noted, part)
                    elif source.received:
                        noted = await self._stage_rest(key, noted, part, size, mime)
                    durable = staged.offset + source.received
                    yield noted.staged(staged, durable)
                    if before != noted.tail:
                        await self._delete_tail(key, before)
        finally:
            if durable == staged.offset + source.received:
                self._running.keep(key, durable, digest, noted.staged(staged, durable).state)
            elif durable == staged.offset:
                self._running.keep(key, durable, restored, staged.state)
        # Not in the block: with Python 3.13, a frame that closes what it names would hold the error, and so the bytes.
        if source.error is not None:
            raise source.error

    def _planned(self, number: int, size: int | None) -> int:
        """The length of a part.  A tenth of the numbers is for shorter ones."""
        return part_size(number, None if size is None else size * 10 // 9, smallest=self.part)

    async def _begun(self, key: ObjectKey, noted: Noted, mime: str) -> Noted:
        if noted.upload:
            return noted
        writer = new_id()
        upload = await self.multipart.begin(self.layout.object(key), mime or UNKNOWN, {WRITER_KEY: writer})
        return replace(noted, upload=upload, writer=writer)

    async def _send(self, key: ObjectKey, noted: Noted, part: bytes) -> Noted:
        if noted.parts >= MAX_PARTS:
            raise TooLarge("The body has more parts than a store accepts.")
        try:
            etag = await self.multipart.send(self.layout.object(key), noted.upload, noted.parts + 1, part)
        except NotFound:
            raise _lost() from None
        return noted.with_part(len(part), etag)

    async def _stage_rest(self, key: ObjectKey, noted: Noted, rest: bytes, size: int | None, mime: str) -> Noted:
        """Store what has come after the last part: as a part if it may be one, else as the tail."""
        is_last = noted.upload != "" and noted.in_parts + len(rest) == size
        if is_last or (len(rest) >= SMALLEST_PART and self._may_end_early(noted, len(rest), size)):
            return await self._send(key, await self._begun(key, noted, mime), rest)
        return await self._stage_tail(key, noted, rest)

    async def _stage_tail(self, key: ObjectKey, noted: Noted, rest: bytes) -> Noted:
        noted = replace(noted, tail=new_id())
        await self.client.call("put_object", Key=self.layout.tails(key) + noted.tail, Body=rest, deadline=BODY_DEADLINE)
        return noted

    def _may_end_early(self, noted: Noted, length: int, size: int | None) -> bool:
        """Whether the rest of the blob fits into the parts that are left after one of *length* bytes."""
        planned = self._planned(noted.parts + 1, size)
        if size is None:
            return 2 * length >= planned
        return -(-(size - noted.in_parts - length) // planned) < MAX_PARTS - noted.parts

    async def _tail(self, key: ObjectKey, noted: Noted, offset: int) -> AsyncIterator[bytes]:
        """The bytes of the tail, which ends at *offset*."""
        missing = offset - noted.in_parts
        if noted.tail:
            try:
                async for piece in self.read(self.layout.tails(key) + noted.tail):
                    missing -= len(piece)
                    yield piece
            except NotFound:
                raise _lost() from None
        if missing:
            raise _lost()

    async def _delete_tail(self, key: ObjectKey, name: str) -> None:
        """Delete a tail.  If that fails, a sweep does it."""
        if name:
            with suppress(DriveError):
                await self.client.call("delete_object", Key=self.layout.tails(key) + name)

    async def finish(self, staged: Staged, *, sha256: str | None = None, mime: str | None = None) -> BlobInfo:
        """See :meth:`godrive.blobs.Appendable.finish`.  The digest is known if this process had all bytes."""
        key, noted = staged.key, Noted.of(staged)
        digest = self._running.take(key, staged.offset, staged.state)
        known = None if digest is None else digest.hexdigest()
        try:
            if known is not None:
                BodyCheck(None, sha256).compare(known)
            if noted.upload:
                await self._publish_parts(key, noted, staged.offset)
            else:
                known = await self._publish_tail(key, noted, staged.offset, sha256, mime)
        except UploadFinished:
            await self.discard(staged)
            raise
        except BaseException:
            self._running.keep(key, staged.offset, digest, staged.state)
            raise
        await self._delete_tail(key, noted.tail)
        return replace(blob_info(key, await self.look(self.layout.object(key))), sha256=known)

    async def _publish_parts(self, key: ObjectKey, noted: Noted, size: int) -> None:
        place = self.layout.object(key)
        try:
            if noted.tail:
                reader = self._reader(self._tail(key, noted, size))
                async with reader.receiving(), aclosing(reader.parts(lambda _: COPY_LIMIT)) as parts:
                    await reader.expect(size - noted.in_parts)
                    noted = await self._send(key, noted, await anext(parts))
            found = [part async for part in self.multipart.parts(place, noted.upload)]
            stored = [part for part in found if part.number <= noted.parts]
            if not noted.matches(stored):
                raise _lost()
            try:
                joined: list[tuple[int, str]] = [(part.number, part.etag) for part in stored]
                await self.publish_parts(key, noted.upload, joined, noted.writer)
            except Invalid:
                if len(found) == len(stored):
                    raise
                raise Gone("The store joins no parts without those of a refused request that follow them.") from None
        except (Gone, NotFound) as error:
            await self.refuse_existing(place)
            raise (error if isinstance(error, Gone) else _lost()) from None

    async def _publish_tail(self, key: ObjectKey, noted: Noted, size: int, sha256: str | None, mime: str | None) -> str:
        reader = self._reader(self._tail(key, noted, size), sha256)
        async with reader.receiving(), aclosing(reader.parts(lambda _: COPY_LIMIT)) as parts:
            await reader.expect(size)
            try:
                data = await anext(parts)
            except Gone:
                await self.refuse_existing(self.layout.object(key))
                raise
            await self.put_whole(key, data, mime or UNKNOWN, reader.sha256)
        return reader.sha256

    def _reader(self, pieces: AsyncIterator[bytes], sha256: str | None = None) -> PartReader:
        return PartReader(pieces, size=None, sha256=sha256, memory=self.memory, slots=self.slots)

    async def join(self, key: ObjectKey, parts: Sequence[Staged]) -> Staged:
        """See :meth:`godrive.blobs.Appendable.join`.  The parts become objects, of which the store copies ranges."""
        for part in parts:
            with suppress(UploadFinished):  # an earlier attempt has made the object
                await self.finish(part)
        noted = Noted()
        sources = [(self.layout.object(part.key), part.offset) for part in parts if part.offset]
        for spans in pieced(sources, smallest=SMALLEST_PART, largest=self.copy_part):
            noted = await self._begun(key, noted, "")
            noted = await self._take(key, noted, spans)
        return noted.staged(Staged(key=key), noted.in_parts)

    async def _take(self, key: ObjectKey, noted: Noted, spans: Sequence[Span]) -> Noted:
        """Make one part of ranges of objects: by a copy in the store if there is one range, which is long enough."""
        place = self.layout.object(key)
        (source, start, end), *others = spans
        if not others:
            try:
                etag = await self.multipart.copy(
                    place,
                    noted.upload,
                    noted.parts + 1,
                    CopySource={"Bucket": self.client.bucket, "Key": source},
                    CopySourceRange=f"bytes={start}-{end - 1}",
                )
            except NotFound:
                raise _lost() from None
            return noted.with_part(end - start, etag)
        reader = self._reader(self._ranges(spans))
        async with reader.receiving(), aclosing(reader.parts(lambda _: COPY_LIMIT)) as pieces:
            return await self._send(key, noted, await anext(pieces))

    async def _ranges(self, spans: Sequence[Span]) -> AsyncIterator[bytes]:
        for source, start, end in spans:
            try:
                async for piece in self.read(source, start=start, end=end):
                    yield piece
            except NotFound:
                raise _lost() from None

    async def discard(self, staged: Staged) -> None:
        """See :meth:`godrive.blobs.Appendable.discard`."""
        self._running.take(staged.key, 0)
        for upload in await self.multipart.unfinished_at(self.layout.object(staged.key)):
            await self.multipart.abort(upload.place, upload.id)
        async for entry in self._listed(self.layout.tails(staged.key)):
            await self.client.call("delete_object", Key=entry["Key"])

    async def abandoned(self, before: datetime, *, after: str = "") -> AsyncIterator[ObjectKey]:
        """See :meth:`godrive.blobs.Appendable.abandoned`.  Includes what puts have left that did not end."""
        idle: set[ObjectKey] = set()
        busy: set[ObjectKey] = set()
        async for entry in self._listed(self.layout.staged, after=self.layout.staged + after):
            key = self.layout.tail_key(entry["Key"])
            if key is not None:
                (idle if entry["LastModified"] < before else busy).add(key)
        uploads: dict[ObjectKey, list[UnfinishedMultipart]] = {}
        async for upload in self.multipart.unfinished((self.layout.objects,)):
            key = self.layout.object_key(upload.place)
            if key is not None:
                uploads.setdefault(key, []).append(upload)
        for key in sorted(idle.union(uploads).difference(busy)):
            if key > after and all([await self.is_idle(upload, before) for upload in uploads.get(key, ())]):
                yield key

    def _listed(self, prefix: str, *, after: str = "") -> AsyncIterator[Any]:
        following = {"NextContinuationToken": "ContinuationToken"}
        begin = {"StartAfter": after} if after else {}
        return self.client.pages("list_objects_v2", "Contents", following, Prefix=prefix, **begin)


async def _next(parts: AsyncGenerator[bytes]) -> bytes:
    return await anext(parts)


def _lost() -> Gone:
    return Gone("The bytes of the upload are lost.")
