"""The description of the API: ``openapi.json``, and a page that shows it without asking any other host."""

from __future__ import annotations

import hashlib
from importlib import resources

from aiohttp import hdrs, web

from godrive.http.api.call import Call
from godrive.http.api.operations import PUBLIC, Routes
from godrive.http.app_keys import DOCUMENT

routes = Routes("docs")

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@routes.get("/openapi.json", needs=PUBLIC)
async def openapi_json(call: Call) -> web.Response:
    """This description."""
    return _sent(call, call.request.app[DOCUMENT], "application/json")


@routes.get("/docs", needs=PUBLIC, media_type="text/html")
async def docs_page(call: Call) -> web.Response:
    """The page that shows it."""
    return _static(call, "docs.html", "text/html; charset=utf-8")


@routes.get("/docs/docs.css", needs=PUBLIC, media_type="text/css")
async def docs_style(call: Call) -> web.Response:
    """How the page looks."""
    return _static(call, "docs.css", "text/css; charset=utf-8")


@routes.get("/docs/docs.js", needs=PUBLIC, media_type="text/javascript")
async def docs_script(call: Call) -> web.Response:
    """What the page does."""
    return _static(call, "docs.js", "text/javascript; charset=utf-8")


@routes.get("/docs/docs.svg", needs=PUBLIC, media_type="image/svg+xml")
async def docs_icon(call: Call) -> web.Response:
    """Its sign."""
    return _static(call, "docs.svg", "image/svg+xml")


def _static(call: Call, name: str, media_type: str) -> web.Response:
    return _sent(call, resources.files("godrive.http.routes").joinpath("static", name).read_bytes(), media_type)


def _sent(call: Call, body: bytes, media_type: str) -> web.Response:
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {hdrs.ETAG: etag, hdrs.CACHE_CONTROL: "no-cache", "Content-Security-Policy": _POLICY}
    if call.request.headers.get(hdrs.IF_NONE_MATCH) == etag:
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, headers={**headers, hdrs.CONTENT_TYPE: media_type, "Referrer-Policy": "no-referrer"})
