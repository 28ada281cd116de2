"""The OpenAPI document, and a page that shows it without requests to other hosts."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import resources

from aiohttp import hdrs, web

from godrive.http.api.call import Call
from godrive.http.api.conditions import is_known
from godrive.http.api.operations import PUBLIC, Routes
from godrive.http.app_keys import DOCUMENT

routes = Routes("docs")

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@routes.get("/", needs=PUBLIC, status=302)
async def start(call: Call) -> web.Response:
    """Redirect to the documentation."""
    # Relative, so that it works below any prefix of a proxy or a host application.
    return web.Response(status=302, headers={hdrs.LOCATION: "./docs", hdrs.CACHE_CONTROL: "no-cache"})


@routes.get("/openapi.json", needs=PUBLIC)
async def openapi_json(call: Call) -> web.Response:
    """The OpenAPI document."""
    return _sent(call, call.request.app[DOCUMENT](), "application/json")


@routes.get("/docs", needs=PUBLIC, media_type="text/html")
async def docs_page(call: Call) -> web.Response:
    """The documentation page."""
    return _sent(call, _asset("docs.html"), "text/html; charset=utf-8")


@routes.get("/docs/docs.css", needs=PUBLIC, media_type="text/css")
async def docs_style(call: Call) -> web.Response:
    """The style sheet of the page."""
    return _sent(call, _asset("docs.css"), "text/css; charset=utf-8")


@routes.get("/docs/docs.js", needs=PUBLIC, media_type="text/javascript")
async def docs_script(call: Call) -> web.Response:
    """The script of the page."""
    return _sent(call, _asset("docs.js"), "text/javascript; charset=utf-8")


@routes.get("/docs/docs.svg", needs=PUBLIC, media_type="image/svg+xml")
async def docs_icon(call: Call) -> web.Response:
    """The icon of the page."""
    return _sent(call, _asset("docs.svg"), "image/svg+xml")


@lru_cache
def _asset(name: str) -> bytes:
    return resources.files("godrive.http.routes").joinpath("static", name).read_bytes()


@lru_cache
def _etag(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()[:32]


def _sent(call: Call, body: bytes, media_type: str) -> web.Response:
    etag = _etag(body)
    headers = {hdrs.ETAG: f'"{etag}"', hdrs.CACHE_CONTROL: "no-cache", "Content-Security-Policy": _POLICY}
    if is_known(call.request, etag):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, headers={**headers, hdrs.CONTENT_TYPE: media_type, "Referrer-Policy": "no-referrer"})
