"""Requests that clients send to the store themselves: see :class:`~godrive.blobs.Presigner`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Literal

from msgspec.structs import replace

from godrive.blobs.disposition import content_disposition, inert
from godrive.blobs.s3.bucket import Bucket
from godrive.blobs.s3.info import DIGEST_KEY, UNVERIFIED, WRITER_KEY, checksum
from godrive.blobs.s3.signing import UNSIGNED
from godrive.model import BlobInfo, ObjectKey, SignedRequest

_SINGLE = re.compile(r"[0-9a-f]{32}", re.ASCII)
"""The ETag of an object that one PUT has written."""

_TEXT = re.compile(r"text/.*|application/(.*[+-])?(json|xml|javascript|ecmascript|x-www-form-urlencoded|yaml|graphql)")


class Urls(Bucket):
    """See :class:`~godrive.blobs.Presigner`.  A URL ends with the credentials that signed it."""

    async def presign_put(
        self, key: ObjectKey, *, size: int, mime: str, sha256: str | None, expires_at: datetime
    ) -> SignedRequest:
        """See :meth:`godrive.blobs.Presigner.presign_put`.

        The signature covers the key, the length, the type if one was declared,
        the metadata and the guards, and, if the store honours them, the digest
        and ``If-None-Match: *``.
        """
        honours = await self.honours()
        headers = {"Content-Length": str(size)}
        if mime:
            headers["Content-Type"] = _that_clients_keep(mime)
        if honours.conditional_put:
            headers["If-None-Match"] = "*"
        digest = UNVERIFIED
        if sha256 is not None and honours.signed_digest:
            digest = headers["x-amz-content-sha256"] = sha256
        elif sha256 is not None and honours.checksums:
            headers["x-amz-checksum-sha256"] = checksum(sha256)
        headers[f"x-amz-meta-{DIGEST_KEY}"] = digest
        headers |= honours.guards
        place = self.layout.object(key) if honours.direct else self.layout.arrival(key)
        payload = headers.get("x-amz-content-sha256", UNSIGNED)
        url = await self.client.presign("PUT", place, expires_at=expires_at, headers=headers, payload=payload)
        return SignedRequest(method="PUT", url=url, headers=headers, expires_at=expires_at)

    def vouch_for(self, blob: BlobInfo, metadata: Mapping[str, str]) -> BlobInfo | None:
        """See :meth:`godrive.blobs.Presigner.vouch_for`.

        The signed metadata says what the URL fixed.  It has the digest only if
        the store refuses other bytes.  What this server or another client of the
        bucket has put has other metadata.  An ETag with a dash is that of joined
        parts, of which the metadata says nothing.
        """
        signed = metadata.get(DIGEST_KEY)
        if not self.capabilities.direct or signed is None or WRITER_KEY in metadata or not _SINGLE.fullmatch(blob.etag):
            return None
        return replace(blob, sha256=None if signed == UNVERIFIED else signed)

    async def presign_get(
        self, key: ObjectKey, *, filename: str, mime: str, expires_at: datetime, method: Literal["GET", "HEAD"] = "GET"
    ) -> SignedRequest:
        """See :meth:`godrive.blobs.Presigner.presign_get`.

        The download has the type and the name that are signed here, whatever
        the client sent.  The store adds no header that stops a browser from
        running it, so it is always an attachment and never of a type that runs
        scripts.
        """
        query = {
            "response-content-disposition": content_disposition(filename, mime),
            "response-content-type": inert(mime),
            **(await self.honours()).overrides,
        }
        url = await self.client.presign(method, self.layout.object(key), expires_at=expires_at, query=query)
        return SignedRequest(method=method, url=url, headers={}, expires_at=expires_at)


def _that_clients_keep(mime: str) -> str:
    """The type to sign for *mime*: with a charset if it is of text.

    OkHttp, Dart's http and others add ``; charset=utf-8`` to the type of a
    string that has none, which would invalidate the signature.  The charset says
    nothing about the file: a download has the type that was declared.
    """
    kind = mime.partition(";")[0].strip().lower()
    if _TEXT.fullmatch(kind) and "charset" not in mime.lower():
        return f"{mime}; charset=utf-8"
    return mime
