"""AWS Signature Version 4: in the query of a URL that a client uses, or in the headers of a request of ours.

Pure functions of our own, because every intent, every download and every call
of the store needs one and the SDK's takes ten times as long.  The tests compare
the two.  A URL signs exactly *headers* and *query*, so a client must send
nothing that the answer to its intent does not name.

Source: Amazon S3 API reference, "Authenticating Requests (AWS Signature Version 4)".
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
    origin, host, path = _split(url)
    signed = {"host": host, **(headers or {})}
    arguments = {
        **(query or {}),
        "X-Amz-Algorithm": ALGORITHM,
        "X-Amz-Credential": f"{credentials.access_key}/{scope_of(now, region)}",
        "X-Amz-Date": _stamp(now),
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": _names(signed),
    }
    if credentials.token:
        arguments["X-Amz-Security-Token"] = credentials.token
    search = _search(arguments)
    digest = _digest(f"{method}\n{path}\n{search}", signed, payload)
    signature = _signature(digest, credentials=credentials, now=now, region=region)
    return f"{origin}{path}?{search}&X-Amz-Signature={signature}"


def sign(
    method: str,
    url: str,
    *,
    credentials: Credentials,
    region: str,
    now: datetime,
    headers: Mapping[str, str],
    query: Mapping[str, str],
    payload: str,
) -> tuple[str, dict[str, str]]:
    """The URL and the headers of a request that is signed now.

    *payload* is the SHA-256 of the body in hexadecimal.  The path of *url* is unquoted.
    """
    origin, host, path = _split(url)
    sent = {"Host": host, **headers, "x-amz-content-sha256": payload, "x-amz-date": _stamp(now)}
    if credentials.token:
        sent["x-amz-security-token"] = credentials.token
    search = _search(query)
    digest = _digest(f"{method}\n{path}\n{search}", sent, payload)
    signature = _signature(digest, credentials=credentials, now=now, region=region)
    credential = f"{credentials.access_key}/{scope_of(now, region)}"
    sent["Authorization"] = f"{ALGORITHM} Credential={credential}, SignedHeaders={_names(sent)}, Signature={signature}"
    return f"{origin}{path}?{search}" if search else f"{origin}{path}", sent


def _split(url: str) -> tuple[str, str, str]:
    """The origin, the host and the quoted path of *url*."""
    scheme, _, place = url.partition("://")
    host, _, unquoted = place.partition("/")
    return f"{scheme}://{host}", host, quote(f"/{unquoted}", safe="/-_.~")


def _stamp(now: datetime) -> str:
    return f"{now:%Y%m%dT%H%M%SZ}"


def _search(query: Mapping[str, str]) -> str:
    return "&".join(
        f"{name}={value}"
        for name, value in sorted(
            (quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in query.items()
        )
    )


def _names(headers: Mapping[str, str]) -> str:
    return ";".join(sorted(map(str.lower, headers)))


def _digest(request: str, headers: Mapping[str, str], payload: str) -> str:
    """The digest of what is signed: *request*, which is method, path and query, the headers and the body."""
    pairs = sorted((name.lower(), " ".join(value.split())) for name, value in headers.items())
    lines = "".join(f"{name}:{value}\n" for name, value in pairs)
    names = ";".join(name for name, _ in pairs)
    return hashlib.sha256(f"{request}\n{lines}\n{names}\n{payload}".encode()).hexdigest()


def _signature(digest: str, *, credentials: Credentials, now: datetime, region: str) -> str:
    stamp = _stamp(now)
    text = f"{ALGORITHM}\n{stamp}\n{scope_of(now, region)}\n{digest}"
    return _hmac(_key(credentials.secret_key, stamp[:8], region), text).hex()


@lru_cache(maxsize=4)
def _key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for word in (day, region, "s3", "aws4_request"):
        key = _hmac(key, word)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.digest(key, text.encode(), hashlib.sha256)
