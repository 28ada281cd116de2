"""What the store at hand honours, found out by trying it: names and versions of stores tell little."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar
from urllib.parse import quote

import aiohttp
from yarl import URL

from godrive.blobs.layout import Layout
from godrive.blobs.s3.client import S3Client
from godrive.blobs.s3.faults import is_passing
from godrive.errors import DriveError, StoreUnavailable, UploadFinished
from godrive.model import new_id

T = TypeVar("T")

_COPY_CONDITIONS = ("x-amz-copy-source-if-match", "x-amz-copy-if-match")
"""A condition on the source of a copy, as S3 calls it and as Ceph does."""

_NO_ETAG = "none"

_BUSY = (429, 502, 503, 504)


@dataclass(frozen=True)
class Capabilities:
    """What a store may or may not do.

    ``conditional_put``: ``If-None-Match: *`` keeps a PUT from overwriting.
    ``conditional_complete``: the same of CompleteMultipartUpload.
    ``signed_digest``: a URL signed for a SHA-256 takes that body only.
    ``checksums``: a wrong ``x-amz-checksum-sha256`` is refused, and a right one kept.
    ``guards``: what a URL has to sign beside, so that no client adds to its PUT
    what nobody signed; ``None`` where nothing keeps them from it.
    """

    conditional_put: bool = False
    conditional_complete: bool = False
    signed_digest: bool = False
    checksums: bool = False
    guards: Mapping[str, str] | None = field(default_factory=dict)

    @property
    def direct(self) -> bool:
        """Whether a client's PUT may lead to the blob itself: nothing that it sends later can change it."""
        return self.conditional_put and self.guards is not None


async def probe(client: S3Client, layout: Layout) -> Capabilities:
    """Try each thing on an object of its own, which is gone afterwards, all at once.

    Raises ``StoreUnavailable`` also when the store lets us not write at all.
    """
    try:
        async with asyncio.TaskGroup() as group:  # when one fails, the others are waited for: they clear away
            put = group.create_task(_try(client, layout, _refuses_second_put))
            complete = group.create_task(_try(client, layout, _refuses_completion))
            digest = group.create_task(_try(client, layout, _holds_to_digest))
            sums = group.create_task(_try(client, layout, _checks_sums))
            guards = group.create_task(_try(client, layout, _find_guards))
    except ExceptionGroup as failed:
        first = failed.exceptions[0]
        raise first from first.__cause__
    return Capabilities(put.result(), complete.result(), digest.result(), sums.result(), guards.result())


async def _try(client: S3Client, layout: Layout, test: Callable[[S3Client, str], Awaitable[T]]) -> T:
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
    refused = await _send(client, url, b"other", headers) in range(400, 500)
    return refused and await _send(client, url, b"probe", headers) == 200


async def _find_guards(client: S3Client, key: str) -> dict[str, str] | None:
    """See :attr:`Capabilities.guards`.

    A store that looks at signed headers only lets the holder of a URL add
    others.  ``x-amz-copy-source`` turns the PUT into a copy of whatever our
    keys can read, over what is there (CVE-2026-54330 and its like);
    ``x-amz-acl`` shows the blob to the world.  A header that is signed cannot
    be another one: so the copy is given a condition that no source fulfils.
    """
    target = f"{key}-copy"
    try:
        if not await _copies(client, key, target, {}):
            return {}
        for condition in _COPY_CONDITIONS:
            guards = {condition: _NO_ETAG, "x-amz-acl": "private"}
            if await _copies(client, key, target, guards) is False:
                return guards
        return None
    finally:
        await client.call("delete_object", Key=target)


async def _copies(client: S3Client, source: str, target: str, guards: dict[str, str]) -> bool | None:
    """Whether a URL that signs *guards* can be made to copy; ``None`` when it cannot even be used to put."""
    until = client.now() + timedelta(minutes=1)
    url = await client.presign("PUT", target, expires_at=until, headers=guards, internal=True)
    if await _send(client, url, b"put", guards) != 200:
        return None
    await _send(client, url, b"", {**guards, "x-amz-copy-source": f"/{client.bucket}/{quote(source)}"})
    head = await client.call("head_object", Key=target)
    return bool(head["ContentLength"] == len(b"probe"))


async def _send(client: S3Client, url: str, body: bytes, headers: dict[str, str]) -> int:
    try:
        async with (
            client.session() as session,
            session.put(URL(url, encoded=True), data=body, headers=headers) as answer,
        ):
            if answer.status in _BUSY:  # that says nothing about the request
                raise StoreUnavailable(f"The store answers {answer.status}.")
            return answer.status
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
