"""Files stored in one request, over a socket."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import anyio
import pytest
from yarl import URL

from godrive import arriving
from godrive.errors import AskTimeout, NameTaken, StoreUnavailable
from godrive.http.wire import fair_queue
from godrive.http.wire.form import MOST_FIELD_BYTES, MOST_PARTS
from godrive.messages.auth import Authenticate
from godrive.messages.files import FindFile
from godrive.messages.system import RecountUsage
from godrive.messages.uploads import MakeFiles, StoreFile
from godrive.model import UserId, UserState
from godrive.principal import ApiToken, Scope
from godrive.rules import users
from godrive.testing import chunks
from tests.cases import each
from tests.http.client import Answer, Json, Person, Site, parse
from tests.http.conftest import Exchange, OpenSite

pytestmark = pytest.mark.anyio

MIB = 1 << 20
HELLO = b"Hello, drive.\n"
TEXT = "Content-Type: text/plain"  # a body whose type is known is stored from its first byte


@pytest.fixture(params=["memory", "disk"])
async def site(request: pytest.FixtureRequest, open_site: OpenSite) -> AsyncIterator[Site]:
    async with open_site(blobs={"driver": request.param}, server={"body_timeout": 5.0}) as site:
        yield site


async def post(person: Person, name: str, content: Any = HELLO, query: str = "", **headers: str) -> Answer:
    """Store the content as the file."""
    named = {header.replace("_", "-"): value for header, value in headers.items()}
    return await person("POST", f"/v1/files?name={name}{query}", data=content, headers=named)


async def names(person: Person, folder: str = "root") -> list[str]:
    listed = await person("GET", f"/v1/files?parent_id={folder}&sort=name")
    return [file["name"] for file in listed.json["files"]]


async def content_of(person: Person, file: Json) -> bytes:
    return (await person("GET", f"/v1/files/{file['id']}/content")).content


async def me(person: Person) -> UserId:
    return UserId((await person("GET", "/v1/me")).json["id"])


async def set_quota(site: Site, person: Person, quota: int) -> None:
    user_id = await me(person)
    await site.drive.catalog.write(lambda tx: users.set_quota(tx, user_id, quota))


async def check_nothing_left(site: Site, person: Person) -> None:
    """Fail if an upload is pending, bytes are reserved, a sum has drifted, or a blob belongs to no version."""
    assert (await person("GET", "/v1/uploads?state=pending")).json == {"uploads": []}
    row = await site.drive.catalog.read(lambda tx: tx.one("SELECT SUM(reserved_bytes), SUM(upload_count) FROM users"))
    assert tuple(row or ()) == (0, 0)
    assert await site.drive.metadata.ask(RecountUsage()) == 0
    rows = await site.drive.catalog.read(lambda tx: tx.all("SELECT object_key FROM versions"))
    assert {blob.key async for blob in site.drive.blobs.list()} == {row[0] for row in rows}


class Wire:
    """A connection by hand, for a request that is sent step by step."""

    def __init__(self, stream: anyio.abc.SocketStream, person: Person) -> None:
        self.stream = stream
        self.person = person
        self.received = b""

    async def begin(self, target: str, *lines: str, method: str = "POST") -> None:
        head = [f"{method} {target} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.person.token}", *lines]
        await self.stream.send("\r\n".join(head).encode() + b"\r\n\r\n")

    async def until(self, text: bytes) -> None:
        with anyio.fail_after(30):
            while text not in self.received:
                self.received += await self.stream.receive()

    async def answer(self) -> Answer:
        """The final answer."""
        with anyio.fail_after(30):
            while True:
                final = self.received
                while final.startswith(b"HTTP/1.1 1") and b"\r\n\r\n" in final:  # an interim answer
                    final = final.partition(b"\r\n\r\n")[2]
                if b"\r\n\r\n" in final:
                    answer = parse(final)
                    if len(answer.content) == int(answer.headers["content-length"]):
                        return answer
                self.received += await self.stream.receive()


@asynccontextmanager
async def wire(person: Person) -> AsyncIterator[Wire]:
    async with await anyio.connect_tcp("127.0.0.1", int(person.url.rpartition(":")[2])) as stream:
        yield Wire(stream, person)


async def until_receiving(site: Site, size: int) -> None:
    """Wait until a body of which *size* bytes have come is being stored."""
    with anyio.fail_after(30):
        while True:
            found = await site.drive.catalog.read(lambda tx: tx.all("SELECT object_key FROM uploads"))
            if any(site.drive.blobs.receiving(row[0]) == size for row in found):
                return
            await anyio.sleep(0.001)


@pytest.mark.parametrize("size", [0, 1, 5 * MIB + 1])
@pytest.mark.parametrize("chunked", [False, True])
async def test_what_is_sent_becomes_the_file_and_the_answer_is_the_file(
    ann: Person, site: Site, size: int, chunked: bool
) -> None:
    content = os.urandom(size)
    sent = chunks(content, 100_000) if chunked else content
    answer = await post(ann, "a.bin", sent, Content_Type="image/png")
    assert answer.status == 201, answer.content
    file = answer.json
    assert (file["name"], file["size_bytes"], file["mime"], file["parent_id"]) == ("a.bin", size, "image/png", None)
    assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert answer.headers["Location"] == f"{ann.url}/v1/files/{file['id']}"
    there = await ann("GET", answer.headers["Location"])
    assert there.json == file
    assert there.headers["ETag"] == answer.headers["ETag"]
    assert await content_of(ann, file) == content
    await check_nothing_left(site, ann)


async def test_a_type_that_says_nothing_is_found_in_the_bytes_and_a_place_is_a_folder(ann: Person) -> None:
    folder = (await ann("POST", "/v1/folders", {"name": "folder"})).json["id"]
    for number, headers in enumerate(
        ({}, *({"Content_Type": f"application/{name}"} for name in ("octet-stream", "x-www-form-urlencoded")))
    ):
        file = (await post(ann, f"{number}", HELLO, f"&parent_id={folder}", **headers)).json
        assert (file["mime"], file["parent_id"]) == ("text/plain", folder)


async def test_a_request_without_a_body_stores_an_empty_file(ann: Person) -> None:
    async with wire(ann) as client:
        await client.begin("/v1/files?name=a")
        answer = await client.answer()
    assert (answer.status, answer.json["size_bytes"]) == (201, 0)


@each(
    "query",
    ["", "?name=", "?name=..", "?name=a%2Fb", "?name=a&parent_id=none", "?name=a&on_conflict=x", "?name=a&size=1"],
)
async def test_a_place_that_cannot_be_is_refused_before_the_body(ann: Person, site: Site, query: str) -> None:
    async with wire(ann) as client:
        await client.begin(f"/v1/files{query}", "Content-Length: 5", "Expect: 100-continue")
        answer = await client.answer()
    assert answer.status == (404 if "none" in query else 422)
    assert b"100 Continue" not in client.received
    await check_nothing_left(site, ann)


async def test_the_quota_is_held_before_the_body_is_asked_for(ann: Person, site: Site) -> None:
    await set_quota(site, ann, 8)
    async with wire(ann) as first, wire(ann) as second:
        await first.begin("/v1/files?name=a", "Content-Length: 5", "Expect: 100-continue")
        await first.until(b"100 Continue")
        await second.begin("/v1/files?name=b", "Content-Length: 4", "Expect: 100-continue")
        refused = await second.answer()
        assert (refused.status, refused.json["code"], refused.json["field"]) == (
            507,
            "quota_exceeded",
            "Content-Length",
        )
        assert b"100 Continue" not in second.received
        await first.stream.send(b"12345")
        assert (await first.answer()).status == 201
    assert (await post(ann, "c", b"123")).status == 201
    assert await names(ann) == ["a", "c"]
    await check_nothing_left(site, ann)


@pytest.mark.parametrize("chunked", [False, True])
async def test_racing_requests_never_store_more_than_the_quota(ann: Person, site: Site, chunked: bool) -> None:
    await set_quota(site, ann, 3500)
    answers: list[Answer] = []

    async def store(name: str) -> None:
        answers.append(await post(ann, name, chunks(bytes(1000), 300) if chunked else bytes(1000)))

    async with anyio.create_task_group() as tasks:
        for number in range(10):
            tasks.start_soon(store, str(number))
    stored = sum(answer.status == 201 for answer in answers)
    assert {answer.status for answer in answers} <= {201, 507}
    assert stored <= 3 if chunked else stored == 3  # of those that grow, each may hold what another needs
    assert len(await names(ann)) == stored
    await check_nothing_left(site, ann)


@each(
    "length", ["Content-Length: 6", "Content-Length: 4", "Content-Length: -1", "Content-Length: 5\r\nContent-Length: 6"]
)
async def test_a_length_that_lies_stores_nothing_that_was_not_meant(ann: Person, site: Site, length: str) -> None:
    async with wire(ann) as client:
        await client.begin("/v1/files?name=a", length, TEXT)
        await client.stream.send(b"12345")
        await client.stream.send_eof()
        answer = await client.answer()
    assert answer.status == (201 if length.endswith(": 4") else 400)  # one byte too many is another request
    assert await names(ann) == (["a"] if answer.status == 201 else [])
    await check_nothing_left(site, ann)
    await ann("DELETE", f"/v1/files/{answer.json.get('id')}")


@pytest.mark.parametrize("size", [10, 3 * MIB])
async def test_a_body_of_unknown_length_stops_where_the_quota_ends(ann: Person, site: Site, size: int) -> None:
    await set_quota(site, ann, size)
    refused = await post(ann, "a", chunks(os.urandom(size + 1), 50_000))
    assert (refused.status, refused.json["code"]) == (507, "quota_exceeded")
    await check_nothing_left(site, ann)
    exact = await post(ann, "a", chunks(os.urandom(size), 50_000))
    assert (exact.status, exact.json["size_bytes"]) == (201, size)
    await check_nothing_left(site, ann)


async def test_a_body_over_the_limit_of_a_file_is_refused_however_it_comes(ann: Person, open_site: OpenSite) -> None:
    async with open_site(blobs={"max_upload_bytes": 100_000}) as site:
        person = await Person(ann.http, site.url).enter()
        for sent in (bytes(100_001), chunks(bytes(100_001), 30_000)):
            refused = await post(person, "a", sent)
            assert (refused.status, refused.json["code"]) == (413, "too_large")
        assert (await post(person, "a", chunks(bytes(100_000), 30_000))).status == 201
        await check_nothing_left(site, person)


def digest(algorithm: str, content: bytes = HELLO) -> str:
    name = algorithm.replace("-", "")
    return f"{algorithm}=:{base64.b64encode(hashlib.new(name, content).digest()).decode()}:"


GOOD = [
    digest("sha-256"),
    digest("sha-512"),
    f"{digest('sha-256')}, {digest('sha-512')};weight=1",
    f"md5=:{base64.b64encode(bytes(16)).decode()}:, unknown=7, {digest('sha-512')}",
    "sha=:AAAA:",
    f"{digest('sha-256', b'other')}, {digest('sha-256')}",  # of equal keys the last one counts
]
BAD = [digest("sha-256", b"other"), digest("sha-512", b"other"), f"{digest('sha-256')},{digest('sha-512', b'other')}"]
MALFORMED = [
    "sha-256",
    "sha-256=abc",
    "sha-256=:AAAA:",
    "sha-512=1",
    "sha-256=:%:",
    "SHA-256=:AAAA:",
    "a=:AAAA:,",
    "\xe9",
    "a=1," * 600 + "b",
]


@pytest.mark.parametrize("field", ["Content-Digest", "Repr-Digest"])
async def test_a_digest_is_checked_and_what_differs_is_never_listed(ann: Person, site: Site, field: str) -> None:
    for number, value in enumerate(GOOD):
        for sent in (HELLO, chunks(HELLO, 5)):
            answer = await ann("POST", f"/v1/files?name={number}&on_conflict=rename", data=sent, headers={field: value})
            assert answer.status == 201, (value, answer.content)
    listed = await names(ann)
    for value in BAD:
        for sent in (HELLO, chunks(HELLO, 5)):
            answer = await ann("POST", "/v1/files?name=bad", data=sent, headers={field: value})
            assert (answer.status, answer.json["code"]) == (422, "digest_mismatch"), value
    for value in MALFORMED:
        answer = await ann("POST", "/v1/files?name=bad", data=HELLO, headers={field: value})
        assert (answer.status, answer.json["code"], answer.json["field"]) == (400, "malformed", field), value
    assert await names(ann) == listed
    await check_nothing_left(site, ann)


async def test_two_digests_that_contradict_each_other_match_nothing(ann: Person) -> None:
    headers = {"Content-Digest": digest("sha-256"), "Repr-Digest": digest("sha-256", b"other")}
    answer = await ann("POST", "/v1/files?name=a", data=HELLO, headers=headers)
    assert (answer.status, answer.json["code"]) == (422, "digest_mismatch")


async def test_the_time_of_modification_is_kept(ann: Person) -> None:
    answer = await post(ann, "a", X_Modified_At="1999-12-31T23:00:00.5-01:00")
    assert answer.json["modified_at"] == "2000-01-01T00:00:00.500000Z"
    for wrong in ("yesterday", "2026-01-01T00:00:00", "2026-01-01", "0001-01-01T00:00:00+01:00", "1767225600", ""):
        refused = await post(ann, "b", X_Modified_At=wrong)
        assert (refused.status, refused.json["field"]) == (422, "X-Modified-At"), wrong
    assert await names(ann) == ["a"]


@each("headers", [{"Content_Encoding": "gzip"}, {"Content_Range": "bytes 0-1/9"}, {"Content_Type": "nonsense"}])
async def test_a_body_that_is_not_the_whole_content_is_refused(ann: Person, headers: dict[str, str]) -> None:
    assert (await post(ann, "a", **headers)).status in (400, 415, 422)
    assert await names(ann) == []


async def test_a_name_that_is_taken_is_a_conflict_a_number_or_a_version(ann: Person, site: Site) -> None:
    first = (await post(ann, "a", b"1")).json
    taken = await post(ann, "a", b"2")
    assert (taken.status, taken.json["code"], taken.json["field"]) == (409, "name_taken", "name")
    new = await post(ann, "a", b"2", If_None_Match="*")
    assert (new.status, new.json["code"], new.json["field"]) == (412, "precondition_failed", "If-None-Match")
    renamed = await post(ann, "a", b"2", "&on_conflict=rename")
    assert (renamed.status, renamed.json["name"]) == (201, "a (1)")
    replaced = await post(ann, "a", b"2", "&on_conflict=replace")
    assert (replaced.status, replaced.json["id"]) == (200, first["id"])
    assert await content_of(ann, first) == b"2"
    assert (await post(ann, "b", b"2", If_None_Match="*")).status == 201
    folder = await ann("POST", "/v1/folders", {"name": "folder"})
    for on_conflict in ("fail", "replace"):
        refused = await post(ann, "folder", b"2", f"&on_conflict={on_conflict}")
        assert (refused.status, refused.json["code"]) == (409, "name_taken")
    assert (await ann("GET", f"/v1/files/{folder.json['id']}")).json == folder.json
    await check_nothing_left(site, ann)


async def test_if_match_guards_a_replacement_now_and_when_the_bytes_are_there(ann: Person, site: Site) -> None:
    replace = "&on_conflict=replace"
    assert (await post(ann, "a", b"1", replace, If_Match="*")).status == 412
    first = await post(ann, "a", b"1")
    etag = first.headers["ETag"]
    second = await post(ann, "a", b"2", replace, If_Match=etag)
    assert second.status == 200
    late = await post(ann, "a", b"33", replace, If_Match=etag)
    assert (late.status, late.json["code"]) == (412, "precondition_failed")
    assert (await post(ann, "a", b"3", replace, If_Match=f'"{second.json["version_id"]}"')).status == 200
    async with wire(ann) as client:
        current = (await ann("GET", f"/v1/files/{first.json['id']}")).headers["ETag"]
        await client.begin(f"/v1/files?name=a{replace}", "Content-Length: 4", f"If-Match: {current}", TEXT)
        await client.stream.send(b"44")
        await until_receiving(site, 2)
        assert (await post(ann, "a", b"5", replace)).status == 200
        await client.stream.send(b"44")
        overtaken = await client.answer()
    assert (overtaken.status, overtaken.json["code"]) == (412, "precondition_failed")
    assert await content_of(ann, first.json) == b"5"
    for headers, status in (({"If_None_Match": '"x"'}, 422), ({"If_None_Match": "*", "If_Match": etag}, 412)):
        assert (await post(ann, "b", **headers)).status == status
    await check_nothing_left(site, ann)


@pytest.mark.parametrize("on_conflict", ["fail", "replace"])
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_same_bytes_sent_again_get_the_file_and_make_no_version(
    ann: Person, site: Site, on_conflict: str, chunked: bool
) -> None:
    def sent() -> Any:
        return chunks(HELLO, 5) if chunked else HELLO

    query = f"&on_conflict={on_conflict}"
    first = await post(ann, "a", sent(), query)
    again = await post(ann, "a", sent(), query)
    assert (again.status, again.json) == (200, first.json)
    assert again.headers["ETag"] == first.headers["ETag"]
    proved = await post(ann, "a", sent(), query, Content_Digest=digest("sha-256"))
    assert (proved.status, proved.json) == (200, first.json)
    rows = await site.drive.catalog.read(lambda tx: tx.all("SELECT id FROM versions"))
    assert len(rows) == 1
    await check_nothing_left(site, ann)


@pytest.mark.parametrize("size", [10, 1 * MIB])
@pytest.mark.parametrize("resumable", [False, True])
async def test_the_same_bytes_sent_again_are_not_refused_because_the_catalog_cannot_find_the_file(
    ann: Person, site: Site, monkeypatch: pytest.MonkeyPatch, size: int, resumable: bool
) -> None:
    content, complete = os.urandom(size), {"Upload_Complete": "?1"} if resumable else {}
    first = await post(ann, "a", content, **complete)
    ask = type(site.drive.metadata).ask

    async def down(ref: Any, message: Any, **options: Any) -> Any:
        if isinstance(message, FindFile):
            raise StoreUnavailable("The catalog is down.")
        return await ask(ref, message, **options)

    with monkeypatch.context() as patch:
        patch.setattr(type(site.drive.metadata), "ask", down)
        unknown = await post(ann, "a", content, **complete)
    assert (unknown.status, unknown.json["code"]) == (503, "store_unavailable")
    again = await post(ann, "a", content, **complete)
    assert (first.status, again.status, again.json) == (201, 200, first.json)
    await check_nothing_left(site, ann)


async def test_a_token_that_may_not_read_is_told_that_the_name_is_taken(
    ann: Person, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await post(ann, "a")).status == 201
    user_id, auth = await me(ann), site.drive.auth

    class Tokens:
        """Auth that knows one API token."""

        async def ask(self, message: Any, **options: Any) -> Any:
            if isinstance(message, Authenticate) and message.token == "an-api-token":
                return ApiToken(user_id=user_id, token_id="t", scopes=frozenset({Scope.FILES_WRITE}))
            return await auth.ask(message, **options)

    monkeypatch.setattr(site.drive, "auth", Tokens())
    answer = await post(ann, "a", Authorization="Bearer an-api-token")
    assert (answer.status, answer.json["code"]) == (409, "name_taken")


async def test_the_same_bytes_sent_again_need_no_more_quota(ann: Person, site: Site) -> None:
    content = os.urandom(1000)
    await set_quota(site, ann, 1500)
    replace = "&on_conflict=replace"
    first = await post(ann, "a", content, replace)
    again = await post(ann, "a", content, replace)
    assert (first.status, again.status, again.json) == (201, 200, first.json)
    for other in (post(ann, "a", content[::-1], replace), post(ann, "a", content, "&on_conflict=rename")):
        assert (await other).status == 507
    typed = await post(ann, "a", content, replace, Content_Type="image/png")
    assert typed.status == 507  # not the same request, and a version of another type needs room
    await check_nothing_left(site, ann)


async def test_the_same_bytes_with_another_time_or_type_change_only_that(ann: Person, site: Site) -> None:
    first = (await post(ann, "a", Content_Type="text/plain")).json
    replace = "&on_conflict=replace"
    dated = await post(ann, "a", HELLO, replace, X_Modified_At="2001-01-01T00:00:00Z")
    assert (dated.status, dated.json["modified_at"]) == (200, "2001-01-01T00:00:00Z")
    assert dated.json["version_id"] == first["version_id"]
    typed = await post(ann, "a", HELLO, replace, Content_Type="text/csv")
    assert (typed.status, typed.json["mime"]) == (200, "text/csv")
    assert typed.json["version_id"] != first["version_id"]
    await check_nothing_left(site, ann)


async def test_a_stale_etag_is_no_obstacle_to_the_bytes_that_are_there(ann: Person) -> None:
    etag = (await post(ann, "a", b"1")).headers["ETag"]
    replace = "&on_conflict=replace"
    lost = await post(ann, "a", b"2", replace, If_Match=etag)
    again = await post(ann, "a", b"2", replace, If_Match=etag)
    assert (lost.status, again.status, again.json) == (200, 200, lost.json)
    assert (await post(ann, "a", b"3", replace, If_Match=etag)).status == 412
    assert (await post(ann, "a", b"", replace, If_Match=etag)).status == 412


async def test_a_key_gets_the_first_answer_again_for_the_same_length_and_digest(ann: Person, site: Site) -> None:
    rename = "&on_conflict=rename"
    first = await post(ann, "a", HELLO, rename, Idempotency_Key="k", Content_Digest=digest("sha-256"))
    again = await post(ann, "a", HELLO, rename, Idempotency_Key="k", Content_Digest=digest("sha-256"))
    assert (again.status, again.json) == (201, first.json)
    assert again.headers["Location"] == first.headers["Location"]
    for sent, said in ((HELLO, digest("sha-512")), (HELLO + b"!", digest("sha-256"))):
        other = await post(ann, "a", sent, rename, Idempotency_Key="k", Content_Digest=said)
        assert (other.status, other.json["code"]) == (409, "idempotency_mismatch")
    assert await names(ann) == ["a"]
    assert (await post(ann, "a", HELLO, rename)).json["name"] == "a (1)"


@pytest.mark.parametrize("length", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
async def test_a_client_that_leaves_half_way_leaves_nothing(ann: Person, site: Site, length: str) -> None:
    async with wire(ann) as client:
        await client.begin("/v1/files?name=a", length)
        await client.stream.send(b"2710\r\n" + bytes(9994) if "chunked" in length else bytes(10_000))
        await until_receiving(site, 9994 if "chunked" in length else 10_000)
        assert (await ann("GET", "/v1/me")).json["usage"]["reserved_bytes"] > 0
    with anyio.fail_after(30):
        while (await ann("GET", "/v1/uploads?state=pending")).json["uploads"]:
            await anyio.sleep(0.001)
    (ended,) = (await ann("GET", "/v1/uploads")).json["uploads"]
    assert ended["state"] == "failed"
    assert await names(ann) == []
    await check_nothing_left(site, ann)


@pytest.mark.parametrize("touch_bytes", [1, arriving.TOUCH_BYTES], ids=["while-bytes-arrive", "at-the-end"])
async def test_a_user_who_is_disabled_half_way_gets_nothing_stored(
    ann: Person, bob: Person, site: Site, monkeypatch: pytest.MonkeyPatch, touch_bytes: int
) -> None:
    user_id = await me(ann)
    async with wire(ann) as client:
        await client.begin("/v1/files?name=a", "Content-Length: 10", TEXT)
        await client.stream.send(b"12345")
        await until_receiving(site, 5)
        await site.drive.catalog.write(
            lambda tx: users.set_state(tx, user_id, UserState.DISABLED, now=site.clock.now())
        )
        monkeypatch.setattr(arriving, "TOUCH_BYTES", touch_bytes)
        await client.stream.send(b"67890")
        answer = await client.answer()
    assert (answer.status, answer.json["code"]) == (410, "gone")
    await check_nothing_left(site, bob)


async def test_bodies_that_are_on_their_way_take_no_turn_from_others(
    monkeypatch: pytest.MonkeyPatch, open_site: OpenSite, http: aiohttp.ClientSession
) -> None:
    monkeypatch.setattr(fair_queue, "WRITES", 2)
    async with open_site() as site, anyio.create_task_group() as tasks:
        ann, bob = await Person(http, site.url).enter(), await Person(http, site.url).enter("bob@example.org")

        async def stall(name: str, started: anyio.Event) -> None:
            async with wire(ann) as client:
                await client.begin(f"/v1/files?name={name}", "Content-Length: 10", "Expect: 100-continue")
                await client.until(b"100 Continue")
                started.set()
                await anyio.sleep_forever()

        for number in range(6):
            started = anyio.Event()
            tasks.start_soon(stall, str(number), started)
            await started.wait()
        with anyio.fail_after(30):
            assert (await post(bob, "a")).status == 201
            assert (await post(ann, "a")).status == 201
        tasks.cancel_scope.cancel()


def form(*parts: tuple[str, bytes], boundary: str = "xyz", end: bytes = b"--\r\n") -> bytes:
    """A form by hand: of each part its headers and its bytes."""
    body = b"".join(
        f"--{boundary}\r\n{head}\r\n\r\n".encode("utf-8", "surrogateescape") + data + b"\r\n" for head, data in parts
    )
    return body + f"--{boundary}".encode() + end


def part(filename: str, data: bytes, mime: str = "") -> tuple[str, bytes]:
    kind = f"\r\nContent-Type: {mime}" if mime else ""
    return f'Content-Disposition: form-data; name="file"; filename="{filename}"{kind}', data


async def send_form(person: Person, body: Any, query: str = "", *, boundary: str = "xyz", **headers: str) -> Answer:
    sent = {"Content-Type": f"multipart/form-data; boundary={boundary}"} | headers
    return await person("POST", f"/v1/files{query}", data=body, headers=sent)


async def test_a_form_stores_each_of_its_files(ann: Person, site: Site) -> None:
    large = os.urandom(3 * MIB) + b"\r\n--xy\r\n"
    data = aiohttp.FormData(quote_fields=False)
    data.add_field("note", "a field")
    data.add_field("file", io.BytesIO(large), filename="large.bin", content_type="image/png")
    data.add_field("file", b"", filename="empty.txt", content_type="text/plain")
    data.add_field("other", HELLO, filename="été \U0001f389.txt", content_type="application/octet-stream")
    answer = await ann("POST", "/v1/files", data=data)
    assert answer.status == 201, answer.content
    found = [(file["name"], file["size_bytes"], file["mime"]) for file in answer.json["files"]]
    assert found == [
        ("large.bin", len(large), "image/png"),
        ("empty.txt", 0, "text/plain"),
        ("été \U0001f389.txt", len(HELLO), "text/plain"),
    ]
    assert await content_of(ann, answer.json["files"][0]) == large
    await check_nothing_left(site, ann)


@each(
    "case",
    [
        ('filename="a\\"b.txt"', 'a"b.txt'),
        ('filename="a%22b.txt"', 'a"b.txt'),
        ("filename=plain.txt", "plain.txt"),
        ("filename*=UTF-8''%e2%82%ac%20rates.txt", "€ rates.txt"),
        ("filename=\"fallback.txt\"; filename*=utf-8''%C3%A9.txt", "é.txt"),
        ("filename*=iso-8859-1'en'%A3.txt", "£.txt"),
        ('filename="C:\\\\fakepath\\\\a.txt"', "a.txt"),
        ('filename="semi;colon=1.txt"', "semi;colon=1.txt"),
        ('filename="日本.txt"', "日本.txt"),
    ],
)
async def test_a_form_names_its_files_in_every_way_that_clients_use(ann: Person, case: tuple[str, str]) -> None:
    said, name = case
    answer = await send_form(ann, form((f'Content-Disposition: form-data; name="f"; {said}', b"x")))
    assert (answer.status, [file["name"] for file in answer.json["files"]]) == (201, [name])


async def test_inputs_that_were_left_empty_and_fields_are_no_files(ann: Person) -> None:
    empty = part("", b"", "application/octet-stream")
    field = ('Content-Disposition: form-data; name="submit"', b"Send")
    answer = await send_form(ann, form(empty, field, part("a", b"1"), empty))
    assert [file["name"] for file in answer.json["files"]] == ["a"]


async def test_a_form_without_a_file_is_not_acknowledged(ann: Person) -> None:
    empty = part("", b"", "application/octet-stream")
    without_name = ('Content-Disposition: form-data; name="file"', b"the bytes of a file")
    for parts in ([], [empty], [without_name], [empty, without_name]):
        answer = await send_form(ann, form(*parts))
        assert (answer.status, answer.json["code"], answer.json["field"]) == (422, "invalid", "filename"), parts


async def test_the_files_of_a_directory_go_into_folders(ann: Person) -> None:
    body = form(part("top/a.txt", b"1"), part("top/sub/b.txt", b"2"))
    missing = await send_form(ann, body)
    assert (missing.status, missing.json["code"]) == (404, "not_found")
    answer = await send_form(ann, body, "?parents=true")
    assert answer.status == 201, answer.content
    top = next(file for file in (await ann("GET", "/v1/files?parent_id=root")).json["files"] if file["name"] == "top")
    assert await names(ann, top["id"]) == ["a.txt", "sub"]
    for name in ("../a", "a/../b", "/a", "a//b", "a/"):
        refused = await send_form(ann, form(part(name, b"1")), "?parents=true")
        assert refused.status == 422, name
    assert (await send_form(ann, form(part("a/b", b"1")), f"?parent_id={top['id']}&parents=true")).status == 422


@each(
    "body",
    [
        b"",
        b"--xyz",
        b"nothing of the kind",
        form(part("a", b"1"), end=b""),
        form(part("a", b"1"))[:-20],
        form(("Content-Disposition: attachment; filename=a", b"1")),
        form(("X: y", b"1")),
        form(('Content-Disposition: form-data; name="f"; filename="\udcff"', b"1")),
        form((f"X-Long: {'a' * 9000}", b"1")),
        form(*[("\r\n".join(f"X-{number}: y" for number in range(50)), b"1")]),
        form(part("", b"1")),
        form(("Content-Disposition: form-data; name=f; filename*=utf-8''%ff", b"1")),
        form(('Content-Disposition: form-data; name=f; filename="a"\r\nContent-Transfer-Encoding: base64', b"MQ==")),
        form(('Content-Disposition: form-data; name=f; filename="a"\r\nContent-Encoding: gzip', b"1")),
        b"x" * 200_000 + b"\r\n" + form(part("a", b"1")),
        form(('Content-Disposition: form-data; name="f"', bytes(MOST_FIELD_BYTES + 1))),
    ],
)
async def test_a_form_that_cannot_be_read_is_refused_and_stores_nothing(ann: Person, body: bytes) -> None:
    answer = await send_form(ann, body)
    assert answer.status in (400, 413, 415, 422), answer.content
    assert "Error" not in answer.json["detail"]
    assert await names(ann) == []


async def test_a_form_of_too_many_parts_is_refused_where_it_has_too_many(ann: Person, site: Site) -> None:
    field = ('Content-Disposition: form-data; name="f"', b"x")
    many = await send_form(ann, form(*[field] * (10 * MOST_PARTS), part("a", b"1")))
    assert (many.status, many.json["code"]) == (413, "too_large")
    assert await names(ann) == []
    assert (await send_form(ann, form(*[field] * (MOST_PARTS - 1), part("a", b"1")))).status == 201
    await check_nothing_left(site, ann)


async def test_a_file_of_a_form_that_is_refused_is_named_and_those_before_it_stay(ann: Person, site: Site) -> None:
    await set_quota(site, ann, 5)
    body = form(part("a", b"123"), part("b", b"456"), part("c", b"7"))
    answer = await send_form(ann, body)
    assert (answer.status, answer.json["code"]) == (507, "quota_exceeded")
    assert "'b'" in answer.json["detail"]
    assert await names(ann) == ["a"]
    await check_nothing_left(site, ann)
    await set_quota(site, ann, 50)
    again = await send_form(ann, body)  # the file that is there is recognized
    assert (again.status, [file["name"] for file in again.json["files"]]) == (201, ["a", "b", "c"])


async def test_a_repeated_form_with_its_key_stores_no_file_twice_and_the_rest(ann: Person, site: Site) -> None:
    await set_quota(site, ann, 5)
    body, query, key = (
        form(part("a", b"123"), part("b", b"456"), part("a", b"7")),
        "?on_conflict=rename",
        {"Idempotency-Key": "k"},
    )
    for _ in range(2):
        refused = await send_form(ann, body, query, **key)
        assert (refused.status, refused.json["code"]) == (507, "quota_exceeded")
        assert "'b'" in refused.json["detail"]
        assert await names(ann) == ["a"]
    await set_quota(site, ann, 50)
    for replayed in (None, "true"):
        again = await send_form(ann, body, query, **key)
        assert (again.status, [file["name"] for file in again.json["files"]]) == (201, ["a", "b", "a (1)"])
        assert [await content_of(ann, file) for file in again.json["files"]] == [b"123", b"456", b"7"]
        assert again.headers.get("Idempotency-Replayed") == replayed
    another = await send_form(ann, form(part("c", b"another request")), query, **{"Idempotency-Key": "l"})
    assert another.status == 201
    assert sorted(await names(ann)) == ["a", "a (1)", "b", "c"]
    await check_nothing_left(site, ann)


@each(
    "headers",
    [{"Content-Digest": digest("sha-256")}, {"If-Match": '"a"'}, {"Content-Type": "multipart/form-data"}],
)
async def test_a_form_cannot_have_what_is_said_of_one_file(ann: Person, headers: dict[str, str]) -> None:
    answer = await send_form(ann, form(part("a", b"1")), **headers)
    assert answer.status in (400, 422)
    assert (await send_form(ann, form(part("a", b"1")), "?name=b")).status == 422
    assert await names(ann) == []


async def test_a_client_that_leaves_within_a_form_leaves_only_whole_files(ann: Person, site: Site) -> None:
    body = form(part("a", b"1"), part("b", bytes(100_000)))
    async with wire(ann) as client:
        lines = "Content-Type: multipart/form-data; boundary=xyz", f"Content-Length: {len(body)}"
        await client.begin("/v1/files", *lines)
        await client.stream.send(body[:50_000])
        with anyio.fail_after(30):
            while [u["filename"] for u in (await ann("GET", "/v1/uploads?state=pending")).json["uploads"]] != ["b"]:
                await anyio.sleep(0.001)
    with anyio.fail_after(30):
        while (await ann("GET", "/v1/uploads?state=pending")).json["uploads"]:
            await anyio.sleep(0.001)
    assert await names(ann) == ["a"]
    await check_nothing_left(site, ann)


async def put(person: Person, path: str, content: Any = HELLO, **headers: str) -> Answer:
    """Store the content as the file at the path."""
    named = {header.replace("_", "-"): value for header, value in headers.items()}
    return await person("PUT", f"/v1/files/by-path/{path}", data=content, headers=named)


async def test_a_put_makes_the_file_at_a_path_and_then_replaces_it(ann: Person, site: Site) -> None:
    missing = await put(ann, "a/b/c.txt", b"1")
    assert (missing.status, missing.json["code"], missing.json["field"]) == (404, "not_found", "path")
    made = await put(ann, "a/b/c.txt?parents=true", b"1")
    assert (made.status, made.json["name"]) == (201, "c.txt")
    assert made.headers["Location"] == f"{ann.url}/v1/files/{made.json['id']}"
    found = await ann("GET", "/v1/files/by-path/a/b/c.txt")
    assert found.json == {**made.json, "path": "a/b/c.txt"}
    replaced = await put(ann, "a/b/c.txt", b"22", If_Match=made.headers["ETag"])
    assert (replaced.status, replaced.json["id"], replaced.json["size_bytes"]) == (200, made.json["id"], 2)
    assert (await put(ann, "a/b/c.txt", b"3", If_Match=made.headers["ETag"])).status == 412
    assert (await put(ann, "a/b/c.txt", b"3", If_None_Match="*")).status == 412
    taken = await put(ann, "a/b/c.txt?on_conflict=fail", b"3")
    assert (taken.status, taken.json["code"], taken.json["field"]) == (409, "name_taken", "path")
    assert (await put(ann, "a/b/c.txt?on_conflict=rename", b"3")).json["name"] == "c (1).txt"
    assert (await ann("GET", "/v1/files/by-path/a/b/c.txt?content")).content == b"22"
    await check_nothing_left(site, ann)


async def test_a_put_finds_no_way_through_a_file_or_onto_a_folder(ann: Person, site: Site) -> None:
    await put(ann, "folder/file?parents=true", b"1")
    for path, status, code in (
        ("folder", 409, "name_taken"),
        ("folder/", 409, "name_taken"),
        ("folder/file/a", 404, "not_found"),
        ("folder/file/a?parents=true", 409, "name_taken"),
        ("folder/file/a/b?parents=true", 409, "name_taken"),
        ("", 422, "invalid"),
        ("a%2Fb", 422, "invalid"),
        ("a%00b", 422, "invalid"),
        ("a//b?parents=true", 422, "invalid"),
        ("x/" * 1024 + "a?parents=true", 422, "too_deep"),
    ):
        refused = await put(ann, path, b"2")
        assert (refused.status, refused.json["code"]) == (status, code), path[:80]
        assert refused.json["field"] == "path"
    assert await names(ann) == ["folder"]
    assert (await ann("GET", "/v1/files/by-path/folder/file?content")).content == b"1"
    await check_nothing_left(site, ann)


async def test_no_path_leads_through_the_trash(ann: Person, site: Site) -> None:
    folder = (await ann("POST", "/v1/folders", {"name": "folder"})).json
    await ann("DELETE", f"/v1/files/{folder['id']}")
    assert (await put(ann, "folder/a", b"1")).status == 404
    assert (await post(ann, "a", b"1", f"&parent_id={folder['id']}")).status == 404
    again = await put(ann, "folder/a?parents=true", b"1")
    assert again.status == 201
    assert again.json["parent_id"] != folder["id"]
    await check_nothing_left(site, ann)


async def test_a_folder_that_is_trashed_half_way_takes_no_file(ann: Person, site: Site) -> None:
    folder = (await ann("POST", "/v1/folders", {"name": "folder"})).json
    async with wire(ann) as client:
        await client.begin("/v1/files/by-path/folder/a", "Content-Length: 4", TEXT, method="PUT")
        await client.stream.send(b"12")
        await until_receiving(site, 2)
        await ann("DELETE", f"/v1/files/{folder['id']}")
        await client.stream.send(b"34")
        answer = await client.answer()
    assert (answer.status, answer.json["code"]) == (410, "gone")
    await check_nothing_left(site, ann)


async def test_two_writers_on_one_path_both_succeed_and_both_are_kept(ann: Person, site: Site) -> None:
    answers: list[Answer] = []

    async def write(content: bytes) -> None:
        answers.append(await put(ann, "a?parents=true", content))

    async with anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(write, b"%d" % number * 1000)
    assert sorted(answer.status for answer in answers) == [200] * 7 + [201]
    assert len({answer.json["id"] for answer in answers}) == 1
    rows = await site.drive.catalog.read(lambda tx: tx.all("SELECT object_key FROM versions"))
    assert len(rows) == 8
    await check_nothing_left(site, ann)


async def test_of_two_writers_of_one_new_name_one_wins(ann: Person, site: Site) -> None:
    answers: list[Answer] = []

    async def write(content: bytes) -> None:
        answers.append(await put(ann, "folder/a?parents=true", content, If_None_Match="*"))

    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(write, b"%d" % number)
    assert sorted(answer.status for answer in answers) == [201] + [412] * 5
    assert await names(ann) == ["folder"]
    await check_nothing_left(site, ann)


async def test_the_bytes_come_by_path_with_ranges_and_conditions(ann: Person) -> None:
    file = (await put(ann, "a/b.txt?parents=true", HELLO)).json
    path = "/v1/files/by-path/a/b.txt"
    by_id = await ann("GET", f"/v1/files/{file['id']}/content")
    whole = await ann("GET", f"{path}?content")
    assert (whole.status, whole.content) == (200, HELLO)
    for name in ("ETag", "Last-Modified", "Content-Type", "Content-Disposition", "Content-Security-Policy", "Vary"):
        assert whole.headers[name] == by_id.headers[name]
    part = await ann("GET", f"{path}?content=true", headers={"Range": "bytes=0-4"})
    assert (part.status, part.content) == (206, b"Hello")
    assert (await ann("GET", f"{path}?content", headers={"If-None-Match": whole.headers["ETag"]})).status == 304
    assert (await ann("GET", f"{path}?content", headers={"If-Match": '"x"'})).status == 412
    shown = await ann("GET", f"{path}?content&inline=true")
    assert shown.headers["Content-Disposition"].startswith("inline")
    assert (await ann("HEAD", f"{path}?content")).headers["Content-Length"] == str(len(HELLO))
    for wrong, status in (("a?content", 404), ("none?content", 404), ("a/b.txt?content&children", 422)):
        assert (await ann("GET", f"/v1/files/by-path/{wrong}")).status == status
    assert (await Person(ann.http, ann.url)("GET", f"{path}?content")).status == 401


async def test_a_download_that_nobody_reads_takes_no_turn_from_others(
    monkeypatch: pytest.MonkeyPatch, open_site: OpenSite, http: aiohttp.ClientSession
) -> None:
    monkeypatch.setattr(fair_queue, "READS", 2)
    async with open_site() as site:
        ann, bob = await Person(http, site.url).enter(), await Person(http, site.url).enter("bob@example.org")
        file = (await put(ann, "a", bytes(8 * MIB))).json
        streams = []
        try:
            for target in ("/v1/files/by-path/a?content", f"/v1/files/{file['id']}/content") * 3:
                stream = await anyio.connect_tcp("127.0.0.1", site.port)
                streams.append(stream)
                head = f"GET {target} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ann.token}\r\n\r\n"
                await stream.send(head.encode())
                assert (await stream.receive(1000)).startswith(b"HTTP/1.1 200 ")
            with anyio.fail_after(30):
                assert (await bob("GET", "/v1/files")).status == 200
                assert (await ann("GET", "/v1/files/by-path/a")).status == 200
        finally:
            for stream in streams:
                await stream.aclose()


async def test_a_small_body_that_cannot_be_a_file_leaves_no_bytes(ann: Person, site: Site) -> None:
    assert (await put(ann, "a", b"first")).status == 201
    taken = await put(ann, "a?on_conflict=fail", b"other")
    assert (taken.status, taken.json["code"]) == (409, "name_taken")
    missing = await put(ann, "no/such/folder", b"other")
    assert missing.status == 404
    await check_nothing_left(site, ann)


async def test_a_small_body_that_the_quota_does_not_cover_never_reaches_the_store(
    ann: Person, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: object, **__: object) -> None:
        pytest.fail("it was stored")

    await site.drive.catalog.write(lambda tx: tx.run("UPDATE users SET quota_bytes = 3"))
    monkeypatch.setattr(type(site.drive.packing), "put_each", refused)
    answer = await put(ann, "a", b"1234")
    assert (answer.status, answer.json["field"]) == (507, "Content-Length")
    await check_nothing_left(site, ann)


@pytest.mark.parametrize("is_done", [True, False])
async def test_a_lost_answer_for_several_bodies_is_asked_for_again(
    ann: Person, site: Site, monkeypatch: pytest.MonkeyPatch, is_done: bool
) -> None:
    metadata = site.drive.metadata
    ask = type(metadata).ask

    async def lossy(ref: Any, message: Any, **options: Any) -> Any:
        if isinstance(message, MakeFiles):
            if is_done:
                await ask(ref, message, **options)
            raise AskTimeout("The answer is lost.")
        return await ask(ref, message, **options)

    monkeypatch.setattr(type(metadata), "ask", lossy)
    assert (await put(ann, "a", b"1234")).status == 201
    intent = (await ann("POST", "/v1/files/upload-intent", {"filename": "b", "size_bytes": 4})).json
    assert (await ann("PUT", intent["upload_url"], data=b"5678")).status == 201
    monkeypatch.undo()
    assert [file["name"] for file in (await ann("GET", "/v1/files")).json["files"]] == ["b", "a"]
    await check_nothing_left(site, ann)


@pytest.mark.parametrize("is_done", [True, False])
async def test_an_answer_of_the_catalog_that_is_lost_leaves_a_whole_file_or_nothing(
    ann: Person, site: Site, monkeypatch: pytest.MonkeyPatch, is_done: bool
) -> None:
    """The command is sent again, so a file that was made keeps its bytes."""
    metadata, asked = site.drive.metadata, 0
    ask = type(metadata).ask

    async def lossy(ref: Any, message: Any, **options: Any) -> Any:
        nonlocal asked
        if isinstance(message, MakeFiles):
            return [None]  # so that it is asked alone
        if not isinstance(message, StoreFile):
            return await ask(ref, message, **options)
        asked += 1
        if asked == 1:
            if is_done:
                await ask(ref, message, **options)
            raise AskTimeout("The answer is lost.")
        if is_done:
            return await ask(ref, message, **options)
        raise NameTaken("Another was first.", field="name")

    monkeypatch.setattr(type(metadata), "ask", lossy)
    assert (await put(ann, "a", b"1234")).status == (201 if is_done else 504)
    monkeypatch.undo()
    assert asked == 2
    assert len((await ann("GET", "/v1/files")).json["files"]) == is_done
    await check_nothing_left(site, ann)


async def test_a_form_says_of_a_file_that_its_bytes_are_the_content(ann: Person) -> None:
    head = 'Content-Disposition: form-data; name=f; filename="a"\r\nContent-Transfer-Encoding: Binary'
    answer = await send_form(ann, form((head, b"MQ==")))
    assert await content_of(ann, answer.json["files"][0]) == b"MQ=="


@each("query", ["name=%ff", "name=a%c3", "name=%ed%a0%80"])
async def test_a_name_that_is_not_utf_8_is_refused_and_becomes_no_other(ann: Person, site: Site, query: str) -> None:
    url = URL(f"{site.url}/v1/files?parent_id=root&on_conflict=replace&{query}", encoded=True)
    headers = {"Authorization": f"Bearer {ann.token}"}
    async with ann.http.post(url, data=b"1", headers=headers) as answer:
        assert (answer.status, (await answer.json())["field"]) == (422, "name")
    assert await names(ann) == []


@each("coding", ["gzip, chunked", "deflate,chunked"])
async def test_bytes_in_a_transfer_coding_are_not_taken_for_the_content(
    ann: Person, exchange: Exchange, coding: str
) -> None:
    head = f"PUT /v1/files/by-path/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ann.token}\r\n"
    sent = f"{head}Transfer-Encoding: {coding}\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    answer = parse(await exchange(sent.encode(), half_close=True))
    assert (answer.status, answer.json["field"]) == (400, "Transfer-Encoding")
    assert await names(ann) == []


@each(
    "twice",
    [
        ("Authorization", "Bearer {token}", "Bearer x", 401),
        ("Authorization", "Bearer x", "Bearer {token}", 401),
        ("X-Modified-At", "2026-01-31T12:00:00Z", "2027-01-31T12:00:00Z", 422),
        ("Idempotency-Key", "a", "b", 422),
    ],
)
async def test_of_two_values_of_one_header_none_is_chosen(
    ann: Person, exchange: Exchange, twice: tuple[str, str, str, int]
) -> None:
    name, first, second, status = twice
    lines = [f"{name}: {value.format(token=ann.token)}" for value in (first, second)]
    if name != "Authorization":
        lines.append(f"Authorization: Bearer {ann.token}")
    head = "\r\n".join(["PUT /v1/files/by-path/a HTTP/1.1", "Host: x", *lines, "Content-Length: 1", "", "1"])
    assert parse(await exchange(head.encode(), half_close=True)).status == status
    assert await names(ann) == []
