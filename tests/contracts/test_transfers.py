"""What a client sees of uploads and downloads, whether its URLs lead to this server or to an S3 store."""

from __future__ import annotations

import hashlib
import io
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import aiohttp
import anyio
import pytest

from godrive.blobs import BlobStore
from godrive.clock import SystemClock
from godrive.drive import GoDrive
from godrive.http.wire.server import serve
from godrive.messages.janitor import Sweep
from godrive.testing import chunks, open_drive
from tests.daemon import free_port
from tests.http.client import Answer, Person
from tests.noise import noise

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["disk", pytest.param("s3", marks=pytest.mark.servers)])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[tuple[GoDrive, Person]]:
    """A served drive whose bytes are in that store, and a user."""
    store: BlobStore | None = None
    if request.param == "s3":
        gateway = request.getfixturevalue("ceph_gateway")
        from tests.ceph import ProbedOnce, own_bucket

        store = ProbedOnce(own_bucket(gateway))
    port = free_port()
    async with (
        open_drive(
            blob_store=store,
            clock=SystemClock(),
            server={"public_url": f"http://127.0.0.1:{port}"},
            blobs={"driver": "memory" if store else "disk"},
        ) as drive,
        serve(drive, "127.0.0.1", port) as (url,),
        aiohttp.ClientSession(auto_decompress=False) as http,
    ):
        yield drive, await Person(http, url).enter()


@pytest.fixture
def drive(served: tuple[GoDrive, Person]) -> GoDrive:
    return served[0]


@pytest.fixture
def ann(served: tuple[GoDrive, Person]) -> Person:
    return served[1]


async def upload(
    ann: Person, name: str, content: bytes, *, mime: str = "", on_conflict: str = "fail", **added: str
) -> dict[str, Any]:
    """Send the bytes as the intent says, with headers that the client adds; the file."""
    body = {"filename": name, "mime": mime, "size_bytes": len(content), "on_conflict": on_conflict}
    intent = await ann("POST", "/v1/files/upload-intent", body)
    assert intent.status == 200, intent.json
    headers = {**intent.json["headers"], **added}
    async with ann.http.request(
        intent.json["method"], intent.json["upload_url"], data=content, headers=headers
    ) as sent:
        assert sent.status in {200, 201}, await sent.text()
    done = await ann("POST", f"/v1/uploads/{intent.json['upload_id']}/complete")
    assert done.status == 200, done.json
    file: dict[str, Any] = done.json["file"]
    return file


async def download(ann: Person, file: dict[str, Any], method: str = "GET", query: str = "") -> Answer:
    """Ask for the URL, and use it without a token."""
    link = await ann("GET", f"/v1/files/{file['id']}/download?method={method}{query}")
    assert link.status == 200, link.json
    return await Person(ann.http, "")(method, link.json["url"])


@pytest.mark.parametrize(
    ("name", "content", "mime"),
    [
        ("report", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "application/pdf"),
        ("notes", b"just some words", "text/plain"),
        ("blob", bytes(range(256)), "application/octet-stream"),
        ("empty", b"", "application/octet-stream"),
    ],
)
async def test_a_type_that_nobody_declared_is_found_in_the_bytes(
    ann: Person, name: str, content: bytes, mime: str
) -> None:
    assert (await upload(ann, name, content))["mime"] == mime


async def test_a_client_cannot_say_a_type_that_it_did_not_declare(ann: Person) -> None:
    file = await upload(ann, "a", b"just some words", **{"Content-Type": "application/x-other"})
    assert file["mime"] == "text/plain"


@pytest.mark.parametrize("mime", ["text/plain", "application/json", "image/png"])
async def test_a_client_that_adds_a_charset_to_text_can_upload(ann: Person, mime: str) -> None:
    """As OkHttp, Dart's http and others do with a string."""
    intent = {"filename": "a", "mime": mime, "size_bytes": 5}
    answer = await ann("POST", "/v1/files/upload-intent", intent)
    sent = answer.json["headers"].get("Content-Type", mime)
    if "charset=" not in sent and not mime.startswith("image/"):
        sent += "; charset=utf-8"
    file = await upload(ann, "b", b"hello", mime=mime, **{"Content-Type": sent})
    assert file["mime"] == mime


@pytest.mark.parametrize("mime", ["text/plain; charset=iso-8859-1", "text/csv", "image/png"])
async def test_a_download_has_the_type_that_was_declared_with_its_charset(ann: Person, mime: str) -> None:
    answer = await download(ann, await upload(ann, "a", b"hello", mime=mime))
    assert (answer.status, answer.content) == (200, b"hello")
    assert answer.headers["Content-Type"] == mime
    assert answer.headers["Content-Disposition"] == 'attachment; filename="a"'
    assert answer.headers["Cache-Control"] == "private, no-cache"


async def test_a_replaced_file_has_its_new_bytes_and_old_urls_the_old_ones(ann: Person) -> None:
    old = await upload(ann, "a", b"hello", mime="text/plain")
    link = await ann("GET", f"/v1/files/{old['id']}/download")
    new = await upload(ann, "a", b"{}", mime="application/json", on_conflict="replace")
    assert new["id"] == old["id"]
    answer = await download(ann, new)
    assert (answer.content, answer.headers["Content-Type"]) == (b"{}", "application/json")
    answer = await Person(ann.http, "")("GET", link.json["url"])
    assert (answer.content, answer.headers["Content-Type"]) == (b"hello", "text/plain")


async def test_every_version_can_be_read_and_a_removed_one_is_gone(drive: GoDrive, ann: Person) -> None:
    """The bytes of a version that another one shares stay in the store."""
    contents = [b"one", b"two", b"three"]
    files = [await upload(ann, "a", content, mime="text/plain", on_conflict="replace") for content in contents]
    path = f"/v1/files/{files[0]['id']}/versions"
    restored = (await ann("POST", f"{path}/{files[0]['version_id']}/restore")).json
    for file in files[:2]:
        assert (await ann("DELETE", f"{path}/{file['version_id']}")).status == 204
    assert (await drive.janitor.ask(Sweep())).versions == 2
    kept = [(restored["version_id"], b"one"), (files[2]["version_id"], b"three")]
    for version, content in kept:
        answer = await download(ann, files[0], query=f"&version_id={version}")
        assert (answer.status, answer.content) == (200, content)
        streamed = await ann("GET", f"{path}/{version}/content?redirect=false")
        assert (streamed.status, streamed.content) == (200, content)
    assert (await ann("GET", f"{path}/{files[1]['version_id']}/content")).status == 404
    left = [blob async for blob in drive.blobs.list()]
    assert sorted(blob.size_bytes for blob in left) == [3, 5]


async def test_the_headers_of_a_download_can_be_had_alone(ann: Person) -> None:
    file = await upload(ann, "a", b"hello", mime="image/png")
    answer = await download(ann, file, "HEAD")
    assert (answer.status, answer.content) == (200, b"")
    assert answer.headers["Content-Length"] == "5"
    assert answer.headers["Content-Type"] == "image/png"


async def test_the_lifetime_of_a_download_is_the_clients_to_say_up_to_a_maximum(ann: Person) -> None:
    file = await upload(ann, "a", b"hello")
    before = SystemClock().now()
    link = await ann("GET", f"/v1/files/{file['id']}/download?expires_in=60")
    lifetime = datetime.fromisoformat(link.json["expires_at"]) - before
    assert 58 < lifetime.total_seconds() < 65
    for wrong in ("0", "-1", "1000000", "1.5", "inf", "nan"):
        refused = await ann("GET", f"/v1/files/{file['id']}/download?expires_in={wrong}")
        assert (refused.status, refused.json["field"]) == (422, "expires_in")
    assert (await ann("GET", f"/v1/files/{file['id']}/download?method=PUT")).status == 422


async def test_the_bytes_come_with_a_token_and_a_store_that_clients_reach_is_redirected_to(ann: Person) -> None:
    content = bytes(range(256)) * 1000
    file = await upload(ann, "a.bin", content)
    path = f"/v1/files/{file['id']}/content"
    first = await ann("GET", path, allow_redirects=False)
    if first.status == 307:
        assert first.headers["Cache-Control"] == "no-store"
        for method in ("GET", "HEAD"):
            asked = await ann(method, path, allow_redirects=False)
            followed = await Person(ann.http, "")(method, asked.headers["Location"])  # without the token
            assert followed.status == 200
            assert followed.content == (content if method == "GET" else b"")
    else:
        assert (first.status, first.content) == (200, content)
    direct = f"{path}?redirect=false"
    whole = await ann("GET", direct)
    assert (whole.status, whole.content) == (200, content)
    assert whole.headers["Vary"] == "Authorization"
    part = await ann("GET", direct, headers={"Range": "bytes=200-299"})
    assert (part.status, part.content) == (206, content[200:300])
    etag = {"If-None-Match": whole.headers["ETag"]}
    assert (await ann("GET", direct, headers=etag)).status == 304
    assert (await ann("GET", direct, headers={"If-Match": '"other"'})).status == 412
    assert (await ann("GET", direct, headers={"Range": "bytes=999999-"})).status == 416
    head = await ann("HEAD", direct)
    assert (head.status, head.headers["Content-Length"], head.content) == (200, str(len(content)), b"")
    nobody = await Person(ann.http, ann.url)("GET", direct)
    assert (nobody.status, nobody.json["code"]) == (401, "unauthenticated")
    wrong = await ann("GET", f"{path}?signature=x")
    assert (wrong.status, wrong.json["code"]) == (403, "url_invalid")


@pytest.mark.parametrize("size", [0, 5, 9 << 20])
@pytest.mark.parametrize("chunked", [False, True])
async def test_one_request_stores_a_file_whatever_the_store(ann: Person, size: int, chunked: bool) -> None:
    content = noise(size)
    sent = chunks(content, 100_000) if chunked else io.BytesIO(content)
    answer = await ann("POST", "/v1/files?name=a.bin", data=sent)
    assert answer.status == 201, answer.content
    file = answer.json
    assert (file["size_bytes"], file["sha256"]) == (size, hashlib.sha256(content).hexdigest())
    assert (await ann("GET", f"/v1/files/{file['id']}/content?redirect=false")).content == content
    assert (await ann("GET", "/v1/me")).json["usage"]["reserved_bytes"] == 0
    wrong = {"Content-Digest": "sha-512=:" + "A" * 86 + "==:"}
    refused = await ann("POST", "/v1/files?name=b.bin", data=io.BytesIO(content), headers=wrong)
    assert (refused.status, refused.json["code"]) == (422, "digest_mismatch")
    assert [entry["name"] for entry in (await ann("GET", "/v1/files")).json["files"]] == ["a.bin"]


async def test_a_form_stores_its_files_whatever_the_store(ann: Person) -> None:
    data = aiohttp.FormData()
    for name, content in (("a.txt", b"one"), ("b.txt", b"")):
        data.add_field("file", content, filename=name)
    answer = await ann("POST", "/v1/files", data=data)
    assert [(file["name"], file["size_bytes"]) for file in answer.json["files"]] == [("a.txt", 3), ("b.txt", 0)]


@pytest.mark.parametrize("head", ["Content-Length: 40000000", "Transfer-Encoding: chunked"])
async def test_a_client_that_leaves_half_way_leaves_nothing_whatever_the_store(ann: Person, head: str) -> None:
    lines = ["POST /v1/files?name=a HTTP/1.1", "Host: x", f"Authorization: Bearer {ann.token}", head]
    sent = bytes(20 << 20)  # with S3, two parts are there when the client leaves
    chunk = b"%x\r\n%s\r\n" % (len(sent), sent) if "chunked" in head else sent
    async with await anyio.connect_tcp("127.0.0.1", int(ann.url.rpartition(":")[2])) as stream:
        await stream.send("\r\n".join(lines).encode() + b"\r\n\r\n" + chunk)
    with anyio.fail_after(30):
        while not (uploads := (await ann("GET", "/v1/uploads")).json["uploads"]) or uploads[0]["state"] == "pending":
            await anyio.sleep(0.01)
    assert uploads[0]["state"] == "failed"
    assert (await ann("GET", "/v1/files")).json["files"] == []
    assert set((await ann("GET", "/v1/me")).json["usage"].values()) == {0}
