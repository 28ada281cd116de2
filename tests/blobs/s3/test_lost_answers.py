"""A start survives the loss of any one answer, and ends in time if the store is down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer
from msgspec.structs import replace

from godrive.blobs.s3 import S3BlobStore
from godrive.blobs.s3.probe import Capabilities
from godrive.config import S3
from godrive.errors import StoreUnavailable
from tests.blobs.s3.fake_store import ACCESS_KEY, SECRET_KEY, FakeStore, Hole

pytestmark = pytest.mark.anyio

DEADLINE = 5.0
"""Of a request, in seconds: a busy machine answers sooner."""


@pytest.fixture
async def fake() -> AsyncIterator[FakeStore]:
    fake = FakeStore()
    async with fake:
        yield fake


async def opened(settings: S3, *, capabilities: Capabilities | None = None, deadline: float = DEADLINE) -> Capabilities:
    """What a start finds."""
    store = S3BlobStore(settings, capabilities=capabilities, deadline=deadline)
    try:
        await store.open()
        return store.capabilities
    finally:
        await store.close()


def of_the_bucket(request: web.BaseRequest) -> bool:
    return request.path.count("/") == 1


def is_signed_url(request: web.BaseRequest) -> bool:
    return "X-Amz-Signature" in request.query


LOST: dict[str, Hole] = {
    "list of the bucket": lambda request: of_the_bucket(request) and request.method == "GET",
    "making of the bucket": lambda request: of_the_bucket(request) and request.method == "PUT",
    "put": lambda request: not of_the_bucket(request) and request.method == "PUT" and not is_signed_url(request),
    "put by a signed URL": lambda request: request.method == "PUT" and is_signed_url(request),
    "head": lambda request: request.method == "HEAD",
    "delete": lambda request: request.method == "DELETE",
    "part": lambda request: request.method == "PUT" and "uploadId" in request.query,
    "joining of parts": lambda request: request.method == "POST" and "uploadId" in request.query,
}


@pytest.mark.slow
async def test_a_lost_answer_ends_no_start() -> None:
    """As when Ceph announces an object to the process that is starting."""

    async def start(lost: Hole) -> Capabilities | str:
        fake = FakeStore()
        async with fake:
            fake.made = False
            fake.unanswered.append(lost)
            try:
                found = await opened(replace(fake.settings, create_bucket=True))
            except StoreUnavailable as error:
                return error.detail
            assert fake.unanswered == []
            return found

    found = dict(zip(LOST, await asyncio.gather(*map(start, LOST.values())), strict=True))
    assert set(map(repr, found.values())) == {repr(found["put"])}, found
    assert isinstance(found["put"], Capabilities)
    assert found["put"].faults == {}


async def test_a_bucket_that_takes_the_store_long_to_make_is_asked_for_again(fake: FakeStore) -> None:
    """As in Ceph after a gateway was killed: the others wait half a minute for it."""
    fake.made, fake.waits_to_make = False, 3
    await opened(replace(fake.settings, create_bucket=True), capabilities=Capabilities(), deadline=1.0)
    assert fake.made
    assert fake.asked.count("CreateBucket") == 4


@pytest.mark.parametrize("made", [True, False])
async def test_a_store_that_never_answers_ends_the_start(fake: FakeStore, made: bool) -> None:
    fake.made, fake.waits_to_make = made, 1000
    if made:
        fake.unanswered += [lambda _: True] * 1000
    with pytest.raises(StoreUnavailable, match=r"does not answer within 0\.5 seconds"):
        await opened(replace(fake.settings, create_bucket=True), capabilities=Capabilities(), deadline=0.5)
    if made:
        assert fake.asked == ["ListObjectsV2"] * 2


class Machine(RawTestServer):
    """The metadata service of a machine, which gives keys to a process that has its token."""

    def __init__(self, lost: str) -> None:
        super().__init__(self.answer)
        self.lost = [lost]
        """Paths that get no answer the first time."""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path in self.lost:
            self.lost.remove(request.path)
            while request.transport is not None:
                await asyncio.sleep(0.01)
        if request.path == TOKEN:
            return web.Response(text="token")
        if request.headers.get("x-aws-ec2-metadata-token") != "token":
            return web.Response(status=401)
        if request.path == ROLE:
            return web.Response(text="role")
        assert request.path == KEYS
        until = datetime.now(UTC) + timedelta(hours=6)
        keys = {"AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY, "Token": "session"}
        return web.json_response({"Code": "Success", "Expiration": f"{until:%Y-%m-%dT%H:%M:%SZ}", **keys})


TOKEN, ROLE = "/latest/api/token", "/latest/meta-data/iam/security-credentials/"
KEYS = f"{ROLE}role"


@pytest.mark.parametrize("lost", [TOKEN, ROLE, KEYS])
async def test_a_lost_answer_of_the_metadata_service_is_no_missing_role(
    fake: FakeStore, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    machine = Machine(lost)
    async with machine:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", str(machine.make_url("/")))
        await opened(replace(fake.settings, access_key="", secret_key=""), capabilities=Capabilities())
        assert machine.lost == []


async def test_a_role_that_cannot_be_had_now_is_no_mistake(fake: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    async with RawTestServer(refuse) as container:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", str(container.make_url("/")))
        with pytest.raises(StoreUnavailable, match="no credentials"):
            await opened(replace(fake.settings, access_key="", secret_key=""), capabilities=Capabilities())


async def refuse(request: web.BaseRequest) -> web.Response:
    return web.Response(status=503)
