"""The keys of an application: what its handlers find in ``request.app``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from godrive.drive import GoDrive
    from godrive.http.api.page_cache import PageCache
    from godrive.http.observe.metrics import Metrics
    from godrive.http.observe.recent import Recent
    from godrive.http.wire.bases import Bases
    from godrive.http.wire.descriptors import Duplicates
    from godrive.http.wire.direct_body import DirectBodies
    from godrive.http.wire.waits import Waits

DRIVE: web.AppKey[GoDrive] = web.AppKey("drive")
BASES: web.AppKey[Bases] = web.AppKey("bases")
DOCUMENT: web.AppKey[Callable[[], bytes]] = web.AppKey("document")
"""Returns the OpenAPI document as it is sent; the first call makes it."""
PAGE_CACHE: web.AppKey[PageCache] = web.AppKey("pages")
DIRECT_BODIES: web.AppKey[DirectBodies] = web.AppKey("direct_bodies")
CHECKS: web.AppKey[Recent[dict[str, str]]] = web.AppKey("checks")
UPLOAD_COUNTS: web.AppKey[Recent[dict[str, int]]] = web.AppKey("upload_counts")
DUPLICATES: web.AppKey[Duplicates] = web.AppKey("duplicates")
WAITS: web.AppKey[Waits] = web.AppKey("waits")
METRICS: web.AppKey[Metrics] = web.AppKey("metrics")
"""Count bytes of content with ``app[METRICS].bytes_in += n`` and ``bytes_out``."""
