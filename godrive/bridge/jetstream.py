"""Bucket events in, from JetStream: a durable pull consumer that outlives the broker's memory.

Theory of operation.  Stream and consumer are made when they are not there, at
the start and whenever the server has been away: it may have lost its disk.
Messages are asked for in batches, with heartbeats in between; a subscription
on which nothing at all is heard for two heartbeats is thrown away and made
again, because after a reconnect it may be dead without knowing
(nats-io/nats.py#234).  A message is acknowledged when the ingest actor has
committed what it says; a failure that may pass puts it off, longer each time;
one that has failed too often, or that no store sends, becomes a dead letter.
How often is counted here and not by the server, which would only stop
delivering what nobody then looks at.
"""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import timedelta

import anyio
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeout
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import ServerError

from godrive.backoff import Backoff
from godrive.bridge.bucket_events import BucketEventHandler
from godrive.bridge.connection import NatsLink, answering
from godrive.bridge.deadletters import DeadLetters
from godrive.bridge.failures import Failures
from godrive.bridge.streams import ensure_stream
from godrive.config import Ingest
from godrive.errors import ConfigError, DriveError, Invalid, StoreUnavailable
from godrive.runtime import OnEvent
from godrive.runtime.supervision_events import ChildWaiting, DeadLetter

AT_ONCE = 64
"""Messages asked for and dealt with at a time."""

HEARTBEAT = 2.0
"""Seconds between two signs of life of the server while there is nothing to deliver."""

EXPIRES = 30.0
"""Seconds after which a request for messages is made anew."""

ACK_WAIT = 60.0
"""Seconds after which a message that was delivered and not answered is delivered again; longer than an ask takes."""

LONGEST_DELAY = 60.0
REDELIVERY = Backoff(1.0, LONGEST_DELAY)
BACKOFF = Backoff(0.2, 5.0)
"""Seconds between two attempts to consume."""

MAX_AGE = timedelta(days=7).total_seconds()
MAX_EVENTS = 1_000_000

_CONSUMER_DIFFERS = 10012

_HEARTBEAT, _NO_MESSAGES, _EXPIRED = "100", "404", "408"


class BucketEvents:
    """The child that takes bucket events from JetStream; it ends only when cancelled."""

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
        self.listening = anyio.Event()
        """Set once messages can be received."""
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{settings.stream}.{settings.consumer}"

    async def run(self) -> None:
        """Consume forever.  On error, back off and reconnect; report only the first of consecutive failures."""
        while True:
            try:
                await self._consume()
            except (DriveError, NatsError, OSError, TimeoutError) as error:
                await anyio.sleep(self._failures.note(error))

    async def prepare(self) -> None:
        """Have the streams, and the consumer as it must be: one that was made otherwise would lose events unnoticed.

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

    async def _consume(self) -> None:
        """Take messages.  Raises when the server goes, forgets us, or falls silent."""
        client = await self._link.client()
        await self.prepare()
        self._failures.clear()
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        self.listening.set()
        try:
            while True:
                await self._take_batch(client, subscription, inbox)
        finally:
            with anyio.move_on_after(1, shield=True):
                await _forget(subscription)

    async def _take_batch(self, client: Client, subscription: Subscription, inbox: str) -> None:
        """Ask for messages, and deal with them until the request is used up or expires."""
        request = {
            "batch": AT_ONCE,
            "expires": _nanoseconds(EXPIRES),
            "idle_heartbeat": _nanoseconds(self._heartbeat),
        }
        await client.publish(self._next, json.dumps(request).encode(), reply=inbox)
        failure: Exception | None = None
        async with anyio.create_task_group() as handlers:
            try:
                for _ in range(AT_ONCE):
                    message = await self._hear(subscription)
                    if message is None:
                        break
                    handlers.start_soon(self._deal_with, message)
            except (DriveError, NatsError) as error:
                failure = error  # once what was received is dealt with
        if failure is not None:
            raise failure

    async def _hear(self, subscription: Subscription) -> Msg | None:
        """The next message, or ``None`` when the request has ended.  Raises ``StoreUnavailable``."""
        while True:
            try:
                message = await subscription.next_msg(timeout=2 * self._heartbeat)
            except NatsTimeout:
                raise StoreUnavailable("Nothing is heard of the JetStream consumer.") from None
            if message.reply:  # where to acknowledge it: no word of the server's, whatever its headers say
                return message
            status = (message.headers or {}).get("Status")
            if status in {_NO_MESSAGES, _EXPIRED}:
                return None
            if status != _HEARTBEAT:
                raise StoreUnavailable("The JetStream consumer is gone.", hint=f"NATS says {message.headers}")

    async def _deal_with(self, message: Msg) -> None:
        deliveries = message.metadata.num_delivered
        try:
            with suppress(NatsError):  # then it is delivered again
                await self._act_on(message, deliveries)
        except DriveError as error:  # not even buried
            self._on_event(ChildWaiting("dead letters", error))

    async def _act_on(self, message: Msg, deliveries: int) -> None:
        try:
            await self._handler.take(message.data)
        except Invalid as error:
            await self._bury(message, error.detail)
        except DriveError as error:
            if deliveries >= self._settings.max_deliver:
                await self._bury(message, f"{error.code}: {error.detail}")
            else:
                await message.nak(delay=REDELIVERY.after(deliveries))
        else:
            await message.ack()

    async def _bury(self, message: Msg, reason: str) -> None:
        await self._dead.bury(message, reason)
        await message.term()
        self._on_event(DeadLetter("ingest", "bucket event", reason))


async def _forget(subscription: Subscription) -> None:
    with suppress(NatsError):
        await subscription.unsubscribe()


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1_000_000_000)
