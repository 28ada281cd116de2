"""Resumable uploads as the IETF defines them, over a socket."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any

import anyio
import pytest

from godrive.blobs import BlobStore, staged_append
from godrive.http.wire.request_body import LARGE
from godrive.testing import chunks
from tests.cases import each
from tests.http.client import Answer, Json, Person, Site, parse
from tests.http.conftest import OpenSite
from tests.http.routes.test_storing import Wire, check_nothing_left, content_of, names, set_quota, wire

pytestmark = pytest.mark.anyio

HELLO = b"Hello, drive.\n"
PARTIAL = "application/partial-upload"
MISMATCH = "https://iana.org/assignments/http-problem-types#mismatching-upload-offset"
INCONSISTENT = "https://iana.org/assignments/http-problem-types#inconsistent-upload-length"


@pytest.fixture(params=["memory", "disk", pytest.param("s3", marks=pytest.mark.servers)])
async def site(request: pytest.FixtureRequest, open_site: OpenSite) -> AsyncIterator[Site]:
    store: BlobStore | None = None
    if request.param == "s3":
        from tests.ceph import ProbedOnce, own_bucket

        store = ProbedOnce(own_bucket(request.getfixturevalue("ceph_gateway")))
    async with open_site(blob_store=store, blobs={"driver": "memory" if store else request.param}) as site:
        yield site


async def begin(client: Wire, target: str, size: int, *lines: str, method: str = "PUT") -> dict[str, str]:
    """Begin an upload; the headers of the interim answer."""
    await client.begin(target, f"Content-Length: {size}", "Upload-Complete: ?1", *lines, method=method)
    await client.until(b"\r\n\r\n")
    head, _, client.received = client.received.partition(b"\r\n\r\n")
    interim = parse(head + b"\r\n\r\n")
    assert interim.status == 104
    headers: dict[str, str] = interim.headers
    return headers


async def append(person: Person, url: str, offset: int, content: Any, complete: str = "?1", **headers: str) -> Answer:
    sent = {"Content-Type": PARTIAL, "Upload-Offset": str(offset), "Upload-Complete": complete, **headers}
    return await person("PATCH", url, data=content or None, headers=sent)


async def head(person: Person, url: str) -> Answer:
    return await person("HEAD", url)


async def create(person: Person, target: str, content: Any = b"", method: str = "PUT", **headers: str) -> Answer:
    """Begin an upload with a part of the bytes."""
    return await person(method, target, data=content or None, headers={"Upload-Complete": "?0", **headers})


@pytest.mark.parametrize("version", [8, None])  # the others: test_versions_differ_in_little
@pytest.mark.parametrize(("method", "target"), [("PUT", "/v1/files/by-path/a.bin"), ("POST", "/v1/files?name=a.bin")])
async def test_an_upload_in_one_request_can_go_on_where_it_broke_off(
    ann: Person, site: Site, method: str, target: str, version: int | None
) -> None:
    content = os.urandom(300_000)
    said = [] if version is None else [f"Upload-Draft-Interop-Version: {version}"]
    async with wire(ann) as client:
        interim = await begin(client, target, len(content), *said, "Content-Type: image/png", method=method)
        url = interim["location"]
        assert url.startswith(f"{site.url}/v1/uploads/")
        assert interim.get("upload-draft-interop-version") == (None if version is None else "8")
        assert interim["upload-limit"] == f"max-size={5 << 40}, max-age=259200"
        await client.stream.send(content[:100_000])
        await client.stream.send_eof()
        assert (await client.answer()).status == 400
    assert await names(ann) == []
    asked = await head(ann, url)
    assert (asked.status, asked.headers["Upload-Offset"], asked.headers["Upload-Complete"]) == (200, "100000", "?0")
    assert (asked.headers["Upload-Length"], asked.headers["Cache-Control"]) == ("300000", "no-store")
    assert asked.headers["Upload-Limit"].startswith("max-size=")
    answer = await append(ann, url, 100_000, content[100_000:])
    assert (answer.status, answer.headers["Upload-Complete"]) == (201, "?1"), answer.content
    file: Json = answer.json
    assert (file["name"], file["mime"], file["sha256"]) == ("a.bin", "image/png", hashlib.sha256(content).hexdigest())
    assert answer.headers["Location"] == f"{site.url}/v1/files/{file['id']}"
    assert answer.headers["ETag"] == f'"{file["etag"]}"'
    assert await content_of(ann, file) == content
    again = await append(ann, url, len(content), b"")  # the answer was lost
    assert (again.json, again.headers["Upload-Complete"]) == (file, "?1")
    asked = await head(ann, url)
    assert (asked.headers["Upload-Offset"], asked.headers["Upload-Complete"]) == ("300000", "?1")
    await check_nothing_left(site, ann)


@pytest.mark.parametrize("size", [0, 14, LARGE + 5])
async def test_an_upload_that_does_not_break_off_has_the_usual_answer(ann: Person, site: Site, size: int) -> None:
    content = os.urandom(size)
    for chunked in (False, True):
        sent = chunks(content, 100_000) if chunked else content
        path = f"/v1/files/by-path/{chunked}"
        answer = await ann("PUT", path, data=sent or None, headers={"Upload-Complete": "?1"})
        assert (answer.status, answer.headers["Upload-Complete"]) == (201, "?1"), answer.content
        assert answer.json["sha256"] == hashlib.sha256(content).hexdigest()
        again = await ann("PUT", path, data=content or None, headers={"Upload-Complete": "?1"})
        assert (again.status, again.json) == (200, answer.json)
        taken = await ann("POST", f"/v1/files?name={chunked}", data=b"x", headers={"Upload-Complete": "?1"})
        assert (taken.status, taken.json["code"]) == (409, "name_taken")
        known = await ann("POST", f"/v1/files?name={chunked}", data=content or None, headers={"Upload-Complete": "?1"})
        assert (known.status, known.json) == (200, answer.json)
    await check_nothing_left(site, ann)


@pytest.mark.parametrize("known", [False, True])
async def test_an_upload_may_come_in_parts(ann: Person, site: Site, known: bool) -> None:
    length = {"Upload-Length": str(len(HELLO))} if known else {}
    created = await create(ann, "/v1/files/by-path/a.txt", HELLO[:3], **length)
    assert (created.status, created.headers["Upload-Complete"], created.headers["Upload-Offset"]) == (201, "?0", "3")
    url = created.headers["Location"]
    assert created.headers["Upload-Limit"]
    assert ("Upload-Length" in created.headers) is known
    part = await append(ann, url, 3, chunks(HELLO[3:9], 2), "?0")
    assert (part.status, part.headers["Upload-Complete"], part.headers["Upload-Offset"]) == (204, "?0", "9")
    answer = await append(ann, url, 9, chunks(HELLO[9:], 2))
    assert (answer.status, answer.headers["Upload-Complete"]) == (201, "?1")
    assert await content_of(ann, answer.json) == HELLO
    # Nothing with the creation, and nothing with the end.
    url = (await create(ann, "/v1/files?name=b.txt", method="POST")).headers["Location"]
    await append(ann, url, 0, HELLO, "?0")
    assert await names(ann) == ["a.txt"]
    answer = await append(ann, url, len(HELLO), b"")
    assert await content_of(ann, answer.json) == HELLO
    await check_nothing_left(site, ann)


async def test_a_plain_get_says_how_far_an_upload_is(ann: Person) -> None:
    created = await create(ann, "/v1/files/by-path/a.txt", HELLO[:5], **{"Upload-Length": str(len(HELLO))})
    url = created.headers["Location"]
    for received, complete in ((5, "?0"), (len(HELLO), "?1")):
        answer = await ann("GET", url)
        assert (answer.status, answer.json["received_bytes"]) == (200, received)
        assert answer.headers["Upload-Offset"] == str(received)
        assert answer.headers["Upload-Complete"] == complete
        assert answer.headers["Upload-Length"] == str(len(HELLO))
        assert answer.headers["Upload-Limit"].startswith("max-size=")
        assert answer.headers["Cache-Control"] == "no-store"
        if complete == "?0":
            assert (await append(ann, url, 5, HELLO[5:])).status == 201
    await ann("DELETE", (gone := await create(ann, "/v1/files/by-path/b.txt", HELLO)).headers["Location"])
    answer = await ann("GET", gone.headers["Location"])
    assert (answer.status, answer.json["state"]) == (200, "aborted")
    assert "Upload-Offset" not in answer.headers


async def test_another_offset_is_refused_with_the_right_one(ann: Person) -> None:
    url = (await create(ann, "/v1/files/by-path/a", HELLO[:5], **{"Upload-Length": "14"})).headers["Location"]
    for offset in (0, 4, 6, 10**15 - 1):
        answer = await append(ann, url, offset, b"", "?0")
        assert (answer.status, answer.headers["Upload-Offset"], answer.headers["Upload-Complete"]) == (409, "5", "?0")
        assert (answer.json["type"], answer.json["code"]) == (MISMATCH, "offset_mismatch")
        assert (answer.json["expected-offset"], answer.json["provided-offset"]) == (5, offset)


async def test_lengths_that_contradict_each_other_are_refused(ann: Person, site: Site) -> None:
    for complete, length in (("?1", "13"), ("?1", "15"), ("?0", "13")):
        headers = {"Upload-Complete": complete, "Upload-Length": length}
        answer = await ann("PUT", "/v1/files/by-path/a", data=HELLO, headers=headers)
        assert (answer.status, answer.json["type"]) == (400, INCONSISTENT)
    url = (await create(ann, "/v1/files/by-path/a", HELLO[:5], **{"Upload-Length": "14"})).headers["Location"]
    for content, complete, more in (
        (HELLO[5:-1], "?1", {}),
        (HELLO[5:] + b"x", "?1", {}),
        (HELLO[5:] + b"x", "?0", {}),
        (HELLO[5:], "?1", {"Upload-Length": "15"}),
        (HELLO[5:7], "?0", {"Upload-Length": "15"}),
    ):
        answer = await append(ann, url, 5, content, complete, **more)
        assert (answer.status, answer.json["type"]) == (400, INCONSISTENT), (content, complete, more)
        assert answer.headers["Upload-Complete"] == "?0"
    assert (await head(ann, url)).headers["Upload-Offset"] == "5"
    answer = await append(ann, url, 5, chunks(HELLO[5:-1], 3))  # not the last bytes, which only their end shows
    assert (answer.status, answer.json["type"], answer.headers["Upload-Offset"]) == (400, INCONSISTENT, "13")
    assert (await append(ann, url, 13, HELLO[13:])).status == 201
    url = (await create(ann, "/v1/files/by-path/b", HELLO[:5], **{"Upload-Length": "14"})).headers["Location"]
    answer = await append(ann, url, 5, chunks(HELLO, 3), "?0")  # more than the length, which only the bytes show
    assert (answer.status, answer.json["type"]) == (400, INCONSISTENT)
    assert (await head(ann, url)).status == 410
    await check_nothing_left(site, ann)


def digest(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


async def test_digests_are_of_the_file_and_of_one_request(ann: Person, site: Site) -> None:
    more = {"Upload-Length": "14", "Repr-Digest": digest(HELLO), "Content-Digest": digest(HELLO[:5])}
    url = (await create(ann, "/v1/files/by-path/a", HELLO[:5], **more)).headers["Location"]
    wrong = await append(ann, url, 5, HELLO[5:], **{"Content-Digest": digest(HELLO)})
    assert (wrong.status, wrong.json["code"], wrong.headers["Upload-Complete"]) == (422, "digest_mismatch", "?0")
    assert (await head(ann, url)).headers["Upload-Offset"] == "5"
    other = base64.b64encode(hashlib.sha512(HELLO[5:]).digest()).decode()
    refused = await append(ann, url, 5, HELLO[5:], **{"Content-Digest": f"sha-512=:{other}:"})
    assert (refused.status, refused.json["field"]) == (400, "Content-Digest")
    assert (await append(ann, url, 5, HELLO[5:], **{"Content-Digest": digest(HELLO[5:])})).status == 201
    more = {"Upload-Length": "14", "Repr-Digest": digest(b"other")}
    url = (await create(ann, "/v1/files/by-path/b", HELLO[:5], **more)).headers["Location"]
    wrong = await append(ann, url, 5, HELLO[5:])
    assert (wrong.status, wrong.json["code"], wrong.headers["Upload-Complete"]) == (422, "digest_mismatch", "?1")
    assert (await head(ann, url)).status == 410
    assert (await create(ann, "/v1/files/by-path/b", HELLO, **{"Content-Digest": digest(b"other")})).status == 422
    assert await names(ann) == ["a"]
    for upload in (await ann("GET", "/v1/uploads?state=pending")).json["uploads"]:
        await ann("DELETE", f"/v1/uploads/{upload['id']}")
    await check_nothing_left(site, ann)


@each("value", ["1", "true", "?2", "", "?1, ?1", '"?1"'])
async def test_a_field_with_another_value_is_ignored(ann: Person, value: str) -> None:
    answer = await ann("PUT", "/v1/files/by-path/a", data=HELLO, headers={"Upload-Complete": value})
    assert answer.status in (200, 201)
    assert "Upload-Complete" not in answer.headers
    url = (await create(ann, "/v1/files/by-path/b", **{"Upload-Length": "14"})).headers["Location"]
    assert (await append(ann, url, 0, HELLO, value)).status == 400
    answer = await ann("PATCH", url, data=HELLO, headers={"Content-Type": PARTIAL, "Upload-Complete": "?1"})
    assert (answer.status, answer.json["field"]) == (400, "Upload-Offset")
    await ann("DELETE", url)


@each("version", [6, 7, 8, 9, 10])
async def test_versions_differ_in_little(ann: Person, version: int) -> None:
    content, said = os.urandom(1000), {"Upload-Draft-Interop-Version": str(version)}
    lives = "expires" if version == 6 else "max-age"
    async with wire(ann) as client:
        line = f"Upload-Draft-Interop-Version: {version}"
        interim = await begin(client, f"/v1/files/by-path/{version}", len(content), line)
        assert interim["upload-draft-interop-version"] == str(version)
        assert interim["upload-limit"] == f"max-size={5 << 40}, {lives}=259200"
        url = interim["location"]
        await client.stream.send(content[:400])
        await client.stream.send_eof()
        await client.answer()
    asked = await ann("HEAD", url, headers=said)
    assert (asked.headers["Upload-Offset"], f"{lives}=" in asked.headers["Upload-Limit"]) == ("400", True)
    part = await append(ann, url, 400, content[400:700], "?0", **said)
    assert part.status == (201 if version == 6 else 204)
    assert (part.headers["Upload-Offset"], part.headers["Upload-Complete"]) == ("700", "?0")
    last = {"Content-Type": PARTIAL, "Upload-Offset": "700", **said}
    if version != 6:
        refused = await ann("PATCH", url, data=content[700:], headers=last)
        assert (refused.status, refused.json["field"]) == (400, "Upload-Complete")
        last["Upload-Complete"] = "?1"
    answer = await ann("PATCH", url, data=content[700:], headers=last)
    assert (answer.status, answer.headers["Upload-Complete"]) == (201, "?1"), answer.content
    assert answer.headers.get("Upload-Offset") == ("1000" if version == 6 else None)
    assert await content_of(ann, answer.json) == content


@each("version", ["3", "5", "11", "x", "?1"])
async def test_another_version_gets_a_usual_upload_and_no_interim_answer(ann: Person, version: str) -> None:
    async with wire(ann) as client:
        lines = (f"Content-Length: {len(HELLO)}", "Upload-Complete: ?1", f"Upload-Draft-Interop-Version: {version}")
        await client.begin("/v1/files/by-path/a", *lines, method="PUT")
        await client.stream.send(HELLO)
        assert (await client.answer()).status in (200, 201)
    headers = {"Upload-Draft-Interop-Version": version}
    refused = await create(ann, "/v1/files/by-path/b", HELLO, **headers)  # or a part would become the file
    assert (refused.status, refused.json["field"]) == (400, "Upload-Draft-Interop-Version")
    assert await names(ann) == ["a"]


@each("forwarded", ["X-Forwarded-For: 10.0.0.1", "X-Forwarded-Proto: https", "Forwarded: for=x", "Via: 1.1 proxy"])
async def test_behind_a_proxy_there_is_no_interim_answer(ann: Person, forwarded: str) -> None:
    async with wire(ann) as client:
        lines = (f"Content-Length: {len(HELLO)}", "Upload-Complete: ?1", forwarded)
        await client.begin("/v1/files/by-path/a", *lines, method="PUT")
        await client.stream.send(HELLO)
        answer = await client.answer()
    assert (answer.status in (200, 201), answer.headers["upload-complete"]) == (True, "?1")
    created = await create(ann, "/v1/files/by-path/b", **dict([forwarded.split(": ")]))
    assert (created.status, created.headers["Upload-Complete"]) == (201, "?0")


async def test_a_new_request_ends_the_one_that_began_the_upload(ann: Person, bob: Person, site: Site) -> None:
    async with wire(ann) as client:
        url = (await begin(client, "/v1/files/by-path/a", len(HELLO)))["location"]
        await client.stream.send(HELLO[:5])
        await bob.enter("bob@example.org")
        assert (await head(bob, url)).status == 404
        assert (await append(bob, url, 0, HELLO)).status == 404
        state = await ann("GET", url)  # which ends nothing
        assert (state.json["state"], "Upload-Offset" in state.headers) == ("pending", False)
        with anyio.fail_after(2):  # a promise
            asked = await ann("GET", url, headers={"Upload-Draft-Interop-Version": "8"})
        ended = await client.answer()
        assert (ended.status, ended.json["code"]) == (409, "upload_taken_over")
    at = int(asked.headers["Upload-Offset"])
    assert asked.json["received_bytes"] == at
    answer = await append(ann, url, at, HELLO[at:])
    assert await content_of(ann, answer.json) == HELLO
    await check_nothing_left(site, ann)


async def test_an_upload_is_cancelled_and_what_it_holds_is_free(ann: Person, site: Site) -> None:
    async with wire(ann) as client:
        url = (await begin(client, "/v1/files/by-path/a", len(HELLO)))["location"]
        await client.stream.send(HELLO[:5])
        assert (await ann("DELETE", url)).status == 200
        assert (await client.answer()).status in (409, 410)
    for answer in (await head(ann, url), await append(ann, url, 5, HELLO[5:])):
        assert answer.status == 410
        assert "Upload-Offset" not in answer.headers
    await check_nothing_left(site, ann)


async def test_limits_are_announced_and_hold(ann: Person, stranger: Person, open_site: OpenSite) -> None:
    async with open_site(blobs={"max_upload_bytes": 100}) as site:
        person = await Person(ann.http, site.url).enter()
        both = "GET,HEAD,OPTIONS,POST", "DELETE,GET,HEAD,OPTIONS,PATCH,PUT"
        for path, methods in zip(("/v1/files", "/v1/files/by-path/a/b"), both, strict=True):
            answer = await stranger("OPTIONS", f"{site.url}{path}")
            assert (answer.status, answer.headers["Upload-Limit"]) == (204, "max-size=100")
            assert (answer.headers["Allow"], answer.headers["Accept-Patch"]) == (methods, PARTIAL)
        refused = await create(person, "/v1/files/by-path/a", **{"Upload-Length": "101"})
        assert (refused.status, refused.headers["Upload-Limit"]) == (413, "max-size=100")
        url = (await create(person, "/v1/files/by-path/a")).headers["Location"]
        refused = await append(person, url, 0, chunks(bytes(101), 40), "?0")
        assert (refused.status, refused.headers["Upload-Limit"]) == (413, "max-size=100")
        await set_quota(site, person, 50)
        url = (await create(person, "/v1/files/by-path/b")).headers["Location"]
        assert (await append(person, url, 0, chunks(bytes(51), 51), "?0")).status == 507


async def test_conditions_hold_when_the_bytes_are_there(ann: Person, site: Site) -> None:
    first = await ann("PUT", "/v1/files/by-path/a", data=b"1")
    new = await create(ann, "/v1/files/by-path/a", **{"If-None-Match": "*"})
    assert (new.status, new.json["code"]) == (412, "precondition_failed")
    match = {"If-Match": first.headers["ETag"]}
    url = (await create(ann, "/v1/files/by-path/a", **match)).headers["Location"]
    await ann("PUT", "/v1/files/by-path/a", data=b"2")
    answer = await append(ann, url, 0, b"3")
    assert (answer.status, answer.headers["Upload-Complete"]) == (412, "?1")
    await ann("DELETE", url)
    await check_nothing_left(site, ann)


@each("kind", ["application/offset+octet-stream", "application/octet-stream", "", "nonsense"])
async def test_bytes_of_another_type_are_refused(ann: Person, kind: str) -> None:
    url = (await create(ann, "/v1/files/by-path/a")).headers["Location"]
    answer = await append(ann, url, 0, b"x", **{"Content-Type": kind})
    assert (answer.status, answer.json["field"]) == (415, "Content-Type")
    await ann("DELETE", url)


async def test_an_upload_by_an_intent_takes_no_parts(ann: Person) -> None:
    intent = (await ann("POST", "/v1/files/upload-intent", {"filename": "a", "size_bytes": 5})).json
    url = f"/v1/uploads/{intent['upload_id']}"
    assert "Upload-Offset" not in (await head(ann, url)).headers
    assert (await append(ann, url, 0, b"12345")).status == 409


async def test_a_long_request_is_told_how_far_it_is(
    ann: Person, open_site: OpenSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staged_append, "STEP", 1 << 20)
    content = os.urandom(9 << 20)
    async with open_site(blobs={"driver": "disk"}) as site:
        person = await Person(ann.http, site.url).enter()
        url = (await create(person, "/v1/files/by-path/a")).headers["Location"]
        for proxied in (True, False):
            async with wire(person) as client:
                lines = [f"Content-Type: {PARTIAL}", "Upload-Complete: ?0", f"Content-Length: {len(content)}"]
                lines += ["Via: 1.1 proxy"] * proxied
                offset = int((await head(person, url)).headers["Upload-Offset"])
                await client.begin(url.removeprefix(site.url), *lines, f"Upload-Offset: {offset}", method="PATCH")
                await client.stream.send(content)
                await client.until(b"HTTP/1.1 204")
                told, _, _ = client.received.partition(b"HTTP/1.1 204")
            answers = [parse(answer + b"\r\n\r\n") for answer in told.split(b"\r\n\r\n")[:-1]]
            offsets = [int(answer.headers["upload-offset"]) for answer in answers]
            assert all(answer.status == 104 and "location" not in answer.headers for answer in answers)
            assert offsets == sorted(set(offsets))
            assert (len(offsets) > 1) is not proxied
            assert all(offset < told < offset + len(content) for told in offsets)
