"""A span for each request, when tracing is on."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from godrive.http.observe.metrics import Metrics
from godrive.http.wire.addresses import TrustedProxies
from godrive.tracing import Tracing


def spans(tracing: Tracing, metrics: Metrics, proxies: TrustedProxies) -> Middleware:
    """Return the middleware, which is the outermost.  Paths have ids and secrets, so a span names the route only."""

    @web.middleware
    async def serve(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        route = metrics.route(request)
        with tracing.serving(request.headers, f"{request.method} {route}") as span:
            span.set_attribute("http.request.method", request.method)
            span.set_attribute("http.route", route)
            span.set_attribute("client.address", proxies.address(request))
            response = await handler(request)
            span.set_attribute("http.response.status_code", response.status)
            if response.status >= 500:
                span.set_attribute("error.type", str(response.status))
            return response

    return serve
