"""Receives bucket events from a plain NATS subject, as MinIO sends them without JetStream.

Nothing is stored here.  An event that is sent while no process listens is lost,
and one that cannot be handled is counted and reported.  The reconciler finds the
uploads of both.
"""

from __future__ import annotations

from contextlib import suppress

import anyio
from anyio.abc import TaskGroup
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from godrive.backoff import Backoff
from godrive.bridge.bucket_events import BucketEventHandler
from godrive.bridge.connection import NatsLink, answering
from godrive.bridge.failures import Failures
from godrive.config import Ingest
from godrive.errors import DriveError, Invalid
from godrive.runtime import OnEvent
from godrive.runtime.supervision_events import DeadLetter

AT_ONCE = 64
MOST_WAITING = 8192
MOST_WAITING_BYTES = 16 * 1024 * 1024
BACKOFF = Backoff(0.2, 5.0)
"""Seconds between two attempts to subscribe."""


class PlainEvents:
    """The child that receives bucket events from a subject.  It ends only when cancelled.

    Several processes share the events: each event goes to one of them.
    """

    def __init__(self, link: NatsLink, settings: Ingest, *, handler: BucketEventHandler, on_event: OnEvent) -> None:
        self._link = link
        self._settings = settings
        self._handler = handler
        self._on_event = on_event
        self._failures = Failures("events", on_event, BACKOFF)
        self.listening = anyio.Event()
        """Set once messages can arrive."""

    async def run(self) -> None:
        """Receive events forever.  Subscribe again with every connection; on error, back off and retry."""
        while True:
            try:
                await self._listen()
            except (DriveError, NatsError) as error:
                await anyio.sleep(self._failures.note(error))

    async def _listen(self) -> None:
        """Receive events over one connection.  Returns when there is a newer one."""
        client = await self._link.client()
        generation = self._link.generation
        with answering():
            subscription = await client.subscribe(
                self._settings.subject,
                queue=self._settings.consumer,
                pending_msgs_limit=MOST_WAITING,
                pending_bytes_limit=MOST_WAITING_BYTES,
            )
            await client.flush()
        self._failures.clear()
        self.listening.set()
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._receive, subscription, client.authenticates, tasks)
                await self._link.newer_than(generation)
                tasks.cancel_scope.cancel()
        finally:
            with anyio.move_on_after(1, shield=True), suppress(NatsError):
                await subscription.unsubscribe()

    async def _receive(self, subscription: Subscription, certain: bool, tasks: TaskGroup) -> None:
        room = anyio.Semaphore(AT_ONCE)
        try:
            while True:
                message = await subscription.next_msg(timeout=None)
                await room.acquire()
                tasks.start_soon(self._deal_with, message, certain, room)
        except NatsError:
            tasks.cancel_scope.cancel()  # the connection is closed: subscribe over another one

    async def _deal_with(self, message: Msg, certain: bool, room: anyio.Semaphore) -> None:
        try:
            await self._handler.take(message.data, certain=certain)
        except Invalid as error:
            self._on_event(DeadLetter("ingest", "bucket event", error.detail))
        except DriveError as error:
            self._on_event(DeadLetter("ingest", "bucket event", error.code))
        finally:
            room.release()
