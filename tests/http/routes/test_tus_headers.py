"""tus 1.0, over a socket: headers, places and rights."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

from godrive.http.api.tus_headers import MOST_METADATA
from godrive.http.wire import fair_queue
from godrive.http.wire.fair_queue import FairQueue
from godrive.messages.auth import Authenticate
from godrive.model import FileId
from godrive.principal import ApiToken, Scope
from tests.cases import each
from tests.http.client import Person, Site
from tests.http.conftest import OpenSite
from tests.http.routes.test_storing import content_of, me, names, set_quota, wire
from tests.http.tus import CHUNK, HELLO, checksum, create, file_at, head, metadata, offset_of, patch, send

pytestmark = pytest.mark.anyio


@pytest.fixture
async def site(open_site: OpenSite) -> AsyncIterator[Site]:
    async with open_site(blobs={"driver": "memory"}, server={"cors_origins": ["https://app.example"]}) as site:
        yield site


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


async def test_a_key_that_was_used_for_another_file_is_refused(ann: Person) -> None:
    said = {"Upload_Metadata": metadata(filename="a.txt"), "Upload_Length": 5, "Idempotency_Key": "key"}
    first = await send(ann, "POST", "/v1/tus", **said)
    assert first.status == 201
    again = await send(ann, "POST", "/v1/tus", **said)
    assert (again.status, again.headers["Location"]) == (201, first.headers["Location"])
    for other in (
        {"Upload_Metadata": metadata(filename="b.txt")},
        {"Upload_Length": 6},
        {"Upload_Concat": "partial"},
    ):
        answer = await send(ann, "POST", "/v1/tus", **said | other)
        assert (answer.status, answer.json["code"]) == (409, "idempotency_mismatch"), other


@each("said", ["crc64 AAAA", "SHA1 AAAA", "sha1", "sha1 ", "sha1 ?", "sha1 AAAA", "", "md5  "])
async def test_a_checksum_that_cannot_be_compared_is_refused_and_stores_nothing(ann: Person, said: str) -> None:
    url = await create(ann, len(HELLO))
    answer = await patch(ann, url, 0, HELLO, Upload_Checksum=said)
    assert (answer.status, answer.json["field"]) == (400, "Upload-Checksum")
    assert await offset_of(ann, url) == 0
    await send(ann, "DELETE", url)


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
        "final;{own}#x",
        "final;\xe9/../../v1/tus/{id}",
        "final;" + "{own} " * 2 + "partial",
    ],
)
async def test_what_is_not_a_list_of_uploads_of_this_server_joins_nothing(ann: Person, said: str) -> None:
    own = await create(ann, 1, Upload_Concat="partial")
    await patch(ann, own, 0, b"x")
    said = said.format(own=own, id=own.rpartition("/")[2])
    answer = await send(ann, "POST", "/v1/tus", Upload_Concat=said)
    assert (answer.status, answer.json["field"]) == (400, "Upload-Concat"), said
    assert await names(ann) == []


@each("version", [None, "0.2.2", "1.0", "1.0.1", ""])
async def test_another_version_of_the_protocol_is_refused_with_the_one_that_is_spoken(
    ann: Person, version: str | None
) -> None:
    url = await create(ann, len(HELLO))
    requests = [
        *(("POST", path, b"", None) for path in ("/v1/tus", "/v1/tus/", "/v1/tus/by-path/a/")),
        *(("PATCH", url, HELLO, None), ("DELETE", url, b"", None)),
        *(
            ("POST", url, HELLO if meant == "PATCH" else b"", meant)
            for meant in ("PATCH", "HEAD", "DELETE", "PUT", None)
        ),
        *((method, url, b"", None) for method in ("HEAD", "GET") if version is not None),
    ]
    for method, path, content, meant in requests:
        said = {"Tus_Resumable": version, "X_HTTP_Method_Override": meant}
        answer = await send(ann, method, path, content, Upload_Offset=0, Upload_Length=1, **said)
        assert (answer.status, answer.headers["Tus-Version"]) == (412, "1.0.0"), (method, path, meant)
    assert (await send(ann, "OPTIONS", url, Tus_Resumable=version)).status == 204
    assert (await send(ann, "HEAD", url, Tus_Resumable=None)).headers["Upload-Offset"] == "0"
    await send(ann, "DELETE", url)


async def test_every_answer_says_the_version_also_where_there_is_nothing(ann: Person, stranger: Person) -> None:
    url = await create(ann, len(HELLO))
    answers = {
        ("GET", "/v1/tus"): 405,
        ("PUT", "/v1/tus/"): 405,
        ("PUT", url): 405,
        ("DELETE", "/v1/tus/by-path/a"): 405,
        ("LOCK", url): 405,
        ("POST", "/v1/tus//"): 404,
        ("PATCH", f"{url}/"): 404,
        ("HEAD", "/v1/tus/a/b/c"): 404,
        ("GET", "/v1/tus/by-path/a/"): 405,
        ("OPTIONS", "/v1/tus/a/b"): 404,
    }
    for person in (ann, stranger):
        for (method, path), status in answers.items():
            answer = await send(person, method, path, **ORIGIN)
            assert answer.status == status, (method, path)
            assert answer.headers["Tus-Version"] == "1.0.0"
            assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
            assert set(answer.headers["Access-Control-Expose-Headers"].split(", ")) >= EXPOSED
    assert (await send(ann, "PATCH", url, HELLO, Expect="200-ok")).status == 417
    for path in ("/v1/tusk", "/v1/files/by-path/v1/tus/a", "/tus/a"):
        assert "Tus-Resumable" not in (await ann("GET", path)).headers


@each("meant", ["DELETE", "PUT", "HEAD"])
async def test_a_method_that_the_client_does_not_mean_is_not_carried_out(ann: Person, meant: str) -> None:
    url = await create(ann, len(HELLO))
    override = {"X_HTTP_Method_Override": meant}
    answers = [
        await send(ann, "POST", "/v1/tus", Upload_Length=1, Upload_Metadata=metadata(filename="b"), **override),
        await patch(ann, url, 0, HELLO, **override),
    ]
    if meant != "DELETE":
        answers.append(await send(ann, "DELETE", url, **override))
    if meant != "HEAD":
        answers.append(await send(ann, "GET", url, **override))
    for answer in answers:
        assert (answer.status, "PATCH" in answer.headers["Allow"] or "POST" in answer.headers["Allow"]) == (405, True)
    assert await offset_of(ann, url) == 0
    assert await names(ann) == []
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


async def test_a_key_that_is_not_known_may_have_any_bytes(ann: Person) -> None:
    said = "filename YS50eHQ=,thumbnail /9j/"
    url = await create(ann, 1, Upload_Metadata=said)
    assert (await head(ann, url)).headers["Upload-Metadata"] == said


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
        "filename /w==",
        f"filename YQ==,sha256 {base64.b64encode(hashlib.sha256(b'x').digest()).decode()}",
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


async def test_a_page_of_an_allowed_origin_reads_that_the_server_is_full(
    ann: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = await create(ann, len(HELLO))
    monkeypatch.setattr(fair_queue, "MOST_WAITING", 0)
    monkeypatch.setattr(FairQueue, "enter", lambda *_: False)
    for answer in (
        await send(ann, "POST", "/v1/tus", Upload_Length=1, **ORIGIN),
        await patch(ann, url, 0, b"x", **ORIGIN),
        await send(ann, "HEAD", url, **ORIGIN),
    ):
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) > 0
        assert answer.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert set(answer.headers["Access-Control-Expose-Headers"].split(", ")) >= EXPOSED


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
