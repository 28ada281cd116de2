"""A simulated S3 store: a process of its own that answers late, twice, wrongly or not at all, and sends bucket events.

What it has acknowledged it keeps: a store that loses objects is not simulated.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote_plus

import msgspec

from godrive.simulation.http_server import Reply, Request, ServerProtocol
from godrive.simulation.loop import EPOCH, Process, SimulatedLoop, within
from godrive.simulation.s3_bucket import BUCKET, Bucket, Honours, Stored
from godrive.simulation.trace import Trace

NAME = "s3"
ADDRESS = ("10.0.0.9", 9000)

_UNAVAILABLE = (500, "InternalError"), (503, "SlowDown"), (503, "ServiceUnavailable")

Send = Callable[[bytes], Awaitable[None]]
"""Sends a bucket event on its way.  It ends when the event has arrived, or never will."""


@dataclass
class Troubles:
    """What is wrong with the store: shares of the requests, but for *slow*."""

    slow: float = 0.0
    """Seconds that an answer takes at most."""
    refused: float = 0.0
    """Answered 500 or 503, and not done."""
    unanswered: float = 0.0
    """Done, but the connection is reset instead of an answer."""
    late: float = 0.0
    """The connection is reset, and the request is done up to half a minute later."""
    twice: float = 0.0
    """Done twice, as by a proxy that repeats what was not answered in time: the answer is the second one."""


@dataclass
class EventTroubles:
    """What is wrong with bucket events: shares of them, but for *slow*."""

    slow: float = 0.05
    """Seconds after which an event leaves at most; so events overtake one another."""
    lost: float = 0.0
    doubled: float = 0.0
    stale: float = 0.0
    """Sent again up to ten minutes later."""


class S3Server(Process):
    """The store.  *send* is how bucket events leave; ``None`` if it sends none."""

    def __init__(
        self, loop: SimulatedLoop, chance: random.Random, trace: Trace, honours: Honours, send: Send | None
    ) -> None:
        super().__init__(NAME)
        self.offset = 0.0
        """Seconds by which its clock was set forward."""
        self.troubles = Troubles()
        self.event_troubles = EventTroubles()
        self._loop = loop
        self._chance = chance
        self._trace = trace
        self._send = send
        self.late: set[str] = set()
        """Keys of blobs that may have come back after their deletion, by a request that was carried out late."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._number = 0
        self.bucket = Bucket(f"{ADDRESS[0]}:{ADDRESS[1]}", honours, chance, self.now, self._created)
        within(self, loop.network.listen, lambda: ServerProtocol(self.serve), *ADDRESS)

    def now(self) -> datetime:
        """What its clock says."""
        return datetime.fromtimestamp(EPOCH + self.offset + self._loop.time(), UTC)

    async def serve(self, request: Request) -> Reply | None:
        """Answer, as far as the troubles let it."""
        troubles, chance = self.troubles, self._chance.random
        await asyncio.sleep(chance() * (troubles.slow or 0.002))
        what = f"{request.method} {request.path}"
        if chance() < troubles.refused:
            status, code = self._chance.choice(_UNAVAILABLE)
            self._trace("refuses", NAME, what=what, code=code)
            return Reply(status, f"<Error><Code>{code}</Code></Error>".encode())
        if chance() < troubles.late:
            self._trace("delays", NAME, what=what)
            self._later(self._do_late(request, chance() * 30.0))
            return None
        reply = self._do(request)
        if chance() < troubles.twice:
            reply = self._do(request)
        if chance() < troubles.unanswered:
            self._trace("is silent", NAME, what=what, status=reply.status)
            return None
        return reply

    def _do(self, request: Request) -> Reply:
        reply = self.bucket.answer(request)
        if request.method not in ("GET", "HEAD"):
            self._trace("does", NAME, what=f"{request.method} {request.path}", status=reply.status)
        return reply

    async def _do_late(self, request: Request, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.late.add(request.path.partition("/objects/")[2])
        self._do(request)

    def _later(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        task = within(self, self._loop.create_task, run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Events

    def _created(self, key: str, stored: Stored) -> None:
        """An object was written."""
        if self._send is None:
            return
        self._number += 1
        event, chance, troubles = _event(key, stored, self._number), self._chance.random, self.event_troubles
        if chance() < troubles.lost:
            self._trace("forgets", NAME, what=key)
            return
        delays = [chance() * troubles.slow]
        if chance() < troubles.doubled:
            delays.append(chance() * troubles.slow)
        if chance() < troubles.stale:
            delays.append(chance() * 600.0)
        for delay in delays:
            self._later(self._deliver(event, delay))

    async def _deliver(self, event: bytes, delay: float) -> None:
        await asyncio.sleep(delay)
        assert self._send is not None  # noqa: S101 - _created has checked
        await self._send(event)


def _event(key: str, stored: Stored, number: int) -> bytes:
    """The event as MinIO sends it."""
    metadata = {name: value for name, value in stored.headers.items() if name.startswith("x-amz-meta-")}
    described = {"key": quote_plus(key), "size": len(stored.data), "eTag": stored.etag, "userMetadata": metadata}
    record = {
        "eventSource": "minio:s3",
        "eventName": "s3:ObjectCreated:Put",
        "eventTime": stored.at.isoformat().replace("+00:00", "Z"),
        "s3": {"bucket": {"name": BUCKET}, "object": described | {"sequencer": f"{number:016X}"}},
    }
    return msgspec.json.encode({"EventName": "s3:ObjectCreated:Put", "Key": f"{BUCKET}/{key}", "Records": [record]})
