"""NATS, for actors in other processes and for the store's events."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import anyio

from godrive.clock import Clock
from godrive.config import Actors, Config
from godrive.doctor import Report
from godrive.doctor.stores import SAMPLE, body, new_key
from godrive.errors import StoreUnavailable
from godrive.stores import make_blobs

if TYPE_CHECKING:
    from godrive.bridge.connection import NatsLink

WITHIN = 5.0
"""Seconds in which an event should come."""


async def nats(config: Config, clock: Clock, report: Report) -> None:
    """Whether NATS answers, keeps what it must, and carries the store's events."""
    if not config.nats.url:
        return
    from godrive.bridge.connection import NatsLink  # noqa: PLC0415 - needs nats-py

    link = NatsLink(config.nats, name="godrive doctor")
    try:
        client = await link.client()
        start = time.perf_counter()
        await client.flush()
        milliseconds = (time.perf_counter() - start) * 1000
        away = [name for name in Actors.__struct_fields__ if getattr(config.actors, name).location == "nats"]
        what = f"for {', '.join(away)}" if away else "for no actor"
        report.ok("NATS", f"It answers within {milliseconds:.1f} ms, {what}.")
        if config.ingest.events == "jetstream":
            await _jetstream(link, report)
        if config.ingest.events != "none":
            await _events(link, config, clock, report)
    finally:
        await link.close()


async def _jetstream(link: NatsLink, report: Report) -> None:
    from godrive.bridge.connection import answering  # noqa: PLC0415

    try:
        with answering():
            account = await (await link.client()).jetstream().account_info()
    except StoreUnavailable as error:
        report.failure("JetStream", f"It does not answer: {error.hint}", "Start nats-server with -js.")
    else:
        report.ok("JetStream", f"{account.streams} streams, {account.consumers} consumers.")


async def _events(link: NatsLink, config: Config, clock: Clock, report: Report) -> None:
    """Store a blob, and listen beside the server for the event, so that the server misses nothing."""
    subject, store, key = config.ingest.subject, make_blobs(config, clock), new_key()
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
    finally:
        await subscription.unsubscribe()
        await store.close()
    if came.is_set():
        report.ok("events", f"active: the store tells {subject} of what it gets.")
    else:
        report.warning(
            "events",
            f"absent: nothing came to {subject} within {WITHIN:g} seconds.",
            "Have the bucket send its events there; without them uploads are found by looking, which takes seconds.",
        )
