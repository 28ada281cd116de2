"""Requests take turns: which wait for which, and that a turn is given back."""

from __future__ import annotations

from typing import Any

import aiohttp
import anyio
import msgspec
import pytest

from godrive.http.api.call import LARGE_PAGE, is_large, lanes_of
from godrive.http.app import OPERATIONS
from godrive.http.wire import fair_queue
from godrive.http.wire.fair_queue import Lanes
from tests.http.client import Person
from tests.http.conftest import OpenSite

pytestmark = pytest.mark.anyio


def test_every_operation_waits_in_the_lane_of_its_kind_or_for_nobody() -> None:
    lanes = Lanes()
    for operation in OPERATIONS:
        usual, _ = lanes_of(operation, lanes)
        if operation.costly:
            assert usual is (lanes.reports if operation.public else lanes.large_reads), operation.name
        elif operation.paced or (operation.public and operation.method in ("GET", "OPTIONS")):
            assert usual is None, operation.name
        else:
            expected = lanes.logins if operation.public else lanes.reads if operation.method == "GET" else lanes.writes
            assert usual is expected, operation.name
    assert {"metrics", "readyz"} <= {operation.name for operation in OPERATIONS if operation.costly}


def test_every_read_with_pages_or_a_search_has_a_lane_for_large_ones() -> None:
    lanes = Lanes()
    large = {operation.name for operation in OPERATIONS if lanes_of(operation, lanes)[1] is lanes.large_reads}
    paged = {
        operation.name
        for operation in OPERATIONS
        if operation.query is not None
        and not operation.costly
        and {"limit", "q"} & set(operation.query.__struct_fields__)
    }
    assert large == paged >= {"list_files", "list_uploads", "list_trash"}


@pytest.mark.parametrize(
    ("asked", "large"), [({"limit": LARGE_PAGE}, False), ({"limit": LARGE_PAGE + 1}, True), ({"q": "a"}, True)]
)
def test_long_pages_and_searches_are_large(asked: dict[str, Any], large: bool) -> None:
    (operation,) = [each for each in OPERATIONS if each.name == "list_files"]
    assert operation.query is not None
    assert is_large(msgspec.convert(asked, operation.query)) is large


async def test_a_large_read_holds_up_another_but_no_small_one(
    http: aiohttp.ClientSession, open_site: OpenSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fair_queue, "LARGE_READS", 1)
    monkeypatch.setattr(fair_queue, "MOST_WAITING", 0)
    async with open_site() as site:
        ann = await Person(http, site.url).enter()
        bob = await Person(http, site.url).enter("bob@example.org")
        for person in (ann, bob):
            assert (await person("GET", "/v1/files?limit=500")).status == 200
        reached, release = anyio.Event(), anyio.Event()
        catalog, statuses = site.drive.catalog, []
        read = catalog.read

        calls = iter(range(2))

        async def wait_once(operation: Any, **options: Any) -> Any:
            """Count changes as always, since those of all users are counted together; then wait with the rows."""
            if not next(calls):
                return await read(operation, **options)
            catalog.read = read
            reached.set()
            await release.wait()
            return await read(operation, **options)

        async def list_many() -> None:
            statuses.append((await ann("GET", "/v1/files?limit=1000")).status)

        async with anyio.create_task_group() as tasks:
            catalog.read = wait_once
            tasks.start_soon(list_many)
            await reached.wait()
            refused = await bob("GET", "/v1/files?limit=500")
            assert (refused.status, refused.json["code"]) == (503, "overloaded")
            assert (await bob("GET", "/v1/files?limit=20")).status == 200
            assert (await bob("POST", "/v1/files/upload-intent", {"filename": "a", "size_bytes": 1})).status == 200
            release.set()
        assert statuses == [200]
        assert (await ann("GET", "/v1/files?limit=500")).status == 200
