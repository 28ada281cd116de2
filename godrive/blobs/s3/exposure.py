"""Find what the store permits without a right, by trying: at every start and in ``godrive doctor``.

Every signed URL names our access key to its holder.  So a store with such a
fault gets no URLs signed, unless the operator accepts the fault by its name, for
example because a proxy in front of the store filters the requests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from urllib.parse import quote, urlencode

import aiohttp
import anyio

from godrive.blobs.s3.client import S3Client, all_of
from godrive.blobs.s3.forgery import BODY, Forgery, claims, forged, forged_puts
from godrive.blobs.s3.plain_http import exchange
from godrive.config import StoreFault
from godrive.errors import ConfigError, DriveError, NotFound, StoreUnavailable

_SECRET = b"for holders of a signed URL only"
BUSY = (429, 502, 503, 504)
_AT_ONCE = 8
_ATTEMPTS = 3

REMEDIES: Mapping[StoreFault, str] = {
    "unsigned-writes": "Update the store, or give GoDrive an access key of its own (not root) whose policy denies "
    "s3:PutObject where s3:x-amz-content-sha256 is like STREAMING-*, and make the bucket private.",
    "unsigned-deletes": "Make the bucket private: no policy or ACL may allow public deletes.",
    "unsigned-reads": "Make the bucket private: no policy or ACL may allow public reads or lists.",
    "loose-signatures": "Update the store: it must verify all of what a URL was signed for.",
    "copies": "Update the store; until then let the access key read this bucket only.",
    "public-acls": "Disable ACLs for the bucket, or deny s3:PutObjectAcl to the access key.",
    "ignored-overrides": "Update the store: it must honour response-content-type and its like in signed URLs.",
}
"""What an operator can do about each fault."""


def refuse(faults: Mapping[StoreFault, str], accepted: Iterable[StoreFault]) -> None:
    """Raises ``ConfigError`` for a fault that is not accepted."""
    for fault, evidence in sorted(faults.items()):
        if fault not in set(accepted):
            raise ConfigError(
                f"The store has the fault {fault}: {evidence}.",
                field="blobs.s3.accept_faults",
                hint=f"{REMEDIES[fault]} To run with the fault, add {fault!r} to blobs.s3.accept_faults.",
            )


async def find_exposures(client: S3Client, prefix: str, *, internal: bool = True) -> dict[StoreFault, str]:
    """The faults that forged requests show, each with the request that was accepted.

    Works on objects below *prefix* and deletes them.  The requests go to the
    *internal* or the public endpoint.  Raises ``StoreUnavailable`` for a store
    that is too busy to tell.
    """
    try:
        async with client.session() as session:
            return await _Prober(client, session, prefix, internal).find()
    finally:
        with suppress(DriveError):  # a later sweep deletes what stays
            for key in await _keys(client, prefix):
                await client.call("delete_object", Key=key)


class _Prober:
    def __init__(self, client: S3Client, session: aiohttp.ClientSession, prefix: str, internal: bool) -> None:
        self._client = client
        self._session = session
        self._prefix = prefix
        self._internal = internal
        self._limit = anyio.Semaphore(_AT_ONCE)

    async def find(self) -> dict[StoreFault, str]:
        secret, other = f"{self._prefix}secret", f"{self._prefix}other"
        ways = claims(await self._client.credentials(), self._client.region, self._client.now())
        doomed = [f"{self._prefix}doomed-{number}" for number in range(len(ways))]
        await all_of(*(self._client.call("put_object", Key=key, Body=_SECRET) for key in (secret, other, *doomed)))
        found: dict[StoreFault, str | None] = {
            "unsigned-writes": await self._find_writes(list(forged_puts(f"{self._prefix}put-", ways))),
            "unsigned-deletes": await self._find_deletes(forged("DELETE", doomed, ways)),
            "unsigned-reads": await self._find_reads(forged("GET", [secret] * len(ways), ways)),
            "loose-signatures": await self._find_loose(secret, other),
        }
        return {fault: evidence for fault, evidence in found.items() if evidence is not None}

    async def _find_writes(self, attempts: list[Forgery]) -> str | None:
        """A PUT that was accepted, or that stored its object although the answer was a refusal."""
        answers = await self._send_all(attempts)
        written = {key for key in await _keys(self._client, self._prefix) if key.startswith(f"{self._prefix}put-")}
        for attempt, (status, _) in zip(attempts, answers, strict=True):
            if 200 <= status < 300 or written & {attempt.key, attempt.key.removesuffix(".tar")}:
                return attempt.label
        return f"an unsigned request stored {min(written)}" if written else None

    async def _find_deletes(self, attempts: list[Forgery]) -> str | None:
        await self._send_all(attempts)
        for attempt in attempts:
            try:
                await self._client.call("head_object", Key=attempt.key)
            except NotFound:
                return attempt.label
        return None

    async def _find_reads(self, reads: list[Forgery]) -> str | None:
        listing = {"list-type": "2", "prefix": self._prefix}
        lists = [Forgery(f"list: {read.label}", "GET", "", {**read.query, **listing}, read.headers) for read in reads]
        answers = await self._send_all([*reads, *lists])
        for attempt, (status, body) in zip([*reads, *lists], answers, strict=True):
            if 200 <= status < 300 and (_SECRET in body or b"secret</Key>" in body):
                return attempt.label
        return None

    async def _find_loose(self, key: str, other: str) -> str | None:
        """Requests that differ from the one that the URL was signed for."""
        now, minute = self._client.now(), timedelta(minutes=1)
        url = await self._client.presign("GET", key, expires_at=now + minute, internal=self._internal)
        past = now - timedelta(hours=1)
        old = await self._client.presign("GET", key, expires_at=past + minute, internal=self._internal, now=past)
        for label, method, target in (
            ("GET of another object", "GET", url.replace(quote(key, safe="/-_.~"), quote(other, safe="/-_.~"), 1)),
            ("GET with a parameter that was added", "GET", f"{url}&response-content-type=text%2Fhtml"),
            ("GET with a URL that had expired", "GET", old),
            ("PUT with a URL for GET", "PUT", url),
            ("DELETE with a URL for GET", "DELETE", url),
        ):
            status, _ = await self._send(Forgery(label, method, "", body=BODY if method == "PUT" else b""), target)
            if 200 <= status < 300:
                return label
        return None

    async def _send_all(self, attempts: Iterable[Forgery]) -> list[tuple[int, bytes]]:
        async def send(attempt: Forgery) -> tuple[int, bytes]:
            url = self._client.url(attempt.key, internal=self._internal)
            async with self._limit:
                return await self._send(attempt, url + ("?" + urlencode(attempt.query) if attempt.query else ""))

        return await all_of(*map(send, attempts))

    async def _send(self, attempt: Forgery, url: str) -> tuple[int, bytes]:
        """Status and body; the status is 0 if the store closed the connection instead of an answer."""
        for _ in range(_ATTEMPTS):
            try:
                answer = await exchange(self._session, attempt.method, url, attempt.headers, attempt.body)
            except StoreUnavailable:
                return 0, b""
            if answer.status not in BUSY:
                return answer.status, answer.body
        raise StoreUnavailable(f"The store answers {answer.status} while it is probed.")


async def _keys(client: S3Client, prefix: str) -> list[str]:
    following = {"NextContinuationToken": "ContinuationToken"}
    return [entry["Key"] async for entry in client.pages("list_objects_v2", "Contents", following, Prefix=prefix)]
