"""Health: whether the server answers, is alive and is ready, and its metrics."""

from __future__ import annotations

from datetime import datetime

import anyio
import msgspec
from aiohttp import hdrs, web

from godrive import __version__
from godrive.errors import DriveError, NotFound
from godrive.http.api.call import Call
from godrive.http.api.operations import PUBLIC, Routes
from godrive.http.app_keys import METRICS
from godrive.http.observe.metrics import CONTENT_TYPE
from godrive.messages.ingest import Ingest
from godrive.messages.storage import CheckStore
from godrive.messages.system import UploadCounts
from godrive.messages.uploads import FindUpload
from godrive.model import ObjectKey
from godrive.principal import System

routes = Routes("health")

CHECK_TIMEOUT = 2.0
"""Seconds in which a store must answer to count as ready."""


class Health(msgspec.Struct, kw_only=True):
    """The server answers; ``time`` is its clock."""

    ok: bool
    time: datetime


class Alive(msgspec.Struct, kw_only=True):
    """The event loop runs."""

    ok: bool


class ChildView(msgspec.Struct, kw_only=True):
    """A child of the supervision tree: its state, messages queued and in flight, and restarts."""

    name: str
    state: str
    queued: int
    in_flight: int
    restarts: int


class Readiness(msgspec.Struct, kw_only=True):
    """``ready`` when every child here runs, and the ``checks`` (catalog, store, actors elsewhere) are all ``ok``.

    ``events``: whether the store's events reach this process: ``active`` once
    one has, before that ``absent``; ``elsewhere`` when another process runs the
    ingest actor and knows.  Without events files take seconds longer.
    """

    ready: bool
    events: str
    version: str
    children: list[ChildView]
    checks: dict[str, str]


@routes.get("/v1/health", needs=PUBLIC, original="/health")
async def health(call: Call) -> Health:
    """Check that the server answers."""
    return Health(ok=True, time=call.drive.clock.now())


@routes.get("/livez", needs=PUBLIC)
async def livez(call: Call) -> Alive:
    """Check that the process is alive."""
    return Alive(ok=True)


@routes.get("/readyz", needs=PUBLIC, also=[503])
async def readyz(call: Call) -> Readiness:
    """Check that requests can be served; `503` if not."""
    children = [
        ChildView(name=c.name, state=c.state, queued=c.queued, in_flight=c.in_flight, restarts=c.restarts)
        for c in call.drive.children()
    ]
    checks: dict[str, str] = {}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_check_catalog, call, checks)
        tasks.start_soon(_check_store, call, checks)
        tasks.start_soon(_check_far_actors, call, checks)
    ready = all(child.state == "running" for child in children) and set(checks.values()) == {"ok"}
    if not ready:
        call.status = 503
    events = call.drive.bucket_events.state
    if events == "absent" and not any(child.name == Ingest.name for child in children):
        events = "elsewhere"
    return Readiness(ready=ready, events=events, version=__version__, children=children, checks=checks)


@routes.get("/metrics", needs=PUBLIC, media_type=CONTENT_TYPE)
async def metrics(call: Call) -> web.Response:
    """Metrics for Prometheus."""
    try:
        uploads = await call.drive.metadata.ask(UploadCounts(), timeout=CHECK_TIMEOUT)
    except DriveError:
        uploads = {}  # a catalog that is down must not hide the rest
    body = call.request.app[METRICS].render(uploads)
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE, hdrs.CACHE_CONTROL: "no-store"})


async def _check_catalog(call: Call, checks: dict[str, str]) -> None:
    """Look for an upload that does not exist, which proves that the catalog can be read; then see how writes go."""
    try:
        await call.drive.metadata.ask(FindUpload(System(part="readiness"), ObjectKey("readyz")), timeout=CHECK_TIMEOUT)
    except NotFound:
        problem = call.drive.catalog_problem
        checks["catalog"] = "ok" if problem is None else problem.code
    except DriveError as error:
        checks["catalog"] = error.code


async def _check_far_actors(call: Call, checks: dict[str, str]) -> None:
    checks |= await call.drive.reach(timeout=CHECK_TIMEOUT)


async def _check_store(call: Call, checks: dict[str, str]) -> None:
    try:
        await call.drive.storage.ask(CheckStore(), timeout=CHECK_TIMEOUT)
        checks["store"] = "ok"
    except DriveError as error:
        checks["store"] = error.code
