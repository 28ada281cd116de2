"""Parts that clients send to the store themselves: see :class:`~godrive.blobs.parts.PartSigner`.

A part's URL leads to a multipart upload and not to an object.  Only this server
completes it, so the holder of the URLs cannot make an object, and cannot change
one: the multipart upload ends when it becomes one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from godrive.blobs.disposition import UNKNOWN
from godrive.blobs.parts import StoredPart
from godrive.blobs.s3.info import DIGEST_KEY, UNVERIFIED, blob_info
from godrive.blobs.s3.reading import Reading
from godrive.errors import NotFound, StoreUnavailable, UploadFinished
from godrive.model import BlobInfo, ObjectKey, SignedRequest


class Parts(Reading):
    """See :class:`~godrive.blobs.parts.PartSigner`."""

    @property
    def signs_parts(self) -> bool:
        """See :attr:`godrive.blobs.parts.PartSigner.signs_parts`."""
        return not self._guest and self.capabilities.part_guards is not None

    async def begin_parts(self, key: ObjectKey) -> str:
        """See :meth:`godrive.blobs.parts.PartSigner.begin_parts`."""
        return await self.multipart.begin(self.layout.object(key), UNKNOWN, {DIGEST_KEY: UNVERIFIED})

    async def presign_part(
        self, key: ObjectKey, multipart: str, number: int, *, size: int, expires_at: datetime
    ) -> SignedRequest:
        """See :meth:`godrive.blobs.parts.PartSigner.presign_part`.  The signature covers the length and the guards."""
        headers = {"Content-Length": str(size), **((await self.honours()).part_guards or {})}
        query = {"partNumber": str(number), "uploadId": multipart}
        place = self.layout.object(key)
        url = await self.client.presign("PUT", place, expires_at=expires_at, headers=headers, query=query)
        return SignedRequest(method="PUT", url=url, headers=headers, expires_at=expires_at)

    def stored_parts(self, key: ObjectKey, multipart: str, *, after: int = 0) -> AsyncIterator[StoredPart]:
        """See :meth:`godrive.blobs.parts.PartSigner.stored_parts`."""
        return self.multipart.parts(self.layout.object(key), multipart, after=after)

    async def join_parts(self, key: ObjectKey, multipart: str, parts: Sequence[StoredPart]) -> None:
        """See :meth:`godrive.blobs.parts.PartSigner.join_parts`."""
        place = self.layout.object(key)
        async with self.publishing(key):
            try:
                await self.join_once(place, multipart, [(part.number, part.etag) for part in parts])
            except UploadFinished:
                if await self.look_if_any(place) is None:  # S3 answers so while another process joins them
                    raise StoreUnavailable("The parts are being joined.") from None
                await self.multipart.abort(place, multipart)
            except NotFound:
                if await self.look_if_any(place) is None:  # otherwise an earlier call has joined them
                    raise

    async def head_in_parts(self, key: ObjectKey, multipart: str) -> BlobInfo:
        """See :meth:`godrive.blobs.parts.PartSigner.head_in_parts`.

        The blob may also have come in one PUT.  A completion would replace it
        in a store that knows no condition for that, so the parts are aborted first.
        """
        place = self.layout.object(key)
        await self.head(key)
        async with self.publishing(key):
            await self.multipart.abort(place, multipart)
            return blob_info(key, await self.look(place))

    async def abort_parts(self, key: ObjectKey, multipart: str) -> None:
        """See :meth:`godrive.blobs.parts.PartSigner.abort_parts`."""
        await self.multipart.abort(self.layout.object(key), multipart)
