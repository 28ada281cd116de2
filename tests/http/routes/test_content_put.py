"""Sending the bytes of an upload, over a socket."""

from __future__ import annotations

import asyncio
import hashlib
import io
import socket
import struct
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import anyio
import pytest
from msgspec.structs import replace

from godrive import arriving
from godrive.errors import NotFound, StoreUnavailable
from godrive.messages.ingest import Reconcile
from godrive.messages.janitor import Sweep
from godrive.messages.uploads import PublishUpload
from godrive.model import BlobInfo, ObjectKey, UploadId
from godrive.testing import chunks
from tests.cases import each
from tests.http.client import Answer, Json, Person, Site, parse
from tests.http.conftest import Exchange, OpenSite
from tests.noise import noise

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
UNKNOWN = "00000000-0000-7000-8000-000000000000"


@pytest.fixture(params=["memory", "disk"])
async def site(request: pytest.FixtureRequest, open_site: OpenSite) -> AsyncIterator[Site]:
    async with open_site(blobs={"driver": request.param}, server={"body_timeout": 5.0}) as site:
        yield site


async def announce(person: Person, size: int, name: str = "a.bin", mime: str = "image/png", **more: Any) -> Json:
    body = {"filename": name, "size_bytes": size, **({"mime": mime} if mime else {}), **more}
    answer = await person("POST", "/v1/files/upload-intent", body)
    assert answer.status == 200, answer.content
    intent: Json = answer.json
    return intent


async def send(person: Person, intent: Json, content: Any, **headers: str) -> Answer:
    content = io.BytesIO(content) if isinstance(content, bytes) else content
    return await person("PUT", intent["upload_url"], data=content, headers={**intent["headers"], **headers})


async def names(person: Person) -> list[str]:
    return [file["name"] for file in (await person("GET", "/v1/files")).json["files"]]


async def state(person: Person, intent: Json) -> Json:
    upload: Json = (await person("GET", f"/v1/uploads/{intent['upload_id']}")).json
    return upload


def head(intent: Json, **headers: object) -> bytes:
    """The head of a PUT by hand."""
    url = urlsplit(intent["upload_url"])
    lines = [f"PUT {url.path}?{url.query} HTTP/1.1", f"Host: {url.netloc}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


async def first_answer(site: Site, data: bytes) -> bytes:
    """Send *data*; what comes back up to the end of the first final answer, however long the server would linger."""
    stream = await anyio.connect_tcp("127.0.0.1", site.port)
    received = b""
    async with stream:
        with anyio.fail_after(30):
            await stream.send(data)
            while True:
                received += await stream.receive()
                final = received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
                if b"\r\n\r\n" in final:
                    answer = parse(final)
                    if len(answer.content) == int(answer.headers["content-length"]):
                        return received


@pytest.mark.parametrize("size", [0, 1, 4096, MIB, 5 * MIB + 1])
async def test_what_is_sent_becomes_the_file_and_the_answer_is_the_file(ann: Person, size: int) -> None:
    content = noise(size)
    answer = await send(ann, await announce(ann, size), content)
    assert answer.status == 201
    file = answer.json["file"]
    assert (file["name"], file["size_bytes"], file["mime"]) == ("a.bin", size, "image/png")
    assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert answer.headers["Location"] == f"{ann.url}/v1/files/{file['id']}"
    there = await ann("GET", answer.headers["Location"])
    assert there.json == file
    assert there.headers["ETag"] == answer.headers["ETag"]
    url = (await ann("GET", f"/v1/files/{file['id']}/download")).json["url"]
    assert (await ann("GET", url)).content == content


async def test_a_url_that_was_not_signed_for_this_very_request_is_refused(ann: Person, site: Site) -> None:
    intent, other = await announce(ann, 5), await announce(ann, 5, "b.bin")
    url = intent["upload_url"]
    forged = [
        url.partition("?")[0],
        url.replace(intent["upload_id"], other["upload_id"]),
        url.replace("size=5", "size=6"),
        url.replace("expires=", "expires=9"),
        url[:-1] + ("A" if url[-1] != "A" else "B"),
        url + "&more=1",
        url + "&size=5",
    ]
    for attempt in forged:
        answer = await ann("PUT", attempt, data=b"12345")
        assert (answer.status, answer.json["code"]) == (403, "url_invalid"), attempt
    assert await names(ann) == []
    site.clock.advance(3600 + 1)
    answer = await ann("PUT", url, data=b"12345")
    assert (answer.status, answer.json["code"]) == (403, "url_invalid")


async def test_an_upload_that_never_was_is_not_found(ann: Person, site: Site) -> None:
    expires_at = site.clock.now() + timedelta(minutes=1)
    url = site.drive.urls.sign(
        "PUT",
        f"/v1/uploads/{UNKNOWN}/content",
        {"size": "0", "mime": "", "user": UNKNOWN},
        expires_at=expires_at,
    )
    answer = await ann("PUT", url, data=b"")
    assert (answer.status, answer.json["code"]) == (404, "not_found")


async def test_an_upload_that_was_aborted_is_gone(ann: Person) -> None:
    intent = await announce(ann, 5)
    await ann("DELETE", f"/v1/uploads/{intent['upload_id']}")
    answer = await send(ann, intent, b"12345")
    assert (answer.status, answer.json["code"]) == (410, "gone")


async def test_the_body_is_asked_for_only_when_nothing_else_is_missing(ann: Person, site: Site) -> None:
    intent = await announce(ann, 5)
    refused = await first_answer(site, head(intent, Content_Length=6, Expect="100-continue"))
    assert refused.startswith(b"HTTP/1.1 422 ")
    assert b"100 Continue" not in refused
    wanted = head(intent, Content_Length=5, Expect="100-continue", Connection="close")
    invited = await first_answer(site, wanted + b"12345")
    assert invited.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 ")
    again = await first_answer(site, wanted + b"54321")  # whether they are the same is seen from the bytes alone
    assert again.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 409 ")
    longer = await first_answer(site, head(intent, Content_Length=6, Expect="100-continue"))
    assert longer.startswith(b"HTTP/1.1 409 ")
    new = await first_answer(site, head(intent, Content_Length=5, Expect="100-continue", If_None_Match="*"))
    assert new.startswith(b"HTTP/1.1 412 ")


async def test_what_is_wrong_with_a_body_that_was_asked_for_is_said(ann: Person, site: Site) -> None:
    intent = await announce(ann, 5, sha256=hashlib.sha256(b"12345").hexdigest())
    answer = await first_answer(site, head(intent, Content_Length=5, Expect="100-continue") + b"54321")
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 422 ")


async def test_another_expectation_cannot_be_met(ann: Person, site: Site) -> None:
    intent = await announce(ann, 5)
    answer = parse(await first_answer(site, head(intent, Content_Length=5, Expect="a-miracle")))
    assert (answer.status, answer.json["code"]) == (417, "expectation_failed")


@pytest.mark.parametrize("length", [0, 4, 6, 10**15])
async def test_a_length_other_than_was_declared_is_refused_before_a_byte_is_read(
    ann: Person, site: Site, length: int
) -> None:
    intent = await announce(ann, 5)
    answer = parse(await first_answer(site, head(intent, Content_Length=length) + b"12345"[:length]))
    assert (answer.status, answer.json["code"]) == (422, "length_mismatch")
    assert answer.headers.get("connection") == ("close" if length > 5 else None)
    assert (await state(ann, intent))["state"] == "pending"
    assert (await send(ann, intent, b"12345")).status == 201


async def test_a_put_without_a_body_ends_no_upload(ann: Person, site: Site) -> None:
    intent = await announce(ann, 5)
    answer = parse(await first_answer(site, head(intent)))
    assert (answer.status, answer.json["code"], answer.json["field"]) == (422, "length_mismatch", "Content-Length")
    assert (await state(ann, intent))["state"] == "pending"


async def test_a_body_may_come_in_chunks_of_no_declared_length(ann: Person) -> None:
    content = noise(3 * MIB)
    intent = await announce(ann, len(content))
    del intent["headers"]["Content-Length"]
    answer = await send(ann, intent, chunks(content, 100_000))
    assert answer.status == 201
    assert answer.json["file"]["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("size", [2, 3 * MIB])
async def test_chunks_that_are_too_many_or_too_few_end_the_upload_and_say_why(ann: Person, size: int) -> None:
    for number, wrong in enumerate((size - 1, size + 1)):
        intent = await announce(ann, size, f"{number}.bin")
        del intent["headers"]["Content-Length"]
        answer = await send(ann, intent, chunks(noise(wrong), 100_000))
        assert (answer.status, answer.json["code"]) == (422, "length_mismatch")
        ended = await state(ann, intent)
        assert ended["state"] == "failed"
        assert str(size) in ended["reason"]
    assert await names(ann) == []


async def test_a_stream_without_end_is_cut_off_at_the_first_byte_too_many(ann: Person, site: Site) -> None:
    intent = await announce(ann, 100_000)
    stream = await anyio.connect_tcp("127.0.0.1", site.port)
    async with stream:
        await stream.send(head(intent, Transfer_Encoding="chunked"))
        chunk = b"%x\r\n%s\r\n" % (50_000, bytes(50_000))
        with anyio.fail_after(30):
            await stream.send(chunk * 3)
            assert (await stream.receive()).startswith(b"HTTP/1.1 422 ")


async def test_other_bytes_than_were_promised_end_the_upload_and_say_why(ann: Person) -> None:
    intent = await announce(ann, 5, sha256=hashlib.sha256(b"12345").hexdigest())
    answer = await send(ann, intent, b"54321")
    assert (answer.status, answer.json["code"]) == (422, "digest_mismatch")
    ended = await state(ann, intent)
    assert ended["state"] == "failed"
    assert hashlib.sha256(b"54321").hexdigest() in ended["reason"]
    assert await names(ann) == []


async def test_the_type_must_be_the_declared_one_or_left_out(ann: Person, exchange: Exchange) -> None:
    intent = await announce(ann, 5)
    answer = await send(ann, intent, b"12345", **{"Content-Type": "text/html"})
    assert (answer.status, answer.json["field"]) == (422, "Content-Type")
    silent = await exchange(head(intent, Content_Length=5, Connection="close") + b"12345")
    assert parse(silent).json["file"]["mime"] == "image/png"


@pytest.mark.parametrize(
    ("declared", "sent"),
    [
        ("text/plain", "text/plain; charset=utf-8"),
        ("text/plain", "text/plain;charset=UTF-8"),
        ("text/plain; charset=utf-8", "text/plain"),
        ("text/plain; charset=utf-8", 'Text/PLAIN ;  Charset = "UTF-8"'),
        ("text/plain; charset=utf-8", "text/plain; charset=iso-8859-1"),
        ("TEXT/plain", "text/plain;"),
        ('video/mp4; codecs="avc1"', "video/mp4;codecs=avc1"),
        ('video/mp4; codecs="avc1"', "video/mp4"),
        ("application/octet-stream", "\tapplication/octet-stream "),
        ("text/plain", "application/octet-stream"),
    ],
)
async def test_media_types_compare_as_media_types(ann: Person, declared: str, sent: str) -> None:
    intent = await announce(ann, 5, mime=declared)
    answer = await send(ann, intent, b"12345", **{"Content-Type": sent})
    assert (answer.status, answer.json.get("file", {}).get("mime")) == (201, declared), answer.content


@each(
    ("declared", "sent"),
    [
        ("text/plain", "text/html"),
        ("text/plain", "text/plain, text/html"),
        ("text/plain", "text/plain; charset=utf-8, text/html"),
        ("text/plain", "text"),
        ("text/plain", ""),
        ("text/plain", "text /plain"),
        ('video/mp4; codecs="avc1"', "video/mp4; codecs=hev1"),
    ],
)
async def test_another_media_type_is_refused(ann: Person, declared: str, sent: str) -> None:
    intent = await announce(ann, 5, mime=declared)
    answer = await send(ann, intent, b"12345", **{"Content-Type": sent})
    assert (answer.status, answer.json["field"]) == (422, "Content-Type")


@each(
    ("name", "content", "mime"),
    [
        ("photo", b"\x89PNG\r\n\x1a\n" + bytes(100), "image/png"),
        ("paper.dat", b"%PDF-1.7\n" + bytes(100), "application/pdf"),
        ("notes", "Grüße, 世界\n".encode(), "text/plain"),
        ("table.csv", b"a,b\n1,2\n", "text/csv"),
        ("noise", bytes(range(256)), "application/octet-stream"),
        ("empty", b"", "application/octet-stream"),
        ("page.html", b"<html><body>hi</body></html>", "text/plain"),
        ("box", b"PK\x03\x04" + bytes(100), "application/zip"),
        ("cabinet", b"ISc(" + bytes(100), "application/vnd.ms-cab-compressed"),
    ],
)
async def test_without_a_declared_type_it_is_found_out(ann: Person, name: str, content: bytes, mime: str) -> None:
    intent = await announce(ann, len(content), name, mime="")
    answer = await send(ann, intent, content, **{"Content-Type": "application/x-www-form-urlencoded"})
    assert (answer.status, answer.json["file"]["mime"]) == (201, mime)


async def test_an_encoded_or_partial_body_is_refused(ann: Person) -> None:
    intent = await announce(ann, 5)
    encoded = await send(ann, intent, b"12345", **{"Content-Encoding": "gzip"})
    assert (encoded.status, encoded.json["code"]) == (415, "unsupported_media_type")
    partial = await send(ann, intent, b"12345", **{"Content-Range": "bytes 0-4/10"})
    assert (partial.status, partial.json["code"]) == (400, "malformed")
    assert (await send(ann, intent, b"12345")).status == 201


@pytest.mark.parametrize("size", [1000, 5 * MIB])
async def test_after_half_a_body_the_url_works_again(ann: Person, exchange: Exchange, size: int) -> None:
    content = noise(size)
    intent = await announce(ann, size)
    answer = parse(await exchange(head(intent, Content_Length=size) + content[: size // 2], half_close=True))
    assert (answer.status, answer.json["code"]) == (400, "malformed")
    assert (await state(ann, intent))["state"] == "pending"
    assert await names(ann) == []
    assert (await send(ann, intent, content)).status == 201


@pytest.mark.parametrize("size", [1000, 5 * MIB])
async def test_a_client_that_falls_silent_is_timed_out_and_may_come_again(
    http: aiohttp.ClientSession, open_site: OpenSite, size: int
) -> None:
    async with open_site(server={"body_timeout": 0.3}) as site:
        ann = await Person(http, site.url).enter()
        intent = await announce(ann, size)
        stream = await anyio.connect_tcp("127.0.0.1", site.port)
        async with stream:
            await stream.send(head(intent, Content_Length=size) + bytes(size // 2))
            with anyio.fail_after(30):
                answer = parse(await stream.receive())
        assert (answer.status, answer.json["code"]) == (408, "request_timeout")
        assert answer.headers["connection"] == "close"
        assert (await state(ann, intent))["state"] == "pending"
        assert (await send(ann, intent, bytes(size))).status == 201


async def test_a_client_that_hangs_up_after_the_last_byte_has_its_file(ann: Person, site: Site) -> None:
    for number, size in enumerate((5, 3 * MIB)):
        intent = await announce(ann, size, f"{number}.bin")
        stream = await anyio.connect_tcp("127.0.0.1", site.port)
        await stream.send(head(intent, Content_Length=size) + bytes(size))
        await stream.aclose()
        with anyio.fail_after(30):
            while (await state(ann, intent))["state"] != "committed":
                await anyio.lowlevel.checkpoint()
    assert sorted(await names(ann)) == ["0.bin", "1.bin"]


@pytest.mark.parametrize("size", [1000, 3 * MIB])
async def test_of_many_puts_at_once_one_wins_and_the_others_are_told(ann: Person, size: int) -> None:
    contents = [noise(size) for _ in range(6)]
    intent = await announce(ann, size)
    answers = await asyncio.gather(*(send(ann, intent, content) for content in contents))
    won = [content for content, answer in zip(contents, answers, strict=True) if answer.status == 201]
    lost = [(answer.status, answer.json["code"]) for answer in answers if answer.status != 201]
    assert lost == [(409, "upload_finished")] * 5
    (file,) = (await ann("GET", "/v1/files")).json["files"]
    url = (await ann("GET", f"/v1/files/{file['id']}/download")).json["url"]
    assert [(await ann("GET", url)).content] == won


@pytest.mark.parametrize(("again", "status"), [(b"first", 201), (b"other", 409)])
async def test_bytes_that_lie_there_uncommitted_are_committed_by_the_next_put(
    ann: Person, site: Site, again: bytes, status: int
) -> None:
    intent = await announce(ann, 5)
    await site.drive.blobs.put(ObjectKey(intent["object_key"]), chunks(b"first"), size=5)
    answer = await send(ann, intent, again)
    assert answer.status == status
    assert (await state(ann, intent))["state"] == "committed"
    assert await names(ann) == ["a.bin"]


@pytest.mark.parametrize("size", [0, 5, 100_000, 5 * MIB + 1])
async def test_the_same_bytes_again_get_the_file_and_others_are_refused(ann: Person, size: int) -> None:
    content = noise(size)
    intent = await announce(ann, size)
    first = await send(ann, intent, content)
    again = await send(ann, intent, content)
    assert (first.status, again.status) == (201, 200)
    assert again.json == first.json
    assert (again.headers["ETag"], again.headers["Location"]) == (first.headers["ETag"], first.headers["Location"])
    del intent["headers"]["Content-Length"]
    chunked = await send(ann, intent, chunks(content, 50_000))
    assert (chunked.status, chunked.json) == (200, first.json)
    for other in (noise(size), content + b"x", content[:-1]):
        if other != content:
            answer = await send(ann, intent, chunks(other, 50_000))
            assert (answer.status, answer.json["code"]) == (409, "upload_finished")
    assert await names(ann) == ["a.bin"]


@pytest.mark.parametrize("size", [5, 100_000])
async def test_bytes_that_the_file_had_already_get_it_again_after_a_lost_answer(ann: Person, size: int) -> None:
    content = noise(size)
    first = await send(ann, await announce(ann, size), content)
    intent = await announce(ann, size, on_conflict="replace")
    answers = [await send(ann, intent, content) for _ in range(2)]
    assert [answer.status for answer in answers] == [201, 200]
    assert {answer.json["file"]["version_id"] for answer in answers} == {first.json["file"]["version_id"]}
    other = await send(ann, intent, noise(size))
    assert (other.status, other.json["code"]) == (409, "upload_finished")


@pytest.mark.parametrize("size", [5, 100_000])
async def test_bytes_that_the_file_had_already_are_not_refused_because_the_catalog_is_down(
    ann: Person, site: Site, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    content = noise(size)
    await send(ann, await announce(ann, size), content)
    intent = await announce(ann, size, on_conflict="replace")
    first = await send(ann, intent, content)
    ask = type(site.drive.metadata).ask

    async def down(ref: Any, message: Any, **options: Any) -> Any:
        if isinstance(message, PublishUpload):
            raise StoreUnavailable("The catalog is down.")
        return await ask(ref, message, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(site.drive.metadata), "ask", down)
        unknown = await send(ann, intent, content)
        other = await send(ann, intent, noise(size))
    assert {(answer.status, answer.json["code"]) for answer in (unknown, other)} == {(503, "store_unavailable")}
    again = await send(ann, intent, content)
    assert (first.status, again.status, again.json) == (201, 200, first.json)


async def test_the_same_bytes_again_get_the_file_as_it_is_by_now(ann: Person, site: Site) -> None:
    intent = await announce(ann, 5)
    file = (await send(ann, intent, b"12345")).json["file"]
    await ann("PATCH", f"/v1/files/{file['id']}", {"name": "b.bin"})
    renamed = await send(ann, intent, b"12345")
    assert (renamed.status, renamed.json["file"]["name"]) == (200, "b.bin")
    await ann("DELETE", f"/v1/files/{file['id']}")
    trashed = await send(ann, intent, b"12345")
    assert trashed.status == 200
    assert trashed.json["file"]["trashed_at"] is not None
    await ann("DELETE", f"/v1/trash/{file['id']}")
    await site.drive.janitor.ask(Sweep())
    purged = await send(ann, intent, b"12345")
    assert purged.status in (409, 410)
    assert await names(ann) == []


async def test_a_store_that_keeps_no_digest_reads_the_bytes_to_compare(
    ann: Person, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    intent = await announce(ann, 5)
    assert (await send(ann, intent, b"12345")).status == 201
    head_of = site.drive.blobs.head

    async def forgetful(key: ObjectKey) -> BlobInfo:
        return replace(await head_of(key), sha256=None)

    monkeypatch.setattr(site.drive.blobs, "head", forgetful)
    assert (await send(ann, intent, b"12345")).status == 200
    assert (await send(ann, intent, b"54321")).status == 409


@pytest.mark.parametrize("size", [1000, 3 * MIB])
async def test_of_the_same_bytes_put_many_times_at_once_every_put_gets_the_file(ann: Person, size: int) -> None:
    content = noise(size)
    intent = await announce(ann, size)
    answers = await asyncio.gather(*(send(ann, intent, content) for _ in range(6)))
    assert {answer.status for answer in answers} <= {200, 201}
    assert len({answer.content for answer in answers}) == 1
    assert await names(ann) == ["a.bin"]


class Halting:
    """A PUT that stops after each piece until it is told to go on."""

    def __init__(self, site: Site, intent: Json, size: int) -> None:
        self.site, self.intent, self.size = site, intent, size

    async def __aenter__(self) -> Halting:
        self.stream = await anyio.connect_tcp("127.0.0.1", self.site.port)
        await self.stream.send(head(self.intent, Content_Length=self.size))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stream.aclose()

    async def send(self, content: bytes, *, seen: int) -> None:
        """Send *content* and wait until the store has been given *seen* bytes in all."""
        await self.stream.send(content)
        key = ObjectKey(self.intent["object_key"])
        with anyio.fail_after(30):
            while (self.site.drive.blobs.receiving(key) or 0) < seen:
                await anyio.lowlevel.checkpoint()

    async def answer(self) -> Answer:
        with anyio.fail_after(30):
            return parse(await self.stream.receive())


async def test_wrong_bytes_do_not_end_an_upload_whose_right_ones_are_arriving(ann: Person, site: Site) -> None:
    intent = await announce(ann, 30)
    async with Halting(site, intent, 30) as put:
        await put.send(bytes(10), seen=10)
        del intent["headers"]["Content-Length"]
        wrong = await send(ann, intent, chunks(bytes(29), 10))
        assert (wrong.status, wrong.json["code"]) == (422, "length_mismatch")
        assert (await state(ann, intent))["state"] == "pending"
        await put.send(bytes(20), seen=0)
        assert (await put.answer()).status == 201


async def test_wrong_bytes_do_not_end_an_upload_whose_right_ones_are_there(ann: Person, site: Site) -> None:
    intent = await announce(ann, 5)
    await site.drive.blobs.put(ObjectKey(intent["object_key"]), chunks(b"right"), size=5)
    del intent["headers"]["Content-Length"]
    assert (await send(ann, intent, chunks(b"wron", 2))).status == 422
    assert (await state(ann, intent))["state"] == "pending"
    assert (await ann("POST", f"/v1/uploads/{intent['upload_id']}/complete")).status == 200


async def test_while_bytes_arrive_the_deadline_moves_on_and_progress_is_seen(ann: Person, site: Site) -> None:
    intent = await announce(ann, 30)
    async with Halting(site, intent, 30) as put:
        await put.send(bytes(10), seen=10)
        assert (await state(ann, intent))["received_bytes"] == 10
        site.clock.advance(3000)
        await put.send(bytes(10), seen=20)
        site.clock.advance(3000)  # past the deadline of the intent
        ann.token = (await ann("POST", "/v1/token/refresh", {"refresh_token": ann.tokens["refresh_token"]})).json[
            "token"
        ]
        assert (await state(ann, intent))["state"] == "pending"
        await put.send(bytes(10), seen=0)
        assert (await put.answer()).status == 201


@pytest.mark.slow
async def test_a_catalog_that_is_away_for_a_moment_does_not_end_what_is_arriving(
    ann: Person, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    intent, refused = await announce(ann, 30), anyio.Event()

    async def away(operation: object, **options: object) -> None:
        refused.set()
        raise StoreUnavailable

    async with Halting(site, intent, 30) as put:
        await put.send(bytes(10), seen=10)
        site.clock.advance(60)
        with monkeypatch.context() as patch:
            patch.setattr(site.drive.catalog, "write", away)
            await put.send(bytes(10), seen=20)
            with anyio.fail_after(30):
                await refused.wait()
        await put.send(bytes(10), seen=0)
        assert (await put.answer()).status == 201


async def test_aborting_stops_an_upload_that_is_still_arriving(ann: Person, site: Site) -> None:
    intent = await announce(ann, 30)
    async with Halting(site, intent, 30) as put:
        await put.send(bytes(10), seen=10)
        await ann("DELETE", f"/v1/uploads/{intent['upload_id']}")
        site.clock.advance(60)
        await put.stream.send(bytes(10))
        answer = await put.answer()
    assert (answer.status, answer.json["code"]) == (410, "gone")
    assert site.drive.blobs.receiving(ObjectKey(intent["object_key"])) is None


async def test_bytes_that_arrive_after_an_abort_do_not_stay(ann: Person, site: Site) -> None:
    """The abort gave their quota back, so they would be charged to nobody."""
    intent = await announce(ann, 30)
    async with Halting(site, intent, 30) as put:
        await put.send(bytes(10), seen=10)
        await ann("DELETE", f"/v1/uploads/{intent['upload_id']}")
        await put.stream.send(bytes(20))
        answer = await put.answer()
    assert (answer.status, answer.json["code"]) == (410, "gone")
    with pytest.raises(NotFound):
        await site.drive.blobs.head(ObjectKey(intent["object_key"]))


async def test_an_aborted_upload_stops_after_some_bytes(
    ann: Person, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arriving, "TOUCH_BYTES", 15)
    intent = await announce(ann, 30)
    async with Halting(site, intent, 30) as put:
        await put.send(bytes(10), seen=10)
        await ann("DELETE", f"/v1/uploads/{intent['upload_id']}")
        await put.stream.send(bytes(10))
        answer = await put.answer()
    assert (answer.status, answer.json["code"]) == (410, "gone")


async def test_a_connection_is_used_again_after_an_upload_and_not_after_an_unread_body(
    ann: Person, site: Site, exchange: Exchange
) -> None:
    first, second = await announce(ann, 5, "1.bin"), await announce(ann, 5, "2.bin")
    received = await exchange(
        head(first, Content_Length=5) + b"12345" + head(second, Content_Length=5, Connection="close") + b"12345"
    )
    assert received.count(b"HTTP/1.1 201 ") == 2
    refused = await first_answer(site, head(first, Content_Length=6) + b"123")
    assert parse(refused).headers["connection"] == "close"
    assert UploadId(first["upload_id"]) in (await ann("GET", "/v1/uploads")).content.decode()


async def test_the_connection_of_a_large_upload_stays_whatever_its_answer(ann: Person, site: Site) -> None:
    content = noise(8 * MIB)
    right = await announce(ann, len(content), "right.bin")
    wrong = await announce(ann, len(content), "wrong.bin", sha256=hashlib.sha256(b"").hexdigest())
    taken = await announce(ann, len(content), "right.bin")
    for intent, status in ((right, 201), (wrong, 422), (taken, 409)):
        answer = parse(await first_answer(site, head(intent, Content_Length=len(content)) + content))
        assert (answer.status, answer.headers.get("connection")) == (status, None)
    assert await names(ann) == ["right.bin"]


@pytest.mark.parametrize("size", [1000, 8 * MIB])
async def test_after_a_connection_breaks_the_url_works_again(ann: Person, site: Site, size: int) -> None:
    content = noise(size)
    intent = await announce(ann, size)
    async with Halting(site, intent, size) as put:
        await put.send(content[: size // 2], seen=size // 8)
        raw = put.stream.extra(anyio.abc.SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with anyio.fail_after(30):
        while site.drive.blobs.receiving(ObjectKey(intent["object_key"])) is not None:
            await anyio.lowlevel.checkpoint()
    assert (await send(ann, intent, content)).status == 201


async def test_an_upload_into_a_folder_that_is_purged_ends_and_reserves_nothing(ann: Person, site: Site) -> None:
    drive, tus = site.drive, {"Tus-Resumable": "1.0.0"}
    folder = (await ann("POST", "/v1/folders", {"name": "photos"})).json["id"]
    intent = await announce(ann, 5, parent_id=folder)
    resumable = await ann("POST", f"/v1/tus?parent_id={folder}", headers={**tus, "Upload-Length": "7"})

    async def usage() -> tuple[int, int]:
        await drive.janitor.ask(Sweep())
        site.clock.advance(60)
        await drive.ingest.ask(Reconcile())
        found = (await ann("GET", "/v1/me")).json["usage"]
        return found["reserved_bytes"], found["used_bytes"]

    await ann("DELETE", f"/v1/files/{folder}")
    assert await usage() == (12, 12)  # the folder may be restored
    assert (await ann("DELETE", f"/v1/trash/{folder}")).status == 204
    assert await usage() == (0, 0)
    ended = await state(ann, intent)
    assert (ended["state"], ended["reason"]) == ("failed", "The folder of the upload no longer exists.")
    refused = await send(ann, intent, b"hello")
    assert (refused.status, refused.json["code"]) == (410, "gone")
    assert "no longer exists" in refused.json["detail"]
    assert (await ann("HEAD", resumable.headers["Location"], headers=tus)).status == 410
