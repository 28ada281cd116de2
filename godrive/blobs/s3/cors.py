"""Settings of the bucket, for ``godrive doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from botocore.exceptions import ClientError
from multidict import CIMultiDictProxy

from godrive.blobs.s3.bucket import Bucket
from godrive.blobs.s3.faults import code_of
from godrive.blobs.s3.plain_http import exchange
from godrive.errors import StoreUnavailable
from godrive.model import SignedRequest

METHODS = ("GET", "HEAD", "PUT")
"""Methods of signed URLs."""

_NO_VERSIONS = {"NotImplemented", "501", "MethodNotAllowed", "405"}
"""What a store answers that has no versions at all."""


@dataclass(frozen=True)
class Preflight:
    """How a browser understands the store's answer to a preflight request."""

    allowed: bool
    reason: str = ""


def cors_rules(origins: Sequence[str]) -> dict[str, Any]:
    """The rules that a bucket needs for pages of *origins* to use signed URLs, in the form of the S3 API."""
    return {
        "CORSRules": [
            {
                "AllowedOrigins": list(origins) or ["*"],
                "AllowedMethods": list(METHODS),
                "AllowedHeaders": ["*"],
                "ExposeHeaders": ["ETag", "Content-Range", "Content-Disposition"],
                "MaxAgeSeconds": 3600,
            }
        ]
    }


class Cors(Bucket):
    """The settings of the bucket."""

    async def keeps_versions(self) -> bool:
        """Whether the bytes of deleted objects stay in the bucket as old versions.

        Raises ``StoreUnavailable`` if the store does not tell.
        """
        try:
            answer = await self.client.call("get_bucket_versioning")
        except StoreUnavailable as error:
            if code_of(error.__cause__) in _NO_VERSIONS:
                return False
            raise
        return bool(answer.get("Status") == "Enabled")

    async def put_cors(self, origins: Sequence[str]) -> str | None:
        """Replace the bucket's rules by :func:`cors_rules`.  Returns the store's reason if it refuses.

        Some stores have no rules for a bucket and one setting for all of them.
        """
        try:
            await self.client.call("put_bucket_cors", CORSConfiguration=cors_rules(origins))
        except StoreUnavailable as error:
            if not isinstance(error.__cause__, ClientError):
                raise
            return error.detail
        return None

    async def preflight(self, url: str, *, origin: str, method: str, headers: Sequence[str] = ()) -> Preflight:
        """Send the preflight request of a browser that wants to send *method* with *headers* from a page of *origin*.

        *url* leads to the public endpoint; its signature does not matter.
        Raises ``StoreUnavailable`` if nothing answers there.
        """
        asked = {"Origin": origin, "Access-Control-Request-Method": method}
        if headers:
            asked["Access-Control-Request-Headers"] = ", ".join(name.lower() for name in headers)
        try:
            async with (
                self.client.session() as session,
                session.options(url, headers=asked, allow_redirects=False) as answer,
            ):
                return _judge(answer, origin, method, headers)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise StoreUnavailable("The public endpoint of the store does not answer.", hint=str(error)) from error

    async def exposes_etag(self, request: SignedRequest, body: bytes, *, origin: str) -> bool:
        """Whether a page of *origin* can read the ETag of the answer to *request*: clients that send parts need it."""
        async with self.client.session() as session:
            sent = {**request.headers, "Origin": origin}
            answer = await exchange(session, request.method, request.url, sent, body)
        exposed = {name.lower() for name in _listed(answer.headers, "Access-Control-Expose-Headers")}
        return bool(exposed & {"etag", "*"})


def _judge(answer: aiohttp.ClientResponse, origin: str, method: str, headers: Sequence[str]) -> Preflight:
    if answer.status not in range(200, 300):
        return Preflight(False, f"the store answers {answer.status}")
    if answer.headers.get("Access-Control-Allow-Origin") not in {"*", origin}:
        return Preflight(False, f"{origin} is not an allowed origin")
    if method not in _listed(answer.headers, "Access-Control-Allow-Methods"):
        return Preflight(False, f"{method} is not an allowed method")
    allowed = {name.lower() for name in _listed(answer.headers, "Access-Control-Allow-Headers")}
    refused = sorted({name.lower() for name in headers} - allowed) if "*" not in allowed else []
    if refused:
        return Preflight(False, f"not allowed headers: {', '.join(refused)}")
    return Preflight(True)


def _listed(headers: CIMultiDictProxy[str], name: str) -> set[str]:
    return {word.strip() for value in headers.getall(name, []) for word in value.split(",")}
