"""Publishes domain events, about changes of files, from the log of changes to JetStream.

A row of the log is written in the transaction of the change, and marked once
the server has stored the event.  So each event is published at least once,
and the events of one owner in order.  ``Nats-Msg-Id`` is the id of the event:
the server drops repetitions within ten minutes, and a subscriber that must act
only once remembers the ids that it has seen.

A batch is sent without waiting for an acknowledgement in between.  Each event
but the first names the one before it (``Nats-Expected-Last-Msg-Id``), so once
the server has not stored one it refuses the rest, and no event overtakes
another.  Therefore an acknowledgement speaks for all events before it, and only
some events ask for one.  What was not acknowledged is sent again.

An event goes to ``<namespace>.events.<kind>``.  The stream that keeps events for
a week is created if absent.
"""

from __future__ import annotations

from contextlib import suppress

import anyio
import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from godrive.backoff import Backoff
from godrive.bridge.connection import NatsLink, answering
from godrive.bridge.failures import Failures
from godrive.bridge.nats_internals import PromptClient
from godrive.bridge.streams import ensure_stream
from godrive.errors import DriveError, StoreUnavailable
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

ACKNOWLEDGED = 16
"""Of how many events one asks for an acknowledgement; the last one of a batch does too."""

ACKNOWLEDGED_WITHIN = 5.0
"""Seconds for which a batch waits for its acknowledgements."""

LEASE, LEASE_TTL = "outbox", 30.0
"""One process publishes at a time.  With two, the order would hold only while the server recognises repetitions."""


class _Answer(msgspec.Struct):
    """What JetStream answers to a message.  Without an error, it is stored."""

    stream: str = ""
    error: dict[str, object] | None = None


_decode = msgspec.json.Decoder(_Answer).decode
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
        try:
            while True:
                try:
                    published = await self.publish(metadata)
                except (DriveError, NatsError) as error:
                    await anyio.sleep(self._failures.note(error))
                else:
                    self._failures.clear()
                    if published < BATCH:
                        await anyio.sleep(EVERY)
        finally:
            await self._lease.leave(metadata)

    async def publish(self, metadata: Ref[Metadata]) -> int:
        """Publish the oldest events.  Returns their number.

        Raises ``StoreUnavailable``; events published before that are not published again.
        """
        events = await metadata.ask(DueEvents(BATCH))
        if not events or not await self._lease.hold(metadata):
            return 0
        client = await self._link.client()
        await self._have_stream(client)
        batch = _Batch(events)
        try:
            with answering():
                await batch.send(client, self._subjects)
        finally:
            if len(batch.stored) < len(events):
                self._had_stream = -1
            if batch.stored:
                with anyio.CancelScope(shield=True):
                    await metadata.ask(MarkPublished(batch.stored))
        batch.check()
        return len(events)

    async def _have_stream(self, client: PromptClient) -> None:
        """Create the stream if absent, with each connection and after each failure.

        Its absence is not always an error: if someone subscribes to the subject
        without a stream, a publish is not refused but times out.
        """
        generation = self._link.generation
        if self._had_stream != generation:
            with answering():
                await ensure_stream(
                    client.jetstream(),
                    self._stream,
                    f"{self._subjects}.>",
                    max_age=MAX_AGE,
                    max_msgs=MAX_EVENTS,
                    duplicate_window=REMEMBERED,
                )
            self._had_stream = generation


class _Batch:
    """Events on their way to the server, and its answers."""

    def __init__(self, events: list[FileEvent]) -> None:
        self._events = events
        self._answers: dict[int, str] = {}
        """By the number of the event: why it was not stored, or nothing."""
        self._complete = anyio.Event()

    @property
    def stored(self) -> list[FileEvent]:
        """The events up to the last one that the server says it has stored."""
        return self._events[: max((number + 1 for number, refusal in self._answers.items() if not refusal), default=0)]

    def check(self) -> None:
        """Raises ``StoreUnavailable`` unless every event was stored."""
        if len(self.stored) < len(self._events):
            reason = next(filter(None, self._answers.values()), "The server did not acknowledge every event.")
            raise StoreUnavailable("NATS did not store every event.", hint=reason)

    async def send(self, client: PromptClient, subjects: str) -> None:
        """Send all, and wait for the answers."""
        inbox = client.new_inbox()
        subscription = await client.subscribe(f"{inbox}.*", cb=self._note)
        try:
            headers: dict[str, str] = {}
            last = len(self._events) - 1
            for number, event in enumerate(self._events):
                headers["Nats-Msg-Id"] = event.id
                reply = f"{inbox}.{number}" if number % ACKNOWLEDGED == 0 or number == last else ""
                await client.publish(f"{subjects}.{event.kind}", _encode(event), reply=reply, headers=headers)
                headers = {"Nats-Expected-Last-Msg-Id": event.id}
            with anyio.move_on_after(ACKNOWLEDGED_WITHIN):
                await self._complete.wait()
        finally:
            with anyio.move_on_after(1, shield=True), suppress(NatsError):
                await subscription.unsubscribe()

    async def _note(self, answer: Msg) -> None:
        number = int(answer.subject.rpartition(".")[2])
        refusal = self._answers[number] = _refusal(answer)
        if refusal or number == len(self._events) - 1:
            self._complete.set()


def _refusal(answer: Msg) -> str:
    """Why the server has not stored an event; empty if it has."""
    try:
        read = _decode(answer.data)
    except msgspec.MsgspecError:
        return f"NATS says {answer.headers or answer.data[:100]!r}"  # no stream has the subject
    if read.error is not None:
        return str(read.error.get("description", read.error))
    return "" if read.stream else "The acknowledgement names no stream."
