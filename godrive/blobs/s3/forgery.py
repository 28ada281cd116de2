"""Requests that a store must refuse, because they are not validly signed.

Every signed URL names the access key and the scope, but not the secret.  A
store that accepts them in place of a signature lets the holder of one URL write
to the whole bucket.  Known cases are CVE-2025-31489, CVE-2026-40344 and
CVE-2026-41145.  The requests here combine each way to name a credential with
each payload mode of Signature Version 4.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from itertools import count

from godrive.blobs.s3.signing import ALGORITHM, UNSIGNED, Credentials, scope_of

BODY = b"EVIL!"
"""The bytes that a forged PUT tries to store."""

_FORGED = "0" * 64
_UNSIGNED_CHUNKS = b"5\r\nEVIL!\r\n0\r\n\r\n\r\n"
_SIGNED_CHUNKS = f"5;chunk-signature={_FORGED}\r\nEVIL!\r\n0;chunk-signature={_FORGED}\r\n\r\n".encode()

_PAYLOADS: dict[str, bytes] = {
    UNSIGNED: BODY,
    hashlib.sha256(BODY).hexdigest(): BODY,
    "STREAMING-UNSIGNED-PAYLOAD-TRAILER": _UNSIGNED_CHUNKS,
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD": _SIGNED_CHUNKS,
    "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER": _SIGNED_CHUNKS,
    "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD": _SIGNED_CHUNKS,
    "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD-TRAILER": _SIGNED_CHUNKS,
}
"""Values of ``x-amz-content-sha256``, each with a body in the form that it announces."""


@dataclass(frozen=True)
class Claim:
    """One way to name a credential without proof."""

    label: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Forgery:
    """One request to *key* of the bucket, or to the bucket itself if *key* is empty."""

    label: str
    method: str
    key: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def claims(credentials: Credentials, region: str, now: datetime) -> list[Claim]:
    """Every claim, the first of which names nobody."""
    access_key, stamp = credentials.access_key, f"{now:%Y%m%dT%H%M%SZ}"
    credential = f"{access_key}/{scope_of(now, region)}"
    token = {"X-Amz-Security-Token": credentials.token} if credentials.token else {}
    bare = {"X-Amz-Credential": credential, **token}
    signed = {
        **bare,
        "X-Amz-Algorithm": ALGORITHM,
        "X-Amz-Date": stamp,
        "X-Amz-Expires": "60",
        "X-Amz-SignedHeaders": "host",
        "X-Amz-Signature": _FORGED,
    }
    header = {"x-amz-date": stamp, **token}
    version_4 = f"{ALGORITHM} Credential={credential}, SignedHeaders=host;x-amz-date, Signature={_FORGED}"
    version_2 = {"AWSAccessKeyId": access_key, "Expires": f"{now.timestamp() + 60:.0f}", "Signature": "Zm9yZ2Vk"}
    return [
        Claim("no credential"),
        Claim("only a credential in the query", bare),
        Claim("a forged signature in the query", signed),
        Claim("a forged signature in the header", {}, {"Authorization": version_4, **header}),
        Claim("a forged signature of version 2 in the query", {**version_2, **token}),
        Claim(
            "a forged signature of version 2 in the header", {}, {"Authorization": f"AWS {access_key}:Zg==", **header}
        ),
    ]


def forged(method: str, keys: list[str], ways: list[Claim]) -> list[Forgery]:
    """Requests without a body, one key for each of *ways*."""
    return [
        Forgery(f"{method} with {claim.label}", method, key, claim.query, claim.headers)
        for key, claim in zip(keys, ways, strict=True)
    ]


def forged_puts(prefix: str, ways: list[Claim]) -> Iterator[Forgery]:
    """Attempts to store :data:`BODY`, each under a key of its own below *prefix*."""
    keys = (f"{prefix}{number}" for number in count())
    yield Forgery("PUT with no credential", "PUT", next(keys), body=BODY)
    yield _form(next(keys))
    for claim in ways:
        for mode, body in _PAYLOADS.items():
            yield Forgery(
                f"PUT with {claim.label}, x-amz-content-sha256: {mode}",
                "PUT",
                next(keys),
                claim.query,
                {**claim.headers, **_announce(mode, len(BODY))},
                body,
            )
        yield from _archives(keys, claim)


def _announce(mode: str, length: int) -> dict[str, str]:
    announced = {"x-amz-content-sha256": mode}
    return announced | ({"x-amz-decoded-content-length": str(length)} if mode.startswith("STREAMING-") else {})


def _form(key: str) -> Forgery:
    """An upload by an HTML form without a policy."""
    parts = f"""--form
Content-Disposition: form-data; name="key"

{key}
--form
Content-Disposition: form-data; name="file"; filename="a"

{BODY.decode()}
--form--
""".replace("\n", "\r\n")
    headers = {"Content-Type": "multipart/form-data; boundary=form"}
    return Forgery("POST of a form with no policy", "POST", "", {}, headers, parts.encode())


def _archives(keys: Iterator[str], claim: Claim) -> Iterator[Forgery]:
    """Archives that MinIO unpacks into the bucket, in a handler that checks signatures on its own."""
    for mode in (UNSIGNED, "STREAMING-UNSIGNED-PAYLOAD-TRAILER"):
        key = next(keys)
        packed = _archive(key)
        headers = {**claim.headers, **_announce(mode, len(packed)), "x-amz-meta-snowball-auto-extract": "true"}
        body = packed if mode == UNSIGNED else b"%x\r\n%b\r\n0\r\n\r\n\r\n" % (len(packed), packed)
        label = f"PUT of an archive to unpack with {claim.label}, x-amz-content-sha256: {mode}"
        yield Forgery(label, "PUT", f"{key}.tar", claim.query, headers, body)


def _archive(name: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(BODY)
        archive.addfile(entry, io.BytesIO(BODY))
    return packed.getvalue()
