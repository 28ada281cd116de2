"""The page that shows the API: where it is, what it asks, and that it can send what it shows."""

from __future__ import annotations

import re
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from godrive.http.app import create_app
from tests.daemon import free_port
from tests.http.client import Person
from tests.http.conftest import OpenSite

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_start_page_leads_to_the_documentation(stranger: Person, method: str) -> None:
    answer = await stranger(method, "/", allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (302, "./docs")
    shown = await stranger("GET", "/")
    assert (shown.status, shown.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert b"docs.js" in shown.content
    assert (await stranger("POST", "/")).status == 405


async def test_below_a_prefix_it_leads_to_the_documentation_there(
    http: aiohttp.ClientSession, open_site: OpenSite
) -> None:
    async with open_site() as site:
        host, port = web.Application(), free_port()
        host.add_subapp("/drive/", create_app(site.drive))
        runner = web.AppRunner(host)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        try:
            shown = await Person(http, f"http://127.0.0.1:{port}")("GET", "/drive/")
        finally:
            await runner.cleanup()
        assert (shown.status, shown.headers["Content-Type"]) == (200, "text/html; charset=utf-8")


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/docs/docs.css", "/docs/docs.js", "/docs/docs.svg"])
async def test_its_parts_are_not_sent_again_while_they_are_known(stranger: Person, path: str) -> None:
    etag = (await stranger("GET", path)).headers["ETag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        answer = await stranger("GET", path, headers={"If-None-Match": known})
        assert (answer.status, answer.content) == (304, b"")
    assert (await stranger("GET", path, headers={"If-None-Match": '"other"'})).status == 200
    assert (await stranger("GET", path, headers={"If-None-Match": etag.strip('"')})).status == 422


def test_if_none_match_is_compared_in_one_place() -> None:
    package = Path(__file__).parents[3] / "godrive" / "http"
    reading = [p.name for p in package.rglob("*.py") if re.search(r"IF_NONE_MATCH|If-None-Match\"", p.read_text())]
    assert set(reading) <= {"conditions.py", "openapi_parts.py", "middleware.py"}, reading
