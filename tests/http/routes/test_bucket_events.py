"""Bucket events by HTTP: who may send them, what comes of it, and a real gateway that does."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import uuid
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from msgspec import convert

from godrive.blobs.layout import Layout
from godrive.blobs.s3 import S3BlobStore
from godrive.config import S3
from godrive.http.wire.server import serve
from godrive.messages.uploads import BeginUpload, GetUpload
from godrive.model import Root, Upload, UploadState, UserId
from godrive.testing import ManualClock, chunks, open_drive, sign_up
from tests.http.client import Person, Site
from tests.http.conftest import OpenSite
from tests.principals import SYSTEM, acting
from tests.servers import CephGateway, free_port
from tests.topics import Sns

pytestmark = pytest.mark.anyio

TOKEN = "a-token-of-some-length"
PATH = "/v1/events/bucket"
FIXTURES = Path(__file__).parents[2] / "fixtures" / "bucket-events"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def site(open_site: OpenSite) -> AsyncIterator[Site]:
    async with open_site(ingest={"webhook_token": TOKEN}) as site:
        yield site


async def arrive(site: Site, owner: UserId | None = None) -> Upload:
    """An upload whose bytes are in the store, and nobody knows."""
    owner = owner or (await sign_up(site.drive)).id
    upload = await site.drive.metadata.ask(BeginUpload(acting(owner), Root(), "a.txt", "text/plain", 5))
    await site.drive.blobs.put(upload.object_key, chunks(b"hello"))
    return upload


def event(upload: Upload) -> bytes:
    key = Layout().object(upload.object_key).replace("/", "%2F")
    s3 = {"bucket": {"name": "godrive"}, "object": {"key": key, "size": 5}}
    return json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "eventSource": "aws:s3", "s3": s3}]}).encode()


async def test_the_token_is_compared_in_constant_time(
    http: aiohttp.ClientSession, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: False)
    answer = await Person(http, site.url)("POST", PATH, data=b"{}", headers=BEARER)
    assert answer.status == 401


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode()}


@pytest.mark.parametrize(
    ("path", "headers"),
    [(PATH, BEARER), (PATH, basic("godrive", TOKEN)), (PATH, basic("", TOKEN)), (f"{PATH}?token={TOKEN}", {})],
)
async def test_a_caller_with_the_token_makes_the_file_appear(
    site: Site, stranger: Person, path: str, headers: dict[str, str]
) -> None:
    upload = await arrive(site)
    assert (await stranger("POST", path, data=b"\xef\xbb\xbf" + event(upload), headers=headers)).status == 204
    assert (await site.drive.metadata.ask(GetUpload(SYSTEM, upload.id))).state is UploadState.COMMITTED


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        (PATH, {}),
        (PATH, {"Authorization": "Bearer "}),
        (PATH, {"Authorization": "Bearer wrong"}),
        (PATH, {"Authorization": f"Bearer {TOKEN}x"}),
        (PATH, {"Authorization": f"Digest {TOKEN}"}),
        (PATH, {"Authorization": "Basic !!!"}),
        (PATH, {"Authorization": "Basic w6k="}),
        (PATH, basic(TOKEN, "")),
        (f"{PATH}?token=", {}),
        (f"{PATH}?token=wrong", {}),
        (f"{PATH}?token=%FF%FE", {}),
    ],
)
async def test_a_caller_without_the_token_is_refused_and_nothing_happens(
    site: Site, stranger: Person, path: str, headers: dict[str, str]
) -> None:
    upload = await arrive(site)
    answer = await stranger("POST", path, data=event(upload), headers=headers)
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"]
    assert (await site.drive.metadata.ask(GetUpload(SYSTEM, upload.id))).state is UploadState.PENDING


async def test_the_token_of_a_person_is_none_of_a_store(site: Site, ann: Person) -> None:
    assert (await ann("POST", PATH, data=b"{}")).status == 401


async def test_without_a_token_configured_there_is_no_such_route(open_site: OpenSite, http: Any) -> None:
    async with open_site() as site:
        anyone = Person(http, site.url)
        assert (await anyone("POST", PATH, data=b"{}", headers={"Authorization": "Bearer "})).status == 404


async def test_events_are_counted_and_their_coming_is_shown(site: Site, stranger: Person) -> None:
    assert (await stranger("GET", "/readyz")).json["events"] == "absent"
    upload = await arrive(site)
    for body in (event(upload), event(upload), b"{}"):
        await stranger("POST", PATH, data=body, headers=BEARER)
    assert (await stranger("GET", "/readyz")).json["events"] == "active"
    metrics = (await stranger("GET", "/metrics")).content.decode()
    assert 'godrive_bucket_events_total{outcome="published"} 2.0' in metrics
    assert 'godrive_bucket_events_total{outcome="malformed"} 1.0' in metrics


async def test_beside_a_malformed_record_the_others_are_published_and_the_answer_says_what_is_wrong(
    site: Site, stranger: Person
) -> None:
    upload = await arrive(site)
    answer = await stranger("POST", PATH, data=event(upload).replace(b"[", b"[0, "), headers=BEARER)
    assert (answer.status, answer.json["code"]) == (422, "invalid")
    assert "cannot be read" in answer.json["detail"]
    assert (await site.drive.metadata.ask(GetUpload(SYSTEM, upload.id))).state is UploadState.COMMITTED


async def test_again_and_again_is_one_file(site: Site, stranger: Person, ann: Person) -> None:
    upload = await arrive(site, UserId((await ann("GET", "/v1/me")).json["id"]))
    answers = await asyncio.gather(*(stranger("POST", PATH, data=event(upload), headers=BEARER) for _ in range(10)))
    assert {answer.status for answer in answers} == {204}
    assert len((await ann("GET", "/v1/files")).json["files"]) == 1


async def test_an_event_for_others_is_taken_and_ignored(site: Site, stranger: Person) -> None:
    for line in (FIXTURES / "ceph-rgw-16.2.jsonl").read_bytes().splitlines():
        assert (await stranger("POST", PATH, data=line, headers=BEARER)).status == 204


@pytest.mark.parametrize("body", [b"", b"not JSON", b"{}", b"[" * 10_000, b"\xff\xfe"])
async def test_what_is_no_event_is_named_so(site: Site, stranger: Person, body: bytes) -> None:
    answer = await stranger("POST", PATH, data=body, headers=BEARER)
    assert (answer.status, answer.json["code"]) == (422, "invalid")


async def test_a_body_over_the_limit_is_refused(open_site: OpenSite, http: Any) -> None:
    async with open_site(ingest={"webhook_token": TOKEN}, server={"max_body_bytes": 2000}) as site:
        store = Person(http, site.url)
        assert (await store("POST", PATH, data=b" " * 2001, headers=BEARER)).status == 413


async def test_a_confirmation_of_sns_is_left_to_the_operator(
    open_site: OpenSite, http: Any, caplog: pytest.LogCaptureFixture
) -> None:
    message = json.loads((FIXTURES / "aws-sns-confirmation-shape.jsonl").read_text())
    fetched = asyncio.Event()

    async def lure(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fetched.set()
        writer.close()

    server = await asyncio.start_server(lure, "127.0.0.1", 0)
    message["SubscribeURL"] = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    async with open_site(ingest={"webhook_token": TOKEN}) as site:
        with caplog.at_level(logging.WARNING, "godrive.http"):
            store = Person(http, site.url)
            assert (await store("POST", PATH, data=json.dumps(message), headers=BEARER)).status == 204
    assert "sns_subscription_waits" in caplog.text
    assert "arn:aws:sns:us-east-1:123456789012:t" in caplog.text
    assert "2336412f37" in caplog.text  # without which nobody can confirm it
    server.close()
    await server.wait_closed()
    assert not fetched.is_set()


async def test_the_token_in_a_query_is_not_logged(
    open_site: OpenSite, http: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_site(ingest={"webhook_token": TOKEN}, log={"requests": True}) as site:
        with caplog.at_level(logging.DEBUG):
            await Person(http, site.url)("POST", f"{PATH}?token={TOKEN}", data=b"{}")
    assert TOKEN not in "".join(record.getMessage() for record in caplog.records if record.name.startswith("godrive"))


async def test_a_real_gateway_pushes_and_the_file_is_there_when_the_put_is_answered(
    ceph_gateway: CephGateway, http: aiohttp.ClientSession
) -> None:
    settings = {
        "endpoint": ceph_gateway.endpoint,
        "bucket": f"t{uuid.uuid4().hex}",
        "prefix": "drive one/",
        "access_key": ceph_gateway.access_key,
        "secret_key": ceph_gateway.secret_key,
    }
    port = free_port()
    store = S3BlobStore(convert(settings, S3))
    async with (
        open_drive(
            blob_store=store,
            clock=ManualClock(),
            ingest={"webhook_token": TOKEN},
            blobs={"s3": settings},
            server={"public_url": f"http://127.0.0.1:{port}"},
        ) as drive,
        serve(drive, "127.0.0.1", port) as (url,),
    ):
        # The gateway refuses a password in the URL of a topic unless it is https.
        await Sns(ceph_gateway).push(settings["bucket"], f"{url}{PATH}?token={TOKEN}")
        ann = await Person(http, url).enter()
        body = {"filename": "ü +%.txt", "mime": "text/plain", "size_bytes": 5}
        intent = (await ann("POST", "/v1/files/upload-intent", body)).json
        async with http.put(intent["upload_url"], data=b"hello", headers=intent["headers"]) as sent:
            assert sent.status == 200
        files = (await ann("GET", "/v1/files")).json["files"]
        assert [file["name"] for file in files] == ["ü +%.txt"]
        download = (await ann("GET", f"/v1/files/{files[0]['id']}/download")).json
        async with http.get(download["url"]) as received:
            assert await received.read() == b"hello"
