"""Receives bucket events from JetStream, with a durable pull consumer that survives a broker without memory.

Theory of operation.  The stream and the consumer are created if absent, at the
start and after every outage of the server, because it may have lost its disk.
Messages are pulled in batches, with heartbeats in between.  The messages of a
batch are handled at the same time, so the metadata actor publishes them in one
commit.  The next batch does not wait for all of them: one that hangs delays no
other.  A subscription that is silent for two heartbeats is replaced, because
after a reconnect it may be dead without an error (nats-io/nats.py#234).  A
message is acknowledged once the ingest actor has committed it.  A temporary
failure delays the message, longer each time.  A message that has failed too
often, or is malformed, becomes a dead letter; of a message with several records,
only the malformed ones do.  Failures are counted here and not by the server, which
would stop delivery without keeping the message where an operator sees it.
"""

from __future__ import annotations

import json
from collections import deque
from contextlib import suppress
from datetime import timedelta

import anyio
from anyio.abc import TaskGroup
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import ServerError

from godrive.backoff import Backoff
from godrive.bridge.bucket_events import BucketEventHandler, MalformedRecords
from godrive.bridge.connection import NatsLink, answering
from godrive.bridge.deadletters import DeadLetters
from godrive.bridge.failures import Failures
from godrive.bridge.nats_internals import PromptClient
from godrive.bridge.streams import ensure_stream
from godrive.config import Ingest
from godrive.errors import ConfigError, DriveError, Invalid, StoreUnavailable
from godrive.runtime import OnEvent
from godrive.runtime.supervision_events import ChildWaiting, DeadLetter

AT_ONCE = 64
"""Messages of a batch.  While more are in hand, the next batch waits."""

HEARTBEAT = 2.0
"""Seconds between two heartbeats of the server while it has nothing to deliver."""

EXPIRES = 30.0
"""Seconds after which a pull request expires and is repeated."""

ACK_WAIT = 60.0
"""Seconds after which an unacknowledged message is delivered again; longer than an ask can take."""

LONGEST_DELAY = 60.0
REDELIVERY = Backoff(1.0, LONGEST_DELAY)
BACKOFF = Backoff(0.2, 5.0)
"""Seconds between two attempts to consume."""

MAX_AGE = timedelta(days=7).total_seconds()
MAX_EVENTS = 1_000_000

_CONSUMER_DIFFERS = 10012

_HEARTBEAT, _NO_MESSAGES, _EXPIRED = "100", "404", "408"


class BucketEvents:
    """The child that receives bucket events from JetStream.  It ends only when cancelled."""

    def __init__(
        self,
        link: NatsLink,
        settings: Ingest,
        *,
        namespace: str,
        handler: BucketEventHandler,
        on_event: OnEvent,
        heartbeat: float = HEARTBEAT,
        ack_wait: float = ACK_WAIT,
    ) -> None:
        self._link = link
        self._settings = settings
        self._handler = handler
        self._on_event = on_event
        self._heartbeat = heartbeat
        self._ack_wait = ack_wait
        self._dead = DeadLetters(link, stream=settings.stream, namespace=namespace)
        self._failures = Failures("events", on_event, BACKOFF)
        self._in_hand = 0
        self._dealt_with = anyio.Event()
        self.listening = anyio.Event()
        """Set once messages can arrive."""
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{settings.stream}.{settings.consumer}"

    async def run(self) -> None:
        """Consume forever.  On error, back off and reconnect; report only the first of consecutive failures."""
        self._in_hand = 0
        async with anyio.create_task_group() as handlers:
            while True:
                try:
                    await self._consume(handlers)
                except (DriveError, NatsError, OSError, TimeoutError) as error:
                    await anyio.sleep(self._failures.note(error))

    async def prepare(self) -> None:
        """Create the streams and the consumer if absent.  A consumer with other options would lose events silently.

        Raises ``ConfigError``, ``StoreUnavailable``.
        """
        settings = self._settings
        js = (await self._link.client()).jetstream()
        with answering():
            await ensure_stream(js, settings.stream, settings.subject, max_age=MAX_AGE, max_msgs=MAX_EVENTS)
            try:
                await js.add_consumer(
                    settings.stream,
                    ConsumerConfig(
                        durable_name=settings.consumer,
                        ack_policy=AckPolicy.EXPLICIT,
                        ack_wait=self._ack_wait,
                        max_deliver=-1,
                        max_ack_pending=4 * AT_ONCE,
                        filter_subject=settings.subject,
                    ),
                )
            except ServerError as error:
                if error.err_code != _CONSUMER_DIFFERS:
                    raise
                raise ConfigError(
                    f"The JetStream consumer {settings.consumer} cannot be made what it must be: {error.description}.",
                    hint=f"nats consumer rm {settings.stream} {settings.consumer}, which is then made again.",
                ) from None
        await self._dead.prepare()

    async def _consume(self, handlers: TaskGroup) -> None:
        """Pull messages.  Raises when the server is lost, silent, or no longer knows the consumer."""
        client = await self._link.client()
        await self.prepare()
        self._failures.clear()
        inbox, heard = client.new_inbox(), _Heard()
        subscription = await client.subscribe(inbox, cb=heard.note)
        self.listening.set()
        try:
            while True:
                await self._take_batch(client, heard, inbox, handlers)
        finally:
            with anyio.move_on_after(1, shield=True):
                await _forget(subscription)

    async def _take_batch(self, client: PromptClient, heard: _Heard, inbox: str, handlers: TaskGroup) -> None:
        """Send one pull request, and have its messages handled until it is fulfilled or expires."""
        while self._in_hand > AT_ONCE:
            self._dealt_with = anyio.Event()
            await self._dealt_with.wait()
        request = {
            "batch": AT_ONCE,
            "expires": _nanoseconds(EXPIRES),
            "idle_heartbeat": _nanoseconds(self._heartbeat),
        }
        await client.publish(self._next, json.dumps(request).encode(), reply=inbox)
        for _ in range(AT_ONCE):
            message = await self._hear(heard)
            if message is None:
                break
            self._in_hand += 1
            handlers.start_soon(self._deal_with, message, client.authenticates)

    async def _hear(self, heard: _Heard) -> Msg | None:
        """The next message, or ``None`` if the request has ended.  Raises ``StoreUnavailable``."""
        while True:
            message = await heard.next(within=2 * self._heartbeat)
            if message is None:
                raise StoreUnavailable("The JetStream consumer is silent.")
            if message.reply:  # only a message has a subject to acknowledge it, whatever the headers say
                return message
            status = (message.headers or {}).get("Status")
            if status in {_NO_MESSAGES, _EXPIRED}:
                return None
            if status != _HEARTBEAT:
                raise StoreUnavailable("The JetStream consumer is gone.", hint=f"NATS says {message.headers}")

    async def _deal_with(self, message: Msg, authenticated: bool) -> None:
        try:
            deliveries = message.metadata.num_delivered
            # Stores send no headers.  A dead letter that is sent again has one.
            certain = authenticated and deliveries == 1 and not message.headers
            with suppress(NatsError):  # the server delivers it again
                await self._act_on(message, deliveries, certain)
        except DriveError as error:  # not even the dead letter could be stored
            self._on_event(ChildWaiting("dead letters", error))
        finally:
            self._in_hand -= 1
            self._dealt_with.set()

    async def _act_on(self, message: Msg, deliveries: int, certain: bool) -> None:
        try:
            await self._handler.take(message.data, certain=certain)
        except MalformedRecords as error:
            await self._bury(message, error.detail, error.message)
        except Invalid as error:
            await self._bury(message, error.detail)
        except DriveError as error:
            if deliveries >= self._settings.max_deliver:
                await self._bury(message, f"{error.code}: {error.detail}")
            else:
                await message.nak(delay=REDELIVERY.after(deliveries))
        else:
            await message.ack()

    async def _bury(self, message: Msg, reason: str, body: bytes | None = None) -> None:
        await self._dead.bury(message, reason, body)
        await message.term()
        self._on_event(DeadLetter("ingest", "bucket event", reason))


class _Heard:
    """The messages of a subscription that have come and were not taken yet.

    ``Subscription.next_msg`` makes two tasks and a random id for each message.
    """

    def __init__(self) -> None:
        self._messages: deque[Msg] = deque()
        self._came = anyio.Event()

    async def note(self, message: Msg) -> None:
        self._messages.append(message)
        self._came.set()

    async def next(self, *, within: float) -> Msg | None:
        """The next message, or ``None`` if none comes *within* that many seconds."""
        if not self._messages:
            self._came = anyio.Event()
            with anyio.move_on_after(within):
                await self._came.wait()
        return self._messages.popleft() if self._messages else None


async def _forget(subscription: Subscription) -> None:
    with suppress(NatsError):
        await subscription.unsubscribe()


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000_000)
