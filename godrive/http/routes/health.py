"""Health: whether the server answers, is alive and is ready, and its metrics."""

from __future__ import annotations

from datetime import datetime
from functools import partial

import anyio
import msgspec
from aiohttp import hdrs, web

from godrive import __version__
from godrive.drive import GoDrive
from godrive.errors import DriveError, MailboxFull, Unauthenticated
from godrive.http.api.authentication import shows_secret
from godrive.http.api.call import Call
from godrive.http.api.operations import PUBLIC, Routes
from godrive.http.app_keys import CHECKS, METRICS, UPLOAD_COUNTS
from godrive.http.observe.metrics import CONTENT_TYPE
from godrive.http.observe.recent import Recent
from godrive.messages.ingest import Ingest
from godrive.messages.storage import CheckStore
from godrive.messages.system import CheckCatalog, UploadCounts

routes = Routes("health")

CHECK_TIMEOUT = 2.0
"""Seconds within which a store must answer to count as ready."""

CHECK_EVERY, COUNT_EVERY = 1.0, 5.0
"""Seconds for which the results of the checks and the number of uploads are cached."""

PATIENCE = 0.25
"""Seconds to wait for a new result before the cached one is returned."""


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
    """``ready`` if every child of this process runs and all ``checks`` (catalog, store, remote actors) are ``ok``.

    ``events`` is ``active`` once an event of the store has reached this process,
    ``absent`` before, and ``elsewhere`` if another process runs the ingest
    actor.  Without events, a file appears some seconds later.
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


@routes.get("/readyz", needs=PUBLIC, costly=True, also=[503])
async def readyz(call: Call) -> Readiness:
    """Check that the server can serve requests. If not, the status is `503`."""
    children = [
        ChildView(name=c.name, state=c.state, queued=c.queued, in_flight=c.in_flight, restarts=c.restarts)
        for c in call.drive.children()
    ]
    checks = await call.request.app[CHECKS].get()
    ready = all(child.state == "running" for child in children) and set(checks.values()) == {"ok"}
    if not ready:
        call.status = 503
    events = call.drive.bucket_events.state
    if events == "absent" and not any(child.name == Ingest.name for child in children):
        events = "elsewhere"
    return Readiness(ready=ready, events=events, version=__version__, children=children, checks=checks)


@routes.get("/metrics", needs=PUBLIC, costly=True, media_type=CONTENT_TYPE, raises=[Unauthenticated, MailboxFull])
async def metrics(call: Call) -> web.Response:
    """Get metrics in the Prometheus format. Send `server.metrics_token` as a bearer token if the operator set it."""
    token = call.drive.config.server.metrics_token
    if token and not shows_secret(call.request, token.encode()):
        raise Unauthenticated("The token of server.metrics_token is required.")
    app = call.request.app
    body = app[METRICS].render(await app[UPLOAD_COUNTS].get())
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: CONTENT_TYPE, hdrs.CACHE_CONTROL: "no-store"})


def remember(app: web.Application, drive: GoDrive) -> None:
    """Cache the results for readiness and metrics, because anyone may request them at any rate."""
    app[CHECKS] = Recent(partial(check, drive), every=CHECK_EVERY, patience=PATIENCE)
    app[UPLOAD_COUNTS] = Recent(partial(_count_uploads, drive), every=COUNT_EVERY, patience=PATIENCE)

    async def close(app: web.Application) -> None:
        await app[CHECKS].close()
        await app[UPLOAD_COUNTS].close()

    app.on_cleanup.append(close)


async def _count_uploads(drive: GoDrive) -> dict[str, int]:
    try:
        return await drive.metadata.ask(UploadCounts(), timeout=CHECK_TIMEOUT)
    except DriveError:
        return {}  # a catalog that is down must not hide the other numbers


async def check(drive: GoDrive) -> dict[str, str]:
    """The result of each check, by its name: ``ok`` or the code of an error."""
    checks: dict[str, str] = {}
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_check_catalog, drive, checks)
        tasks.start_soon(_check_store, drive, checks)
        tasks.start_soon(_check_far_actors, drive, checks)
    return checks


async def _check_catalog(drive: GoDrive, checks: dict[str, str]) -> None:
    try:
        await drive.metadata.ask(CheckCatalog(), timeout=CHECK_TIMEOUT)
        checks["catalog"] = "ok"
    except DriveError as error:
        checks["catalog"] = error.code


async def _check_far_actors(drive: GoDrive, checks: dict[str, str]) -> None:
    checks |= await drive.reach(timeout=CHECK_TIMEOUT)


async def _check_store(drive: GoDrive, checks: dict[str, str]) -> None:
    try:
        await drive.storage.ask(CheckStore(), timeout=CHECK_TIMEOUT)
        checks["store"] = "ok"
    except DriveError as error:
        checks["store"] = error.code
