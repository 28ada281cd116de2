"""What the handlers of an application find in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from godrive.drive import GoDrive
    from godrive.http.intake import Intakes
    from godrive.http.metrics import Metrics
    from godrive.http.pages import Pages

DRIVE: web.AppKey[GoDrive] = web.AppKey("drive")
DOCUMENT: web.AppKey[bytes] = web.AppKey("document")
"""The OpenAPI document, as it is sent."""
PAGES: web.AppKey[Pages] = web.AppKey("pages")
INTAKES: web.AppKey[Intakes] = web.AppKey("intakes")
METRICS: web.AppKey[Metrics] = web.AppKey("metrics")
"""Count bytes of content with ``app[METRICS].bytes_in.inc(n)`` and ``bytes_out``."""
