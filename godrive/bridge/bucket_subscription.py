"""The child that receives bucket events from NATS, by JetStream or plain subjects, as configured."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import anyio

from godrive.blobs import BlobStore, Presigner
from godrive.bridge.bucket_events import BucketEventHandler
from godrive.bridge.connection import NatsLink
from godrive.bridge.jetstream import BucketEvents
from godrive.bridge.subjects import PlainEvents
from godrive.config import Config
from godrive.errors import DriveError, StoreUnavailable
from godrive.runtime import OnEvent
from godrive.runtime.supervision_events import ChildWaiting

CHILD = "events"


def bucket_events(
    config: Config,
    link: NatsLink,
    *,
    handler: Callable[[], BucketEventHandler],
    blobs: BlobStore | None,
    on_event: OnEvent,
) -> Callable[[], Coroutine[Any, Any, None]]:
    """The coroutine function of the child.

    If the store is used by this process and clients upload to it directly, a
    probe tests whether its events arrive, and reports it if they do not.
    """

    async def run() -> None:
        taking = handler()
        source: BucketEvents | PlainEvents
        if config.ingest.events == "jetstream":
            namespace = config.nats.namespace
            source = BucketEvents(link, config.ingest, namespace=namespace, handler=taking, on_event=on_event)
        else:
            source = PlainEvents(link, config.ingest, handler=taking, on_event=on_event)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(source.run)
            if blobs is not None and isinstance(blobs, Presigner):
                await source.listening.wait()
                await _probe(taking, blobs, on_event)

    return run


async def _probe(handler: BucketEventHandler, blobs: BlobStore, on_event: OnEvent) -> None:
    try:
        if await handler.probe(blobs):
            return
        raise StoreUnavailable(
            "No event of the store arrives: a file appears when its upload is completed or reconciled.",
            hint="Configure the bucket to send s3:ObjectCreated:* events, or set ingest.events to 'none'.",
        )
    except DriveError as error:
        on_event(ChildWaiting(CHILD, error))
