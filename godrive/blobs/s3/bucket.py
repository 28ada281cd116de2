"""What all verbs of the store share: the bucket, its layout, what it honours, and one publisher at a time for a key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio

from godrive.blobs.disposition import UNKNOWN
from godrive.blobs.layout import Layout
from godrive.blobs.s3.body import MIB, PART_SIZE, PartReader
from godrive.blobs.s3.client import BODY_DEADLINE, DEADLINE, S3Client
from godrive.blobs.s3.exposure import refuse
from godrive.blobs.s3.faults import code_of
from godrive.blobs.s3.info import plain_etag
from godrive.blobs.s3.probe import Capabilities, probe
from godrive.clock import Clock, SystemClock
from godrive.config import S3
from godrive.errors import DriveError, NotFound, StoreUnavailable, UploadFinished
from godrive.model import ObjectKey

COPY_LIMIT = 5 * 1024 * MIB
"""Bytes that one CopyObject moves at most (Amazon S3 API reference)."""

COPY_PART = 512 * MIB


class Bucket:
    """The part of :class:`~godrive.blobs.s3.store.S3BlobStore` below the verbs.

    *capabilities* overrides what the probe at ``open`` finds out.  Bodies over
    *part* bytes go up in parts; objects over *copy_limit* are copied in parts.
    *deadline* is the seconds that one request without a body may take.
    """

    def __init__(
        self,
        settings: S3,
        *,
        clock: Clock | None = None,
        capabilities: Capabilities | None = None,
        part: int = PART_SIZE,
        copy_limit: int = COPY_LIMIT,
        copy_part: int = COPY_PART,
        deadline: float = DEADLINE,
    ) -> None:
        self.client = S3Client(settings, clock or SystemClock(), deadline=deadline)
        self.layout = Layout(settings.prefix)
        self.capabilities = capabilities or Capabilities()
        self._probed = capabilities is not None
        self._accepted = settings.accept_faults
        self.part = part
        self._copy_limit = copy_limit
        self._copy_part = copy_part
        self.arriving: dict[ObjectKey, list[PartReader]] = {}
        self._locks: dict[ObjectKey, tuple[anyio.Lock, int]] = {}

    async def open(self) -> None:
        """Connect, make or check the bucket, and find out what the store honours.

        Raises ``ConfigError``, also for a fault of the store that is not accepted.
        """
        await self.client.open()
        if not self._probed:
            with self.client.refusals_are_mistakes():
                self.capabilities = await probe(self.client, self.layout)
            self._probed = True
        refuse(self.capabilities.faults, self._accepted)

    async def close(self) -> None:
        """See :meth:`godrive.blobs.BlobStore.close`."""
        await self.client.close()

    @asynccontextmanager
    async def publishing(self, key: ObjectKey) -> AsyncIterator[None]:
        """Nobody else of this process publishes under *key* meanwhile."""
        lock, users = self._locks.get(key, (anyio.Lock(), 0))
        self._locks[key] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = lock, users - 1

    async def look(self, bucket_key: str) -> dict[str, Any]:
        """The store's HEAD.  Raises ``NotFound``.

        A 404 without a body does not say what is not there: that the bucket
        itself is gone says nothing about the object.
        """
        options: dict[str, Any] = {"ChecksumMode": "ENABLED"} if self.capabilities.checksums else {}
        try:
            head: dict[str, Any] = await self.client.call("head_object", Key=bucket_key, **options)
        except NotFound:
            await self.client.check_bucket()
            raise
        return head

    async def look_if_any(self, bucket_key: str) -> dict[str, Any] | None:
        """The store's HEAD, if there is such an object."""
        try:
            return await self.look(bucket_key)
        except NotFound:
            return None

    async def refuse_existing(self, bucket_key: str) -> None:
        """Raises ``UploadFinished`` when the object is there already."""
        if await self.look_if_any(bucket_key) is not None:
            raise UploadFinished

    async def transfer(self, source: str, head: dict[str, Any], target: str) -> None:
        """Have the store copy the object that *head* described, or raise ``UploadFinished`` if it changed since."""
        place = {"Bucket": self.client.bucket, "Key": source}
        same: dict[str, Any] = {"CopySource": place, "CopySourceIfMatch": head["ETag"]}
        if head["ContentLength"] <= self._copy_limit:
            await self.client.call("copy_object", Key=target, deadline=BODY_DEADLINE, **same)
            return
        multipart = await self.begin(target, head.get("ContentType", UNKNOWN), head.get("Metadata", {}))
        try:
            parts = []
            for number, first in enumerate(range(0, head["ContentLength"], self._copy_part), start=1):
                last = min(first + self._copy_part, head["ContentLength"]) - 1
                answer = await self.client.call(
                    "upload_part_copy",
                    Key=target,
                    UploadId=multipart,
                    PartNumber=number,
                    CopySourceRange=f"bytes={first}-{last}",
                    deadline=BODY_DEADLINE,
                    **same,
                )
                parts.append((number, answer["CopyPartResult"]["ETag"]))
            await self.join(target, multipart, parts)
        except BaseException:
            await self.give_up(target, multipart)
            raise

    async def settle(self, key: ObjectKey) -> None:
        """Publish what a client sent to ``incoming/``, unless that has happened.  Raises ``NotFound``."""
        place, arrival = self.layout.object(key), self.layout.arrival(key)
        async with self.publishing(key):
            if await self.look_if_any(place) is None:
                await self.transfer(arrival, await self.look(arrival), place)
        await self.client.call("delete_object", Key=arrival)

    async def begin(self, bucket_key: str, mime: str, metadata: dict[str, str]) -> str:
        """A new multipart upload; its id."""
        answer = await self.client.call("create_multipart_upload", Key=bucket_key, ContentType=mime, Metadata=metadata)
        return str(answer["UploadId"])

    async def join(self, bucket_key: str, multipart: str, parts: list[tuple[int, str]], **condition: str) -> None:
        """Make the parts one object.  Raises ``NotFound`` when the upload has ended."""
        listed = [{"PartNumber": number, "ETag": etag} for number, etag in sorted(parts)]
        try:
            await self.client.call(
                "complete_multipart_upload",
                Key=bucket_key,
                UploadId=multipart,
                MultipartUpload={"Parts": listed},
                deadline=BODY_DEADLINE,
                **condition,
            )
        except StoreUnavailable as error:
            if code_of(error.__cause__) == "InternalError":  # Ceph's answer for an upload that was aborted
                await self.client.call("list_parts", Key=bucket_key, UploadId=multipart)
            raise

    async def join_once(self, bucket_key: str, multipart: str, parts: list[tuple[int, str]]) -> None:
        """Make the parts one object unless there is one; to be called while :meth:`publishing`."""
        if self.capabilities.conditional_complete:
            await self.join(bucket_key, multipart, parts, IfNoneMatch="*")
        else:
            await self.refuse_existing(bucket_key)
            await self.join(bucket_key, multipart, parts)

    async def send_part(self, bucket_key: str, multipart: str, number: int, data: bytes) -> str:
        """Store one part; its ETag."""
        answer = await self.client.call(
            "upload_part",
            Key=bucket_key,
            UploadId=multipart,
            PartNumber=number,
            Body=data,
            deadline=BODY_DEADLINE,
        )
        return plain_etag(answer["ETag"])

    async def give_up(self, bucket_key: str, multipart: str) -> None:
        """Forget the parts, now if the store answers and else by the next sweep; also while being cancelled."""
        with anyio.move_on_after(5, shield=True), suppress(DriveError):
            await self.client.call("abort_multipart_upload", Key=bucket_key, UploadId=multipart)
