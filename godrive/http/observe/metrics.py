"""Prometheus metrics, in a separate registry for each application, so two drives in one process do not mix.

Requests are labelled by route template, never by path, so the number of
series is bounded by the number of routes.  Counting a request takes only a few
additions; the series are built when Prometheus scrapes them.
"""

from __future__ import annotations

import collections
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import accumulate

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from godrive.drive import GoDrive
from godrive.messages.expected import Fault

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _Series:
    """The requests of one method on one route with one status."""

    __slots__ = ("buckets", "count", "seconds")

    def __init__(self) -> None:
        self.count = 0
        self.seconds = 0.0
        self.buckets = [0] * (len(_BOUNDS) + 1)


class Metrics(Collector):
    """Counts requests and bytes, and reads the state of the drive's actors when scraped."""

    def __init__(self, drive: GoDrive, *, lost_log_lines: Callable[[], int] | None = None) -> None:
        self._lost_log_lines = lost_log_lines
        self.registry = CollectorRegistry()
        self.bytes_in = self.bytes_out = 0
        """Bytes of content received and sent."""
        self.unfinished: collections.Counter[str] = collections.Counter()
        """Incomplete answers, by reason."""
        self.damaged: collections.Counter[str] = collections.Counter()
        """Reads of a blob that is ``missing`` or has the wrong ``size``."""
        self._requests: dict[tuple[str, str, int], _Series] = {}
        self._routes: dict[web.AbstractRoute, str] = {}
        self._children = drive.children
        self._events = drive.bucket_events.counts
        self._dead_letters = drive.dead_letters
        self._memory = drive.memory
        self._swept = drive.swept
        self._drive = drive
        self._uploads: dict[str, int] = {}
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def observe(self, request: web.Request, status: int, seconds: float, ended: str | None = None) -> None:
        """Count one request.  *ended* is the reason for an incomplete answer."""
        if ended is not None:
            self.unfinished[ended] += 1
        route = self._routes.get(request.match_info.route) or self.route(request)
        key = (request.method, route, status)
        series = self._requests.get(key) or self._begin(key)
        series.count += 1
        series.seconds += seconds
        series.buckets[bisect_left(_BOUNDS, seconds)] += 1

    def route(self, request: web.Request) -> str:
        """Return the template of the route; ``unmatched`` if there is none."""
        route = request.match_info.route
        if route.resource is None:
            return "unmatched"
        return self._routes.setdefault(route, route.resource.canonical)

    def render(self, uploads: dict[str, int]) -> bytes:
        """Return the metrics as text.  *uploads* is the number of uploads by state."""
        self._uploads = uploads
        return generate_latest(self.registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the current series."""
        yield from self._collect_requests()
        yield from self._collect_drive()

    def _begin(self, key: tuple[str, str, int]) -> _Series:
        method, route, status = key
        # Clients can invent any number of methods.
        return self._requests.setdefault((method if method in _METHODS else "other", route, status), _Series())

    def _collect_requests(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "godrive_http_requests", "Requests answered.", labels=["method", "route", "status"]
        )
        latency = HistogramMetricFamily(
            "godrive_http_request_seconds",
            "Time from the request's headers to the end of its handler.",
            labels=["method", "route"],
        )
        by_route: dict[tuple[str, str], list[_Series]] = defaultdict(list)
        for (method, route, status), series in self._requests.items():
            requests.add_metric([method, route, str(status)], series.count)
            by_route[method, route].append(series)
        for labels, found in by_route.items():
            counts = map(sum, zip(*(series.buckets for series in found), strict=True))
            buckets = list(zip((*map(str, _BOUNDS), "+Inf"), accumulate(counts), strict=True))
            latency.add_metric(list(labels), buckets, sum(series.seconds for series in found))
        yield requests
        yield latency
        for name, text, count in (
            ("godrive_content_bytes_in", "Bytes of content received.", self.bytes_in),
            ("godrive_content_bytes_out", "Bytes of content sent.", self.bytes_out),
        ):
            content = CounterMetricFamily(name, text)
            content.add_metric([], count)
            yield content

    def _collect_drive(self) -> Iterator[Metric]:
        queued = GaugeMetricFamily("godrive_mailbox_depth", "Messages queued.", labels=["actor"])
        in_flight = GaugeMetricFamily("godrive_messages_in_flight", "Messages being handled.", labels=["actor"])
        restarts = CounterMetricFamily("godrive_actor_restarts", "Restarts after a crash.", labels=["actor"])
        up = GaugeMetricFamily("godrive_actor_up", "1 if the actor accepts messages.", labels=["actor"])
        for child in self._children():
            queued.add_metric([child.name], child.queued)
            in_flight.add_metric([child.name], child.in_flight)
            restarts.add_metric([child.name], child.restarts)
            up.add_metric([child.name], float(child.state == "running"))
        uploads = GaugeMetricFamily("godrive_uploads", "Uploads by state.", labels=["state"])
        for state, count in self._uploads.items():
            uploads.add_metric([state], count)
        events = CounterMetricFamily("godrive_bucket_events", "Events of the store by outcome.", labels=["outcome"])
        for outcome, count in self._events.items():
            events.add_metric([outcome], count)
        dead = CounterMetricFamily(
            "godrive_dead_letters", "Messages that were not handled, or were refused.", labels=["actor", "message"]
        )
        for (actor, message), count in self._dead_letters.items():
            dead.add_metric([actor, message], count)
        swept = CounterMetricFamily("godrive_swept", "Items that the janitor processed or failed to.", labels=["what"])
        for what, count in self._swept.items():
            swept.add_metric([what], count)
        deliveries = CounterMetricFamily("godrive_webhook_deliveries", "Deliveries by outcome.", labels=["outcome"])
        webhooks = GaugeMetricFamily(
            "godrive_webhooks", "Webhooks with changes to deliver; failing: the last delivery failed.", labels=["state"]
        )
        for name, count in self._drive.webhook_counts.items():
            (webhooks if name in ("waiting", "failing") else deliveries).add_metric([name], count)
        yield from (deliveries, webhooks)
        yield GaugeMetricFamily("godrive_waiting", "Requests that wait for changes.", len(self._drive.watch))
        if self._lost_log_lines is not None:
            lost = CounterMetricFamily("godrive_log_lines_lost", "Log lines dropped.")
            lost.add_metric([], self._lost_log_lines())
            yield lost
        if (drift := self._drive.usage_drift) is not None:
            usage = GaugeMetricFamily(
                "godrive_usage_drift", "Difference between the stored usage of users and their files.", labels=["unit"]
            )
            usage.add_metric(["bytes"], drift.bytes)
            usage.add_metric(["rows"], drift.rows)
            yield usage
        yield from self._collect_scrub()
        if (made := self._drive.backed_up) is not None:
            age = (self._drive.clock.now() - made.made_at).total_seconds()
            yield GaugeMetricFamily("godrive_backup_age_seconds", "Age of the last backup in backup.target.", age)
        for name, help_, label, counts in (
            ("godrive_answers_unfinished", "Incomplete answers.", "reason", self.unfinished),
            ("godrive_blobs_damaged", "Reads of missing or damaged blobs.", "kind", self.damaged),
        ):
            family = CounterMetricFamily(name, help_, labels=[label])
            for value, count in counts.items():
                family.add_metric([value], count)
            yield family
        yield GaugeMetricFamily("godrive_held_bytes", "Bytes buffered for clients.", self._memory.held)
        yield CounterMetricFamily(
            "godrive_memory_shed", "Requests dropped because the memory budget was exhausted.", self._memory.shed
        )
        yield from (queued, in_flight, restarts, up, uploads, events, dead, swept)

    def _collect_scrub(self) -> Iterator[Metric]:
        read = CounterMetricFamily("godrive_scrubbed", "What the scrub has read.", labels=["unit"])
        for unit, count in self._drive.scrubbed.items():
            read.add_metric([unit], count)
        yield read
        state = self._drive.scrub
        if state is None:
            return
        damaged = GaugeMetricFamily("godrive_damaged_blobs", "Damaged blobs that the scrub knows.", labels=["fault"])
        for fault in Fault:
            if fault is not Fault.ORPHAN:
                damaged.add_metric([fault.value], state.damaged.get(fault.value, 0))
        yield damaged
        if state.ended_at is not None:
            yield GaugeMetricFamily(
                "godrive_scrub_ended_timestamp_seconds",
                "When the scrub last ended a pass over all blobs.",
                state.ended_at.timestamp(),
            )
