"""Reads a blob's description from the store's answers."""

from __future__ import annotations

import base64
import re
from datetime import UTC
from typing import Any

from godrive.model import BlobInfo, ETag, ObjectKey

DIGEST_KEY = "godrive-sha256"
"""User metadata: the SHA-256 of a blob, computed by us or enforced by the store."""

UNVERIFIED = "unverified"
"""The signed value if the digest was not verified, so that a client cannot claim one."""

WRITER_KEY = "godrive-writer"
"""User metadata: the id of the put, which tells a put that succeeded without an answer from another that won."""

_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


def blob_info(key: ObjectKey, head: dict[str, Any]) -> BlobInfo:
    """From the answer to a HEAD.

    The type counts only if we wrote the object: a client may send any with its PUT.
    """
    ours = WRITER_KEY in head.get("Metadata", {})
    return BlobInfo(
        key=key,
        size_bytes=head["ContentLength"],
        etag=plain_etag(head["ETag"]),
        modified_at=head["LastModified"].astimezone(UTC),
        sha256=_sha256(head),
        mime=head.get("ContentType") if ours else None,
    )


def listed_info(key: ObjectKey, entry: dict[str, Any]) -> BlobInfo:
    """From an entry of a list, which has neither digest nor type."""
    return BlobInfo(
        key=key,
        size_bytes=entry["Size"],
        etag=plain_etag(entry["ETag"]),
        modified_at=entry["LastModified"].astimezone(UTC),
    )


def plain_etag(etag: str) -> ETag:
    """The ETag without its quotes."""
    return ETag(etag.strip('"'))


def checksum(sha256: str) -> str:
    """A SHA-256 in the form of ``x-amz-checksum-sha256``."""
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def _sha256(head: dict[str, Any]) -> str | None:
    kept = head.get("Metadata", {}).get(DIGEST_KEY, "")
    if _DIGEST.fullmatch(kept):
        return str(kept)
    verified = head.get("ChecksumSHA256", "")
    if (
        verified and "-" not in verified and head.get("ChecksumType") != "COMPOSITE"
    ):  # otherwise it is a digest of the parts' digests
        return base64.b64decode(verified).hex()
    return None
