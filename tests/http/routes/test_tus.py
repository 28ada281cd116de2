"""tus 1.0, over a socket: bytes, on every store."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import timedelta
from email.utils import parsedate_to_datetime
from itertools import pairwise

import anyio
import pytest

from godrive.blobs import BlobStore
from godrive.errors import StoreUnavailable
from godrive.http.wire import fair_queue
from godrive.http.wire.direct_body import DirectBody
from godrive.messages.ingest import Reconcile
from godrive.messages.janitor import Sweep
from godrive.testing import chunks
from tests.cases import each
from tests.http.client import Answer, Person, Site
from tests.http.conftest import OpenSite
from tests.http.routes.test_storing import Wire, check_nothing_left, content_of, names, set_quota, wire
from tests.http.tus import CHUNK, HELLO, MIB, checksum, create, file_at, head, metadata, offset_of, patch, send
from tests.noise import noise

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "disk", pytest.param("s3", marks=pytest.mark.servers)])
async def site(request: pytest.FixtureRequest, open_site: OpenSite) -> AsyncIterator[Site]:
    store: BlobStore | None = None
    if request.param == "s3":
        from tests.ceph import ProbedOnce, own_bucket

        store = ProbedOnce(own_bucket(request.getfixturevalue("ceph_gateway")))
    async with open_site(blob_store=store, blobs={"driver": "memory" if store else request.param}) as site:
        yield site


@pytest.mark.parametrize("size", [1, 300_000, 5 * MIB + 1])
async def test_an_upload_in_pieces_becomes_the_file(ann: Person, site: Site, size: int) -> None:
    content = noise(size)
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
    site.clock.advance(60 * 3600)  # a laptop that is closed over a weekend
    await site.drive.ingest.ask(Reconcile())
    await ann.enter()
    assert (await patch(ann, url, 3, b"x")).status == 204
    site.clock.advance(site.drive.config.blobs.resume_ttl + 1)
    await site.drive.ingest.ask(Reconcile())
    await ann.enter()
    for answer in (await head(ann, url), await patch(ann, url, 4, b"x")):
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
    parts = [noise(size) for size in (100_000, 1, 0, MIB)]
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


async def test_a_join_that_was_interrupted_goes_on_with_the_same_parts_only(
    ann: Person, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [await create(ann, len(part), Upload_Concat="partial", Upload_Metadata="") for part in (b"one", b"two!")]
    for url, part in zip(urls, (b"one", b"two!"), strict=True):
        assert (await patch(ann, url, 0, part)).status == 204

    async def join(*parts: str) -> Answer:
        said = metadata(filename="a")
        return await send(ann, "POST", "/v1/tus", Upload_Concat=f"final;{' '.join(parts)}", Upload_Metadata=said)

    async def down(*_: object) -> None:
        raise StoreUnavailable("down")

    with monkeypatch.context() as broken:
        broken.setattr(site.drive.appendable, "join", down)
        assert (await join(*urls)).status == 503
    for others in (urls[:1], urls[::-1], [*urls, urls[0]]):
        refused = await join(*others)
        assert (refused.status, refused.json["code"]) == (409, "conflict")
        assert await names(ann) == []
    answer = await join(*urls)
    assert answer.status == 201, answer.content
    assert await content_of(ann, await file_at(ann, answer)) == b"onetwo!"
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


@pytest.mark.parametrize("chunked", [False, True])
async def test_no_byte_over_the_length_is_stored(ann: Person, site: Site, chunked: bool) -> None:
    url = await create(ann, 8)
    await patch(ann, url, 0, HELLO[:4])
    for content in (HELLO[4:9], noise(3 * MIB)):
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
    content = noise(size)
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
        assert at == size // 2
        ended = await dead.answer()
        assert (ended.status, ended.json["code"]) == (409, "upload_taken_over")
        answer = await patch(ann, url, at, content[at:])
    assert await content_of(ann, await file_at(ann, answer)) == content
    await check_nothing_left(site, ann)


@pytest.mark.parametrize("size", [300_000, 6 * MIB])
async def test_what_has_arrived_of_a_request_that_breaks_off_stays(ann: Person, site: Site, size: int) -> None:
    content = noise(size)
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


async def test_requests_that_send_nothing_take_no_turn_from_others(
    monkeypatch: pytest.MonkeyPatch, open_site: OpenSite, ann: Person
) -> None:
    monkeypatch.setattr(fair_queue, "WRITES", 2)
    async with open_site() as site, AsyncExitStack() as stalled:
        person = await Person(ann.http, site.url).enter()
        for number in range(4):
            url = await create(person, 10, Upload_Metadata=metadata(filename=str(number)))
            await begin_patch(await stalled.enter_async_context(wire(person)), url, 0, 10)
        with anyio.fail_after(30):
            await patch(person, await create(person, 1), 0, b"x")
            assert await names(person) == ["a.txt"]


async def test_a_chunk_for_which_no_memory_is_left_is_refused_and_sent_again(ann: Person, site: Site) -> None:
    url = await create(ann, 12 * MIB)
    memory = site.drive.memory

    async def content() -> AsyncIterator[bytes]:
        yield bytes(5 * MIB)
        with anyio.fail_after(30):
            while not (bodies := [holder for holder in memory._holders if isinstance(holder, DirectBody)]):
                await anyio.sleep(0.01)
        bodies[0].shed()
        yield bytes(7 * MIB)

    answer = await patch(ann, url, 0, content(), Content_Length=12 * MIB)
    assert (answer.status, answer.json["code"]) == (503, "overloaded")
    assert int(answer.headers["Retry-After"]) >= 1
    offset = await offset_of(ann, url)
    assert offset <= 5 * MIB
    done = await patch(ann, url, offset, bytes(12 * MIB - offset))
    assert (done.status, done.headers["Upload-Offset"]) == (204, str(12 * MIB))
