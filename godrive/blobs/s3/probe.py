"""What the store at hand honours, found out by trying it: names and versions of stores tell little."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import aiohttp

from godrive.blobs.layout import Layout
from godrive.blobs.s3.client import S3Client
from godrive.blobs.s3.faults import is_passing
from godrive.errors import DriveError, StoreUnavailable, UploadFinished
from godrive.model import new_id


@dataclass(frozen=True)
class Capabilities:
    """What a store may or may not do.

    ``conditional_put``: ``If-None-Match: *`` keeps a PUT from overwriting.
    ``conditional_complete``: the same of CompleteMultipartUpload.
    ``signed_digest``: a URL signed for a SHA-256 takes that body only.
    ``checksums``: a wrong ``x-amz-checksum-sha256`` is refused, and a right one kept.
    """

    conditional_put: bool = False
    conditional_complete: bool = False
    signed_digest: bool = False
    checksums: bool = False


async def probe(client: S3Client, layout: Layout) -> Capabilities:
    """Try each thing on an object of its own, which is gone afterwards, all at once.

    Raises ``StoreUnavailable`` also when the store lets us not write at all.
    """
    tests = (_refuses_second_put, _refuses_completion, _holds_to_digest, _checks_sums)
    return Capabilities(*await asyncio.gather(*(_try(client, layout, test) for test in tests)))


async def _try(client: S3Client, layout: Layout, test: Callable[[S3Client, str], Awaitable[bool]]) -> bool:
    key = layout.probes + new_id()
    await client.call("put_object", Key=key, Body=b"probe")
    try:
        return await test(client, key)
    finally:
        await client.call("delete_object", Key=key)


async def _refuses_second_put(client: S3Client, key: str) -> bool:
    try:
        await client.call("put_object", Key=key, Body=b"again", IfNoneMatch="*")
    except UploadFinished:
        return True
    except DriveError as error:
        return _declined(error)
    return False


async def _refuses_completion(client: S3Client, key: str) -> bool:
    try:
        multipart = (await client.call("create_multipart_upload", Key=key))["UploadId"]
        part = await client.call("upload_part", Key=key, UploadId=multipart, PartNumber=1, Body=b"again")
        parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        try:
            await client.call(
                "complete_multipart_upload", Key=key, UploadId=multipart, MultipartUpload=parts, IfNoneMatch="*"
            )
        except UploadFinished:
            await client.call("abort_multipart_upload", Key=key, UploadId=multipart)
            return True
    except DriveError as error:
        return _declined(error)
    return False


async def _holds_to_digest(client: S3Client, key: str) -> bool:
    digest = hashlib.sha256(b"probe").hexdigest()
    headers = {"x-amz-content-sha256": digest}
    until = client.now() + timedelta(minutes=1)
    url = await client.presign("PUT", key, expires_at=until, headers=headers, payload=digest, internal=True)
    try:
        async with client.session() as session:
            async with session.put(url, data=b"other", headers=headers) as answer:
                refused = answer.status in range(400, 500)
            async with session.put(url, data=b"probe", headers=headers) as answer:
                return refused and answer.status == 200
    except (aiohttp.ClientError, TimeoutError) as error:
        raise StoreUnavailable("The store does not answer.", hint=str(error)) from error


async def _checks_sums(client: S3Client, key: str) -> bool:
    right, wrong = (base64.b64encode(hashlib.sha256(text).digest()).decode() for text in (b"probe", b"other"))
    try:
        await client.call("put_object", Key=key, Body=b"probe", ChecksumSHA256=wrong)
    except DriveError as error:
        _declined(error)
        try:
            await client.call("put_object", Key=key, Body=b"probe", ChecksumSHA256=right)
            head = await client.call("head_object", Key=key, ChecksumMode="ENABLED")
        except DriveError as error:
            return _declined(error)
        return bool(head.get("ChecksumSHA256") == right)
    return False


def _declined(error: DriveError) -> bool:
    """``False``: it answered "not implemented" in one of its many forms.  An outage says nothing, and is raised."""
    cause = error.__cause__
    if isinstance(error, StoreUnavailable) and (cause is None or is_passing(cause)):
        raise error
    return False
