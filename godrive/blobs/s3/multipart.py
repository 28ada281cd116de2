"""Multipart uploads at the store: the calls, for this server and for clients that send parts.

A multipart upload has an id and a key.  Its parts are invisible until it is
completed, and a part with the number of another one replaces it.  The ETag of
the object that it becomes is no digest of its bytes.  The store keeps no
digest of the whole either.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple

import anyio

from godrive.blobs.parts import StoredPart
from godrive.blobs.s3.client import BODY_DEADLINE, S3Client
from godrive.blobs.s3.faults import code_of
from godrive.blobs.s3.info import plain_etag
from godrive.errors import DriveError, NotFound, StoreUnavailable
from godrive.model import ETag


class UnfinishedMultipart(NamedTuple):
    """A multipart upload that has neither been completed nor aborted.  *place* is its key in the bucket."""

    place: str
    id: str
    begun_at: datetime


class Multipart:
    """Multipart uploads of one bucket.  *place* is always a key of the bucket, *upload* the id of a multipart upload.

    A call that moves bytes may take *deadline* seconds.  Every method may raise ``StoreUnavailable``.
    """

    def __init__(self, client: S3Client, *, deadline: float = BODY_DEADLINE) -> None:
        self._client = client
        self._deadline = deadline

    async def begin(self, place: str, mime: str, metadata: dict[str, str]) -> str:
        """Begin a multipart upload and return its id.  The object will have *mime* and *metadata*."""
        answer = await self._client.call("create_multipart_upload", Key=place, ContentType=mime, Metadata=metadata)
        return str(answer["UploadId"])

    async def send(self, place: str, upload: str, number: int, data: bytes) -> ETag:
        """Store one part and return its ETag.  Raises ``NotFound`` if the multipart upload has ended."""
        answer = await self._client.call(
            "upload_part", Key=place, UploadId=upload, PartNumber=number, Body=data, deadline=self._deadline
        )
        return plain_etag(answer["ETag"])

    async def copy(self, place: str, upload: str, number: int, **source: Any) -> ETag:
        """Make a range of an object a part and return its ETag.  *source* has the arguments of UploadPartCopy."""
        answer = await self._client.call(
            "upload_part_copy", Key=place, UploadId=upload, PartNumber=number, deadline=self._deadline, **source
        )
        return plain_etag(answer["CopyPartResult"]["ETag"])

    async def parts(self, place: str, upload: str, *, after: int = 0) -> AsyncIterator[StoredPart]:
        """The parts that the store has, by number, from the one after number *after*.

        Raises ``NotFound`` if the multipart upload has ended.
        """
        following = {"NextPartNumberMarker": "PartNumberMarker"}
        begin = {"PartNumberMarker": after} if after else {}
        async for part in self._client.pages("list_parts", "Parts", following, Key=place, UploadId=upload, **begin):
            modified_at = part["LastModified"].astimezone(UTC)
            yield StoredPart(
                number=part["PartNumber"],
                size_bytes=part["Size"],
                etag=plain_etag(part["ETag"]),
                modified_at=modified_at,
            )

    async def join(self, place: str, upload: str, parts: Iterable[tuple[int, str]], **condition: Any) -> None:
        """Join the parts, each a number and an ETag, to one object.

        Replaces an object that is there, unless *condition* forbids it: see
        :meth:`~godrive.blobs.s3.bucket.Bucket.join_once`.  Raises ``NotFound``
        if the multipart upload has ended, ``Invalid`` if a part is missing, is
        another one, or is too small.
        """
        listed = [{"PartNumber": number, "ETag": etag} for number, etag in sorted(parts)]
        try:
            await self._client.call(
                "complete_multipart_upload",
                Key=place,
                UploadId=upload,
                MultipartUpload={"Parts": listed},
                deadline=self._deadline,
                **condition,
            )
        except StoreUnavailable as error:
            if code_of(error.__cause__) == "InternalError":  # how Ceph answers for an upload that was aborted
                await self._client.call("list_parts", Key=place, UploadId=upload)
            raise

    async def abort(self, place: str, upload: str) -> None:
        """Abort the multipart upload and delete its parts.  Idempotent."""
        try:
            await self._client.call("abort_multipart_upload", Key=place, UploadId=upload)
        except NotFound:
            return

    async def give_up(self, place: str, upload: str) -> None:
        """Abort, even while being cancelled.  If the store does not answer, a sweep aborts it."""
        with anyio.move_on_after(5, shield=True), suppress(DriveError):
            await self.abort(place, upload)

    async def unfinished_at(self, place: str) -> list[UnfinishedMultipart]:
        """The multipart uploads of that key that have not ended."""
        return [upload async for upload in self.unfinished((place,), Prefix=place) if upload.place == place]

    async def unfinished(self, prefixes: tuple[str, ...], **options: str) -> AsyncIterator[UnfinishedMultipart]:
        """The multipart uploads that have not ended, with a key that begins with one of *prefixes*."""
        tokens = {"NextKeyMarker": "KeyMarker", "NextUploadIdMarker": "UploadIdMarker"}
        # Without a prefix: MinIO lists nothing for a prefix that is not a whole key.
        async for upload in self._client.pages("list_multipart_uploads", "Uploads", tokens, **options):
            if upload["Key"].startswith(prefixes):
                yield UnfinishedMultipart(upload["Key"], upload["UploadId"], upload["Initiated"].astimezone(UTC))
