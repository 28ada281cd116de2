"""The application as a whole: mounted, observed, shared with browsers, described."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from godrive.catalog.sqlite import SqliteCatalog
from godrive.errors import BY_CODE, STATUS, DriveError, StoreUnavailable, TooManyRequests
from godrive.http.api.problems import problem
from godrive.http.app import OPERATIONS, create_app
from godrive.http.wire.server import serve
from godrive.model import BlobInfo, ObjectKey
from godrive.runtime.child import ChildState
from godrive.testing import open_drive
from tests.http.client import Answer, Person, Site

pytestmark = pytest.mark.anyio

ORIGIN = "https://drive.example"
PREFLIGHT = {"Origin": ORIGIN, "Access-Control-Request-Method": "PUT"}


@asynccontextmanager
async def hosted(**drives: Any) -> AsyncIterator[str]:
    """An application of somebody else's with those drives mounted."""
    host = web.Application()
    for prefix, drive in drives.items():
        host.add_subapp(f"/{prefix}/", create_app(drive))
    async with TestServer(host) as server:
        yield str(server.make_url("")).rstrip("/")


async def test_two_drives_are_served_by_one_process_under_prefixes(http: aiohttp.ClientSession) -> None:
    async with open_drive() as one, open_drive() as two, hosted(one=one, two=two) as url:
        ann = await Person(http, f"{url}/one").enter()
        assert (await ann("GET", "/v1/me")).status == 200
        assert (await ann("GET", "/files")).json == {"files": []}
        stranger = Person(http, f"{url}/two")
        assert (await stranger("POST", "/v1/login", {"email": "ann@example.org", "password": "x"})).status == 401
        stranger.token = ann.token
        assert (await stranger("GET", "/v1/me")).status == 401
        for path, status in (("/nope", 404), ("/v1/files/x/y/z", 404)):
            answer = await ann("GET", path)
            assert (answer.status, answer.headers["Content-Type"]) == (status, "application/problem+json")
        assert (await ann("POST", "/v1/me")).headers["Allow"]
        metrics = (await ann("GET", "/metrics")).content.decode()
        assert 'route="/one/v1/me"' in metrics
        assert 'route="/two' not in metrics


async def test_paths_begin_behind_the_prefix_of_the_host(http: aiohttp.ClientSession) -> None:
    async with open_drive() as drive, hosted(**{"v1/files/by-path": drive, "a": drive}) as url:
        for prefix in ("v1/files/by-path", "a"):
            ann = await Person(http, f"{url}/{prefix}").enter()
            await ann("POST", "/v1/folders", {"path": "by-path/a%b/c", "parents": True, "exist_ok": True})
            answer = await ann("GET", "/v1/files/by-path/by-path/a%25b/c")
            assert (answer.status, answer.json["path"]) == (200, "by-path/a%b/c")
            assert (await ann("GET", "/v1/files/by-path/")).json["id"] == "root"
            for path, is_below in (
                ("/v1/tus/a/b", True),
                ("/v1/t%75s/a/b", True),
                ("/v1/tusk", False),
                ("/v1/a", False),
            ):
                assert ("Tus-Resumable" in (await ann("PUT", path)).headers) is is_below


async def test_the_page_and_its_parts_work_under_a_prefix(http: aiohttp.ClientSession) -> None:
    async with open_drive() as drive, hosted(drive=drive) as url:
        stranger = Person(http, url)
        page = await stranger("GET", "/drive/docs")
        for part in re.findall(r'(?:src|href)="([^"#]+)"', page.content.decode()):
            assert (await stranger("GET", f"/drive/{part}")).status == 200


async def test_the_page_asks_no_other_host(stranger: Person) -> None:
    for path in ("/docs", "/docs/docs.css", "/docs/docs.js"):
        answer = await stranger("GET", path)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not re.search(rb"https?://|//[a-z]+\.[a-z]", answer.content)
        again = await stranger("GET", path, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status, again.content) == (304, b"")


async def test_every_operation_is_told_of_in_the_description(stranger: Person) -> None:
    document = (await stranger("GET", "/openapi.json")).json
    for operation in OPERATIONS:
        for path in filter(None, (operation.path, operation.original)):
            assert operation.method.lower() in document["paths"][path]
    assert document["openapi"].startswith("3.1")
    assert document["servers"] == [{"url": stranger.url}]


@pytest.mark.parametrize("path", ["/health", "/v1/health"])
async def test_health_tells_the_time(stranger: Person, site: Site, path: str) -> None:
    answer = await stranger("GET", path)
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.json["ok"] is True
    assert answer.json["time"] == site.drive.clock.now().isoformat().replace("+00:00", "Z")
    assert (await stranger("GET", "/livez")).json == {"ok": True}


async def test_readiness_shows_every_child_and_what_was_checked(stranger: Person) -> None:
    answer = await stranger("GET", "/readyz")
    assert (answer.status, answer.json["ready"]) == (200, True)
    assert answer.json["checks"] == {"catalog": "ok", "store": "ok"}
    children = {child["name"]: child for child in answer.json["children"]}
    assert children.keys() >= {"auth", "metadata", "storage", "ingest", "janitor"}
    assert children["auth"].keys() == {"name", "state", "queued", "in_flight", "restarts"}


async def test_a_store_that_is_down_is_not_ready_while_the_process_is_alive(stranger: Person, site: Site) -> None:
    async def down(_key: ObjectKey) -> BlobInfo:
        raise StoreUnavailable

    site.drive.blobs.head = down  # type: ignore[method-assign, assignment]
    answer = await stranger("GET", "/readyz")
    assert (answer.status, answer.json["ready"]) == (503, False)
    assert answer.json["checks"] == {"catalog": "ok", "store": "store_unavailable"}
    assert (await stranger("GET", "/livez")).status == 200


async def test_a_child_that_does_not_run_is_not_ready(
    stranger: Person, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    children = site.drive.children()
    for state, expected in ((ChildState.RESTARTING, 503), (ChildState.RUNNING, 200)):
        shown = [*children[:-1], replace(children[-1], state=state)]
        monkeypatch.setattr(site.drive, "children", lambda shown=shown: shown)
        answer = await stranger("GET", "/readyz")
        assert (answer.status, answer.json["ready"]) == (expected, expected == 200)
        assert answer.json["children"][-1]["state"] == state
        assert answer.json["checks"] == {"catalog": "ok", "store": "ok"}


async def test_metrics_are_there_without_a_catalog(ann: Person, site: Site) -> None:
    assert isinstance(site.drive.catalog, SqliteCatalog)
    await site.drive.catalog.close()
    answer = await ann("GET", "/metrics")
    text = answer.content.decode()
    assert answer.status == 200
    assert 'godrive_http_requests_total{method="POST",route="/v1/login",status="200"} 1.0' in text
    assert 'godrive_actor_up{actor="metadata"} 1.0' in text
    assert "godrive_uploads{" not in text


async def test_metrics_count_requests_by_route_and_uploads_by_state(ann: Person) -> None:
    await ann.upload("a.txt", b"12345")
    for made_up in range(5):
        await ann("GET", f"/v1/files/{made_up}")
        await ann("GET", f"/nope/{made_up}")
    text = (await ann("GET", "/metrics")).content.decode()
    found = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }

    def value(name: str, **labels: str) -> float:
        return found[name, tuple(sorted(labels.items()))]

    requests = "godrive_http_requests_total"
    assert value(requests, method="GET", route="/v1/files/{file_id}", status="404") == 5
    assert value(requests, method="GET", route="unmatched", status="404") == 5
    assert value(requests, method="PUT", route="/v1/uploads/{upload_id}/content", status="201") == 1
    assert value("godrive_http_request_seconds_count", method="GET", route="unmatched") == 5
    assert value("godrive_uploads", state="committed") == 1
    assert value("godrive_content_bytes_in_total") == 5
    assert value("godrive_actor_up", actor="metadata") == 1
    assert value("godrive_actor_restarts_total", actor="metadata") == 0
    assert value("godrive_mailbox_depth", actor="metadata") == 0


async def test_a_browser_of_an_allowed_origin_may_ask_and_read_also_errors(
    http: aiohttp.ClientSession, open_site: Any
) -> None:
    async with open_site(server={"cors_origins": [ORIGIN]}) as site:
        stranger = Person(http, site.url)

        def shared(answer: Answer) -> bool:
            assert "Origin" in ", ".join(answer.headers.getall("Vary"))
            assert answer.headers.get("Access-Control-Allow-Origin") in (None, ORIGIN)
            return any(name.lower().startswith("access-control") for name in answer.headers)

        for asked in (
            "authorization,content-type",
            "cache-control, x-requested-with,pragma",
            "traceparent,sentry-trace,baggage,if-modified-since",
        ):
            headers = {**PREFLIGHT, "Access-Control-Request-Headers": asked}
            preflight = await stranger("OPTIONS", "/v1/uploads/x/content", headers=headers)
            assert preflight.status == 204
            assert shared(preflight)
            assert "PUT" in preflight.headers["Access-Control-Allow-Methods"]
            assert preflight.headers["Access-Control-Allow-Headers"] == asked
            assert "Access-Control-Request-Headers" in ", ".join(preflight.headers.getall("Vary"))
        for odd in ("", "a b", "a,,b", "x" * 10 + ";", "a:"):
            headers = {**PREFLIGHT, "Access-Control-Request-Headers": odd}
            answer = await stranger("OPTIONS", "/v1/uploads/x/content", headers=headers)
            assert "Access-Control-Allow-Headers" not in answer.headers
        for path, status in (("/health", 200), ("/v1/me", 401), ("/nope", 404)):
            answer = await stranger("GET", path, headers={"Origin": ORIGIN})
            assert answer.status == status
            assert shared(answer)
            assert "ETag" in answer.headers["Access-Control-Expose-Headers"]
            assert answer.headers["Access-Control-Allow-Credentials"] == "true"
            assert not shared(await stranger("GET", path, headers={"Origin": "https://other.example"}))
            assert not shared(await stranger("GET", path))


async def test_any_origin_may_read_but_send_no_credentials(http: aiohttp.ClientSession, open_site: Any) -> None:
    async with open_site(server={"cors_origins": ["*"]}) as site:
        answer = await Person(http, site.url)("GET", "/health", headers={"Origin": ORIGIN})
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "Access-Control-Allow-Credentials" not in answer.headers


async def test_without_configured_origins_no_other_site_may_read(stranger: Person) -> None:
    for method, path in (("OPTIONS", "/v1/files"), ("GET", "/health")):
        answer = await stranger(method, path, headers=PREFLIGHT)
        assert not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_every_code_has_a_status() -> None:
    def tree(root: type[DriveError]) -> set[str]:
        return {root.code}.union(*(tree(child) for child in root.__subclasses__()))

    assert BY_CODE.keys() <= STATUS.keys()
    assert tree(DriveError) == STATUS.keys()
    for code, error in BY_CODE.items():
        assert error().status == problem(error(), "x").status == STATUS[code]


def test_retry_after_is_whole_seconds_and_at_least_one() -> None:
    for said, sent in ((0.0, "1"), (0.2, "1"), (1.0, "1"), (1.1, "2"), (59.5, "60")):
        assert problem(TooManyRequests(retry_after=said), "x").headers["Retry-After"] == sent


async def test_a_port_that_is_taken_is_a_mistake_of_the_operator(site: Site) -> None:
    with pytest.raises(match=rf"^Cannot listen on 127.0.0.1 port {site.port}: Address already in use\.$"):
        async with serve(site.drive, "127.0.0.1", site.port):
            raise AssertionError("it listens on a port that is taken")
