"""Requests leave nothing behind: the objects of the process are counted before and after."""

from __future__ import annotations

import gc
import weakref
from collections import Counter

import aiohttp
import pytest

from tests.http.client import Person
from tests.http.conftest import OpenSite

pytestmark = pytest.mark.anyio

ROUNDS = 40


PRUNED = {"weakref.ReferenceType", "builtins.builtin_function_or_method"}
"""sqlite3 refers to its cursors weakly and forgets the dead ones every 200; timers that are cancelled end later."""


def objects() -> Counter[str]:
    """How many objects there are of each type."""
    gc.collect()
    return Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects())


@pytest.mark.slow
async def test_an_upload_a_download_and_a_purge_leave_no_object_behind(
    http: aiohttp.ClientSession, open_site: OpenSite
) -> None:
    async with open_site(blobs={"driver": "disk"}) as site:
        ann = await Person(http, site.url).enter()

        async def use(first: int) -> None:
            for number in range(first, first + ROUNDS):
                file = await ann.upload(f"{number}.txt")
                url = (await ann("GET", f"/v1/files/{file['id']}/download")).json["url"]
                assert (await ann("GET", url)).content == b"hello"
                assert (await ann("GET", "/v1/files")).status == 200
                assert (await ann("PATCH", f"/v1/files/{file['id']}", {"name": f"new {number}.txt"})).status == 200
                assert (await ann("DELETE", f"/v1/files/{file['id']}")).status == 200
                assert (await ann("DELETE", f"/v1/trash/{file['id']}")).status in {200, 204}

        await use(0)
        before = objects()
        await use(ROUNDS)
        grown = objects() - before
    assert {name: count for name, count in grown.items() if count >= ROUNDS // 2 and name not in PRUNED} == {}


async def test_a_drive_that_is_no_longer_served_is_freed(http: aiohttp.ClientSession, open_site: OpenSite) -> None:
    async with open_site() as site:
        await Person(http, site.url).enter()
        drive = weakref.ref(site.drive)
    del site
    gc.collect()
    assert drive() is None
