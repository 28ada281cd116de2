"""Large blobs in parts: see :class:`~godrive.blobs.MultipartStore`."""

from __future__ import annotations

import hashlib
from datetime import datetime

from godrive.blobs.s3.body import MAX_PARTS
from godrive.blobs.s3.bucket import DEFAULT_MIME, Bucket
from godrive.blobs.s3.info import DIGEST_KEY, UNVERIFIED, blob_info, plain_etag
from godrive.errors import Gone, Invalid, NotFound, UploadFinished
from godrive.model import BlobInfo, ETag, ObjectKey, SignedRequest


class Parts(Bucket):
    """See :class:`~godrive.blobs.MultipartStore`."""

    async def begin_multipart(self, key: ObjectKey, *, mime: str) -> str:
        """See :meth:`godrive.blobs.MultipartStore.begin_multipart`."""
        return await self.begin(self.layout.object(key), mime or DEFAULT_MIME, {DIGEST_KEY: UNVERIFIED})

    async def put_part(self, key: ObjectKey, multipart: str, number: int, body: bytes) -> ETag:
        """See :meth:`godrive.blobs.MultipartStore.put_part`.  Raises ``Gone`` when the upload has ended."""
        _check(number)
        try:
            return ETag(await self.send_part(self.layout.object(key), multipart, number, body))
        except NotFound:
            raise Gone("The multipart upload has ended.") from None

    async def presign_part(
        self, key: ObjectKey, multipart: str, number: int, *, size: int, expires_at: datetime
    ) -> SignedRequest:
        """See :meth:`godrive.blobs.MultipartStore.presign_part`; the part's ETag is a header of the answer."""
        _check(number)
        headers = {"Content-Length": str(size), **(self.capabilities.guards or {})}
        url = await self.client.presign(
            "PUT",
            self.layout.object(key),
            expires_at=expires_at,
            headers=headers,
            query={"partNumber": str(number), "uploadId": multipart},
        )
        return SignedRequest(method="PUT", url=url, headers=headers, expires_at=expires_at)

    async def complete_multipart(self, key: ObjectKey, multipart: str, parts: list[tuple[int, ETag]]) -> BlobInfo:
        """See :meth:`godrive.blobs.MultipartStore.complete_multipart`; again gives the same answer.

        Raises ``UploadFinished`` when the key has another blob, ``Gone`` when
        the upload has ended without one, ``Invalid`` for parts that the store
        does not have or that are too small.
        """
        place = self.layout.object(key)
        async with self.publishing(key):
            try:
                await self.join_once(place, multipart, [(number, etag) for number, etag in parts])
            except (UploadFinished, NotFound) as error:
                head = await self.look_if_any(place)
                if head is None:
                    raise Gone("The multipart upload has ended.") from error
                if plain_etag(head["ETag"]) != _joined(parts):
                    raise UploadFinished from error
        return blob_info(key, await self.look(place))

    async def abort_multipart(self, key: ObjectKey, multipart: str) -> None:
        """See :meth:`godrive.blobs.MultipartStore.abort_multipart`."""
        try:
            await self.client.call("abort_multipart_upload", Key=self.layout.object(key), UploadId=multipart)
        except NotFound:
            return


def _check(number: int) -> None:
    if not 1 <= number <= MAX_PARTS:
        raise Invalid(f"Parts are numbered from 1 to {MAX_PARTS}.", field="number")


def _joined(parts: list[tuple[int, ETag]]) -> str:
    """The ETag that S3 stores give the whole: of the parts' MD5s, with their number behind it."""
    try:
        digests = b"".join(bytes.fromhex(plain_etag(etag)) for _, etag in sorted(parts))
    except ValueError:
        return ""
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"
