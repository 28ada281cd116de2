"""Spans of requests: from the client's span through actors, also of other processes, to catalog and store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from godrive.blobs.disk import DiskBlobStore
from godrive.drive import GoDrive
from godrive.http.app import create_app
from godrive.messages.auth import LogIn
from godrive.messages.janitor import Sweep
from godrive.runtime import request_id
from godrive.runtime.ref import LocalRef
from godrive.testing import open_drive, sign_up
from godrive.tracing import TracedId
from tests.drive_server import environment
from tests.nats_drive import NatsDrive
from tests.servers import NatsServer

pytestmark = pytest.mark.anyio

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

_exporter = InMemorySpanExporter()


@pytest.fixture(scope="module", autouse=True)
def provider() -> None:
    """The SDK, which a process sets up once."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(_exporter))
    trace.set_tracer_provider(provider)


@pytest.fixture
def exporter() -> Iterator[InMemorySpanExporter]:
    _exporter.clear()
    yield _exporter
    _exporter.clear()


@pytest.fixture
async def near(anyio_backend: object) -> AsyncIterator[GoDrive]:
    async with open_drive(log={"traces": True}, blobs={"driver": "disk"}) as drive:
        yield drive


@pytest.fixture
async def far(nats_server: NatsServer) -> AsyncIterator[GoDrive]:
    class Drive(NatsDrive):
        server_url = nats_server.url

    async with open_drive(drive_class=Drive, log={"traces": True}) as drive:
        yield drive


async def request(drive: GoDrive, method: str, path: str, token: str = "", **options: Any) -> int:
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"} | ({"Authorization": f"Bearer {token}"} if token else {})
    async with (
        TestServer(create_app(drive)) as server,
        aiohttp.ClientSession() as http,
        http.request(method, server.make_url(path), headers=headers, **options) as answer,
    ):
        await answer.read()
        return answer.status


async def log_in(drive: GoDrive) -> str:
    await sign_up(drive)
    return (await drive.auth.ask(LogIn("ann@example.org", "correct horse"))).token


def hexed(span: ReadableSpan) -> tuple[str, str]:
    """The ids of the trace and of the parent."""
    assert span.context is not None
    return f"{span.context.trace_id:032x}", "" if span.parent is None else f"{span.parent.span_id:016x}"


def parents(spans: tuple[ReadableSpan, ...]) -> dict[str, set[str]]:
    """The names of the parents of the spans of each name; those of another process have none here."""
    names = {span.context.span_id: span.name for span in spans if span.context is not None}
    found: dict[str, set[str]] = {}
    for span in spans:
        found.setdefault(span.name, set()).add(names.get(span.parent.span_id, "") if span.parent else "")
    return found


async def test_a_request_is_one_tree_from_the_client_to_catalog_and_store(
    near: GoDrive, exporter: InMemorySpanExporter
) -> None:
    token = await log_in(near)
    exporter.clear()
    assert await request(near, "PUT", "/v1/files/by-path/a.txt", token, data=b"hello") == 201
    spans = exporter.get_finished_spans()
    assert {hexed(span)[0] for span in spans} == {TRACE}
    (server,) = [span for span in spans if span.kind is SpanKind.SERVER]
    assert hexed(server) == (TRACE, SPAN)
    assert server.name == "PUT /v1/files/by-path/{path}"
    assert server.attributes is not None
    assert server.attributes["http.response.status_code"] == 201
    found = parents(spans)
    assert found["metadata MakeFiles"] == {server.name}
    assert "metadata MakeFiles" in found["catalog write"]
    assert found["store put_each"] == {server.name}
    assert not any("a.txt" in f"{span.name}{dict(span.attributes or {})}" for span in spans), "no path, no secret"


async def test_an_expected_error_is_its_code_and_fails_no_span(near: GoDrive, exporter: InMemorySpanExporter) -> None:
    token = await log_in(near)
    exporter.clear()
    assert await request(near, "GET", "/v1/files/nothing", token) == 404
    (ask,) = [span for span in exporter.get_finished_spans() if span.name == "metadata GetFile"]
    assert dict(ask.attributes or {}) == {"error.type": "not_found"}
    assert ask.status.status_code is StatusCode.UNSET


async def test_the_tree_goes_on_in_other_processes(far: GoDrive, exporter: InMemorySpanExporter) -> None:
    token = await log_in(far)
    exporter.clear()
    assert await request(far, "POST", "/v1/folders", token, json={"name": "folder"}) == 201
    spans = exporter.get_finished_spans()
    assert {hexed(span)[0] for span in spans} == {TRACE}
    assert parents(spans)["metadata MakeFolder"] == {"POST /v1/folders", "metadata MakeFolder"}, "there, and here"
    assert parents(spans)["catalog write"] >= {"metadata MakeFolder"}


async def test_housekeeping_is_not_traced_and_the_id_stays_text(near: GoDrive, exporter: InMemorySpanExporter) -> None:
    await near.janitor.ask(Sweep())
    assert exporter.get_finished_spans() == ()
    assert near.tracing is not None
    chosen = near.tracing.receive("mine", {"traceparent": "nonsense"})
    assert (chosen, str(chosen), type(str(chosen))) == ("mine", "mine", str)
    assert isinstance(chosen, TracedId)
    assert near.tracing.receive(None, {}) is None
    assert request_id.get() is None


@pytest.mark.slow
async def test_without_it_nothing_is_wrapped_and_nothing_is_imported() -> None:
    async with open_drive(blobs={"driver": "disk"}) as drive:
        assert drive.tracing is None
        assert isinstance(drive.metadata, LocalRef)
        assert isinstance(drive.blobs, DiskBlobStore)
        assert not {"put", "get", "read", "write"} & (vars(drive.blobs).keys() | vars(drive.catalog).keys())
        assert len(create_app(drive).middlewares) == 1
    script = "import sys, godrive.drive, godrive.http.app; print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
