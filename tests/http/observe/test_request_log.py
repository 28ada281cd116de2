"""Requests in the log."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp.test_utils import TestServer

from godrive.http.app import create_app
from godrive.http.observe.request_log import Answered, JsonLines
from godrive.testing import open_drive
from tests.http.client import Person, Site

pytestmark = pytest.mark.anyio


def answered(**fields: Any) -> Answered:
    default = {"method": "GET", "path": "/", "status": 200, "seconds": 0.5, "request_id": "id", "address": "192.0.2.1"}
    return Answered(**{**default, **fields})


async def test_a_line_names_the_client_and_the_user_and_how_it_ended() -> None:
    file = io.BytesIO()
    log = JsonLines(file)
    log(answered(user="u1", ended="cut"))
    await anyio.wait_all_tasks_blocked()
    line = json.loads(file.getvalue())
    assert {name: line[name] for name in ("address", "user", "ended")} == {
        "address": "192.0.2.1",
        "user": "u1",
        "ended": "cut",
    }


async def test_the_line_of_a_request_has_the_address_of_the_client_and_the_id_of_the_user(
    http: aiohttp.ClientSession,
) -> None:
    told: list[Answered] = []
    async with (
        open_drive(server={"trusted_proxies": ["127.0.0.1"]}) as drive,
        TestServer(create_app(drive, log_request=told.append)) as server,
    ):
        ann = await Person(http, str(server.make_url("")).rstrip("/")).enter()
        me = await ann("GET", "/v1/me", headers={"X-Forwarded-For": "192.0.2.7"})
        await Person(http, ann.url)("GET", "/v1/me")
    assert [(line.address, line.user, line.status) for line in told[-2:]] == [
        ("192.0.2.7", me.json["id"], 200),
        ("127.0.0.1", None, 401),
    ]


async def test_requests_are_logged_without_query_or_token(ann: Person, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="godrive.http"):
        await ann("GET", "/v1/files?q=private", headers={"X-Request-Id": "mine"})
    (line,) = [record.getMessage() for record in caplog.records]
    assert "request_id='mine'" in line
    assert "path='/v1/files'" in line
    assert "status=200" in line
    assert "private" not in line
    assert str(ann.token) not in line


async def test_a_path_can_forge_no_line(site: Site, exchange: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="godrive.http"):
        await exchange(b"GET /%0Aevent=forged%FF HTTP/1.1\r\nHost: x\r\n\r\n", half_close=True)
    (line,) = [record.getMessage() for record in caplog.records]
    assert "\n" not in line
    assert line.isascii()
    assert "/%0Aevent=forged" in line


async def test_lines_of_json_are_whole_and_in_order() -> None:
    file = io.BytesIO()
    log = JsonLines(file)
    for number in range(3):
        log(answered(path=f"/{number}"))
    assert file.getvalue() == b""
    await anyio.wait_all_tasks_blocked()
    lines = [json.loads(line) for line in file.getvalue().splitlines()]
    assert [line["path"] for line in lines] == ["/0", "/1", "/2"]
    assert list(lines[0]) == [
        *("timestamp", "level", "event", "method", "path", "status", "seconds", "request_id", "address")
    ]
    assert lines[0]["timestamp"].endswith("Z")


async def test_a_log_that_cannot_be_written_refuses_no_request(http: aiohttp.ClientSession) -> None:
    class Full(io.BytesIO):
        def write(self, data: Any) -> int:
            raise OSError(28, "No space left on device")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for log_request in (JsonLines(Full()), full):
        async with open_drive() as drive, TestServer(create_app(drive, log_request=log_request)) as server:
            for _ in range(2):
                assert (await http.get(server.make_url("/health"))).status == 200


async def test_requests_are_not_logged_where_that_is_configured(http: aiohttp.ClientSession) -> None:
    told: list[str] = []

    def tell(answered: Answered) -> None:
        told.append(answered.path)

    for requests in (True, False):
        async with (
            open_drive(log={"requests": requests}) as drive,
            TestServer(create_app(drive, log_request=tell)) as server,
        ):
            await http.get(server.make_url("/health"))
    assert told == ["/health"]
