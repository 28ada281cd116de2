"""The doctor in front of S3 stores that do something wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import RawTestServer
from msgspec.structs import replace

from godrive.backoff import Backoff
from godrive.blobs.bounded_read import read_bounded
from godrive.blobs.s3 import S3BlobStore
from godrive.blobs.s3.faults import RIGHTS
from godrive.clock import SystemClock
from godrive.config import Blobs, Config, Server, StoreFault
from godrive.doctor import Finding, Report, Verdict, stores, urls
from godrive.errors import StoreUnavailable
from tests.blobs.s3.fake_store import FakeStore
from tests.cases import each
from tests.servers import free_port

pytestmark = pytest.mark.anyio

ORIGIN = "https://app.example"


@pytest.fixture
async def fake() -> AsyncIterator[FakeStore]:
    fake = FakeStore()
    async with fake:
        yield fake


@pytest.fixture
def config(fake: FakeStore, tmp_path: Path) -> Config:
    server = Server(data_dir=str(tmp_path), port=free_port(), cors_origins=[ORIGIN])
    return Config(server=server, blobs=Blobs(driver="s3", s3=fake.settings))


async def findings(config: Config, *, set_cors: bool = False) -> dict[str, Finding]:
    """What the two checks of an S3 store find, by their names."""
    report = Report()
    await stores.blobs(config, SystemClock(), report)
    await urls.signed(config, SystemClock(), report, set_cors=set_cors)
    return {finding.check: finding for finding in report.findings}


def accepting(config: Config, *faults: StoreFault) -> Config:
    s3 = replace(config.blobs.s3, accept_faults=list(faults))
    return replace(config, blobs=replace(config.blobs, s3=s3))


@pytest.mark.slow
async def test_a_store_without_faults_is_well_and_nothing_is_left_in_it(config: Config, fake: FakeStore) -> None:
    found = await findings(config)
    assert {finding.verdict for finding in found.values()} == {Verdict.OK}
    assert found.keys() == {"blob store", "store clock", "signed URLs", "CORS"}
    assert fake.objects == {}
    assert fake.uploads == {}


async def test_a_fault_is_a_failure_and_an_accepted_one_a_warning(config: Config, fake: FakeStore) -> None:
    fake.holes.append(
        lambda request: request.headers.get("x-amz-content-sha256") == "STREAMING-UNSIGNED-PAYLOAD-TRAILER"
    )
    finding = (await findings(config))["signed URLs"]
    assert finding.verdict is Verdict.FAILURE
    assert "unsigned-writes" in finding.detail
    assert "STREAMING-*" in finding.hint
    finding = (await findings(accepting(config, "unsigned-writes")))["signed URLs"]
    assert finding.verdict is Verdict.WARNING
    assert "accept_faults" in finding.detail


async def test_a_fault_of_the_public_endpoint_alone_is_found(config: Config, fake: FakeStore) -> None:
    """Such as a proxy that signs what it passes on."""

    async def proxy(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "PUT" and not request.query and "Authorization" not in request.headers:
            fake.objects[request.path.removeprefix("/fake/")] = fake.make_object(await request.read())
            return web.Response()
        return await fake.answer(request)

    front = RawTestServer(proxy)
    async with front:
        s3 = replace(config.blobs.s3, public_endpoint=str(front.make_url("/")).rstrip("/"))
        finding = (await findings(replace(config, blobs=Blobs(driver="s3", s3=s3))))["signed URLs"]
    assert (finding.verdict, finding.detail) == (
        Verdict.FAILURE, "The store has the fault unsigned-writes: PUT with no credential."
    )  # fmt: skip


@pytest.mark.slow
async def test_a_bucket_that_keeps_versions_is_a_warning(config: Config, fake: FakeStore) -> None:
    fake.versioning = "Enabled"
    finding = (await findings(config))["versions"]
    assert finding.verdict is Verdict.WARNING
    assert "lifecycle" in finding.hint
    fake.versioning = "Suspended"  # as the hint says
    assert "versions" not in await findings(config)


@pytest.mark.slow
async def test_a_store_that_does_not_say_whether_it_keeps_versions_is_a_warning(
    config: Config, fake: FakeStore
) -> None:
    fake.denied = {"GetBucketVersioning"}
    finding = (await findings(config))["versions"]
    assert finding.verdict is Verdict.WARNING
    assert "s3:GetBucketVersioning" in finding.detail


@each(
    ("status", "code", "keeps"),
    [
        (501, "NotImplemented", False),
        (405, "MethodNotAllowed", False),
        (501, "", False),
        (403, "AccessDenied", None),
        (400, "InvalidRequest", None),
        (500, "InternalError", None),
        (404, "NoSuchBucket", None),
    ],
)
async def test_only_an_answer_that_says_so_means_that_a_store_has_no_versions(
    fake: FakeStore, status: int, code: str, keeps: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("godrive.blobs.s3.client._BACKOFF", Backoff(0.0, 0.0))

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if "versioning" not in request.query:
            return await fake.answer(request)
        return web.Response(status=status, text=f"<Error><Code>{code}</Code></Error>" if code else "")

    async with RawTestServer(answer) as server:
        settings = replace(fake.settings, endpoint=str(server.make_url("")).rstrip("/"))
        store = S3BlobStore(settings, guest=True)
        await store.open()
        try:
            if keeps is None:
                with pytest.raises(StoreUnavailable, match=code):
                    await store.keeps_versions()
            else:
                assert await store.keeps_versions() is keeps
        finally:
            await store.close()


@pytest.mark.slow
async def test_rules_are_set_and_tried(config: Config, fake: FakeStore) -> None:
    fake.cors = False
    assert (await findings(config))["CORS"].verdict is Verdict.FAILURE
    assert (await findings(config, set_cors=True))["CORS"].verdict is Verdict.OK


async def test_a_store_whose_etags_no_page_can_read_is_a_failure(fake: FakeStore, config: Config) -> None:
    fake.exposes = False
    finding = (await findings(config))["CORS"]
    assert (finding.verdict, "ETag" in finding.detail) == (Verdict.FAILURE, True)
    assert not [key for key in fake.objects if not key.startswith("probe/")]


@pytest.mark.parametrize("allows", [True, False])
@pytest.mark.slow
async def test_a_store_without_rules_for_a_bucket_is_judged_by_its_preflight(
    config: Config, fake: FakeStore, allows: bool
) -> None:
    fake.cors_rules = False
    fake.cors = allows
    finding = (await findings(config, set_cors=True))["CORS"]
    assert finding.verdict is (Verdict.OK if allows else Verdict.FAILURE)
    if not allows:
        assert "NotImplemented" in finding.detail
        assert finding.hint.startswith("Change the CORS settings of the store itself")


@pytest.mark.parametrize(
    "denied",
    [
        ["PutObject"],
        ["GetObject", "HeadObject"],
        ["DeleteObject"],
        ["ListMultipartUploads"],
        ["ListParts"],
        ["AbortMultipartUpload"],
        ["DeleteObject", "ListParts"],
    ],
    ids=",".join,
)
async def test_every_right_that_is_missing_is_named(config: Config, fake: FakeStore, denied: list[str]) -> None:
    fake.denied = set(denied)
    report = Report()
    await stores.blobs(config, SystemClock(), report)
    (finding,) = report.findings
    assert finding.verdict is Verdict.FAILURE
    named = sorted({RIGHTS[operation] for operation in denied})
    assert finding.detail == f"The access key lacks rights: {', '.join(named)}."


async def test_a_body_that_arrives_in_pieces_is_read_whole() -> None:
    """``content.read(n)`` returns the first piece only."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")
        await writer.drain()
        await first.wait()
        writer.write(b"world")
        await reader.read()
        writer.close()

    first = asyncio.Event()
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        async with aiohttp.ClientSession() as session, session.get(url) as received:
            reading = asyncio.create_task(read_bounded(received.content))
            while received.content.total_bytes < 5:
                await asyncio.sleep(0)
            first.set()
            assert await reading == b"helloworld"
        async with aiohttp.ClientSession() as session, session.get(url) as received:
            assert await read_bounded(received.content, 7) == b"hellowo"
