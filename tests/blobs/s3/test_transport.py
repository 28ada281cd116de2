"""Our own requests to the store, compared with those of the SDK, and what is made of each answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import botocore.auth
import pytest
from aiobotocore.config import AioConfig
from aiobotocore.credentials import AioDeferredRefreshableCredentials
from aiohttp import web
from aiohttp.test_utils import RawTestServer
from botocore.exceptions import ClientError
from msgspec.structs import replace

from godrive.backoff import Backoff
from godrive.blobs.s3 import S3BlobStore, transport
from godrive.blobs.s3.client import ATTEMPTS, S3Client, _bucket_url
from godrive.blobs.s3.operations import OPERATIONS
from godrive.blobs.s3.probe import Capabilities
from godrive.blobs.s3.sdk import make_session
from godrive.blobs.s3.signing import Credentials
from godrive.blobs.s3.transport import Transport
from godrive.clock import SystemClock
from godrive.config import S3
from godrive.errors import DriveError, NotFound, StorageFull, StoreUnavailable, TooLarge, UploadFinished
from godrive.model import ObjectKey
from tests.cases import each
from tests.conftest import require_program

pytestmark = pytest.mark.anyio

NOW = datetime(2026, 11, 22, 7, 0, 11, tzinfo=UTC)
TOKEN = "a/token+of=a role"
KEY = ObjectKey("01234567/0123456789abcdef0123456789abcdef")

CALLS: list[tuple[str, dict[str, Any]]] = [
    ("head_object", {"Key": "a/b c", "ChecksumMode": "ENABLED"}),
    ("get_object", {"Key": "a/b", "Range": "bytes=3-9", "IfMatch": '"etag"'}),
    (
        "put_object",
        {
            "Key": "a/ü~(1)",
            "Body": b"hello",
            "ContentType": "text/plain; charset=utf-8",
            "Metadata": {"godrive-sha256": "unverified", "godrive-writer": "w"},
            "IfNoneMatch": "*",
            "ChecksumSHA256": "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=",
        },
    ),
    ("put_object", {"Key": "a", "Body": b""}),
    ("put_object", {"Key": "a", "Body": b"x" * 1_000_000}),
    ("upload_part", {"Key": "a", "UploadId": "2~/+ x", "PartNumber": 7, "Body": b"part"}),
    ("delete_object", {"Key": "a/b"}),
    ("list_objects_v2", {"Prefix": "objects/", "StartAfter": "objects/ä+b"}),
    ("list_objects_v2", {"Prefix": "objects/", "ContinuationToken": "a/+=="}),
    ("list_objects_v2", {"MaxKeys": 1}),
]
INCIDENTAL = {"user-agent", "accept", "amz-sdk-invocation-id", "amz-sdk-request", "expect"}
"""Headers that neither a signature covers nor a store acts on."""

Request = tuple[str, str, dict[str, str], bytes]
Answers = Callable[[web.BaseRequest], web.StreamResponse]


@asynccontextmanager
async def server(answers: Answers) -> AsyncIterator[tuple[str, list[Request]]]:
    """A server that records requests."""
    seen: list[Request] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Expect") and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        headers = {name.lower(): value for name, value in request.headers.items()}
        seen.append((request.method, request.raw_path, headers, await request.read()))
        return answers(request)

    async with RawTestServer(answer) as running:
        yield str(running.make_url("")).rstrip("/"), seen


def settings_of(endpoint: str) -> S3:
    return S3(endpoint=endpoint, bucket="bucket", region="eu-west-1", access_key="AKID", secret_key="SECRET")


@asynccontextmanager
async def sdk(endpoint: str | None, *, path_style: bool = True, bucket: str = "bucket") -> AsyncIterator[Any]:
    config = AioConfig(
        s3={"addressing_style": "path" if path_style else "virtual"},
        signature_version="s3v4",
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        retries={"total_max_attempts": 1},
    )
    async with make_session(from_environment=False).create_client(
        "s3",
        region_name="eu-west-1",
        endpoint_url=endpoint,
        aws_access_key_id="AKID",
        aws_secret_access_key="SECRET",
        aws_session_token=TOKEN,
        config=config,
    ) as client:
        yield client


@asynccontextmanager
async def ours(endpoint: str) -> AsyncIterator[Transport]:
    async def credentials() -> Credentials:
        return Credentials("AKID", "SECRET", TOKEN)

    sending = Transport(
        f"{endpoint}/bucket/", region="eu-west-1", credentials=credentials, verify=True, read_timeout=5.0
    )
    try:
        yield sending
    finally:
        await sending.close()


def comparable(request: Request) -> tuple[Any, ...]:
    method, path, headers, body = request
    place, _, query = path.partition("?")
    return (
        *(method, place, sorted(query.split("&"))),
        *({name: value for name, value in headers.items() if name not in INCIDENTAL}, body),
    )


@each("operation, arguments", CALLS)
async def test_a_request_is_the_one_the_sdk_sends(
    operation: str, arguments: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda remove_tzinfo=True: NOW.replace(tzinfo=None))
    monkeypatch.setattr(transport, "wall_clock", lambda: NOW)
    refuse: Answers = lambda _: web.Response(status=403)  # noqa: E731
    async with server(refuse) as (endpoint, seen), sdk(endpoint) as theirs, ours(endpoint) as sending:
        with pytest.raises(ClientError) as expected:
            await getattr(theirs, operation)(Bucket="bucket", **arguments)
        with pytest.raises(ClientError) as refused:
            await sending.send(OPERATIONS[operation], **arguments)
        theirs_sent, ours_sent = map(comparable, seen)
        assert ours_sent == theirs_sent
        assert refused.value.operation_name == expected.value.operation_name
        assert refused.value.response["Error"]["Code"] == expected.value.response["Error"]["Code"]


PLACES = [
    ("https://s3.example", "a.bucket", False),
    ("http://s3.example", "a.bucket", False),
    ("https://s3.example", "bucket", False),
    ("https://s3.example/under", "bucket", False),
    ("https://s3.example:8443", "bucket", True),
    ("http://127.0.0.1:9000", "bucket", False),
    ("http://[::1]:9000", "bucket", False),
    ("http://localhost:9000", "bucket", False),
    ("https://s3.eu-west-1.amazonaws.com", "bucket", False),
]


@each("endpoint, bucket, path_style", PLACES)
async def test_the_bucket_is_where_the_sdk_looks_for_it(endpoint: str, bucket: str, path_style: bool) -> None:
    class Stop(Exception):
        pass

    places: list[str] = []

    def note(request: Any, **_: Any) -> None:
        places.append(request.url)
        raise Stop

    async with sdk(endpoint, path_style=path_style) as theirs:
        theirs.meta.events.register("before-send.s3", note)
        with pytest.raises(Stop):
            await theirs.head_object(Bucket=bucket, Key="key")
    assert places == [_bucket_url(endpoint, bucket, path_style) + "key"]


def test_a_default_port_is_not_part_of_what_is_signed() -> None:
    """HTTP clients leave it out of ``Host``, so the signature would be wrong."""
    assert _bucket_url("https://s3.example:443", "bucket", True) == "https://s3.example/bucket/"
    assert _bucket_url("http://s3.example:80/under", "bucket", False) == "http://bucket.s3.example/under/"
    assert _bucket_url("http://s3.example:443", "bucket", True) == "http://s3.example:443/bucket/"


async def test_without_an_endpoint_the_sdk_says_where_a_region_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async def there(self: S3Client) -> None: ...

    monkeypatch.setattr(S3Client, "_make_or_check_bucket", there)
    client = S3Client(S3(bucket="bucket", region="cn-north-1", access_key="A", secret_key="S"), SystemClock())
    await client.open()
    assert client.url("key") == "https://s3.cn-north-1.amazonaws.com.cn/bucket/key"
    await client.close()


PLAIN = "<html><body>not a store</body></html>"
S3_ERROR = '<?xml version="1.0"?><Error><Code>{}</Code></Error>'

REFUSALS: list[tuple[int, str, type[Exception], str]] = [
    (404, S3_ERROR.format("NoSuchKey"), NotFound, ""),
    (404, PLAIN, StoreUnavailable, "HTTP 404"),
    (404, "", StoreUnavailable, "HTTP 404"),
    (404, '{"message": "no such route"}', StoreUnavailable, "HTTP 404"),
    (403, PLAIN, StoreUnavailable, "HTTP 403"),
    (404, '<Error xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Code>NoSuchKey</Code></Error>', NotFound, ""),
    (412, S3_ERROR.format("PreconditionFailed"), UploadFinished, ""),
    (400, S3_ERROR.format("EntityTooLarge"), TooLarge, ""),
    (507, "", StorageFull, ""),
    (507, PLAIN, StorageFull, ""),
    (502, PLAIN, StoreUnavailable, "502"),
    (503, "", StoreUnavailable, "503"),
    (503, S3_ERROR.format("SlowDown"), StoreUnavailable, "SlowDown"),
    (403, S3_ERROR.format("RequestTimeTooSkewed"), StoreUnavailable, "RequestTimeTooSkewed"),
    (403, S3_ERROR.format("ExpiredToken"), StoreUnavailable, "ExpiredToken"),
    (500, '<!DOCTYPE x [<!ENTITY a "b">]><Error><Code>&a;', StoreUnavailable, "500"),
    (405, "", StoreUnavailable, "405"),
    (429, PLAIN, StoreUnavailable, "429"),
    (200, PLAIN, StoreUnavailable, ""),
]


@each("status, body, kind, words", REFUSALS)
async def test_each_answer_is_the_error_that_it_means(
    status: int, body: str, kind: type[Exception], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above all, only the store says that a blob does not exist, and not a proxy in front of it."""
    monkeypatch.setattr("godrive.blobs.s3.client._BACKOFF", Backoff(0.0, 0.0))
    opened = False

    def answers(request: web.BaseRequest) -> web.Response:
        if not opened:
            return web.Response(text="<ListBucketResult/>")
        return web.Response(status=status, text=body)

    async with server(answers) as (endpoint, _):
        client = S3Client(settings_of(endpoint), SystemClock())
        await client.open()
        opened = True
        with pytest.raises(kind) as refused:
            await client.call("get_object", Key="key")
        assert words in str(refused.value)
        await client.close()


async def test_a_list_is_read_whatever_its_keys_contain() -> None:
    names = ["objects/a b+c", "objects/ü&<>", "objects/%2F"]
    encoded = ["objects/a+b%2Bc", "objects/%C3%BC%26%3C%3E", "objects/%252F"]
    entries = "".join(
        f"<Contents><Key>{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>&quot;e&quot;</ETag><Size>{size}</Size></Contents>"
        for size, name in enumerate(encoded)
    )
    listed = (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        "<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>"
        f"<NextContinuationToken>t</NextContinuationToken>{entries}</ListBucketResult>"
    )
    answer: Answers = lambda _: web.Response(text=listed)  # noqa: E731
    async with server(answer) as (endpoint, _), sdk(endpoint) as theirs, ours(endpoint) as sending:
        expected = await theirs.list_objects_v2(Bucket="bucket")
        found = await sending.send(OPERATIONS["list_objects_v2"])
    assert [entry["Key"] for entry in found["Contents"]] == names
    assert found["Contents"] == [{name: entry[name] for name in found["Contents"][0]} for entry in expected["Contents"]]
    assert (found["IsTruncated"], found["NextContinuationToken"]) == (True, "t")


async def test_a_list_that_breaks_off_is_no_shorter_list() -> None:
    """A sweep would take the blobs that are missing in it for lost."""
    broken: Answers = lambda _: web.Response(text="<ListBucketResult><Contents><Key>a</Key>")  # noqa: E731
    async with server(broken) as (endpoint, _):
        client = S3Client(settings_of(endpoint), SystemClock(), deadline=0.3)
        with pytest.raises(StoreUnavailable):
            await client.open()
        await client.close()


def then(answer: Answers) -> Answers:
    """Answer the start of a client, and then with *answer*."""
    return lambda request: web.Response(text="<ListBucketResult/>") if "max-keys" in request.query else answer(request)


@asynccontextmanager
async def store_at(endpoint: str) -> AsyncIterator[S3BlobStore]:
    store = S3BlobStore(settings_of(endpoint), capabilities=Capabilities(conditional_put=True), deadline=5.0)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


async def gathered(pieces: AsyncIterator[Any]) -> list[Any]:
    return [piece async for piece in pieces]


LOG_IN = "<html><body>Accept the terms of this network.</body></html>"


@each(
    "ask",
    [
        lambda store: gathered(store.list()),
        lambda store: gathered(store.get(KEY)),
        lambda store: store.head(KEY),
        lambda store: store.put_whole(KEY, b"bytes", "text/plain", "0" * 64),
        lambda store: store.multipart.send("objects/key", "upload", 1, b"bytes"),
    ],
)
async def test_a_page_of_a_proxy_is_no_answer_of_the_store(
    ask: Callable[[S3BlobStore], Awaitable[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty list would be a drive without bytes, and an accepted part one whose bytes are nowhere."""
    monkeypatch.setattr("godrive.blobs.s3.client._BACKOFF", Backoff(0.0, 0.0))
    async with server(then(lambda _: web.Response(text=LOG_IN))) as (endpoint, _), store_at(endpoint) as store:
        with pytest.raises(StoreUnavailable):
            await ask(store)


async def test_a_proxy_that_knows_no_route_does_not_say_that_a_blob_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some answer 404 without a body, to a HEAD as to everything else."""
    monkeypatch.setattr("godrive.blobs.s3.client._BACKOFF", Backoff(0.0, 0.0))
    answers = [web.Response(text="<ListBucketResult/>")]

    def answer(_: web.BaseRequest) -> web.Response:
        return answers.pop() if answers else web.Response(status=404)

    async with server(answer) as (endpoint, _), store_at(endpoint) as store:
        for ask in (store.head(KEY), gathered(store.get(KEY)), gathered(store.list())):
            with pytest.raises(StoreUnavailable):
                await ask


@each("token", ["", "<NextContinuationToken>t</NextContinuationToken>"])
async def test_a_list_whose_pages_do_not_end_is_given_up(token: str) -> None:
    page = f"<ListBucketResult><IsTruncated>true</IsTruncated>{token}</ListBucketResult>"
    async with server(then(lambda _: web.Response(text=page))) as (endpoint, _), store_at(endpoint) as store:
        with pytest.raises(StoreUnavailable, match="next page"):
            await gathered(store.list())


async def test_bytes_of_another_range_are_not_those_that_were_asked_for() -> None:
    """A cache before the store may ignore ``Range``."""
    whole: Answers = lambda _: web.Response(body=b"0123456789", headers={"ETag": '"e"'})  # noqa: E731
    async with server(then(whole)) as (endpoint, _), store_at(endpoint) as store:
        assert await gathered(store.get(KEY)) == [b"0123456789"]
        with pytest.raises(StoreUnavailable, match="another range"):
            await gathered(store.get(KEY, start=3, end=7))


async def test_a_range_that_breaks_off_after_its_last_byte_is_whole() -> None:
    """The range that would be left is no valid one, so a store would answer with the whole object."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if b"max-keys" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 19\r\nConnection: close\r\n\r\n<ListBucketResult/>")
        else:
            assert b"Range: bytes=3-6\r\n" in head
            writer.write(
                b'HTTP/1.1 206 Partial Content\r\nETag: "e"\r\nContent-Range: bytes 3-6/10\r\n'
                b"Transfer-Encoding: chunked\r\n\r\n4\r\n3456\r\n"  # and not 0, which ends it
            )
        await writer.drain()
        writer.close()

    running = await asyncio.start_server(answer, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{running.sockets[0].getsockname()[1]}"
    async with running, store_at(endpoint) as store:
        assert b"".join(await gathered(store.get(KEY, start=3, end=7))) == b"3456"


@each("code", ["ConditionalRequestConflict", "OperationAborted"])
async def test_a_put_that_meets_itself_is_no_put_of_another(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt whose answer was lost is still carried out when it is repeated."""
    monkeypatch.setattr("godrive.blobs.s3.client._BACKOFF", Backoff(0.0, 0.0))
    refusals = 2

    def answers(request: web.BaseRequest) -> web.Response:
        nonlocal refusals
        if request.method == "GET":
            return web.Response(text="<ListBucketResult/>")
        if request.method == "HEAD":
            return web.Response(status=404)
        refusals -= 1
        if refusals >= 0:
            return web.Response(status=409, text=S3_ERROR.format(code))
        return web.Response(headers={"ETag": '"there"'})

    async with server(answers) as (endpoint, _), store_at(endpoint) as store:
        await store.put_whole(KEY, b"bytes", "text/plain", "0" * 64)
        refusals = 100
        with pytest.raises(StoreUnavailable):
            await store.put_whole(KEY, b"bytes", "text/plain", "0" * 64)


async def test_new_credentials_that_have_expired_too_are_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is if the clock here is wrong.  It ends when the clock is set, and must not end the process."""

    async def renew() -> dict[str, str]:
        ended = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
        return {"access_key": "AKID", "secret_key": "SECRET", "token": TOKEN, "expiry_time": ended}

    async def of_a_role(_self: object) -> AioDeferredRefreshableCredentials:
        return AioDeferredRefreshableCredentials(renew, "iam-role")

    monkeypatch.setattr("aiobotocore.session.AioSession.get_credentials", of_a_role)
    client = S3Client(replace(settings_of("http://127.0.0.1:1"), access_key="", secret_key=""), SystemClock())
    with pytest.raises(StoreUnavailable) as refused:
        await client.open()
    assert "still expired" in (refused.value.hint or "")
    for operation in ("head_object", "abort_multipart_upload"):
        with pytest.raises(StoreUnavailable):
            await client.call(operation, Key="key")
    await client.close()


REDIRECTS: list[tuple[int, str]] = [
    (301, S3_ERROR.format("PermanentRedirect")),
    (307, S3_ERROR.format("TemporaryRedirect")),
    (400, "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-central-1</Region></Error>"),
]


@each("status, body", REDIRECTS)
async def test_a_request_for_another_region_is_sent_again_as_the_sdk_does(status: int, body: str) -> None:
    def answers(request: web.BaseRequest) -> web.Response:
        if "/eu-central-1/s3/" in request.headers["Authorization"]:
            return web.Response(headers={"ETag": '"there"'})
        return web.Response(status=status, text=body, headers={"x-amz-bucket-region": "eu-central-1"})

    async with server(answers) as (endpoint, seen):
        client = S3Client(settings_of(endpoint), SystemClock())
        with contextlib.suppress(StoreUnavailable):
            await client.open()
        seen.clear()
        answer = await client.call("put_object", Key="key", Body=b"hello")
        await client.close()
    assert answer["ETag"] == '"there"'
    assert [body for method, _, _, body in seen if method == "PUT"][-1] == b"hello"


@each("status, body", [(301, S3_ERROR.format("PermanentRedirect")), (301, PLAIN), (302, ""), (307, PLAIN)])
async def test_a_redirection_that_leads_nowhere_is_a_refusal(status: int, body: str) -> None:
    """Also a request for the region of the bucket is redirected."""
    redirects = False

    def answers(request: web.BaseRequest) -> web.Response:
        if not redirects:
            return web.Response(text="<ListBucketResult/>")
        return web.Response(status=status, text=body)

    async with server(answers) as (endpoint, seen):
        client = S3Client(settings_of(endpoint), SystemClock())
        await client.open()
        redirects = True
        for operation in ("head_object", "put_object", "abort_multipart_upload"):
            seen.clear()
            upload: dict[str, Any] = {"UploadId": "u"} if operation == "abort_multipart_upload" else {}
            with pytest.raises(StoreUnavailable):
                await client.call(operation, Key="key", **upload)
            assert len(seen) <= 3 * ATTEMPTS
        await client.close()

        client = S3Client(settings_of(endpoint), SystemClock())
        with pytest.raises(DriveError):
            await client.open()
        await client.close()


async def test_a_proxy_of_the_environment_is_used_as_by_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    there: Answers = lambda _: web.Response(text="<ListBucketResult/>")  # noqa: E731
    async with server(there) as (proxy, seen):
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        client = S3Client(settings_of("http://store.invalid"), SystemClock())
        await client.open()
        await client.close()
        assert seen[0][1].startswith("http://store.invalid/bucket")
        monkeypatch.setenv("no_proxy", "store.invalid")
        direct = S3Client(settings_of("http://store.invalid"), SystemClock(), deadline=1)
        with pytest.raises(StoreUnavailable):
            await direct.open()
        await direct.close()


async def test_only_the_authorities_of_the_configuration_are_trusted(tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {key} -out {certificate} -days 2"
    options = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([require_program("openssl", "openssl"), *command.split(), *options], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(text="<ListBucketResult/>")

    running = RawTestServer(answer)
    await running.start_server(ssl=context)
    settings = settings_of(f"https://127.0.0.1:{running.port}")
    trusting = S3Client(replace(settings, ca_file=str(certificate)), SystemClock())
    await trusting.open()
    await trusting.close()
    suspicious = S3Client(settings, SystemClock(), deadline=1)
    with pytest.raises(StoreUnavailable) as refused:
        await suspicious.open()
    assert "certificate" in (refused.value.hint or "")
    await suspicious.close()
    await running.close()


async def test_connections_are_kept_for_the_next_request() -> None:
    connections: set[object] = set()

    def answers(request: web.BaseRequest) -> web.Response:
        connections.add(request.transport)
        return web.Response(text="<ListBucketResult/>" if request.query else "body", headers={"ETag": '"e"'})

    async with server(answers) as (endpoint, seen):
        client = S3Client(settings_of(endpoint), SystemClock())
        await client.open()
        for _ in range(3):
            body = (await client.call("get_object", Key="key"))["Body"]
            assert [await body.read(100), await body.read(100)] == [b"body", b""]
            body.close()
            await client.call("delete_object", Key="key")
        await client.close()
    assert (len(seen), len(connections)) == (7, 1)


async def test_the_head_of_an_answer_is_acknowledged_before_its_body_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    rest, real, at_once = asyncio.Event(), transport._Stream, []

    def looking(received: aiohttp.ClientResponse) -> Any:
        assert received.connection is not None
        assert received.connection.transport is not None
        connected = received.connection.transport.get_extra_info("socket")
        at_once.append(connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK))
        rest.set()
        return real(received)

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        answering = web.StreamResponse(headers={"ETag": '"e"', "Content-Length": "4"})
        await answering.prepare(request)
        await answering.write(b"b")
        await rest.wait()
        await answering.write(b"ody")
        return answering

    monkeypatch.setattr(transport, "_Stream", looking)
    async with RawTestServer(answer) as running, ours(str(running.make_url("")).rstrip("/")) as sending:
        for _ in range(8):  # the system acknowledges the first packets of a connection at once
            rest.clear()
            body = (await sending.send(OPERATIONS["get_object"], Key="key"))["Body"]
            while await body.read(100):
                pass
            body.close()
    assert at_once == [1] * 8
