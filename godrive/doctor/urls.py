"""Checks of an S3 store as its clients use it: through the public endpoint, with signed URLs and their headers only."""

from __future__ import annotations

import hashlib
from datetime import UTC, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import msgspec

from godrive.clock import Clock
from godrive.config import Config
from godrive.doctor import Report
from godrive.doctor.stores import SAMPLE, new_key, tolerant
from godrive.errors import NotFound, StoreUnavailable
from godrive.model import SignedRequest, new_id

if TYPE_CHECKING:
    import aiohttp

    from godrive.blobs.s3 import S3BlobStore
    from godrive.blobs.s3.plain_http import Answer

WITHIN = 10.0
"""Seconds in which the public endpoint must answer."""

_SKEW = 30.0
_REFUSED_SKEW = 900.0
_ENDPOINT_HINT = "Set blobs.s3.public_endpoint to the URL by which clients reach the store; a proxy must keep Host."
_NAME = "signed URLs"


async def signed(config: Config, clock: Clock, report: Report, *, set_cors: bool) -> None:
    """Check that clients can do what a signed URL is for, and nothing else."""
    if config.blobs.driver != "s3":
        return
    from godrive.blobs.s3 import S3BlobStore  # noqa: PLC0415 - needs aiobotocore

    store = S3BlobStore(tolerant(config).blobs.s3, clock=clock)
    key, until = new_key(), clock.now() + timedelta(minutes=5)
    try:
        await store.open()
        digest = hashlib.sha256(SAMPLE).hexdigest()
        put = await store.presign_put(key, size=len(SAMPLE), mime="text/plain", sha256=digest, expires_at=until)
        get = await store.presign_get(key, filename="doctor.txt", mime="text/plain", expires_at=until)
        try:
            async with store.client.session(within=WITHIN) as session:
                answer = await _send(session, put)
                _compare_clocks(answer, clock, report)
                if not answer.ok:
                    said = f"A PUT to {_host(put)} was answered {answer.status}: {answer.body[:300]!r}."
                    report.failure(_NAME, said, _ENDPOINT_HINT)
                    return
                await store.head(key)  # publishes the blob if PUTs go to a place of their own
                answer = await _send(session, get)
                if answer.status != 200 or answer.body != SAMPLE:
                    report.failure(_NAME, f"A GET from {_host(get)} was answered {answer.status}.", _ENDPOINT_HINT)
                    return
        except NotFound:
            report.failure(_NAME, f"What was put to {_host(put)} is not in the store.", _ENDPOINT_HINT)
            return
        except StoreUnavailable as error:
            report.failure(_NAME, f"{_host(put)} cannot be reached: {error.hint or error.detail}.", _ENDPOINT_HINT)
            return
        finally:
            await store.delete(key)
        await _check_faults(store, config, report, _host(put))
        await _check_versions(store, report)
        try:
            await _check_cors(store, put, get, config, report, set_cors=set_cors)
        finally:
            await store.delete(key)
    finally:
        await store.close()


async def _check_faults(store: S3BlobStore, config: Config, report: Report, host: str) -> None:
    """Report what the store lets people do without a right, at both of its endpoints."""
    from godrive.blobs.s3.exposure import REMEDIES, find_exposures  # noqa: PLC0415 - needs aiobotocore

    faults = dict(store.capabilities.faults)
    if config.blobs.s3.public_endpoint:
        prefix = f"{store.layout.probes}{new_id()}/"
        faults = await find_exposures(store.client, prefix, internal=False) | faults
    for fault, evidence in sorted(faults.items()):
        detail = f"The store has the fault {fault}: {evidence}."
        if fault in config.blobs.s3.accept_faults:
            report.warning(_NAME, f"{detail} It is accepted in blobs.s3.accept_faults.", REMEDIES[fault])
        else:
            report.failure(_NAME, detail, REMEDIES[fault])
    if not faults:
        report.ok(_NAME, f"Clients can upload to {host} and download from it, exactly as signed.")


async def _check_versions(store: S3BlobStore, report: Report) -> None:
    try:
        keeps = await store.keeps_versions()
    except StoreUnavailable as error:
        detail = f"Nobody knows whether the bucket keeps the bytes of deleted files as versions. {error.detail}"
        report.warning("versions", detail, error.hint or "Look at the settings of the bucket.")
        return
    if keeps:
        report.warning(
            "versions",
            "The bucket keeps versions: the bytes of deleted files stay in it and take room.",
            "Suspend versioning, or give the bucket a lifecycle rule that deletes noncurrent versions.",
        )


async def _check_cors(
    store: S3BlobStore, put: SignedRequest, get: SignedRequest, config: Config, report: Report, *, set_cors: bool
) -> None:
    from godrive.blobs.s3.cors import cors_rules  # noqa: PLC0415 - needs aiobotocore

    origins = config.server.cors_origins
    if not origins:
        report.ok("CORS", "server.cors_origins is empty, so no web page needs the store.")
        return
    refused = await store.put_cors(origins) if set_cors else None
    for origin in origins:
        page = "https://page.example" if origin == "*" else origin
        for request in (put, get):
            headers = [name for name in request.headers if name.lower() != "content-length"]
            answer = await store.preflight(request.url, origin=page, method=request.method, headers=headers)
            if not answer.allowed:
                rules = msgspec.json.encode(cors_rules(origins)).decode()
                detail, hint = (
                    f"A page of {page} may not {request.method}: {answer.reason}.",
                    "godrive doctor --set-cors",
                )
                if refused is not None:
                    detail += f" The bucket takes no rules: {refused}"
                    hint = "Change the CORS settings of the store itself"
                report.failure("CORS", detail, f"{hint}, or give the bucket these rules: {rules}")
                return
        if not await store.exposes_etag(put, SAMPLE, origin=page):
            rules = msgspec.json.encode(cors_rules(origins)).decode()
            detail = (
                f"A page of {page} cannot read the ETag of the store's answers, so Uppy cannot send files in parts."
            )
            report.failure("CORS", detail, f"godrive doctor --set-cors, or give the bucket these rules: {rules}")
            return
    report.ok("CORS", f"Pages of {', '.join(origins)} can upload and download.")


async def _send(session: aiohttp.ClientSession, request: SignedRequest) -> Answer:
    from godrive.blobs.s3.plain_http import exchange  # noqa: PLC0415 - needs aiobotocore

    body = SAMPLE if request.method == "PUT" else b""
    return await exchange(session, request.method, request.url, request.headers, body)


def _compare_clocks(answer: Answer, clock: Clock, report: Report) -> None:
    """S3 refuses what was signed more than 15 minutes from its own time."""
    try:
        theirs = parsedate_to_datetime(answer.headers.get("Date", ""))
    except ValueError:  # not the answer of a store
        return
    seconds = abs((clock.now() - theirs.astimezone(UTC)).total_seconds())
    detail = f"The store's clock is {seconds:.0f} seconds from ours."
    if seconds > _REFUSED_SKEW:
        report.failure("store clock", detail, "Set the clock that is wrong.")
    elif seconds > _SKEW:
        report.warning("store clock", detail, "Set the clock that is wrong.")
    else:
        report.ok("store clock", detail)


def _host(request: SignedRequest) -> str:
    return "/".join(request.url.split("/")[:3])
