"""What the bucket lets browsers do, for ``godrive doctor``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from godrive.blobs.s3.bucket import Bucket
from godrive.errors import StoreUnavailable

METHODS = ("GET", "HEAD", "PUT")
"""What clients do with signed URLs."""


@dataclass(frozen=True)
class Preflight:
    """How the store answered a browser's question; ``allowed`` is what the browser makes of it."""

    allowed: bool
    reason: str = ""


def cors_rules(origins: Sequence[str]) -> dict[str, Any]:
    """The rules a bucket needs so that pages of *origins* can use signed URLs, as the S3 API has them."""
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
    """The bucket's CORS rules."""

    async def put_cors(self, origins: Sequence[str]) -> None:
        """Set the rules of :func:`cors_rules`, in the place of any others."""
        await self.client.call("put_bucket_cors", CORSConfiguration=cors_rules(origins))

    async def preflight(self, url: str, *, origin: str, method: str, headers: Sequence[str] = ()) -> Preflight:
        """Ask what a browser would ask before it sends *method* with *headers* to *url* from a page of *origin*.

        *url* is of the public endpoint, with or without its signature.  Raises
        ``StoreUnavailable`` when nothing answers there.
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


def _judge(answer: aiohttp.ClientResponse, origin: str, method: str, headers: Sequence[str]) -> Preflight:
    if answer.status not in range(200, 300):
        return Preflight(False, f"the store answers {answer.status}")
    if answer.headers.get("Access-Control-Allow-Origin") not in {"*", origin}:
        return Preflight(False, f"{origin} is not an allowed origin")
    if method not in _listed(answer, "Access-Control-Allow-Methods"):
        return Preflight(False, f"{method} is not an allowed method")
    allowed = {name.lower() for name in _listed(answer, "Access-Control-Allow-Headers")}
    refused = sorted({name.lower() for name in headers} - allowed) if "*" not in allowed else []
    if refused:
        return Preflight(False, f"not allowed headers: {', '.join(refused)}")
    return Preflight(True)


def _listed(answer: aiohttp.ClientResponse, name: str) -> set[str]:
    return {word.strip() for value in answer.headers.getall(name, []) for word in value.split(",")}
