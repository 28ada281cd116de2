"""Checks of NATS and of the store's events."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import aiohttp
import anyio
import msgspec

from godrive.blobs.bounded_read import read_bounded
from godrive.clock import Clock
from godrive.config import Actors, Config
from godrive.doctor import Report
from godrive.doctor.stores import SAMPLE, body, new_key, tolerant
from godrive.errors import ConfigError, DriveError, StoreUnavailable
from godrive.opening import keeps_outbox, make_blobs

if TYPE_CHECKING:
    from godrive.bridge.connection import NatsLink

WITHIN = 5.0
"""Time limit for an event in seconds."""

EVERY = 0.2
"""Seconds between two looks at ``/readyz``."""

_ABSENT = "Have the bucket send its events there; without them uploads are found by looking, which takes seconds."


class _Ready(msgspec.Struct):
    """The part of ``/readyz`` that is read."""

    events: str


_EVENTS = msgspec.json.Decoder(_Ready)


async def nats(config: Config, clock: Clock, report: Report) -> None:
    """Check that NATS answers, stores messages if it must, and delivers the store's events."""
    if not config.nats.url:
        return
    from godrive.bridge.connection import NatsLink, answering  # noqa: PLC0415 - needs nats-py

    link = NatsLink(config.nats, name="godrive doctor")
    try:
        with answering():
            client = await link.client()
            start = time.perf_counter()
            await client.flush()
        milliseconds = (time.perf_counter() - start) * 1000
        away = [name for name in Actors.__struct_fields__ if getattr(config.actors, name).location == "nats"]
        what = f"for {', '.join(away)}" if away else "for no actor"
        report.ok("NATS", f"It answers within {milliseconds:.1f} ms, {what}.")
        if config.ingest.events == "jetstream" or keeps_outbox(config):
            await _jetstream(link, config, report)
        if config.ingest.events != "none":
            await _events(link, config, clock, report)
    except StoreUnavailable as error:
        report.failure("NATS", f"{error.detail} {error.hint or ''}".strip(), "Start it, or correct nats.url.")
    finally:
        await link.close()


async def _jetstream(link: NatsLink, config: Config, report: Report) -> None:
    """Check that JetStream answers and its stream covers the subject of the events."""
    from godrive.bridge.connection import answering  # noqa: PLC0415
    from godrive.bridge.streams import has_stream  # noqa: PLC0415

    js, ingest = (await link.client()).jetstream(), config.ingest
    try:
        with answering():
            account = await js.account_info()
            if ingest.events == "jetstream":
                await has_stream(js, ingest.stream, ingest.subject)
    except StoreUnavailable as error:
        report.failure("JetStream", f"It does not answer: {error.hint}", "Start nats-server with -js.")
    except ConfigError as error:
        report.failure("JetStream", error.detail, error.hint or "")
    else:
        report.ok("JetStream", f"{account.streams} streams, {account.consumers} consumers.")


async def _events(link: NatsLink, config: Config, clock: Clock, report: Report) -> None:
    """Store a blob and wait for its event, on a subscription of its own that takes nothing from the server."""
    if config.blobs.driver == "disk":
        report.warning("events", "absent: the disk store sends no events.", "Set ingest.events to 'none'.")
        return
    subject, store, key = config.ingest.subject, make_blobs(tolerant(config), clock), new_key()
    name = os.fsencode(key.rpartition("/")[2])
    came = anyio.Event()

    async def look(message: object) -> None:
        if name in getattr(message, "data", b""):
            came.set()

    client = await link.client()
    subscription = await client.subscribe(subject, cb=look)
    try:
        await client.flush()
        await store.open()
        try:
            await store.put(key, body(), size=len(SAMPLE))
            with anyio.move_on_after(WITHIN):
                await came.wait()
        finally:
            await store.delete(key)
    except DriveError as error:
        report.failure(
            "events", f"The store takes no blob: {error.detail}", error.hint or "See what is said of it above."
        )
        return
    finally:
        await subscription.unsubscribe()
        await store.close()
    if came.is_set():
        report.ok("events", f"active: the store reports new objects on {subject}.")
    else:
        report.warning("events", f"absent: nothing came to {subject} within {WITHIN:g} seconds.", _ABSENT)


async def posted(config: Config, report: Report) -> None:
    """Check by ``/readyz`` that events of the blobs stored just now have reached the server's webhook."""
    if not config.ingest.webhook_token or config.blobs.driver != "s3":
        return
    url, state = f"{config.server.base_url}/readyz", None
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
            with anyio.move_on_after(WITHIN):
                while state != "active":
                    async with session.get(url, allow_redirects=False) as answer:
                        state = _EVENTS.decode(await read_bounded(answer.content)).events
                    await anyio.sleep(EVERY)
    except (aiohttp.ClientError, TimeoutError, OSError, msgspec.MsgspecError, UnicodeError):
        report.warning("events", f"Unknown: {url} does not say.", "Start the server, and look at GET /readyz.")
        return
    if state == "active":
        report.ok("events", "active: the store reports new objects to the server over HTTP.")
    else:
        report.warning("events", f"absent: nothing was posted to the server within {WITHIN:g} seconds.", _ABSENT)
