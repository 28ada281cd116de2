"""Requests that clients send to the store themselves: see :class:`~godrive.blobs.Presigner`."""

from __future__ import annotations

from datetime import datetime

from godrive.blobs.disposition import content_disposition
from godrive.blobs.s3.bucket import DEFAULT_MIME, Bucket
from godrive.blobs.s3.info import DIGEST_KEY, UNVERIFIED, checksum
from godrive.blobs.s3.signing import UNSIGNED
from godrive.model import ObjectKey, SignedRequest


class Urls(Bucket):
    """See :class:`~godrive.blobs.Presigner`.  A URL lives no longer than the credentials it was signed with."""

    async def presign_put(
        self, key: ObjectKey, *, size: int, mime: str, sha256: str | None, expires_at: datetime
    ) -> SignedRequest:
        """See :meth:`godrive.blobs.Presigner.presign_put`.

        The signature covers key, length and type, and where the store honours
        them the digest and that nothing is overwritten.  What the metadata says
        of the digest is signed too, and what keeps a client from making the PUT
        something else: some stores take headers that are not.
        """
        honours = self.capabilities
        headers = {"Content-Type": mime or DEFAULT_MIME, "Content-Length": str(size)}
        if honours.conditional_put:
            headers["If-None-Match"] = "*"
        digest = UNVERIFIED
        if sha256 is not None and honours.signed_digest:
            digest = headers["x-amz-content-sha256"] = sha256
        elif sha256 is not None and honours.checksums:
            headers["x-amz-checksum-sha256"] = checksum(sha256)
        headers[f"x-amz-meta-{DIGEST_KEY}"] = digest
        headers |= honours.guards or {}
        place = self.layout.object(key) if honours.direct else self.layout.arrival(key)
        payload = headers.get("x-amz-content-sha256", UNSIGNED)
        url = await self.client.presign("PUT", place, expires_at=expires_at, headers=headers, payload=payload)
        return SignedRequest(method="PUT", url=url, headers=headers, expires_at=expires_at)

    async def presign_get(
        self, key: ObjectKey, *, filename: str, mime: str, inline: bool, expires_at: datetime
    ) -> SignedRequest:
        """See :meth:`godrive.blobs.Presigner.presign_get`; type and name come from here, not from the upload."""
        query = {
            "response-content-disposition": content_disposition(filename, mime, inline=inline),
            "response-content-type": mime or DEFAULT_MIME,
        }
        url = await self.client.presign("GET", self.layout.object(key), expires_at=expires_at, query=query)
        return SignedRequest(method="GET", url=url, headers={}, expires_at=expires_at)
