"""Signed URLs of an S3 store, used as clients use them.

Through the public endpoint, with nothing but the URL and its headers.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import aiohttp
import msgspec
from yarl import URL

from godrive.clock import Clock
from godrive.config import Config
from godrive.doctor import Report
from godrive.doctor.stores import SAMPLE, new_key
from godrive.errors import NotFound
from godrive.model import SignedRequest

if TYPE_CHECKING:
    from godrive.blobs.s3 import S3BlobStore

WITHIN = 10.0
"""Seconds in which the public endpoint should answer."""

_SKEW = 30.0
_REFUSED_SKEW = 900.0
_ENDPOINT_HINT = "Set blobs.s3.public_endpoint to what clients reach the store by; a proxy must keep the Host header."
_NAME = "signed URLs"


async def signed(config: Config, clock: Clock, report: Report, *, set_cors: bool) -> None:
    """Whether clients can use what the store's URLs promise, and no more than that."""
    if config.blobs.driver != "s3":
        return
    from godrive.blobs.s3 import S3BlobStore  # noqa: PLC0415 - needs aiobotocore

    store = S3BlobStore(config.blobs.s3, clock=clock)
    key, until = new_key(), clock.now() + timedelta(minutes=5)
    try:
        await store.open()
        digest = hashlib.sha256(SAMPLE).hexdigest()
        put = await store.presign_put(key, size=len(SAMPLE), mime="text/plain", sha256=digest, expires_at=until)
        get = await store.presign_get(key, filename="doctor.txt", mime="text/plain", expires_at=until)
        try:
            async with store.client.session(within=WITHIN) as client:
                status, said = await _send(client, put, clock, report)
                if status not in (200, 201, 204):
                    report.failure(
                        _NAME, f"A PUT to {_host(put)} was answered {status}: {said[:300]!r}.", _ENDPOINT_HINT
                    )
                    return
                try:
                    await store.head(key)  # where a put ends in a place of its own, this is what publishes it
                except NotFound:
                    report.failure(_NAME, f"What was put to {_host(put)} is not in the store.", _ENDPOINT_HINT)
                    return
                status, read = await _send(client, get)
                if status != 200 or read != SAMPLE:
                    report.failure(_NAME, f"A GET from {_host(get)} was answered {status}.", _ENDPOINT_HINT)
                    return
                await _abuse(client, put, get, report, copies=store.capabilities.guards is None)
        finally:
            await store.delete(key)
        await _cors(store, put, get, config, report, set_cors=set_cors)
    except (aiohttp.ClientError, TimeoutError) as error:
        report.failure(_NAME, f"{_host(put)} cannot be reached: {str(error) or 'it does not answer'}.", _ENDPOINT_HINT)
    finally:
        await store.close()


async def _abuse(
    client: aiohttp.ClientSession, put: SignedRequest, get: SignedRequest, report: Report, *, copies: bool
) -> None:
    """What must not work; *copies* says that the store was found to take headers that nobody signed."""
    forged = msgspec.structs.replace(put, url=re.sub(r"(?<=X-Amz-Signature=)\w", _another, put.url))
    unsigned = msgspec.structs.replace(get, url=get.url.partition("?")[0])
    if (await _send(client, forged))[0] < 300:
        report.failure(_NAME, "A URL with a forged signature is taken.", "Let nobody write to it without a key.")
    elif (await _send(client, unsigned))[0] < 300:
        report.failure(_NAME, "Anyone can read the bucket.", "Let nobody read it without a key.")
    elif copies:
        report.failure(
            _NAME,
            "A client can turn its upload into a copy of whatever the access key can read, as in CVE-2026-54330.",
            "Update the store; until then let the access key read this bucket only.",
        )
    else:
        report.ok(_NAME, f"Clients can put and get at {_host(put)}, as signed and not otherwise.")


async def _cors(
    store: S3BlobStore, put: SignedRequest, get: SignedRequest, config: Config, report: Report, *, set_cors: bool
) -> None:
    from godrive.blobs.s3.cors import cors_rules  # noqa: PLC0415 - needs aiobotocore

    origins = config.server.cors_origins
    if not origins:
        report.ok("CORS", "server.cors_origins is empty: no web page is to use the store.")
        return
    if set_cors:
        await store.put_cors(origins)
    for origin in origins:
        page = "https://page.example" if origin == "*" else origin
        for request in (put, get):
            headers = [name for name in request.headers if name.lower() != "content-length"]
            answer = await store.preflight(request.url, origin=page, method=request.method, headers=headers)
            if not answer.allowed:
                rules = msgspec.json.encode(cors_rules(origins)).decode()
                hint = f"godrive doctor --set-cors, or give the bucket these rules: {rules}"
                report.failure("CORS", f"A page of {page} may not {request.method}: {answer.reason}.", hint)
                return
    report.ok("CORS", f"Pages of {', '.join(origins)} may put and get.")


async def _send(
    client: aiohttp.ClientSession, request: SignedRequest, clock: Clock | None = None, report: Report | None = None
) -> tuple[int, bytes]:
    """The answer's status and what it says; with a *report*, also how far the store's clock is from ours."""
    async with client.request(
        request.method,
        URL(request.url, encoded=True),  # to the letter: every byte of it is signed
        data=SAMPLE if request.method == "PUT" else None,
        headers=request.headers,
        allow_redirects=False,
    ) as answer:
        if clock is not None and report is not None:
            _compare_clocks(answer, clock, report)
        return answer.status, await answer.content.read(1_000_000)


def _compare_clocks(answer: aiohttp.ClientResponse, clock: Clock, report: Report) -> None:
    """S3 refuses what was signed more than 15 minutes from its own time."""
    try:
        theirs = parsedate_to_datetime(answer.headers.get("Date", ""))
    except ValueError:  # whatever answers there, it is no store
        return
    seconds = abs((clock.now() - theirs.astimezone(UTC)).total_seconds())
    detail = f"The store's clock is {seconds:.0f} seconds from ours."
    if seconds > _REFUSED_SKEW:
        report.failure("store clock", detail, "Set the clock that is wrong.")
    elif seconds > _SKEW:
        report.warning("store clock", detail, "Set the clock that is wrong.")
    else:
        report.ok("store clock", detail)


def _another(digit: re.Match[str]) -> str:
    return "1" if digit[0] == "0" else "0"


def _host(request: SignedRequest) -> str:
    return "/".join(request.url.split("/")[:3])
