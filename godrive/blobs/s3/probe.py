"""Find out by trying what the store honours: its name and version say little."""

from __future__ import annotations

import asyncio
import base64
import gzip
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar
from urllib.parse import quote

import aiohttp

from godrive.blobs.disposition import UNKNOWN
from godrive.blobs.layout import Layout
from godrive.blobs.s3.client import S3Client, all_of
from godrive.blobs.s3.exposure import BUSY, find_exposures
from godrive.blobs.s3.faults import is_passing
from godrive.blobs.s3.multipart import Multipart
from godrive.blobs.s3.plain_http import Answer, exchange
from godrive.blobs.s3.signing import UNSIGNED
from godrive.config import StoreFault
from godrive.errors import DriveError, StoreUnavailable, UploadFinished
from godrive.model import new_id

T = TypeVar("T")

_COPY_CONDITIONS = ("x-amz-copy-source-if-match", "x-amz-copy-if-match")
"""A condition on the source of a copy, as S3 names it and as Ceph does."""

_NO_ETAG = "none"

_INTERNAL_ERROR = 500
_ATTEMPTS = 3

_PART_GUARDS: tuple[Mapping[str, str], ...] = (
    {},
    {"x-amz-copy-source-range": "none"},
    *({condition: _NO_ETAG} for condition in _COPY_CONDITIONS),
)
"""What may keep a client from making its part a copy, the least first.  Ceph ignores conditions on parts."""

_EVERYBODY = 'uri="http://acs.amazonaws.com/groups/global/AllUsers"'
_PUBLIC: tuple[Mapping[str, str], ...] = ({"x-amz-acl": "public-read"}, {"x-amz-grant-read": _EVERYBODY})

_ALWAYS_OVERRIDDEN = {
    "Content-Type": "response-content-type",
    "Content-Disposition": "response-content-disposition",
}
"""Headers of a download that every signed GET sets, and the parameter that does."""

_HARMLESS = {
    "Cache-Control": "private, no-cache",
    "Content-Encoding": "identity",
    "Content-Language": "und",
    "Expires": "Thu, 01 Jan 1970 00:00:00 GMT",
}
"""Headers that a client may add to its PUT unsigned and that the store may serve later, and values to serve instead."""

_SENT = {
    "Content-Type": "text/html",
    "Content-Disposition": "inline",
    "Cache-Control": "public, max-age=31536000",
    "Content-Encoding": "gzip",
    "Content-Language": "tlh",
    "Expires": "Fri, 01 Jan 2100 00:00:00 GMT",
}


@dataclass(frozen=True)
class Capabilities:
    """What a store honours.

    ``conditional_put``: ``If-None-Match: *`` keeps a PUT from overwriting.
    ``conditional_complete``: the same for CompleteMultipartUpload.
    ``signed_digest``: a URL signed for a SHA-256 accepts that body only.
    ``checksums``: a wrong ``x-amz-checksum-sha256`` is refused, and a right one kept.
    ``guards``: headers to sign into each PUT, so that a client cannot add its own.
    ``part_guards``: the same for the parts that clients send; ``None`` if no
    header keeps a client from making its part a copy, so that no part may be signed.
    ``overrides``: parameters to sign into each GET, so that headers which a
    client added to its PUT are not served.
    ``faults``: what the store lets people do without a right, each with the evidence.
    """

    conditional_put: bool = False
    conditional_complete: bool = False
    signed_digest: bool = False
    checksums: bool = False
    guards: Mapping[str, str] = field(default_factory=dict)
    part_guards: Mapping[str, str] | None = field(default_factory=dict)
    overrides: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[StoreFault, str] = field(default_factory=dict)

    @property
    def direct(self) -> bool:
        """Whether a client's PUT may write the blob itself, because nothing it sends later can change it."""
        return self.conditional_put and "copies" not in self.faults


async def probe(client: S3Client, layout: Layout) -> Capabilities:
    """Try everything concurrently, on objects below ``probe/`` that are deleted afterwards.

    Raises ``StoreUnavailable``, also if the store does not let us write.
    """
    put = asyncio.create_task(_try(client, layout, _refuses_second_put))
    complete = asyncio.create_task(_try(client, layout, _refuses_completion))
    digest = asyncio.create_task(_try(client, layout, _holds_to_digest))
    sums = asyncio.create_task(_try(client, layout, _checks_sums))
    urls = asyncio.create_task(_try(client, layout, _probe_signed_urls))
    parts = asyncio.create_task(_try(client, layout, _guard_parts))
    exposed = asyncio.create_task(find_exposures(client, f"{layout.probes}{new_id()}/"))
    await all_of(put, complete, digest, sums, urls, parts, exposed)
    return Capabilities(
        conditional_put=put.result(),
        conditional_complete=complete.result(),
        signed_digest=digest.result(),
        checksums=sums.result(),
        guards=urls.result().guards,
        part_guards=parts.result(),
        overrides=urls.result().overrides,
        faults=urls.result().faults | exposed.result(),
    )


async def _try(client: S3Client, layout: Layout, test: Callable[[S3Client, str], Awaitable[T]]) -> T:
    key = layout.probes + new_id()
    try:
        await client.call("put_object", Key=key, Body=b"probe")
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
    async with client.session() as session:
        url = await _presign(client, "PUT", key, headers=headers, payload=digest)
        held = not (await _send(session, "PUT", url, headers, b"other")).ok
        return held and (await _send(session, "PUT", url, headers, b"probe")).ok


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


@dataclass
class _SignedUrls:
    """What was found out about signed URLs."""

    guards: dict[str, str] = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)
    faults: dict[StoreFault, str] = field(default_factory=dict)


async def _probe_signed_urls(client: S3Client, key: str) -> _SignedUrls:
    found, target = _SignedUrls(), f"{key}-target"
    try:
        async with client.session() as session:
            if not await _accepts(client, session, target, {}):
                raise StoreUnavailable(
                    "The store refuses a PUT with a signed URL.",
                    hint="Compare the clocks, and let no proxy at blobs.s3.endpoint change Host, path or headers.",
                )
            await _guard_copies(client, session, key, target, found)
            await _guard_acls(client, session, target, found)
            await _guard_headers(client, session, target, found)
    finally:
        await client.call("delete_object", Key=target)
    return found


async def _guard_copies(
    client: S3Client, session: aiohttp.ClientSession, source: str, target: str, found: _SignedUrls
) -> None:
    """Find a guard against ``x-amz-copy-source``.

    A store that looks at signed headers only lets the holder of a URL add
    others.  This one turns the PUT into a copy of any object that our keys can
    read, over the object that is there (CVE-2026-54330 and its like).  A header
    that is signed cannot have another value, so the guard is a condition that
    no source of a copy fulfils.
    """

    async def copies(guards: dict[str, str]) -> bool:
        url = await _presign(client, "PUT", target, headers=guards)
        if not (await _send(session, "PUT", url, guards, b"put")).ok:
            return True  # a guard that also refuses the plain PUT is none
        source_header = {"x-amz-copy-source": f"/{client.bucket}/{quote(source)}"}
        await _send(session, "PUT", url, {**guards, **source_header}, b"")
        head = await client.call("head_object", Key=target)
        return bool(head["ContentLength"] == len(b"probe"))

    if not await copies({}):
        return
    for condition in _COPY_CONDITIONS:
        if not await copies({condition: _NO_ETAG}):
            found.guards[condition] = _NO_ETAG
            return
    found.faults["copies"] = "PUT with a signed URL and an unsigned x-amz-copy-source"


async def _guard_parts(client: S3Client, source: str) -> Mapping[str, str] | None:
    """Find a guard against ``x-amz-copy-source`` on a part, as :func:`_guard_copies` does for a PUT.

    Of the lengths that the holder may send, only the signed one counts: no empty part is ever signed.  A store that
    cannot do what parts take, or denies it to our access key, gets none signed.
    """
    async with client.session() as session:
        try:
            for guards in _PART_GUARDS:
                if await _keeps_parts(client, session, source, guards):
                    return guards
        except DriveError as error:
            _declined(error)
    return None


async def _keeps_parts(
    client: S3Client, session: aiohttp.ClientSession, source: str, guards: Mapping[str, str]
) -> bool:
    """Whether a URL that is signed for a part with *guards* takes the bytes that are sent, and only those."""
    target, sent = f"{source}-part", b"parts"  # as long as the source
    headers = {"Content-Length": str(len(sent)), **guards}
    copying = {"x-amz-copy-source": f"/{client.bucket}/{quote(source)}"}
    multipart = Multipart(client, deadline=client.deadline)

    async def stored(added: Mapping[str, str]) -> bytes | None:
        """The content of an object that is made of one such part; ``None`` if the part was refused."""
        upload = await multipart.begin(target, UNKNOWN, {})
        try:
            query = {"partNumber": "1", "uploadId": upload}
            url = await _presign(client, "PUT", target, headers=headers, query=query)
            await _send(session, "PUT", url, {**guards, **added}, sent)
            if not (parts := [(part.number, part.etag) async for part in multipart.parts(target, upload)]):
                return None
            await multipart.join(target, upload, parts)
        finally:
            await multipart.give_up(target, upload)
        return (await _send(session, "GET", await _presign(client, "GET", target))).body

    try:
        if await stored({}) != sent:
            return False
        ranged = {**copying, "x-amz-copy-source-range": f"bytes=0-{len(sent) - 1}"}
        return all([await stored(added) in (None, sent) for added in (copying, ranged)])
    finally:
        await client.call("delete_object", Key=target)


async def _guard_acls(client: S3Client, session: aiohttp.ClientSession, target: str, found: _SignedUrls) -> None:
    """Find a guard against headers that make the object public."""
    plain = client.url(target, internal=True)

    async def published(guards: dict[str, str]) -> Mapping[str, str] | None:
        url = await _presign(client, "PUT", target, headers=guards)
        for grant in _PUBLIC:
            await client.call("delete_object", Key=target)
            await _send(session, "PUT", url, {**guards, **grant}, b"acl")
            if (await _send(session, "GET", plain)).ok:
                return grant
        return None

    await _send(session, "PUT", await _presign(client, "PUT", target, headers=found.guards), found.guards, b"acl")
    if (await _send(session, "GET", plain)).ok:
        return  # the bucket is public anyway, which is a separate fault
    if (grant := await published(found.guards)) is None:
        return
    guarded = {**found.guards, "x-amz-acl": "private"}
    if await published(guarded) is None and await _accepts(client, session, target, guarded):
        found.guards = guarded
    else:
        found.faults["public-acls"] = f"PUT with a signed URL and an unsigned {next(iter(grant))}"


async def _guard_headers(client: S3Client, session: aiohttp.ClientSession, target: str, found: _SignedUrls) -> None:
    """Find how to keep the headers of a client's PUT out of later downloads."""
    url = await _presign(client, "PUT", target, headers=found.guards)
    kept: list[str] = []
    for sent in (_SENT, *({name: value} for name, value in _SENT.items())):
        if (await _send(session, "PUT", url, {**found.guards, **sent}, gzip.compress(b"headers"))).ok:
            served = await _send(session, "GET", await _presign(client, "GET", target))
            if not served.ok:
                raise _unproven(served)
            kept += [name for name, value in sent.items() if served.headers.get(name) == value]
            if sent is _SENT:
                break
    for name, parameter in _ALWAYS_OVERRIDDEN.items():
        if name in kept and not await _overrides(client, session, target, {parameter: "a/b"}, name):
            found.faults["ignored-overrides"] = f"GET with {parameter} served what the client had sent"
    for name, harmless in _HARMLESS.items():
        if name not in kept:
            continue
        override = {f"response-{name.lower()}": harmless}
        if await _overrides(client, session, target, override, name):
            found.overrides |= override
        else:
            found.guards[name] = harmless
    if not await _accepts(client, session, target, found.guards):
        for name in _HARMLESS:
            found.guards.pop(name, None)
        found.faults["ignored-overrides"] = "neither signed PUTs nor signed GETs keep out headers that a client adds"


async def _overrides(
    client: S3Client, session: aiohttp.ClientSession, key: str, override: dict[str, str], name: str
) -> bool:
    answer = await _send(session, "GET", await _presign(client, "GET", key, query=override))
    return answer.ok and answer.headers.get(name) != _SENT[name]


async def _accepts(client: S3Client, session: aiohttp.ClientSession, key: str, guards: dict[str, str]) -> bool:
    url = await _presign(client, "PUT", key, headers=guards)
    return (await _send(session, "PUT", url, guards, b"put")).ok


async def _presign(
    client: S3Client,
    method: str,
    key: str,
    *,
    headers: dict[str, str] | None = None,
    query: dict[str, str] | None = None,
    payload: str = UNSIGNED,
) -> str:
    until = client.now() + timedelta(hours=1)  # longer than clocks may differ
    return await client.presign(
        method, key, expires_at=until, headers=headers, query=query, payload=payload, internal=True
    )


async def _send(
    session: aiohttp.ClientSession, method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> Answer:
    """One request, repeated after 500: S3 gives it for failures of its own, and some stores for what they refuse.

    Raises ``StoreUnavailable`` for a busy store too, whose refusal proves nothing.
    """
    for _ in range(_ATTEMPTS):
        answer = await exchange(session, method, url, headers, body)
        if answer.status in BUSY:
            raise _unproven(answer)
        if answer.status != _INTERNAL_ERROR:
            break
    return answer


def _unproven(answer: Answer) -> StoreUnavailable:
    return StoreUnavailable(f"The store answers {answer.status} while it is probed.")


def _declined(error: DriveError) -> bool:
    """``False``: it answered "not implemented" in one of many forms.  An outage proves nothing, and is raised."""
    cause = error.__cause__
    if isinstance(error, StoreUnavailable) and (cause is None or is_passing(cause)):
        raise error
    return False
