"""tus 1.0, over a socket."""

from __future__ import annotations

import base64
import hashlib
import os
import zlib
from collections.abc import AsyncIterator
from datetime import timedelta
from email.utils import parsedate_to_datetime
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import anyio
import pytest

from godrive.http.api.tus_headers import MOST_METADATA
from godrive.messages.auth import Authenticate
from godrive.messages.ingest import Reconcile
from godrive.messages.janitor import Sweep
from godrive.model import FileId
from godrive.principal import ApiToken, Scope
from godrive.testing import chunks
from tests.cases import each
from tests.http.client import Answer, Json, Person, Site
from tests.http.conftest import OpenSite
from tests.http.routes.test_storing import Wire, check_nothing_left, content_of, me, names, set_quota, wire

pytestmark = pytest.mark.anyio

CHUNK = "application/offset+octet-stream"
HELLO = b"Hello, drive.\n"
MIB = 1 << 20


@pytest.fixture(params=["memory", "disk"])
async def site(request: pytest.FixtureRequest, open_site: OpenSite) -> AsyncIterator[Site]:
    async with open_site(blobs={"driver": request.param}, server={"cors_origins": ["https://app.example"]}) as site:
        yield site


def metadata(**values: str) -> str:
    return ",".join(f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in values.items())


def checksum(algorithm: str, content: bytes) -> str:
    digest = (
        zlib.crc32(content).to_bytes(4, "big") if algorithm == "crc32" else hashlib.new(algorithm, content).digest()
    )
    return f"{algorithm} {base64.b64encode(digest).decode()}"


async def send(person: Person, method: str, path: str, content: Any = b"", **headers: Any) -> Answer:
    """A request in tus.  A header that is ``None`` is not sent."""
    sent: dict[str, Any] = {"Tus-Resumable": "1.0.0"}
    if content:
        sent["Content-Type"] = CHUNK
    sent |= {name.replace("_", "-"): str(value) for name, value in headers.items()}
    answer = await person(method, path, data=content or None, headers={k: v for k, v in sent.items() if v != "None"})
    assert answer.headers["Tus-Resumable"] == "1.0.0"
    return answer


async def create(person: Person, length: int | None = None, path: str = "/v1/tus", **headers: Any) -> str:
    """Create an upload; its URL."""
    headers.setdefault("Upload_Metadata", metadata(filename="a.txt"))
    length_headers = {"Upload_Defer_Length": 1} if length is None else {"Upload_Length": length}
    answer = await send(person, "POST", path, **length_headers, **headers)
    assert answer.status == 201, answer.content
    location: str = answer.headers["Location"]
    return location


async def patch(person: Person, url: str, offset: int, content: Any, **headers: Any) -> Answer:
    return await send(person, "PATCH", url, content, Upload_Offset=offset, Content_Type=CHUNK, **headers)


async def head(person: Person, url: str) -> Answer:
    return await send(person, "HEAD", url)


async def offset_of(person: Person, url: str) -> int:
    answer = await head(person, url)
    assert answer.status == 200, answer.status
    return int(answer.headers["Upload-Offset"])


async def file_at(person: Person, answer: Answer) -> Json:
    """The file that an answer names."""
    found = await person("GET", answer.headers["Content-Location"])
    assert found.json["id"] == answer.headers["Upload-File-Id"]
    file: Json = found.json
    return file


async def test_the_server_says_what_it_can_do_to_anyone(stranger: Person) -> None:
    for path, methods in (("", "POST,OPTIONS"), ("/", "POST,OPTIONS"), ("/by-path/a/b/", "POST,OPTIONS")):
        answer = await stranger("OPTIONS", f"/v1/tus{path}", headers={"Tus-Resumable": "0.2.2"})
        assert (answer.status, answer.headers["Allow"]) == (204, methods)
        assert answer.headers["Tus-Version"] == "1.0.0"
        assert answer.headers["Tus-Extension"].split(",") == [
            "creation",
            "creation-with-upload",
            "creation-defer-length",
            "expiration",
            "checksum",
            "termination",
            "concatenation",
        ]
        assert answer.headers["Tus-Max-Size"] == str(5 << 40)
        assert set(answer.headers["Tus-Checksum-Algorithm"].split(",")) == {"sha1", "sha256", "md5", "crc32"}
    assert (await stranger("OPTIONS", "/v1/tus/x")).headers["Allow"] == "GET,HEAD,PATCH,DELETE,POST,OPTIONS"


@pytest.mark.parametrize("size", [1, 300_000, 5 * MIB + 1])
async def test_an_upload_in_pieces_becomes_the_file(ann: Person, site: Site, size: int) -> None:
    content = os.urandom(size)
    said = metadata(filename="a.bin", filetype="image/png", color="blue") + ",is_confidential"
    created = await send(ann, "POST", "/v1/tus", Upload_Length=size, Upload_Metadata=said)
    assert created.status == 201
    url = created.headers["Location"]
    assert url.startswith(f"{site.url}/v1/tus/")
    assert await names(ann) == []
    cut = size // 3
    for start, end in ((0, cut), (cut, 2 * cut), (2 * cut, size)):
        asked = await head(ann, url)
        assert (asked.status, asked.headers["Upload-Offset"]) == (200, str(start))
        assert (asked.headers["Upload-Length"], asked.headers["Upload-Metadata"]) == (str(size), said)
        assert asked.headers["Cache-Control"] == "no-store"
        assert await names(ann) == []
        answer = await patch(ann, url, start, content[start:end])
        assert (answer.status, answer.headers["Upload-Offset"]) == (204, str(end)), answer.content
    file = await file_at(ann, answer)
    assert (file["name"], file["size_bytes"], file["mime"]) == ("a.bin", size, "image/png")
    assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert await content_of(ann, file) == content
    assert await names(ann) == ["a.bin"]
    await check_nothing_left(site, ann)


async def test_a_finished_upload_answers_for_a_day_and_names_its_file(ann: Person, site: Site) -> None:
    url = await create(ann, len(HELLO))
    finished = await patch(ann, url, 0, HELLO)
    again = await patch(ann, url, len(HELLO), b"")  # the answer was lost
    assert (again.status, again.headers["Upload-Offset"]) == (204, str(len(HELLO)))
    site.clock.advance(23 * 3600)
    await site.drive.janitor.ask(Sweep())
    await ann.enter()
    for answer in (await head(ann, url), await send(ann, "GET", url)):
        assert (answer.status, answer.headers["Upload-Offset"]) == (200, str(len(HELLO)))
        assert answer.headers["Upload-File-Id"] == finished.headers["Upload-File-Id"]
        assert "Upload-Expires" not in answer.headers
        assert await file_at(ann, answer)
    assert answer.json["file_id"] == finished.headers["Upload-File-Id"]
    site.clock.advance(2 * 3600)
    await site.drive.janitor.ask(Sweep())
    await ann.enter()
    assert (await head(ann, url)).status == 404


@each("body", [True, False])
async def test_an_empty_file_is_there_when_it_is_created(ann: Person, body: bool) -> None:
    kind = {"Content_Type": CHUNK} if body else {}
    answer = await send(ann, "POST", "/v1/tus/", Upload_Length=0, Upload_Metadata=metadata(filename=f"{body}"), **kind)
    assert (answer.status, answer.headers["Upload-Offset"]) == (201, "0")
    assert (await file_at(ann, answer))["size_bytes"] == 0
    assert await offset_of(ann, answer.headers["Location"]) == 0


@pytest.mark.parametrize("chunked", [False, True])
async def test_bytes_may_come_with_the_creation(ann: Person, site: Site, chunked: bool) -> None:
    for number, size in enumerate((len(HELLO), 5)):
        sent = chunks(HELLO[:size], 3) if chunked else HELLO[:size]
        said = metadata(filename=f"{number}")
        answer = await send(ann, "POST", "/v1/tus", sent, Upload_Length=len(HELLO), Upload_Metadata=said)
        assert (answer.status, answer.headers["Upload-Offset"]) == (201, str(size)), answer.content
    answer = await patch(ann, answer.headers["Location"], 5, HELLO[5:])
    assert await content_of(ann, await file_at(ann, answer)) == HELLO
    assert await names(ann) == ["0", "1"]
    await check_nothing_left(site, ann)


async def test_the_length_may_come_later(ann: Person, site: Site) -> None:
    url = await create(ann)
    asked = await head(ann, url)
    assert asked.headers["Upload-Defer-Length"] == "1"
    assert "Upload-Length" not in asked.headers
    assert (await patch(ann, url, 0, HELLO[:5])).headers["Upload-Offset"] == "5"
    assert (await patch(ann, url, 5, HELLO[5:8], Upload_Length=3)).status in (400, 413, 422)
    answer = await patch(ann, url, 5, HELLO[5:8], Upload_Length=len(HELLO))
    assert (answer.status, answer.headers["Upload-Length"]) == (204, str(len(HELLO)))
    assert "Upload-Defer-Length" not in answer.headers
    assert (await patch(ann, url, 8, HELLO[8:], Upload_Length=len(HELLO) + 1)).status in (400, 422)
    assert (await patch(ann, url, 8, HELLO[8:])).status == 204
    # The length may also come when all bytes are there, alone.
    url = await create(ann, Upload_Metadata=metadata(filename="b"))
    await patch(ann, url, 0, HELLO)
    answer = await patch(ann, url, len(HELLO), b"", Upload_Length=len(HELLO))
    assert await content_of(ann, await file_at(ann, answer)) == HELLO
    await check_nothing_left(site, ann)


async def test_the_end_of_an_upload_moves_with_the_bytes(ann: Person, site: Site) -> None:
    created = await send(ann, "POST", "/v1/tus", Upload_Length=9, Upload_Metadata=metadata(filename="a"))
    url = created.headers["Location"]
    ends = [parsedate_to_datetime(created.headers["Upload-Expires"])]
    for offset in range(3):
        site.clock.advance(3000)
        await ann.enter()
        answer = await patch(ann, url, offset, b"x")
        assert answer.status == 204
        ends.append(parsedate_to_datetime(answer.headers["Upload-Expires"]))
    assert [later - earlier for earlier, later in pairwise(ends)] == [timedelta(seconds=3000)] * 3
    site.clock.advance(3601)
    await site.drive.ingest.ask(Reconcile())
    await ann.enter()
    for answer in (await head(ann, url), await patch(ann, url, 3, b"x")):
        assert answer.status == 410
        assert "Upload-Offset" not in answer.headers
    await check_nothing_left(site, ann)


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "md5", "crc32"])
async def test_a_checksum_is_compared_before_the_bytes_count(ann: Person, site: Site, algorithm: str) -> None:
    url = await create(ann, len(HELLO))
    wrong = await patch(ann, url, 0, HELLO[:6], Upload_Checksum=checksum(algorithm, HELLO[1:7]))
    assert (wrong.status, wrong.json["code"]) == (460, "checksum_mismatch")
    assert await offset_of(ann, url) == 0
    assert (await patch(ann, url, 0, HELLO[:6], Upload_Checksum=checksum(algorithm, HELLO[:6]))).status == 204
    wrong = await patch(ann, url, 6, HELLO[6:], Upload_Checksum=checksum(algorithm, HELLO))
    assert wrong.status == 460
    assert await offset_of(ann, url) == 6
    assert await names(ann) == []
    answer = await patch(ann, url, 6, HELLO[6:], Upload_Checksum=checksum(algorithm, HELLO[6:]))
    assert await content_of(ann, await file_at(ann, answer)) == HELLO
    await check_nothing_left(site, ann)


@each("said", ["crc64 AAAA", "SHA1 AAAA", "sha1", "sha1 ", "sha1 ?", "sha1 AAAA", "", "md5  "])
async def test_a_checksum_that_cannot_be_compared_is_refused_and_stores_nothing(ann: Person, said: str) -> None:
    url = await create(ann, len(HELLO))
    answer = await patch(ann, url, 0, HELLO, Upload_Checksum=said)
    assert (answer.status, answer.json["field"]) == (400, "Upload-Checksum")
    assert await offset_of(ann, url) == 0
    await send(ann, "DELETE", url)


async def test_an_upload_can_be_given_up(ann: Person, site: Site) -> None:
    url = await create(ann, len(HELLO))
    await patch(ann, url, 0, HELLO[:5])
    for _ in range(2):  # the answer may have been lost
        answer = await send(ann, "DELETE", url)
        assert (answer.status, answer.content) == (204, b"")
    assert (await head(ann, url)).status == 410
    assert (await patch(ann, url, 5, HELLO[5:])).status == 410
    await check_nothing_left(site, ann)
    url = await create(ann, len(HELLO))
    answer = await patch(ann, url, 0, HELLO)
    kept = await send(ann, "DELETE", url)
    assert (kept.status, kept.json["code"]) == (409, "upload_finished")
    assert await content_of(ann, await file_at(ann, answer)) == HELLO


async def test_parts_are_joined_in_the_order_that_is_said(ann: Person, site: Site) -> None:
    parts = [os.urandom(size) for size in (100_000, 1, 0, MIB)]
    urls = []
    for part in parts:
        urls.append(await create(ann, len(part), Upload_Concat="partial", Upload_Metadata=""))
        if part:
            assert (await patch(ann, urls[-1], 0, part)).status == 204
        asked = await head(ann, urls[-1])
        assert (asked.headers["Upload-Concat"], asked.headers["Upload-Offset"]) == ("partial", str(len(part)))
        assert "Upload-File-Id" not in asked.headers
    assert await names(ann) == []
    said = "final;" + " ".join(
        [urls[3], urls[0].removeprefix(site.url), urls[2], urls[1].removeprefix("http:"), urls[0]]
    )
    answer = await send(ann, "POST", "/v1/tus", Upload_Concat=said, Upload_Metadata=metadata(filename="a"))
    assert answer.status == 201, answer.content
    whole = parts[3] + parts[0] + parts[2] + parts[1] + parts[0]
    assert await content_of(ann, await file_at(ann, answer)) == whole
    again = await send(ann, "POST", "/v1/tus", Upload_Concat=said, Upload_Metadata=metadata(filename="a"))
    assert (again.status, again.headers["Location"]) == (201, answer.headers["Location"])
    other = await send(ann, "POST", "/v1/tus", Upload_Concat=f"final;{urls[0]} {urls[3]}")
    assert (other.status, other.json["code"]) == (409, "conflict")
    asked = await head(ann, answer.headers["Location"])
    assert asked.headers["Upload-Concat"] == said
    assert (asked.headers["Upload-Offset"], asked.headers["Upload-Length"]) == (str(len(whole)),) * 2
    for offset in (0, len(whole)):
        refused = await patch(ann, answer.headers["Location"], offset, b"x")
        assert (refused.status, refused.json["code"]) == (403, "forbidden")
    assert await names(ann) == ["a"]
    await check_nothing_left(site, ann)


async def test_a_part_that_comes_twice_is_charged_twice(ann: Person, site: Site) -> None:
    await set_quota(site, ann, 5)
    for size, status in ((3, 507), (2, 201)):
        part = await create(ann, size, Upload_Concat="partial")
        await patch(ann, part, 0, bytes(size))
        answer = await send(ann, "POST", "/v1/tus", Upload_Concat=f"final;{part} {part}")
        assert answer.status == status, answer.content
        await send(ann, "DELETE", part)
    assert (await file_at(ann, answer))["size_bytes"] == 4
    await check_nothing_left(site, ann)


@each(
    "said",
    [
        "",
        "partial;",
        "final",
        "final;",
        "final; ",
        "whole;{own}",
        "final;{own} https://other.example/v1/tus/{id}",
        "final;{id}/x",
        "final;/v1/uploads/{id}",
        "final;/elsewhere/v1/tus/{id}",
        "final;//[",
        "final;{own}?x",
    ],
)
async def test_what_is_not_a_list_of_uploads_of_this_server_joins_nothing(ann: Person, said: str) -> None:
    own = await create(ann, 1, Upload_Concat="partial")
    await patch(ann, own, 0, b"x")
    said = said.format(own=own, id=own.rpartition("/")[2])
    answer = await send(ann, "POST", "/v1/tus", Upload_Concat=said)
    assert (answer.status, answer.json["field"]) == (400, "Upload-Concat"), said
    assert await names(ann) == []


async def test_only_own_whole_parts_are_joined(ann: Person, bob: Person) -> None:
    part, whole = await create(ann, 2, Upload_Concat="partial"), await create(ann, 2)
    foreign = await create(bob, 1, Upload_Concat="partial")
    await patch(bob, foreign, 0, b"x")
    await patch(ann, part, 0, b"x")
    for url, status in ((part, 409), (whole, 409), (foreign, 404), (f"{ann.url}/v1/tus/none", 404)):
        answer = await send(
            ann, "POST", "/v1/tus", Upload_Concat=f"final;{url}", Upload_Metadata=metadata(filename="b")
        )
        assert answer.status == status, (url, answer.content)
    await patch(ann, part, 1, b"y")
    for headers in ({"Upload_Length": 2}, {"Upload_Defer_Length": 1}, {"Content_Type": CHUNK, "content": b"x"}):
        answer = await send(ann, "POST", "/v1/tus", Upload_Concat=f"final;{part}", **headers)
        assert answer.status == 400
    assert await names(ann) == []


@each("version", [None, "0.2.2", "1.0", "1.0.1", ""])
async def test_another_version_of_the_protocol_is_refused_with_the_one_that_is_spoken(
    ann: Person, version: str | None
) -> None:
    url = await create(ann, len(HELLO))
    requests = [("POST", "/v1/tus", b""), ("PATCH", url, HELLO), ("DELETE", url, b"")]
    for method, path, content in [*requests, *([("HEAD", url, b"")] if version is not None else [])]:
        answer = await send(ann, method, path, content, Tus_Resumable=version, Upload_Offset=0, Upload_Length=1)
        assert (answer.status, answer.headers["Tus-Version"]) == (412, "1.0.0")
    assert (await send(ann, "HEAD", url, Tus_Resumable=None)).headers["Upload-Offset"] == "0"
    await send(ann, "DELETE", url)


NOT_NUMBERS = ["-1", "+1", "1.0", "0x1", "1e3", "", " ", "one", "1,2", "٣", "1 2", "9" * 65]


@each("number", NOT_NUMBERS)
async def test_what_is_not_a_number_of_bytes_is_malformed(ann: Person, number: str) -> None:
    answer = await send(ann, "POST", "/v1/tus", Upload_Length=number, Upload_Metadata=metadata(filename="a"))
    assert (answer.status, answer.json["field"]) == (400, "Upload-Length")
    url = await create(ann, 5)
    answer = await patch(ann, url, 0, b"x", Upload_Length=number)
    assert (answer.status, answer.json["field"]) == (400, "Upload-Length")
    answer = await send(ann, "PATCH", url, b"x", Upload_Offset=number)
    assert (answer.status, answer.json["field"]) == (400, "Upload-Offset")
    assert await offset_of(ann, url) == 0
    await send(ann, "DELETE", url)


async def test_numbers_of_any_size_are_read_and_compared(ann: Person) -> None:
    for huge in (2**63 - 1, 2**63, 10**63):
        answer = await send(ann, "POST", "/v1/tus", Upload_Length=huge, Upload_Metadata=metadata(filename="a"))
        assert (answer.status, answer.json["code"]) == (413, "too_large")
    url = await create(ann, 5)
    for huge in (6, 2**63 - 1, 10**63):
        answer = await patch(ann, url, huge, b"x")
        assert (answer.status, answer.json["code"], answer.headers["Upload-Offset"]) == (409, "offset_mismatch", "0")
    assert (await send(ann, "PATCH", url, b"x", Upload_Offset="000")).status == 204
    assert (await patch(ann, url, 0, b"y")).headers["Upload-Offset"] == "1"
    assert (
        await send(ann, "POST", "/v1/tus", Upload_Length="007", Upload_Metadata=metadata(filename="b"))
    ).status == 201


@each("lines", [["Upload-Offset: 0", "Upload-Offset: 0"], ["Upload-Offset: 0", "Upload-Offset: 1"], []])
async def test_a_header_is_sent_once(ann: Person, lines: list[str]) -> None:
    url = await create(ann, 5)
    path = url.removeprefix(ann.url)
    async with wire(ann) as client:
        await client.begin(
            path, *lines, "Tus-Resumable: 1.0.0", f"Content-Type: {CHUNK}", "Content-Length: 0", method="PATCH"
        )
        answer = await client.answer()
    assert (answer.status, answer.json["field"]) == (400, "Upload-Offset")
    await send(ann, "DELETE", url)


@each("headers", [{}, {"Upload_Length": 1, "Upload_Defer_Length": 1}, {"Upload_Defer_Length": 2}])
async def test_a_creation_says_the_length_or_that_it_comes_later(ann: Person, headers: dict[str, int]) -> None:
    assert (await send(ann, "POST", "/v1/tus", **headers)).status == 400


@each("kind", [None, "application/octet-stream", "text/plain", "nonsense"])
async def test_bytes_of_another_type_are_refused(ann: Person, kind: str | None) -> None:
    url = await create(ann, 5)
    answer = await send(ann, "PATCH", url, b"x", Content_Type=kind, Upload_Offset=0)
    assert (answer.status, answer.json["field"]) == (415, "Content-Type")
    answer = await send(ann, "POST", "/v1/tus", b"x", Content_Type=kind, Upload_Length=5)
    assert answer.status == 415
    assert await offset_of(ann, url) == 0
    answer = await send(ann, "PATCH", url, b"x", Content_Type=f"{CHUNK.title()};x=y", Upload_Offset=0)
    assert answer.status == 204
    await send(ann, "DELETE", url)


@pytest.mark.parametrize("chunked", [False, True])
async def test_no_byte_over_the_length_is_stored(ann: Person, site: Site, chunked: bool) -> None:
    url = await create(ann, 8)
    await patch(ann, url, 0, HELLO[:4])
    for content in (HELLO[4:9], os.urandom(3 * MIB)):
        answer = await patch(ann, url, 4, chunks(content, 2 if len(content) == 5 else 70_000) if chunked else content)
        assert (answer.status, answer.json["code"]) == (413, "too_large")
    assert await names(ann) == []
    at = await offset_of(ann, url)
    assert at == 4 if not chunked else 4 <= at <= 8
    answer = await send(ann, "POST", "/v1/tus", HELLO, Upload_Length=5, Upload_Metadata=metadata(filename="b"))
    assert answer.status == 413
    await send(ann, "DELETE", url)
    await check_nothing_left(site, ann)


async def test_the_quota_and_the_largest_file_hold_from_the_creation_on(ann: Person, site: Site) -> None:
    await set_quota(site, ann, 10)
    refused = await send(ann, "POST", "/v1/tus", Upload_Length=11, Upload_Metadata=metadata(filename="a"))
    assert (refused.status, refused.json["code"]) == (507, "quota_exceeded")
    url = await create(ann, 8)
    second = await send(ann, "POST", "/v1/tus", Upload_Length=3, Upload_Metadata=metadata(filename="b"))
    assert second.status == 507
    await send(ann, "DELETE", url)
    url = await create(ann)
    await patch(ann, url, 0, b"12345678")
    assert (await patch(ann, url, 8, b"901")).status == 507
    assert (await patch(ann, url, 8, b"90", Upload_Length=10)).status == 204
    await check_nothing_left(site, ann)


PLACES: list[tuple[dict[str, str], str, str]] = [
    ({"filename": "ä?.txt"}, "", "ä?.txt"),
    ({"name": "b.txt", "type": "text/plain"}, "", "b.txt"),
    ({"filename": "c.txt", "name": "other"}, "", "c.txt"),
    ({"name": "d.txt", "relativePath": "null", "type": "undefined"}, "", "d.txt"),
    ({"name": "e.txt", "relativePath": "/new/deep/e.txt"}, "", "new/deep/e.txt"),
    ({"relativePath": "new/f.txt"}, "", "new/f.txt"),
    ({"filename": "g.txt", "path": "folder"}, "", "folder/g.txt"),
    ({"filename": "h.txt", "parent_id": "{folder}"}, "", "folder/h.txt"),
    ({"filename": "i.txt"}, "?parent_id={folder}", "folder/i.txt"),
    ({"filename": "j.txt", "relativePath": "x/j.txt"}, "?parent_id={folder}", "folder/x/j.txt"),
    ({"filename": "k.txt"}, "/by-path/folder/", "folder/k.txt"),
    ({"filename": "l.txt", "relativePath": "y/l.txt"}, "/by-path/folder", "folder/y/l.txt"),
    ({"filename": "m.txt"}, "/by-path/", "m.txt"),
    ({"filename": "n.txt", "parent_id": "root"}, "", "n.txt"),
    ({}, "", "untitled"),
    ({}, "", "untitled (1)"),
]


async def test_the_place_of_the_file_is_said_in_the_words_of_many_clients(ann: Person) -> None:
    folder = (await ann("POST", "/v1/folders", {"name": "folder"})).json["id"]
    for said, query, path in PLACES:
        meta = metadata(**{key: value.replace("{folder}", folder) for key, value in said.items()})
        url = await create(ann, 1, f"/v1/tus{query.replace('{folder}', folder)}", Upload_Metadata=meta)
        file = await file_at(ann, await patch(ann, url, 0, b"x"))
        assert (await ann("GET", f"/v1/files/by-path/{quote(path)}")).json["id"] == file["id"], said


async def test_metadata_describe_the_file(ann: Person) -> None:
    times = {"modified_at": "2001-02-03T04:05:06+01:00", "mtime": "981169506", "lastModified": "981169506000"}
    for key, value in times.items():
        url = await create(ann, 1, Upload_Metadata=metadata(filename=key, **{key: value}))
        file = await file_at(ann, await patch(ann, url, 0, b"x"))
        assert file["modified_at"] == "2001-02-03T03:05:06Z"
    wrong = await create(ann, 5, Upload_Metadata=metadata(filename="x", sha256="0" * 64))
    answer = await patch(ann, wrong, 0, b"hello")
    assert (answer.status, answer.json["code"]) == (422, "digest_mismatch")
    assert (await head(ann, wrong)).status == 410
    first = (await ann("GET", "/v1/files/by-path/mtime")).json
    taken = await send(ann, "POST", "/v1/tus", Upload_Length=1, Upload_Metadata=metadata(filename="mtime"))
    assert (taken.status, taken.json["code"], taken.json["field"]) == (409, "name_taken", "filename")
    meta = metadata(filename="mtime")
    for path, more in (("/by-path/", {}), ("?on_conflict=replace", {}), ("", {"on_conflict": "replace"})):
        url = await create(ann, 1, f"/v1/tus{path}", Upload_Metadata=",".join([meta, metadata(**more)]))
        assert (await file_at(ann, await patch(ann, url, 0, path[:1].encode() or b"-")))["id"] == first["id"]


@each(
    "said",
    [
        "filename",
        "filename  YQ==,filename YQ==",
        "filename ?",
        "filename YQ=",
        "filename Y Q==",
        "file\xe9 YQ==",
        "a=\t YQ==",
        "x " + "A" * MOST_METADATA,
        metadata(filename="a", parent_id="a/b"),
        metadata(filename="a", parent_id="root", path="x"),
        metadata(filename="a", on_conflict="other"),
        metadata(filename="a", modified_at="yesterday"),
        metadata(filename="a", mtime="1e30"),
        metadata(filename="a", mtime="nan"),
        metadata(filename="a", sha256="x"),
        metadata(filename="a/b"),
        metadata(filename=".."),
        metadata(filename="a", relativePath="../a"),
        metadata(filename="a", filetype="nonsense"),
    ],
)
async def test_metadata_that_cannot_be_are_refused(ann: Person, said: str) -> None:
    answer = await send(ann, "POST", "/v1/tus", Upload_Length=1, Upload_Metadata=said)
    assert answer.status == 201 if said == "filename" else answer.status in (400, 422), answer.content


async def test_a_folder_that_is_not_there_is_404(ann: Person, bob: Person) -> None:
    folder = (await bob("POST", "/v1/folders", {"name": "bobs"})).json["id"]
    for path, meta in (
        (f"?parent_id={folder}", {}),
        ("?parent_id=none", {"relativePath": "x/y"}),
        (f"?parent_id={folder}", {"relativePath": "x/y"}),
        ("/by-path/bobs/", {}),
        ("", {"path": "bobs"}),
    ):
        meta["filename"] = "a"
        answer = await send(ann, "POST", f"/v1/tus{path}", Upload_Length=1, Upload_Metadata=metadata(**meta))
        assert (answer.status, answer.json["code"]) == (404, "not_found")
    assert (await bob("GET", f"/v1/files/{folder}/children")).json == {"files": []}
    assert await names(ann) == []


async def test_methods_that_a_client_cannot_send_are_named_in_a_header(ann: Person) -> None:
    url = await create(ann, len(HELLO))
    options = {"X_HTTP_Method_Override": "PATCH", "Upload_Offset": 0}
    assert (await send(ann, "POST", url, HELLO[:5], **options)).headers["Upload-Offset"] == "5"
    asked = await send(ann, "POST", url, X_HTTP_Method_Override="HEAD")
    assert (asked.status, asked.headers["Upload-Offset"]) == (204, "5")
    for method in ("PUT", "", None):
        answer = await send(ann, "POST", url, X_HTTP_Method_Override=method)
        assert (answer.status, "PATCH" in answer.headers["Allow"]) == (405, True)
    assert (await send(ann, "POST", url, X_HTTP_Method_Override="DELETE")).status == 204
    assert (await head(ann, url)).status == 410
    # Nowhere else.
    assert (await ann("POST", "/v1/folders", {"name": "a"}, headers={"X-HTTP-Method-Override": "DELETE"})).status == 201


ORIGIN = {"Origin": "https://app.example"}
EXPOSED = {
    *("Location", "Content-Location", "Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size"),
    *("Tus-Checksum-Algorithm", "Upload-Offset", "Upload-Length", "Upload-Defer-Length", "Upload-Metadata"),
    *("Upload-Concat", "Upload-Expires", "Upload-File-Id", "Retry-After"),
}


async def test_a_page_of_an_allowed_origin_reads_answers_and_errors(ann: Person, stranger: Person, site: Site) -> None:
    url = await create(ann, len(HELLO))
    await set_quota(site, ann, 20)
    answers = {
        201: await send(ann, "POST", "/v1/tus", Upload_Length=1, Upload_Metadata=metadata(filename="b"), **ORIGIN),
        204: await patch(ann, url, 0, b"x", **ORIGIN),
        200: await send(ann, "HEAD", url, **ORIGIN),
        400: await send(ann, "POST", "/v1/tus", **ORIGIN),
        401: await send(stranger, "HEAD", url, **ORIGIN),
        404: await send(ann, "HEAD", f"{url}x", **ORIGIN),
        405: await send(ann, "POST", url, **ORIGIN),
        409: await patch(ann, url, 9, b"x", **ORIGIN),
        412: await patch(ann, url, 0, b"x", Tus_Resumable="2", **ORIGIN),
        413: await send(ann, "POST", "/v1/tus", Upload_Length=1 << 50, **ORIGIN),
        415: await send(ann, "PATCH", url, b"x", Content_Type="text/plain", **ORIGIN),
        460: await patch(ann, url, 1, b"x", Upload_Checksum=checksum("sha1", b"y"), **ORIGIN),
        507: await send(ann, "POST", "/v1/tus", Upload_Length=50, Upload_Metadata=metadata(filename="c"), **ORIGIN),
    }
    for status, answer in answers.items():
        assert answer.status == status
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert set(answer.headers["Access-Control-Expose-Headers"].split(", ")) >= EXPOSED
        assert "Origin" in ",".join(answer.headers.getall("Vary"))
    other = await send(ann, "HEAD", url, Origin="https://other.example")
    assert "Access-Control-Allow-Origin" not in other.headers


@each("path", ["/v1/tus", "/v1/tus/", "/v1/tus/by-path/a/", "/v1/tus/x"])
async def test_a_preflight_allows_the_methods_and_headers_of_tus(stranger: Person, path: str) -> None:
    wanted = "authorization, tus-resumable, upload-length, upload-offset, upload-metadata, upload-concat, content-type"
    method = "PATCH" if path.endswith("x") else "POST"
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": wanted, **ORIGIN}
    answer = await stranger("OPTIONS", path, headers=asked)
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
    assert method in answer.headers["Access-Control-Allow-Methods"]
    assert answer.headers["Access-Control-Allow-Headers"] == wanted


async def test_an_upload_belongs_to_the_user_and_not_to_the_session(ann: Person, bob: Person, site: Site) -> None:
    url = await create(ann, len(HELLO))
    await patch(ann, url, 0, HELLO[:5])
    site.clock.advance(901)
    for answer in (await head(ann, url), await patch(ann, url, 5, HELLO[5:]), await send(ann, "DELETE", url)):
        assert answer.status == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    await bob.enter("bob@example.org")
    for answer in (await head(bob, url), await patch(bob, url, 5, HELLO[5:]), await send(bob, "DELETE", url)):
        assert answer.status == 404
    await ann.enter()
    assert await offset_of(ann, url) == 5
    answer = await patch(ann, url, 5, HELLO[5:])
    assert await content_of(ann, await file_at(ann, answer)) == HELLO


async def test_a_token_writes_where_it_may(ann: Person, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = (await ann("POST", "/v1/folders", {"name": "folder"})).json["id"]
    outside, inside = await create(ann, 1), await create(ann, 1, f"/v1/tus?parent_id={folder}")
    user_id, auth = await me(ann), site.drive.auth
    given = {Scope.FILES_WRITE}

    class Tokens:
        """Auth that knows one API token."""

        async def ask(self, message: Any, **options: Any) -> Any:
            if isinstance(message, Authenticate) and message.token == "an-api-token":
                return ApiToken(user_id=user_id, token_id="t", scopes=frozenset(given), folder_id=FileId(folder))
            return await auth.ask(message, **options)

    monkeypatch.setattr(site.drive, "auth", Tokens())
    token = Person(ann.http, ann.url)
    token.token = "an-api-token"
    for answer in (
        await head(token, outside),
        await patch(token, outside, 0, b"x"),
        await send(token, "DELETE", outside),
    ):
        assert answer.status == 404
    assert (await patch(token, inside, 0, b"x")).status == 204
    url = await create(token, 1, Upload_Metadata=metadata(filename="b"))
    await patch(token, url, 0, b"x")
    assert await names(ann, folder) == ["a.txt", "b"]
    given.clear()
    for method in ("HEAD", "DELETE", "PATCH"):
        answer = await send(token, method, inside, Content_Type=CHUNK, Upload_Offset=0)
        assert answer.status == 403
    given.add(Scope.FILES_READ)
    assert (await send(token, "POST", "/v1/tus", Upload_Length=1)).status == 403


async def begin_patch(client: Wire, url: str, offset: int, length: int) -> None:
    """Begin to append *length* bytes."""
    lines = ("Tus-Resumable: 1.0.0", f"Content-Type: {CHUNK}", f"Upload-Offset: {offset}", f"Content-Length: {length}")
    await client.begin(url.removeprefix(client.person.url), *lines, "Expect: 100-continue", method="PATCH")
    await client.until(b"100 Continue")


@pytest.mark.parametrize("size", [300_000, 6 * MIB])
@pytest.mark.parametrize("method", ["HEAD", "PATCH", "DELETE"])
async def test_a_new_request_ends_one_that_is_half_dead(
    ann: Person, bob: Person, site: Site, method: str, size: int
) -> None:
    content = os.urandom(size)
    url = await create(ann, size)
    async with wire(ann) as dead:
        await begin_patch(dead, url, 0, size)
        await dead.stream.send(content[: size // 2])  # and then nothing, as when the network is gone
        await bob.enter("bob@example.org")
        assert (await head(bob, url)).status == 404  # which ends nothing
        with anyio.fail_after(2):  # a promise
            at = await offset_of(ann, url) if method == "HEAD" else 0
            if method == "PATCH":
                answer = await patch(ann, url, size, b"")
                assert answer.status == 409
                at = int(answer.headers["Upload-Offset"])
            elif method == "DELETE":
                assert (await send(ann, "DELETE", url)).status == 204
        if method == "DELETE":
            return
        assert 0 <= at <= size // 2
        ended = await dead.answer()
        assert (ended.status, ended.json["code"]) == (409, "upload_taken_over")
        answer = await patch(ann, url, at, content[at:])
    assert await content_of(ann, await file_at(ann, answer)) == content
    await check_nothing_left(site, ann)


@pytest.mark.parametrize("size", [300_000, 6 * MIB])
async def test_what_has_arrived_of_a_request_that_breaks_off_stays(ann: Person, site: Site, size: int) -> None:
    content = os.urandom(size)
    url = await create(ann, size)
    async with wire(ann) as client:
        await begin_patch(client, url, 0, size)
        await client.stream.send(content[: size // 2])
        await client.stream.send_eof()
        assert (await client.answer()).status == 400
    assert await offset_of(ann, url) == size // 2
    async with wire(ann) as client:
        await begin_patch(client, url, size // 2, size - size // 2)
        await client.stream.send(content[size // 2 : -1])
    at = await offset_of(ann, url)
    assert size // 2 <= at < size
    answer = await patch(ann, url, at, content[at:])
    assert await content_of(ann, await file_at(ann, answer)) == content
    await check_nothing_left(site, ann)


async def test_nothing_counts_of_a_request_with_a_checksum_that_breaks_off(ann: Person) -> None:
    url = await create(ann, 10)
    async with wire(ann) as client:
        said = f"Upload-Checksum: {checksum('sha1', HELLO[:10])}"
        lines = ("Tus-Resumable: 1.0.0", f"Content-Type: {CHUNK}", "Upload-Offset: 0", "Content-Length: 10", said)
        await client.begin(url.removeprefix(ann.url), *lines, method="PATCH")
        await client.stream.send(HELLO[:5])
        await client.stream.send_eof()
        assert (await client.answer()).status == 400
    assert await offset_of(ann, url) == 0


async def test_a_client_that_sends_nothing_is_given_up_and_its_bytes_stay(open_site: OpenSite, ann: Person) -> None:
    async with open_site(server={"body_timeout": 0.2}) as site:
        person = await Person(ann.http, site.url).enter()
        url = await create(person, 10)
        async with wire(person) as client:
            await begin_patch(client, url, 0, 10)
            await client.stream.send(HELLO[:5])
            assert (await client.answer()).status == 408
        assert await offset_of(person, url) == 5


async def test_a_creation_whose_bytes_break_off_says_where_to_go_on(ann: Person) -> None:
    async with wire(ann) as client:
        lines = ("Tus-Resumable: 1.0.0", f"Content-Type: {CHUNK}", "Upload-Length: 14", "Content-Length: 14")
        await client.begin("/v1/tus", *lines, f"Upload-Metadata: {metadata(filename='a')}")
        await client.stream.send(HELLO[:5])
        await client.stream.send_eof()
        answer = await client.answer()
    assert answer.status == 400
    url = answer.headers["location"]
    assert await offset_of(ann, url) == 5
    assert (await patch(ann, url, 5, HELLO[5:])).status == 204


async def test_a_request_is_checked_before_its_bytes_are_asked_for(ann: Person, site: Site) -> None:
    url = await create(ann, 10)
    path = url.removeprefix(ann.url)
    cases = {
        409: (path, "Upload-Offset: 5", "Content-Length: 5"),
        413: (path, "Upload-Offset: 0", "Content-Length: 11"),
        404: (f"{path}x", "Upload-Offset: 0", "Content-Length: 5"),
        400: (path, "Upload-Offset: x", "Content-Length: 5"),
    }
    for status, (target, *lines) in cases.items():
        async with wire(ann) as client:
            more = ("Tus-Resumable: 1.0.0", f"Content-Type: {CHUNK}", "Expect: 100-continue")
            await client.begin(target, *lines, *more, method="PATCH")
            assert (await client.answer()).status == status
            assert b"100 Continue" not in client.received


async def test_uploads_that_are_begun_are_limited_and_what_was_said_of_them_goes_when_they_end(
    open_site: OpenSite, ann: Person
) -> None:
    async with open_site(auth={"max_pending_uploads": 3}) as site:
        person = await Person(ann.http, site.url).enter()
        urls = [await create(person, 1, Upload_Metadata=metadata(filename=str(number))) for number in range(3)]
        refused = await send(person, "POST", "/v1/tus", Upload_Length=1, Upload_Metadata=metadata(filename="x"))
        assert (refused.status, refused.json["code"]) == (507, "quota_exceeded")
        for url in urls:
            await send(person, "DELETE", url)
        kept = await site.drive.catalog.read(lambda tx: tx.all("SELECT note FROM uploads"))
        assert [row[0] for row in kept] == ["", "", ""]
        assert await create(person, 1)


async def test_the_url_of_an_upload_begins_as_the_client_reaches_the_server(ann: Person, open_site: OpenSite) -> None:
    async with open_site(server={"public_url": "https://drive.example/base"}) as site:
        person = await Person(ann.http, site.url).enter()
        url = await create(person, 1, Upload_Concat="partial")
        assert url.startswith("https://drive.example/base/v1/tus/")
        path = url.removeprefix("https://drive.example/base")
        assert (await patch(person, path, 0, b"x")).status == 204
        for said in (url, path, f"/base{path}"):
            answer = await send(person, "POST", "/v1/tus", Upload_Concat=f"final;{said}")
            assert answer.status == 201, said
    async with open_site(server={"public_url": ""}) as site:
        person = await Person(ann.http, site.url).enter()
        answer = await send(
            person, "POST", "/v1/tus", Host="evil.example", Upload_Length=1, Upload_Metadata=metadata(filename="b")
        )
        assert "evil" not in answer.headers["Location"]
        assert answer.headers["Location"].startswith("http://")
