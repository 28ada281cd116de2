"""What the store's answers say about a blob."""

from __future__ import annotations

import base64
import re
from datetime import UTC
from typing import Any

from godrive.model import BlobInfo, ETag, ObjectKey

DIGEST_KEY = "godrive-sha256"
"""The user metadata that keeps the SHA-256 of a blob that went through us, or that the store held a client to."""

UNVERIFIED = "unverified"
"""Its value where nobody has compared: signed, so that a client cannot vouch for its own digest."""

WRITER_KEY = "godrive-writer"
"""The user metadata that tells a put which answer came late from one that came first to another."""

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
    """From an entry of a list, which names neither digest nor type."""
    return BlobInfo(
        key=key,
        size_bytes=entry["Size"],
        etag=plain_etag(entry["ETag"]),
        modified_at=entry["LastModified"].astimezone(UTC),
    )


def plain_etag(etag: str) -> ETag:
    """Without the quotes of its HTTP form."""
    return ETag(etag.strip('"'))


def checksum(sha256: str) -> str:
    """A SHA-256 as ``x-amz-checksum-sha256`` has it."""
    return base64.b64encode(bytes.fromhex(sha256)).decode()


def _sha256(head: dict[str, Any]) -> str | None:
    kept = head.get("Metadata", {}).get(DIGEST_KEY, "")
    if _DIGEST.fullmatch(kept):
        return str(kept)
    verified = head.get("ChecksumSHA256", "")
    if verified and "-" not in verified and head.get("ChecksumType") != "COMPOSITE":  # else it is of the parts' digests
        return base64.b64decode(verified).hex()
    return None
