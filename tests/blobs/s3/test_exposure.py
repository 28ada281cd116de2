"""Stores that let people do what nobody signed: each hole is found, named, and refused until it is accepted."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from aiohttp import web
from msgspec.structs import replace

from godrive.blobs.s3 import S3BlobStore
from godrive.blobs.s3.client import S3Client
from godrive.blobs.s3.exposure import REMEDIES, find_exposures
from godrive.blobs.s3.probe import Capabilities
from godrive.clock import SystemClock
from godrive.config import StoreFault
from godrive.errors import ConfigError, StoreUnavailable
from tests.blobs.s3.fake_store import ACCESS_KEY, FakeStore, Hole

pytestmark = pytest.mark.anyio

UNSIGNED_TRAILER = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


@pytest.fixture
async def fake() -> AsyncIterator[FakeStore]:
    fake = FakeStore()
    async with fake:
        yield fake


def mode(request: web.BaseRequest) -> str:
    return request.headers.get("x-amz-content-sha256", "")


def names_us_in_query(request: web.BaseRequest) -> bool:
    return request.query.get("X-Amz-Credential", "").startswith(f"{ACCESS_KEY}/")


def names_us_in_header(request: web.BaseRequest) -> bool:
    return f"Credential={ACCESS_KEY}/" in request.headers.get("Authorization", "")


def is_anonymous(request: web.BaseRequest) -> bool:
    return "Authorization" not in request.headers and not request.query.keys() & {"X-Amz-Credential", "AWSAccessKeyId"}


def cve_2026_41145(request: web.BaseRequest) -> bool:
    return (
        request.method == "PUT"
        and mode(request) == UNSIGNED_TRAILER
        and names_us_in_query(request)
        and "Authorization" not in request.headers
    )


WRITES: dict[str, Hole] = {
    "unsigned trailer, credential in the query (CVE-2026-41145)": cve_2026_41145,
    "unsigned trailer, forged signature in the header (CVE-2025-31489)": lambda request: (
        mode(request) == UNSIGNED_TRAILER and names_us_in_header(request)
    ),
    "unsigned trailer of anybody": lambda request: mode(request) == UNSIGNED_TRAILER,
    "archive to unpack (CVE-2026-40344)": lambda request: (
        "x-amz-meta-snowball-auto-extract" in request.headers
        and mode(request) == UNSIGNED_TRAILER
        and names_us_in_header(request)
    ),
    "signed chunks that nobody verifies": lambda request: mode(request) == "STREAMING-AWS4-HMAC-SHA256-PAYLOAD",
    "signed chunks with a trailer": lambda request: (
        mode(request) == "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER" and names_us_in_query(request)
    ),
    "asymmetric signatures": lambda request: "ECDSA" in mode(request) and names_us_in_header(request),
    "any signature in the query": lambda request: (
        request.method == "PUT" and request.query.get("X-Amz-Signature", "").startswith("0000")
    ),
    "a credential without a signature": lambda request: (
        request.method == "PUT" and names_us_in_query(request) and "X-Amz-Signature" not in request.query
    ),
    "version 2, header": lambda request: (
        request.method == "PUT" and request.headers.get("Authorization", "").startswith(f"AWS {ACCESS_KEY}:")
    ),
    "version 2, query": lambda request: request.method == "PUT" and request.query.get("AWSAccessKeyId") == ACCESS_KEY,
    "a public bucket": lambda request: request.method == "PUT" and is_anonymous(request),
    "a form without a policy": lambda request: request.method == "POST" and is_anonymous(request),
}

OTHERS: dict[str, tuple[StoreFault, Hole]] = {
    "anybody reads": ("unsigned-reads", lambda request: request.method == "GET" and is_anonymous(request)),
    "anybody lists": (
        "unsigned-reads",
        lambda request: request.method == "GET" and "list-type" in request.query and is_anonymous(request),
    ),
    "a credential alone reads": (
        "unsigned-reads",
        lambda request: (
            request.method == "GET" and names_us_in_query(request) and "X-Amz-Signature" not in request.query
        ),
    ),
    "anybody deletes": ("unsigned-deletes", lambda request: request.method == "DELETE" and is_anonymous(request)),
    "a URL for GET deletes": (
        "loose-signatures",
        lambda request: request.method == "DELETE" and request.query.get("X-Amz-Signature", "0000")[:4] != "0000",
    ),
    "expired URLs work": (
        "loose-signatures",
        lambda request: (
            request.query.get("X-Amz-Date", "99") < f"{datetime.now(UTC) - timedelta(minutes=30):%Y%m%dT%H%M%SZ}"
        ),
    ),
}


async def probed(fake: FakeStore, *accepted: StoreFault) -> Capabilities:
    """What is found by a store that is opened; nothing is left behind."""
    store = S3BlobStore(replace(fake.settings, accept_faults=list(accepted)))
    try:
        await store.open()
    finally:
        await store.close()
    assert fake.objects == {}
    assert fake.uploads == {}
    return store.capabilities


async def faults(fake: FakeStore) -> dict[StoreFault, str]:
    """What forged requests show; nothing is left behind."""
    client = S3Client(fake.settings, SystemClock())
    await client.open()
    found = await find_exposures(client, "probe/")
    await client.close()
    assert fake.objects == {}
    return found


async def refusal(fake: FakeStore, found: dict[StoreFault, str], *accepted: StoreFault) -> ConfigError:
    settings = replace(fake.settings, accept_faults=list(accepted))
    store = S3BlobStore(settings, capabilities=Capabilities(faults=found))
    with pytest.raises(ConfigError) as refused:
        await store.open()
    await store.close()
    return refused.value


async def test_a_store_without_faults_opens(fake: FakeStore) -> None:
    assert (await probed(fake)).faults == {}


@pytest.mark.parametrize("hole", WRITES.values(), ids=WRITES)
@pytest.mark.slow
async def test_a_store_that_writes_what_nobody_signed_is_refused_until_it_is_accepted(
    fake: FakeStore, hole: Hole
) -> None:
    fake.holes.append(hole)
    found = await faults(fake)
    assert list(found) == ["unsigned-writes"]
    error = await refusal(fake, found, "unsigned-reads", "copies")
    assert error.field == "blobs.s3.accept_faults"
    assert "unsigned-writes" in error.detail
    assert "STREAMING-*" in (error.hint or "")


async def test_a_start_names_the_request_that_was_accepted(fake: FakeStore) -> None:
    fake.holes.append(cve_2026_41145)
    request = f"PUT with only a credential in the query, x-amz-content-sha256: {UNSIGNED_TRAILER}"
    with pytest.raises(ConfigError, match=request):
        await probed(fake)
    assert (await probed(fake, "unsigned-writes")).faults == {"unsigned-writes": request}


@pytest.mark.parametrize(("fault", "hole"), OTHERS.values(), ids=OTHERS)
@pytest.mark.slow
async def test_other_things_that_nobody_signed_are_found(fake: FakeStore, fault: StoreFault, hole: Hole) -> None:
    fake.holes.append(hole)
    found = await faults(fake)
    assert list(found) == [fault]
    assert fault in (await refusal(fake, found)).detail


@pytest.mark.slow
async def test_a_store_that_copies_is_guarded_and_one_that_nothing_guards_is_refused(fake: FakeStore) -> None:
    fake.copies = True
    assert (await probed(fake)).guards == {"x-amz-copy-source-if-match": "none"}
    fake.guarded = False
    assert list((await probed(fake, "copies")).faults) == ["copies"]


async def test_a_store_that_takes_an_unsigned_acl_is_guarded(fake: FakeStore) -> None:
    fake.acls = True
    assert (await probed(fake)).guards == {"x-amz-acl": "private"}


@pytest.mark.parametrize(
    ("parameter", "header"), [("response-content-encoding", "Content-Encoding"), ("response-expires", "Expires")]
)
@pytest.mark.slow
async def test_a_header_that_signed_gets_cannot_override_is_signed_into_puts(
    fake: FakeStore, parameter: str, header: str
) -> None:
    fake.overrides.remove(parameter)
    found = await probed(fake)
    assert list(found.guards) == [header]
    assert parameter not in found.overrides
    assert len(found.overrides) == 3


@pytest.mark.parametrize("parameter", ["response-content-type", "response-content-disposition"])
async def test_a_store_that_serves_the_type_or_name_that_a_client_sent_is_refused(
    fake: FakeStore, parameter: str
) -> None:
    fake.overrides.remove(parameter)
    assert list((await probed(fake, "ignored-overrides")).faults) == ["ignored-overrides"]


async def test_a_busy_store_has_not_been_found_to_have_no_faults(fake: FakeStore) -> None:
    def busy(request: web.BaseRequest) -> bool:
        if mode(request) == UNSIGNED_TRAILER:
            raise web.HTTPServiceUnavailable
        return False

    fake.holes.append(busy)
    store = S3BlobStore(fake.settings)
    with pytest.raises(StoreUnavailable):
        await store.open()
    await store.close()


async def test_a_passing_failure_hides_no_fault(fake: FakeStore) -> None:
    """A store that takes an unsigned ACL fails once at each request that would show it."""
    fake.acls, failed = True, set()

    def fails_once(request: web.BaseRequest) -> bool:
        if (request.headers.get("x-amz-acl"), request.raw_path) not in failed and "x-amz-acl" in request.headers:
            failed.add((request.headers["x-amz-acl"], request.raw_path))
            raise web.HTTPInternalServerError
        return False

    fake.holes.append(fails_once)
    assert (await probed(fake)).guards == {"x-amz-acl": "private"}
    assert failed


async def test_a_store_that_does_not_show_what_it_serves_is_not_trusted(fake: FakeStore) -> None:
    """Else the headers that a client adds to its PUT would be served with every download."""

    def unreadable(request: web.BaseRequest) -> bool:
        if request.method == "GET" and "X-Amz-Signature" in request.query and request.path.endswith("-target"):
            raise web.HTTPInternalServerError
        return False

    fake.holes.append(unreadable)
    with pytest.raises(StoreUnavailable, match="500"):
        await probed(fake)


def test_every_fault_has_a_remedy() -> None:
    assert set(REMEDIES) == set(get_args(StoreFault))
