"""Presigned URLs: AWS Signature Version 4 in the query.

A pure function of our own, because every intent and every download needs one
and the SDK's takes ten times as long.  The tests compare the two.  It signs
exactly *headers* and *query*, so a client must send nothing that the answer to
its intent does not name.

Source: Amazon S3 API reference, "Authenticating Requests: Using Query
Parameters (AWS Signature Version 4)".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from urllib.parse import quote

from godrive.errors import Invalid

LONGEST = timedelta(days=7)
"""The longest validity that stores accept."""

UNSIGNED = "UNSIGNED-PAYLOAD"

ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True)
class Credentials:
    """An access key.  *token* belongs to temporary ones."""

    access_key: str
    secret_key: str
    token: str | None = None


def scope_of(now: datetime, region: str) -> str:
    """The scope of a signature: day, region and service."""
    return f"{now:%Y%m%d}/{region}/s3/aws4_request"


def presign(
    method: str,
    url: str,
    *,
    credentials: Credentials,
    region: str,
    now: datetime,
    expires_at: datetime,
    headers: Mapping[str, str] | None = None,
    query: Mapping[str, str] | None = None,
    payload: str = UNSIGNED,
) -> str:
    """*url* with a signature that allows *method* with exactly *headers* and *query* until *expires_at*.

    *payload* is the SHA-256 of the body in hexadecimal if only that body may be
    sent; *headers* must then contain it as ``x-amz-content-sha256``.  The path
    of *url* is unquoted.  Raises ``Invalid`` unless *expires_at* is in the
    future and at most a week away.
    """
    seconds = int((expires_at - now).total_seconds())
    if not 0 < seconds <= LONGEST.total_seconds():
        raise Invalid("A signed URL is valid for at least one second and at most a week.")
    scheme, _, place = url.partition("://")
    host, _, unquoted = place.partition("/")
    signed = {"host": host} | {name.lower(): " ".join(value.split()) for name, value in (headers or {}).items()}
    names = ";".join(sorted(signed))
    stamp = f"{now:%Y%m%dT%H%M%SZ}"
    scope = scope_of(now, region)
    arguments = {
        **(query or {}),
        "X-Amz-Algorithm": ALGORITHM,
        "X-Amz-Credential": f"{credentials.access_key}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": names,
    }
    if credentials.token:
        arguments["X-Amz-Security-Token"] = credentials.token
    path = quote(f"/{unquoted}", safe="/-_.~")
    pairs = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in arguments.items())
    search = "&".join(f"{name}={value}" for name, value in pairs)
    lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
    request = f"{method}\n{path}\n{search}\n{lines}\n{names}\n{payload}"
    to_sign = f"{ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signature = _hmac(_key(credentials.secret_key, stamp[:8], region), to_sign).hex()
    return f"{scheme}://{host}{path}?{search}&X-Amz-Signature={signature}"


@lru_cache(maxsize=4)
def _key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for word in (day, region, "s3", "aws4_request"):
        key = _hmac(key, word)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), hashlib.sha256)
