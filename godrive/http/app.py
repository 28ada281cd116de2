"""The application: every route of the API over one drive."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import msgspec
from aiohttp import hdrs, web

from godrive.drive import GoDrive
from godrive.http.api.call import bind
from godrive.http.api.openapi import document
from godrive.http.api.operations import Operation
from godrive.http.api.page_cache import PageCache
from godrive.http.api.paths import PARAMETER
from godrive.http.app_keys import BASES, DIRECT_BODIES, DOCUMENT, DRIVE, DUPLICATES, METRICS, PAGE_CACHE, WAITS
from godrive.http.observe.metrics import Metrics
from godrive.http.observe.middleware import edge, expect_later, meet_expectation, on_prepare
from godrive.http.observe.request_log import LogRequest, log_to_logger
from godrive.http.routes import (
    accounts,
    archives,
    batch,
    changes,
    content,
    docs,
    downloads,
    files,
    folders,
    health,
    incoming,
    lists,
    marks,
    parts,
    paths,
    resuming,
    s3_dialect,
    search,
    storing,
    trash,
    tus,
    uploads,
    versions,
    webhooks,
)
from godrive.http.routes.bucket_events import add_bucket_event_route
from godrive.http.wire.addresses import TrustedProxies
from godrive.http.wire.aiohttp_internals import forget_handlers
from godrive.http.wire.bases import Bases
from godrive.http.wire.descriptors import Duplicates, most_duplicates
from godrive.http.wire.direct_body import DirectBodies
from godrive.http.wire.fair_queue import Lanes
from godrive.http.wire.waits import Waits

_RESOURCES = (
    accounts,
    tus,
    uploads,
    parts,
    s3_dialect,
    folders,
    paths,
    lists,
    files,
    batch,
    marks,
    search,
    downloads,
    versions,
    trash,
    incoming,
    storing,
    resuming,
    content,
    archives,
    changes,
    webhooks,
    health,
)

OPERATIONS: tuple[Operation, ...] = tuple(
    operation for resource in _RESOURCES for operation in resource.routes.operations
)
"""All there are, in the order in which paths are matched: a fixed path before one with a placeholder."""

_ALWAYS = {f"/v1/{each.routes.tag}": each.routes.always for each in _RESOURCES if each.routes.always}


def create_app(
    drive: GoDrive,
    *,
    log_request: LogRequest | None = None,
    lost_log_lines: Callable[[], int] | None = None,
    trusts_unix_socket: bool = False,
) -> web.Application:
    """An application that serves *drive*, which must be open for as long as it is used.

    It may be run by itself or mounted under any prefix with ``add_subapp``,
    also several times in one process.  It installs no signal handler and
    sets up no logging: unless ``log.requests`` is off, requests are passed to
    *log_request*, or logged where the host's structlog or ``logging`` puts them.
    *lost_log_lines* counts what a log that drops lines has dropped, for the metrics.
    *trusts_unix_socket* believes what the peer on a Unix socket says of its client.
    """
    server = drive.config.server
    log_request = (log_request or log_to_logger()) if drive.config.log.requests else None
    proxies = TrustedProxies(server.trusted_proxies, unix_socket=trusts_unix_socket)
    metrics = Metrics(drive, lost_log_lines=lost_log_lines)
    middlewares = [edge(metrics, log_request, proxies)]
    if drive.tracing is not None:
        from godrive.http.observe.spans import spans  # noqa: PLC0415 - needs opentelemetry-api

        middlewares.insert(0, spans(drive.tracing, metrics, proxies))
    app = web.Application(
        middlewares=middlewares,
        client_max_size=server.max_body_bytes,
    )
    app[DRIVE] = drive
    app[METRICS] = metrics
    app[DIRECT_BODIES] = DirectBodies(drive.memory)
    app[DUPLICATES] = Duplicates(most_duplicates())
    app[PAGE_CACHE] = PageCache()
    app[WAITS] = waits = Waits(drive.watch, most=server.max_waiting, per_user=server.max_waiting_per_user)

    async def end_waits(_app: web.Application) -> None:
        waits.close()

    app.on_shutdown.append(end_waits)
    app.on_cleanup.append(forget_handlers)
    # Made on demand: it costs more than all the rest of an application, and most processes never serve it.
    described: Callable[[], bytes] = cache(lambda: msgspec.json.encode(document(OPERATIONS, base_url=server.base_url)))
    app[DOCUMENT] = described
    app[BASES] = Bases(server, proxies)
    lanes = Lanes()
    served = [(operation, path) for operation in (*OPERATIONS, *docs.routes.operations) for path in operation.paths]
    # aiohttp tries the paths with the same beginning one after another, and those without parameters are quick.
    # If the operations of a path are added together, it is tried once for all of them.
    for operation, path in sorted(served, key=lambda each: ("{" in each[1], each[1])):
        handler = bind(operation, drive, proxies, lanes, original=path == operation.original)
        expect = expect_later if operation.moves_bytes else meet_expectation
        pattern = path.replace(f"{{{PARAMETER}}}", f"{{{PARAMETER}:(?s:.*)}}")
        app.router.add_route(operation.method, pattern, handler, expect_handler=expect)
        if operation.method == hdrs.METH_GET:
            app.router.add_route(hdrs.METH_HEAD, pattern, handler, expect_handler=expect)
    add_bucket_event_route(app, drive)
    tops = {each.canonical: each for each in app.router.resources() if each.canonical in _ALWAYS}
    app.on_response_prepare.append(on_prepare(server.origins, {each: _ALWAYS[path] for path, each in tops.items()}))
    health.remember(app, drive)
    return app
