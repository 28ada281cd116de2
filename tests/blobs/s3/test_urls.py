"""What can and cannot be done with a signed URL, sent to the real gateway as a client would."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

import aiohttp
import pytest
from msgspec.structs import replace

from godrive.blobs.s3 import S3BlobStore
from godrive.blobs.s3.probe import Capabilities
from godrive.clock import SystemClock
from godrive.config import S3
from godrive.errors import Conflict, NotFound, StoreUnavailable
from godrive.model import ObjectKey, SignedRequest, new_id
from tests.ceph import ProbedOnce
from tests.servers import free_port

pytestmark = pytest.mark.anyio

GUARDS = {"x-amz-copy-if-match": "none", "x-amz-acl": "private"}
"""What keeps others from adding headers, in the gateway's words."""


class LateClock(SystemClock):
    """A clock that is behind, so that what it signs for the future has expired."""

    def now(self) -> datetime:
        return super().now() - timedelta(minutes=10)


def new_key() -> ObjectKey:
    name = new_id()
    return ObjectKey(f"{name[:8]}/{name}")


def soon() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=5)


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def plain_store(s3_settings: S3) -> AsyncIterator[S3BlobStore]:
    """The same gateway, treated as a store that honours nothing."""
    store = S3BlobStore(s3_settings, capabilities=Capabilities())
    await store.open()
    yield store
    await store.close()


async def sign(store: S3BlobStore, key: ObjectKey, size: int, sha256: str | None = None) -> SignedRequest:
    return await store.presign_put(key, size=size, mime="text/plain", sha256=sha256, expires_at=soon())


async def send(
    client: aiohttp.ClientSession, request: SignedRequest, body: bytes, headers: dict[str, str] | None = None
) -> int:
    sent = {**request.headers, "Content-Length": str(len(body)), **(headers or {})}
    async with client.request(request.method, request.url, data=body, headers=sent) as answer:
        return answer.status


async def read(store: S3BlobStore, key: ObjectKey) -> bytes:
    return b"".join([piece async for piece in store.get(key)])


async def test_a_signed_put_works_once(s3_store: S3BlobStore, client: aiohttp.ClientSession) -> None:
    key = new_key()
    request = await sign(s3_store, key, 5)
    assert await send(client, request, b"first") == 200
    assert await send(client, request, b"other") == 412
    info = await s3_store.head(key)
    assert (info.size_bytes, info.sha256) == (5, None)
    assert await read(s3_store, key) == b"first"


async def test_an_empty_file_can_be_sent(s3_store: S3BlobStore, client: aiohttp.ClientSession) -> None:
    key = new_key()
    assert await send(client, await sign(s3_store, key, 0), b"") == 200
    assert (await s3_store.head(key)).size_bytes == 0
    assert await read(s3_store, key) == b""


@pytest.mark.parametrize("body", [b"", b"four", b"sixsix"])
async def test_a_signed_put_takes_its_length_only(
    s3_store: S3BlobStore, client: aiohttp.ClientSession, body: bytes
) -> None:
    key = new_key()
    assert await send(client, await sign(s3_store, key, 5), body) == 403
    with pytest.raises(NotFound):
        await s3_store.head(key)


@pytest.mark.parametrize("name", ["Content-Type", "If-None-Match", "x-amz-meta-godrive-sha256"])
async def test_a_signed_put_takes_its_headers_only(
    s3_store: S3BlobStore, client: aiohttp.ClientSession, name: str
) -> None:
    key = new_key()
    request = await sign(s3_store, key, 5)
    assert await send(client, request, b"hello", {name: "0" * 64}) == 403
    del request.headers[name]
    assert await send(client, request, b"hello") == 403
    with pytest.raises(NotFound):
        await s3_store.head(key)


async def test_a_client_cannot_vouch_for_its_own_digest(s3_store: S3BlobStore, client: aiohttp.ClientSession) -> None:
    key = new_key()
    request = await sign(s3_store, key, 5)
    twice = [*request.headers.items(), ("X-Amz-Meta-Godrive-Sha256", "0" * 64)]
    async with client.put(request.url, data=b"hello", headers=twice) as answer:
        assert answer.status in {200, 403}
    if answer.status == 200:
        assert (await s3_store.head(key)).sha256 is None


@pytest.mark.parametrize("directive", [{}, {"x-amz-metadata-directive": "REPLACE"}])
@pytest.mark.parametrize("direct", [True, False])
async def test_a_signed_put_cannot_be_made_a_copy_of_another_blob(
    s3_store: S3BlobStore, s3_settings: S3, client: aiohttp.ClientSession, directive: dict[str, str], direct: bool
) -> None:
    """Not of what is secret, and not over what is there: the gateway takes the header, though nobody signed it."""
    secret, mine, fresh = new_key(), new_key(), new_key()
    assert await send(client, await sign(s3_store, secret, 6), b"secret") == 200
    copying = {"x-amz-copy-source": f"/{s3_settings.bucket}/{s3_store.layout.object(secret)}", **directive}
    store = S3BlobStore(s3_settings, capabilities=dataclasses.replace(s3_store.capabilities, conditional_put=direct))
    await store.open()
    request = await sign(store, mine, 5)
    assert await send(client, request, b"first") == 200
    info = await store.head(mine)
    assert await send(client, request, b"other", copying) in {403, 412}
    assert await store.head(mine) == info
    assert await read(store, mine) == b"first"
    assert await send(client, await sign(store, fresh, 5), b"other", copying) in {403, 412}
    with pytest.raises(NotFound):
        await store.head(fresh)
    await store.close()


@pytest.mark.parametrize(
    "grant",
    [
        {"x-amz-acl": "public-read"},
        {"x-amz-grant-read": 'uri="http://acs.amazonaws.com/groups/global/AllUsers"'},
    ],
)
async def test_a_client_cannot_show_its_blob_to_the_world(
    s3_store: S3BlobStore, client: aiohttp.ClientSession, grant: dict[str, str]
) -> None:
    request = await sign(s3_store, new_key(), 5)
    await send(client, request, b"hello", grant)
    async with client.get(request.url.partition("?")[0]) as answer:
        assert answer.status in {403, 404}


@pytest.mark.parametrize("method", ["GET", "DELETE", "HEAD", "POST"])
async def test_a_signed_put_is_for_putting_only(
    s3_store: S3BlobStore, client: aiohttp.ClientSession, method: str
) -> None:
    request = await sign(s3_store, new_key(), 5)
    async with client.request(method, request.url, headers=request.headers) as answer:
        assert answer.status in {400, 403, 405}


async def test_an_expired_url_does_nothing(s3_settings: S3, client: aiohttp.ClientSession) -> None:
    store = ProbedOnce(s3_settings, clock=LateClock())
    await store.open()
    now = datetime.now(UTC) - timedelta(minutes=10)
    request = await store.presign_put(
        new_key(), size=5, mime="text/plain", sha256=None, expires_at=now + timedelta(seconds=30)
    )
    assert await send(client, request, b"hello") == 403
    await store.close()


async def test_nothing_is_signed_that_the_intent_does_not_name(s3_store: S3BlobStore) -> None:
    request = await sign(s3_store, new_key(), 5)
    assert request.headers == {
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": "5",
        "If-None-Match": "*",
        "x-amz-meta-godrive-sha256": "unverified",
        **GUARDS,
    }
    query = dict(parse_qsl(urlsplit(request.url).query))
    assert sorted(query) == [
        "X-Amz-Algorithm",
        "X-Amz-Credential",
        "X-Amz-Date",
        "X-Amz-Expires",
        "X-Amz-Signature",
        "X-Amz-SignedHeaders",
    ]
    assert query["X-Amz-SignedHeaders"] == ";".join(sorted({"host", *(name.lower() for name in request.headers)}))
    assert "checksum" not in request.url


async def test_a_declared_digest_is_signed_and_the_store_holds_the_client_to_it(
    s3_store: S3BlobStore, client: aiohttp.ClientSession
) -> None:
    key, digest = new_key(), hashlib.sha256(b"hello").hexdigest()
    request = await sign(s3_store, key, 5, sha256=digest)
    assert await send(client, request, b"other") == 400
    assert await send(client, request, b"hello", {"x-amz-content-sha256": "UNSIGNED-PAYLOAD"}) == 403
    with pytest.raises(NotFound):
        await s3_store.head(key)
    assert await send(client, request, b"hello") == 200
    assert (await s3_store.head(key)).sha256 == digest


async def test_where_checksums_are_honoured_the_declared_one_is_signed(s3_settings: S3) -> None:
    store = S3BlobStore(s3_settings, capabilities=Capabilities(conditional_put=True, checksums=True))
    await store.open()
    digest = hashlib.sha256(b"hello").hexdigest()
    request = await sign(store, new_key(), 5, sha256=digest)
    assert request.headers["x-amz-checksum-sha256"] == "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="
    assert "x-amz-checksum-sha256" in dict(parse_qsl(urlsplit(request.url).query))["X-Amz-SignedHeaders"]
    await store.close()


async def test_urls_lead_to_the_public_endpoint(s3_settings: S3) -> None:
    store = ProbedOnce(replace(s3_settings, public_endpoint="https://files.example"))
    await store.open()
    key = new_key()
    request = await sign(store, key, 5)
    assert request.url.startswith(f"https://files.example/{s3_settings.bucket}/drive/objects/{key}?")
    await store.close()


async def test_a_download_is_named_as_the_file_and_typed_as_we_say(
    s3_store: S3BlobStore, client: aiohttp.ClientSession
) -> None:
    key = new_key()
    await send(client, await sign(s3_store, key, 9), b"<script/>")
    request = await s3_store.presign_get(
        key, filename='Größe "1";+ü.txt', mime="application/octet-stream", expires_at=soon()
    )
    async with client.get(request.url, headers={"Range": "bytes=1-6"}) as answer:
        assert answer.status == 206
        assert await answer.read() == b"script"
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Content-Disposition"] == (
            "attachment; filename=\"Groe 1+u.txt\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe%20%221%22%3B%2B%C3%BC.txt"
        )
    async with client.get(request.url.replace("octet-stream", "xhtml")) as answer:
        assert answer.status == 403


@pytest.mark.parametrize(
    ("mime", "served"),
    [
        ("image/png", "image/png"),
        ("text/plain; charset=iso-8859-1", "text/plain; charset=iso-8859-1"),
        ("text/html", "application/octet-stream"),
        ("Text/HTML ; charset=utf-8", "application/octet-stream"),
        ("image/svg+xml", "application/octet-stream"),
        ("image/png, text/html", "application/octet-stream"),
        ("", "application/octet-stream"),
    ],
)
async def test_a_download_is_an_attachment_that_no_browser_runs(
    s3_store: S3BlobStore, client: aiohttp.ClientSession, mime: str, served: str
) -> None:
    key = new_key()
    await send(client, await sign(s3_store, key, 9), b"<script/>")
    request = await s3_store.presign_get(key, filename="a", mime=mime, expires_at=soon())
    async with client.get(request.url) as answer:
        assert answer.headers["Content-Type"] == served
        assert answer.headers["Content-Disposition"] == 'attachment; filename="a"'


async def test_headers_that_a_client_adds_to_its_upload_are_not_served(
    s3_store: S3BlobStore, client: aiohttp.ClientSession
) -> None:
    key = new_key()
    added = {
        "Content-Encoding": "gzip",
        "Cache-Control": "public, max-age=31536000",
        "Content-Language": "tlh",
        "Expires": "Fri, 01 Jan 2100 00:00:00 GMT",
        "Content-Disposition": "inline",
    }
    assert await send(client, await sign(s3_store, key, 5), b"hello", added) == 200
    request = await s3_store.presign_get(key, filename="a", mime="text/plain", expires_at=soon())
    async with client.get(request.url) as answer:
        assert await answer.read() == b"hello"
        assert not {answer.headers.get(name) for name in added} & set(added.values())
        assert answer.headers["Cache-Control"] == "private, no-cache"


async def test_a_url_for_head_is_signed_for_head(s3_store: S3BlobStore, client: aiohttp.ClientSession) -> None:
    key = new_key()
    await send(client, await sign(s3_store, key, 5), b"hello")
    request = await s3_store.presign_get(key, filename="a", mime="text/plain", expires_at=soon(), method="HEAD")
    async with client.request(request.method, request.url) as answer:
        assert (answer.status, answer.headers["Content-Length"]) == (200, "5")
    async with client.get(request.url) as answer:
        assert answer.status == 403


def as_okhttp_sends(content_type: str) -> str:
    """OkHttp adds a charset to the type of a string, if it has none; so do Dart's http and others."""
    return content_type if "charset=" in content_type else f"{content_type}; charset=utf-8"


@pytest.mark.parametrize("mime", ["text/plain", "text/csv; header=present", "application/json", "application/ld+json"])
async def test_a_type_of_text_is_signed_as_clients_send_it(
    s3_store: S3BlobStore, client: aiohttp.ClientSession, mime: str
) -> None:
    request = await s3_store.presign_put(new_key(), size=5, mime=mime, sha256=None, expires_at=soon())
    content_type = request.headers["Content-Type"]
    assert as_okhttp_sends(content_type) == content_type
    assert await send(client, request, b"hello", {"Content-Type": as_okhttp_sends(content_type)}) == 200


@pytest.mark.parametrize("mime", ["image/png", "text/plain; charset=iso-8859-1", "application/vnd.ms-excel"])
async def test_a_type_that_clients_leave_alone_is_signed_as_it_is(s3_store: S3BlobStore, mime: str) -> None:
    request = await s3_store.presign_put(new_key(), size=5, mime=mime, sha256=None, expires_at=soon())
    assert request.headers["Content-Type"] == mime


@pytest.mark.parametrize("sent", [{}, {"Content-Type": "text/html"}, {"Content-Type": "application/octet-stream"}])
async def test_without_a_declared_type_a_client_may_send_any(
    s3_store: S3BlobStore, client: aiohttp.ClientSession, sent: dict[str, str]
) -> None:
    key = new_key()
    request = await s3_store.presign_put(key, size=5, mime="", sha256=None, expires_at=soon())
    assert "Content-Type" not in request.headers
    assert await send(client, request, b"hello", sent) == 200
    assert (await s3_store.head(key)).mime is None


async def test_where_nothing_keeps_a_client_from_copying_its_url_never_leads_to_the_blob(s3_settings: S3) -> None:
    capabilities = Capabilities(conditional_put=True, faults={"copies": "PUT"})
    store = S3BlobStore(replace(s3_settings, accept_faults=["copies"]), capabilities=capabilities)
    await store.open()
    key = new_key()
    assert urlsplit((await sign(store, key, 5)).url).path.endswith(store.layout.arrival(key))
    await store.close()


class TestWithoutConditionalWrites:
    """A store that overwrites whatever it is told: what a URL leads to is never what is served."""

    async def test_what_a_client_sent_is_published_by_the_first_head(
        self, plain_store: S3BlobStore, client: aiohttp.ClientSession
    ) -> None:
        key = new_key()
        request = await sign(plain_store, key, 5)
        assert await send(client, request, b"first") == 200
        assert [blob async for blob in plain_store.list()] == []
        assert (await plain_store.head(key)).size_bytes == 5
        assert await read(plain_store, key) == b"first"

    async def test_sending_again_changes_nothing_that_was_published(
        self, plain_store: S3BlobStore, client: aiohttp.ClientSession
    ) -> None:
        key = new_key()
        request = await sign(plain_store, key, 5)
        await send(client, request, b"first")
        published = await plain_store.head(key)
        assert await send(client, request, b"other") == 200
        assert await plain_store.head(key) == published
        assert await read(plain_store, key) == b"first"
        assert await plain_store.sweep_staging(datetime.now(UTC) - timedelta(hours=1)) == 0
        assert await plain_store.sweep_staging(soon()) == 1
        assert await plain_store.sweep_staging(soon()) == 0

    async def test_what_was_never_published_is_not_swept_away(
        self, plain_store: S3BlobStore, client: aiohttp.ClientSession
    ) -> None:
        """The store said yes to the client; whether anybody waits for it, the rows know."""
        key = new_key()
        await send(client, await sign(plain_store, key, 5), b"first")
        await plain_store.sweep_staging(soon())
        assert [blob.key async for blob in plain_store.list()] == [key]
        assert await read(plain_store, key) == b"first"

    async def test_a_put_through_us_is_still_written_once(self, plain_store: S3BlobStore) -> None:
        async def body() -> AsyncIterator[bytes]:
            yield b"x"

        key = new_key()
        await plain_store.put(key, body())
        with pytest.raises(Conflict):
            await plain_store.put(key, body())

    async def test_deleting_takes_what_was_not_published_too(
        self, plain_store: S3BlobStore, client: aiohttp.ClientSession
    ) -> None:
        key = new_key()
        await send(client, await sign(plain_store, key, 5), b"first")
        await plain_store.delete(key)
        with pytest.raises(NotFound):
            await plain_store.head(key)


class TestBrowsers:
    ORIGIN = "https://drive.example"

    async def test_a_fresh_bucket_lets_no_browser_in(self, s3_store: S3BlobStore) -> None:
        request = await sign(s3_store, new_key(), 5)
        assert not (await s3_store.preflight(request.url, origin=self.ORIGIN, method="PUT")).allowed

    @pytest.mark.parametrize("method", ["PUT", "GET", "HEAD"])
    async def test_with_our_rules_a_browser_may_do_what_the_intent_says(
        self, s3_store: S3BlobStore, method: str
    ) -> None:
        await s3_store.put_cors([self.ORIGIN])
        request = await sign(s3_store, new_key(), 5)
        names = [name for name in request.headers if name != "Content-Length"]
        allowed = await s3_store.preflight(request.url, origin=self.ORIGIN, method=method, headers=names)
        assert allowed.allowed, allowed.reason
        (rule,) = (await s3_store.client.call("get_bucket_cors"))["CORSRules"]
        assert rule["ExposeHeaders"] == ["ETag", "Content-Range", "Content-Disposition"]

    async def test_the_refusal_says_what_is_not_allowed(self, s3_store: S3BlobStore) -> None:
        await s3_store.put_cors([self.ORIGIN])
        request = await sign(s3_store, new_key(), 5)
        assert not (await s3_store.preflight(request.url, origin="https://other.example", method="PUT")).allowed
        assert not (await s3_store.preflight(request.url, origin=self.ORIGIN, method="DELETE")).allowed

    async def test_a_browser_sees_the_etag_of_its_part(
        self, s3_store: S3BlobStore, client: aiohttp.ClientSession
    ) -> None:
        await s3_store.put_cors([self.ORIGIN])
        request = await sign(s3_store, new_key(), 5)
        sent = {**request.headers, "Origin": self.ORIGIN}
        async with client.put(request.url, data=b"hello", headers=sent) as answer:
            assert answer.headers["Access-Control-Allow-Origin"] == self.ORIGIN
            assert "ETag" in answer.headers["Access-Control-Expose-Headers"]

    async def test_a_public_endpoint_that_does_not_answer_is_unavailable(self, s3_store: S3BlobStore) -> None:
        with pytest.raises(StoreUnavailable):
            await s3_store.preflight(f"http://127.0.0.1:{free_port()}/b/k", origin=self.ORIGIN, method="PUT")
