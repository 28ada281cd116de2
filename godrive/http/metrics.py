"""Numbers for Prometheus, in a registry of the application's own: two drives in one process do not mix.

Requests are labelled by route template, never by path, so the number of
series is bounded by the number of routes.
"""

from __future__ import annotations

from collections.abc import Iterator

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from godrive.drive import GoDrive

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """Counts requests and bytes; asks the drive for the rest when scraped."""

    def __init__(self, drive: GoDrive) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "godrive_http_requests", "Requests answered.", ["method", "route", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "godrive_http_request_seconds",
            "Time from the request's headers to the end of its handler.",
            ["method", "route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self.bytes_in = Counter("godrive_content_bytes_in", "Bytes of content received.", registry=self.registry)
        self.bytes_out = Counter("godrive_content_bytes_out", "Bytes of content sent.", registry=self.registry)
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._drive = _DriveCollector(drive)
        self.registry.register(self._drive)
        ProcessCollector(registry=self.registry)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        key = (method, route, status)
        children = self._children.get(key)
        if children is None:
            method = method if method in _METHODS else "other"
            children = (self._requests.labels(method, route, str(status)), self._seconds.labels(method, route))
            if method != "other":  # the methods that clients make up are without number
                self._children[key] = children
        children[0].inc()
        children[1].observe(seconds)

    def render(self, uploads: dict[str, int]) -> bytes:
        """The exposition, given the number of uploads by state."""
        self._drive.uploads = uploads
        return generate_latest(self.registry)


def route_of(request: web.Request) -> str:
    """The template of the route, ``unmatched`` where there is none."""
    resource = request.match_info.route.resource
    return "unmatched" if resource is None else resource.canonical


class _DriveCollector(Collector):
    """The actors' state at the moment of the scrape."""

    def __init__(self, drive: GoDrive) -> None:
        self._children = drive.children
        self.uploads: dict[str, int] = {}

    def collect(self) -> Iterator[Metric]:
        queued = GaugeMetricFamily("godrive_mailbox_depth", "Messages that wait.", labels=["actor"])
        in_flight = GaugeMetricFamily("godrive_messages_in_flight", "Messages being handled.", labels=["actor"])
        restarts = CounterMetricFamily("godrive_actor_restarts", "Restarts after a crash.", labels=["actor"])
        up = GaugeMetricFamily("godrive_actor_up", "Whether it takes messages.", labels=["actor"])
        for child in self._children():
            queued.add_metric([child.name], child.queued)
            in_flight.add_metric([child.name], child.in_flight)
            restarts.add_metric([child.name], child.restarts)
            up.add_metric([child.name], float(child.state == "running"))
        uploads = GaugeMetricFamily("godrive_uploads", "Uploads by state.", labels=["state"])
        for state, count in self.uploads.items():
            uploads.add_metric([state], count)
        yield from (queued, in_flight, restarts, up, uploads)
