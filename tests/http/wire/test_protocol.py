"""HTTP itself: what is no request, bodies that lie, methods, conditions of the connection."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
from typing import Any

import aiohttp
import anyio
import pytest

from godrive.http.wire import server as wire_server
from godrive.http.wire.server import serve
from godrive.testing import open_drive
from tests.cases import each
from tests.http.client import Person, Site, parse

pytestmark = pytest.mark.anyio

PROBLEM = {"type", "title", "status", "detail", "code", "error", "request_id"}
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
LOGIN = b'{"email":"ann@example.org","password":"correct horse"}'


def check_problem(answer: Any, status: int, code: str, field: str | None = None) -> None:
    """That it is the problem it should be, whole."""
    assert (answer.status, answer.json["code"]) == (status, code), answer.content
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json.keys() == PROBLEM | ({"field"} if "field" in answer.json else set())
    assert answer.json["status"] == status
    assert answer.json["error"] == answer.json["title"]
    assert answer.json["request_id"] == answer.headers["x-request-id"]
    assert answer.json.get("field") == field


async def test_a_path_that_is_not_there_is_a_problem(stranger: Person) -> None:
    for path in ("/nope", "/v1", "/v1/", "/v1/files/", "//v1/files", "/V1/files", "/%00", "/%ff", "/v1/files/a/b"):
        check_problem(await stranger("GET", path), 404, "not_found")


async def test_a_method_that_is_not_there_is_a_problem_with_allow(stranger: Person) -> None:
    answer = await stranger("POST", "/v1/me")
    check_problem(answer, 405, "method_not_allowed")
    assert set(answer.headers["Allow"].replace(" ", "").split(",")) == {"GET", "HEAD", "PATCH", "DELETE"}
    check_problem(await stranger("PROPFIND", "/health"), 405, "method_not_allowed")
    check_problem(await stranger("BREW", "/health"), 400, "malformed")


async def test_options_tells_what_is_allowed(stranger: Person) -> None:
    answer = await stranger("OPTIONS", "/v1/trash")
    assert answer.status == 204
    assert set(answer.headers["Allow"].replace(" ", "").split(",")) == {"GET", "HEAD", "DELETE", "OPTIONS"}
    assert (await stranger("OPTIONS", "/nope")).status == 404


@pytest.mark.parametrize("path", ["/health", "/v1/files", "/v1/me", "/openapi.json", "/docs", "/metrics", "/readyz"])
async def test_head_is_get_without_its_body(ann: Person, path: str) -> None:
    head, get = await ann("HEAD", path), await ann("GET", path)
    assert (head.status, head.content) == (200, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    assert int(head.headers["Content-Length"]) > 0


async def test_a_sane_request_id_is_kept_and_another_replaced(stranger: Person) -> None:
    for sane in ("a", "x" * 128, "7f3a-!~"):
        assert (await stranger("GET", "/health", headers={"X-Request-Id": sane})).headers["X-Request-Id"] == sane
    for other in ("", "x" * 129, "with space", "ünïcödé"):
        given = (await stranger("GET", "/nope", headers={"X-Request-Id": other})).headers["X-Request-Id"]
        assert given not in ("", other)
    ids = {(await stranger("GET", "/health")).headers["X-Request-Id"] for _ in range(3)}
    assert len(ids) == 3


@each(
    "body",
    [b"{", b"nonsense", b'{"email":', b"\xff\xfe", b'{"email":"\xff"}', b'{"email":"\\ud800"}', LOGIN + b"{}", b"\0"],
)
async def test_what_is_not_json_is_malformed(stranger: Person, body: bytes) -> None:
    answer = await stranger("POST", "/v1/login", data=body, headers={"Content-Type": "application/json"})
    check_problem(answer, 400, "malformed")


async def test_an_empty_body_is_malformed_where_one_is_needed(stranger: Person) -> None:
    check_problem(await stranger("POST", "/v1/login"), 400, "malformed")


@pytest.mark.parametrize("body", [b"[]", b"null", b"7", b'"x"', b"[" * 30_000, b'{"email":{"a":1},"password":"x"}'])
async def test_json_of_another_shape_is_invalid_or_malformed(stranger: Person, body: bytes) -> None:
    answer = await stranger("POST", "/v1/login", data=body, headers={"Content-Type": "application/json"})
    assert answer.json["code"] in ("invalid", "malformed")


@pytest.mark.parametrize(
    "said",
    ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8", "application/x+json"],
)
async def test_json_may_be_called_what_json_is_called(ann: Person, said: str) -> None:
    assert (await ann("POST", "/v1/login", data=LOGIN, headers={"Content-Type": said})).status == 200


@pytest.mark.parametrize(
    "said",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "json",
        "application/json;charset=utf-16",
    ],
)
async def test_another_media_type_is_unsupported(ann: Person, said: str) -> None:
    answer = await ann("POST", "/v1/login", data=LOGIN, headers={"Content-Type": said})
    check_problem(answer, 415, "unsupported_media_type", "Content-Type")


async def test_a_compressed_body_is_unsupported_and_never_unpacked(ann: Person) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = await ann("POST", "/v1/login", data=b"\x1f\x8b" + LOGIN, headers=headers)
    check_problem(answer, 415, "unsupported_media_type", "Content-Encoding")


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait only a moment for a client that sends more after its answer."""
    monkeypatch.setattr(wire_server, "LINGERING", 0.05)


async def test_a_body_over_the_limit_is_too_large_declared_or_not(
    http: aiohttp.ClientSession, open_site: Any, exchange: Any, hasty: None
) -> None:
    async with open_site(server={"max_body_bytes": 2048}) as site:
        ann = Person(http, site.url)
        big = json.dumps({"email": "a" * 2048, "password": "x"}).encode()
        headers = {"Content-Type": "application/json"}
        check_problem(await ann("POST", "/v1/login", data=big, headers=headers), 413, "too_large")
        chunked = b"POST /v1/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunked += b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (big[:1500], big[1500:])) + b"0\r\n\r\n"
        check_problem(parse(await exchange(chunked, port=site.port, half_close=True)), 413, "too_large")
        endless = chunked.removesuffix(b"0\r\n\r\n")
        check_problem(parse(await exchange(endless, port=site.port)), 413, "too_large")
        declared = b"POST /v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
        check_problem(parse(await exchange(declared, port=site.port, half_close=True)), 413, "too_large")


async def test_a_stranger_sends_no_more_than_strangers_have_to_say(ann: Person, stranger: Person) -> None:
    longest = json.dumps({"email": "a" * 64 + "@example.org", "password": "\U0001f600" * 1024})
    said = {"Content-Type": "application/json"}
    assert (await stranger("POST", "/v1/signup", data=longest, headers=said)).status == 201
    check_problem(await stranger("POST", "/v1/login", data=longest + " " * 32_768, headers=said), 413, "too_large")
    known = '{"current_password":"correct horse"}' + " " * 32_768
    assert (await ann("PATCH", "/v1/me", data=known, headers=said)).status == 200


async def test_a_body_that_stops_half_way_is_malformed_and_the_connection_ends(exchange: Any) -> None:
    for body in (
        b"Content-Length: 100\r\n\r\n" + LOGIN,
        b"Transfer-Encoding: chunked\r\n\r\n10\r\n{",
        b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ):
        received = await exchange(b"POST /v1/login HTTP/1.1\r\nHost: x\r\n" + body, half_close=True)
        check_problem(parse(received), 400, "malformed")
        assert parse(received).headers["connection"] == "close"


async def test_a_client_that_ends_its_side_after_the_request_is_still_answered(exchange: Any) -> None:
    received = await exchange(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", half_close=True)
    assert parse(received).json["ok"] is True


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"POST /v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{", 400),
    ],
)
async def test_a_request_and_the_end_of_the_client_may_come_at_once(site: Site, request_: bytes, status: int) -> None:
    with socket.create_connection(("127.0.0.1", site.port)) as client:
        client.sendall(request_)
        client.shutdown(socket.SHUT_WR)  # before the server has had a turn
        client.setblocking(False)
        received = b""
        with anyio.fail_after(30):
            while piece := await asyncio.get_running_loop().sock_recv(client, 65_536):
                received += piece
    assert parse(received).status == status


async def test_a_client_that_leaves_in_the_middle_of_a_body_is_no_error(
    site: Site, ann: Person, exchange: Any, caplog: pytest.LogCaptureFixture
) -> None:
    intent = await ann("POST", "/v1/files/upload-intent", {"filename": "a", "size_bytes": 99_999})
    put = f"PUT {intent.json['upload_url'].removeprefix(site.url)} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n"
    check_problem(parse(await exchange(put.encode() + b"half", half_close=True)), 400, "malformed")
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.slow
async def test_a_slow_body_times_out(open_site: Any, exchange: Any, hasty: None) -> None:
    async with open_site(server={"body_timeout": 0.05}) as site:
        request = b"POST /v1/login HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
        received = await exchange(request, port=site.port)
        check_problem(parse(received), 408, "request_timeout")
        assert parse(received).headers["connection"] == "close"


@each(
    ("request_", "status", "code"),
    [
        (b"nonsense\r\n\r\n", 400, "malformed"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400, "malformed"),
        (b"GET /health HTTP/9.9\r\nHost: x\r\n\r\n", 400, "malformed"),
        (b"GET health HTTP/1.1\r\nHost: x\r\n\r\n", 400, "malformed"),
        (b"GET /health HTTP/1.1\r\n\r\n", 400, "malformed"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400, "malformed"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400, "malformed"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", 400, "malformed"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400, "malformed"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "malformed"),
        (b"POST /v1/login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "malformed"),
        (
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "malformed",
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400, "malformed"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "malformed"),
        (b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414, "url_too_long"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 20_000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n", 431, "headers_too_large"),
        (
            b"POST /v1/login HTTP/1.1\r\nHost: x\r\nExpect: magic\r\nContent-Length: 2\r\n\r\n{}",
            417,
            "expectation_failed",
        ),
        (b"POST /nope HTTP/1.1\r\nHost: x\r\nExpect: magic\r\nContent-Length: 2\r\n\r\n{}", 417, "expectation_failed"),
    ],
)
async def test_what_is_no_request_is_a_problem_too(exchange: Any, request_: bytes, status: int, code: str) -> None:
    check_problem(parse(await exchange(request_, half_close=True)), status, code)


@pytest.mark.parametrize(
    "target", [b"*", b"http://x/health", b"/health?%", b"/health?a=%ff&\xff", b"/\xff", b"/%", b"/?"]
)
async def test_odd_targets_get_an_answer(exchange: Any, target: bytes) -> None:
    for method in (b"GET", b"OPTIONS"):
        received = await exchange(method + b" " + target + b" HTTP/1.1\r\nHost: x\r\n\r\n", half_close=True)
        assert parse(received).status in (200, 204, 302, 400, 404)


@pytest.mark.parametrize(
    "header", [b"User-Agent", b"X-Request-Id", b"Origin", b"X-Forwarded-For", b"Cookie", b"Accept"]
)
async def test_headers_that_are_not_ascii_get_an_answer(ann: Person, exchange: Any, header: bytes) -> None:
    for value in (b"\xff\xfe\x80", "ünïcödé €".encode(), b"\x80" * 500, b""):
        request = b"POST /v1/login HTTP/1.1\r\nHost: x\r\n%s: %s\r\nContent-Length: %d\r\n\r\n%s"
        received = await exchange(request % (header, value, len(LOGIN), LOGIN), half_close=True)
        assert parse(received).status == 200


async def test_if_match_that_is_not_ascii_gets_an_answer(ann: Person, exchange: Any) -> None:
    file = await ann.upload("a.txt")
    for value in (b'"\xff"', '"€"'.encode(), b"\xff"):
        head = f"DELETE /v1/files/{file['id']} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ann.token}\r\nIf-Match: "
        received = await exchange(head.encode() + value + b"\r\n\r\n", half_close=True)
        assert parse(received).status in (412, 422)


async def test_the_body_of_a_patient_client_is_asked_for(ann: Person, exchange: Any) -> None:
    head = b"POST /v1/login HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(LOGIN)
    received = await exchange(head + LOGIN, half_close=True)
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")


async def test_requests_in_a_pipeline_are_answered_in_order(exchange: Any) -> None:
    one = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: %d\r\n\r\n"
    last = b"GET /health HTTP/1.1\r\nHost: x\r\nX-Request-Id: 3\r\nConnection: close\r\n\r\n"
    received = await exchange(one % 1 + one % 2 + last)
    assert [line.split()[1] for line in received.split(b"\r\n") if line.lower().startswith(b"x-request-id")] == [
        b"1",
        b"2",
        b"3",
    ]


async def test_http_1_0_is_answered_and_closed(exchange: Any) -> None:
    assert parse(await exchange(b"GET /health HTTP/1.0\r\n\r\n")).json["ok"] is True


async def test_headers_that_never_end_end_the_connection(open_site: Any, exchange: Any) -> None:
    async with open_site(server={"body_timeout": 0.05, "keepalive_timeout": 0.05}) as site:
        assert await exchange(b"GET /health HTTP/1.1\r\nHost: x\r\nA: ", port=site.port) == b""
        answered = await exchange(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", port=site.port)
        assert parse(answered).status == 200


async def test_no_header_of_a_request_has_a_say_in_absolute_urls(ann: Person, site: Site) -> None:
    evil = {"Host": "evil.example", "X-Forwarded-Host": "evil.example", "Forwarded": "host=evil.example"}
    intent = await ann("POST", "/v1/files/upload-intent", {"filename": "a", "size_bytes": 1}, headers=evil)
    assert b"evil" not in intent.content
    assert intent.headers["Location"].startswith(site.url)


async def test_json_is_never_sniffed_and_the_server_tells_no_version(stranger: Person) -> None:
    for path in ("/health", "/nope"):
        answer = await stranger("GET", path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Server"] == "godrive"


async def test_a_crashed_actor_is_500_crashed_and_the_next_request_works(ann: Person, site: Site) -> None:
    catalog = site.drive.catalog
    read = catalog.read

    async def broken(_operation: Any) -> Any:
        raise ZeroDivisionError

    catalog.read = broken  # type: ignore[method-assign, assignment]
    answer = await ann("GET", "/v1/files")
    catalog.read = read  # type: ignore[method-assign]
    check_problem(answer, 500, "crashed")
    assert (await ann("GET", "/v1/files")).status == 200


async def test_requests_in_hand_are_finished_when_the_server_stops(http: aiohttp.ClientSession, open_site: Any) -> None:
    reached, release = anyio.Event(), anyio.Event()
    answers: list[int] = []
    async with anyio.create_task_group() as tasks, open_site() as site:
        ann = await Person(http, site.url).enter()
        read = site.drive.catalog.read

        async def slow(operation: Any, **options: Any) -> Any:
            reached.set()
            await release.wait()
            return await read(operation, **options)

        async def ask() -> None:
            answers.append((await ann("GET", "/v1/files")).status)

        site.drive.catalog.read = slow
        tasks.start_soon(ask)
        await reached.wait()
        tasks.start_soon(_release_later, release)
    assert answers == [200]


async def test_answers_of_a_server_that_stops_say_so_and_a_late_request_is_answered(open_site: Any) -> None:
    """A request that comes while idle connections linger is not lost."""
    async with anyio.create_task_group() as tasks, open_drive() as drive:
        opened, stop, stopped = anyio.Event(), anyio.Event(), anyio.Event()
        ports: list[int] = []

        async def run() -> None:
            async with serve(drive, "127.0.0.1", 0, linger=10) as (url,):
                ports.append(int(url.rpartition(":")[2]))
                opened.set()
                await stop.wait()
            stopped.set()

        tasks.start_soon(run)
        await opened.wait()
        async with await anyio.connect_tcp("127.0.0.1", ports[0]) as client:
            await client.send(HEALTH)
            assert "connection" not in parse(await client.receive()).headers
            stop.set()
            await anyio.wait_all_tasks_blocked()
            assert not stopped.is_set()
            await client.send(HEALTH)
            last = parse(await client.receive())
            assert (last.status, last.headers["connection"]) == (200, "close")
            with anyio.fail_after(30):
                with pytest.raises(anyio.EndOfStream):
                    await client.receive()
                await stopped.wait()


async def test_a_client_that_leaves_before_it_is_asked_for_its_body_is_no_error(
    http: aiohttp.ClientSession, open_site: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_site() as site:
        ann = await Person(http, site.url).enter()
        intent = await ann("POST", "/v1/files/upload-intent", {"filename": "a", "size_bytes": 99})
        paths = ["/v1/login", intent.json["upload_url"].removeprefix(site.url)]
        for method, path in zip(("POST", "PUT"), paths, strict=True):
            head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 99\r\n\r\n"
            with socket.create_connection(("127.0.0.1", site.port)) as client:
                client.sendall(head.encode())
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # leave with a reset
            await anyio.wait_all_tasks_blocked()
            assert (await ann("GET", "/health")).status == 200
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


async def _release_later(release: anyio.Event) -> None:
    await anyio.wait_all_tasks_blocked()
    release.set()
