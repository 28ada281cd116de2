"""Publishes domain events, about changes of files, from the log of changes to JetStream.

A row of the log is written in the transaction of the change, and marked once
the server has stored the event.  So each event is published at least once,
and the events of one owner in order.  ``Nats-Msg-Id`` is the id of the event:
the server drops repetitions within ten minutes, and a subscriber that must act
only once remembers the ids that it has seen.

An event goes to ``<namespace>.events.<kind>``.  The stream that keeps events for
a week is created if absent.
"""

from __future__ import annotations

import anyio
import msgspec
from nats.errors import Error as NatsError
from nats.js import JetStreamContext

from godrive.backoff import Backoff
from godrive.bridge.connection import NatsLink, answering
from godrive.bridge.failures import Failures
from godrive.bridge.streams import ensure_stream
from godrive.errors import DriveError
from godrive.lease import Lease
from godrive.messages.metadata import Metadata
from godrive.messages.system import DueEvents, MarkPublished
from godrive.model import FileEvent
from godrive.runtime import OnEvent, Ref

CHILD = "outbox"

BATCH = 100
EVERY = 0.5
"""Seconds until the log is read again after everything was published."""

BACKOFF = Backoff(0.5, 10.0)
MAX_AGE = 7 * 86_400.0
MAX_EVENTS = 1_000_000
REMEMBERED = 600.0
"""Seconds for which the server recognises a repeated event."""

LEASE, LEASE_TTL = "outbox", 30.0
"""One process publishes at a time.  With two, the order would hold only while the server recognises repetitions."""

_encode = msgspec.json.Encoder().encode


class Publisher:
    """The child that publishes.  It ends only when cancelled."""

    def __init__(self, link: NatsLink, *, namespace: str, on_event: OnEvent) -> None:
        self._link = link
        self._subjects = f"{namespace}.events"
        self._stream = f"{namespace.replace('.', '_')}_EVENTS".upper()
        self._failures = Failures(CHILD, on_event, BACKOFF)
        self._lease = Lease(LEASE, LEASE_TTL, lambda: anyio.current_time())  # noqa: PLW0108 - tests turn it
        self._had_stream = -1
        """The generation of the connection over which the stream was last seen."""

    async def run(self, metadata: Ref[Metadata]) -> None:
        """Publish events forever.  On error, back off and retry."""
        while True:
            try:
                published = await self.publish(metadata)
            except (DriveError, NatsError) as error:
                await anyio.sleep(self._failures.note(error))
            else:
                self._failures.clear()
                if published < BATCH:
                    await anyio.sleep(EVERY)

    async def publish(self, metadata: Ref[Metadata]) -> int:
        """Publish the oldest events.  Returns their number.

        Raises ``StoreUnavailable``; events published before that are not published again.
        """
        events = await metadata.ask(DueEvents(BATCH))
        if not events or not await self._lease.hold(metadata):
            return 0
        js = (await self._link.client()).jetstream()
        await self._have_stream(js)
        stored: list[FileEvent] = []
        try:
            for event in events:
                await self._send(js, event)
                stored.append(event)
        finally:
            if len(stored) < len(events):
                self._had_stream = -1
            if stored:
                with anyio.CancelScope(shield=True):
                    await metadata.ask(MarkPublished(stored))
        return len(stored)

    async def _have_stream(self, js: JetStreamContext) -> None:
        """Create the stream if absent, with each connection and after each failure.

        Its absence is not always an error: if someone subscribes to the subject
        without a stream, a publish is not refused but times out.
        """
        generation = self._link.generation
        if self._had_stream != generation:
            with answering():
                await ensure_stream(
                    js,
                    self._stream,
                    f"{self._subjects}.>",
                    max_age=MAX_AGE,
                    max_msgs=MAX_EVENTS,
                    duplicate_window=REMEMBERED,
                )
            self._had_stream = generation

    async def _send(self, js: JetStreamContext, event: FileEvent) -> None:
        with answering():
            await js.publish(f"{self._subjects}.{event.kind}", _encode(event), headers={"Nats-Msg-Id": event.id})
