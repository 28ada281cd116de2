"""The supervision tree: the children of this process in start order.

This module alone reads where each actor runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from godrive.actors.auth import AuthActor
from godrive.actors.ingest import IngestActor
from godrive.actors.janitor import JanitorActor
from godrive.actors.metadata import MetadataActor
from godrive.actors.storage import StorageActor
from godrive.backup_schedule import CHILD as BACKUP
from godrive.backup_schedule import SHUTDOWN, BackupSchedule
from godrive.blobs import BlobStore
from godrive.bridge.bucket_events import BucketEventHandler
from godrive.bridge.notices import CHILD as NOTICES
from godrive.bridge.notices import Notices
from godrive.catalog import Catalog, Channel, HasChannel
from godrive.clock import Clock, ClockGuard
from godrive.config import ActorTable, Config
from godrive.credentials import TokenSigner, UrlSigner
from godrive.errors import DriveError
from godrive.known_callers import KnownCallers
from godrive.log_in_limits import LogInLimits
from godrive.messages.auth import Auth
from godrive.messages.ingest import Ingest, Reconcile
from godrive.messages.janitor import Janitor, Sweep
from godrive.messages.metadata import Metadata
from godrive.messages.storage import Storage
from godrive.messages.system import IndexNames, SettleTrash, UsageDrift
from godrive.opening import keeps_outbox
from godrive.rules.page_tokens import PageTokens
from godrive.runtime import Actor, ActorSpec, Ask, ChildSpec, Contract, Lane, OnEvent, Ref, Slots, Ticker
from godrive.runtime.message import A, R
from godrive.runtime.supervision_events import Ticked, TickFailed
from godrive.scrub import CHILD as SCRUB
from godrive.scrub import Scrubber, is_scrubbed
from godrive.watch import ChangeWatch

if TYPE_CHECKING:
    from godrive.bridge.connection import NatsLink

CONTRACTS: tuple[type[Contract], ...] = (Storage, Metadata, Auth, Ingest, Janitor)
"""All actors, in start order.  They stop in reverse order."""

CONCURRENCY: dict[type[Contract], dict[Lane, int]] = {
    Storage: {Lane.READ: 128, Lane.WRITE: 64, Lane.CHORE: 32},
    Metadata: {Lane.READ: 256, Lane.WRITE: 256, Lane.CHORE: 32},
    Auth: {Lane.READ: 256, Lane.WRITE: 256, Lane.CHORE: 8},
    Ingest: {Lane.READ: 8, Lane.WRITE: 32, Lane.CHORE: 32},
    Janitor: dict.fromkeys(Lane, 1),
}
"""Messages that an actor handles concurrently in each lane, unless configured otherwise."""


AUDIT_EVERY = 3600.0
"""Seconds between comparisons of the stored usage with the rows, which reads every row."""

WEBHOOKS = "webhooks"
"""The child that delivers changes to webhooks."""

WATCH = "watch"
"""The child that looks for changes on behalf of those who wait."""

SETTLE_EVERY, SETTLED_AT_ONCE = 0.5, 64
"""Seconds between checks for unsettled folders, and rows that one step settles: 4 milliseconds of CPU time.

Steps of 128 settle a tree no faster, and other writers wait for the step that they meet.
"""

INDEX_EVERY, INDEXED_AT_ONCE = 0.5, 64
"""Seconds between checks for changed names, and names that one step indexes: 2 milliseconds, 10 at the most."""


def _never(reply: Any) -> bool:
    return False


class Refs(Protocol):
    """Returns the ref of an actor, local or remote."""

    def __call__(self, contract: type[A]) -> Ref[A]: ...


class Dependencies(msgspec.Struct, frozen=True, kw_only=True):
    """The dependencies of actors.  A store is ``None`` if no actor of this process needs it."""

    config: Config
    clock: Clock
    urls: UrlSigner
    signer: TokenSigner
    tokens: PageTokens
    known_callers: KnownCallers
    limits: LogInLimits
    catalog: Catalog | None
    blobs: BlobStore | None
    ref: Refs
    bucket_events: Callable[[], BucketEventHandler]
    watch: ChangeWatch
    webhook_counts: Counter[str]
    on_event: OnEvent
    link: NatsLink | None
    """The connection to NATS, if one is configured."""
    receive: Callable[[str | None, Mapping[str, str]], str | None] | None = None
    """Makes the id of a request of what came with it from another process, when tracing is on."""


def is_local(config: Config, contract: type[Contract]) -> bool:
    """Whether the actor runs in this process."""
    return _table(config, contract).location == "local"


def needs_catalog(config: Config) -> bool:
    """Whether an actor of this process uses the catalog."""
    return is_local(config, Metadata) or is_local(config, Auth)


def needs_blobs(config: Config) -> bool:
    """Whether an actor of this process uses the blob store."""
    return is_local(config, Storage)


def tree(parts: Dependencies, *, serving: bool) -> list[ActorSpec | ChildSpec]:
    """Return the children of this process.  Without *serving*, there are no tickers, exposers and subscriptions."""
    config, clock, ref = parts.config, parts.clock, parts.ref
    children: list[ActorSpec | ChildSpec] = []
    if parts.link is not None:
        from godrive.bridge.nats import Reconnector  # noqa: PLC0415 - needs nats-py

        children.append(ChildSpec(name="nats", run=Reconnector(parts.link, on_event=parts.on_event).run))

    def actor(contract: type[Contract], start: Callable[[], Actor[Any]], *, shutdown: float | None = None) -> None:
        if is_local(config, contract):
            spec = ActorSpec(
                name=contract.name,
                start=start,
                lanes=_lanes(config, contract),
                shutdown=config.server.shutdown if shutdown is None else shutdown,
            )
            children.append(spec)

    def ticker(
        name: str, contract: type[A], message: Ask[A, R], every: float, *, has_more: Callable[[R], bool] = _never
    ) -> None:
        async def run() -> None:
            def on_reply(reply: Any) -> None:
                parts.on_event(Ticked(name, reply))

            def on_error(error: DriveError) -> None:
                parts.on_event(TickFailed(name, error))

            await Ticker(
                ref(contract), message, every=every, on_reply=on_reply, on_error=on_error, has_more=has_more
            ).run()

        if serving and is_local(config, contract):
            children.append(ChildSpec(name=name, run=run))

    if (blobs := parts.blobs) is not None:
        actor(Storage, lambda: StorageActor(blobs, config.blobs, clock, parts.urls))
    on_change = parts.watch.notice
    channel: Channel | None = None
    if serving and parts.link is not None:
        from godrive.bridge.nats_channel import NatsChannel  # noqa: PLC0415 - needs nats-py

        channel = NatsChannel(parts.link, namespace=config.nats.namespace)
    elif serving and isinstance(parts.catalog, HasChannel):
        channel = parts.catalog.channel()
    if channel is not None:
        notices = Notices(channel, parts.watch, on_event=parts.on_event)
        children.append(ChildSpec(name=NOTICES, run=notices.run))
        on_change = notices.committed
    if (catalog := parts.catalog) is not None:
        actor(Metadata, lambda: MetadataActor(catalog, config, clock, parts.tokens, on_change))
        actor(
            Auth, lambda: AuthActor(catalog, config.auth, clock, parts.signer, parts.known_callers, limits=parts.limits)
        )
    guard = ClockGuard(
        clock, step=config.janitor.clock_step
    )  # shared, so that a crash of an actor does not forget a jump
    actor(Ingest, lambda: IngestActor(ref(Metadata), ref(Storage), config.ingest, clock, guard))
    # The next sweep continues an interrupted one, so stopping does not wait for it.
    actor(Janitor, lambda: JanitorActor(ref(Metadata), ref(Storage), config, clock, guard), shutdown=1.0)
    ticker("settler", Metadata, SettleTrash(SETTLED_AT_ONCE), SETTLE_EVERY, has_more=bool)
    ticker("indexer", Metadata, IndexNames(INDEXED_AT_ONCE), INDEX_EVERY, has_more=bool)
    ticker("auditor", Metadata, UsageDrift(), AUDIT_EVERY)
    ticker("reconciler", Ingest, Reconcile(), config.ingest.reconcile_every)
    if serving:
        children.append(ChildSpec(name=WATCH, run=lambda: _watch(parts)))
    ticker("sweeper", Janitor, Sweep(), config.janitor.sweep_every)
    if serving and (stored := parts.blobs) is not None and is_scrubbed(config):
        children.append(ChildSpec(name=SCRUB, run=lambda: _scrubber(parts, stored).run()))
    if serving and config.backup.target and parts.blobs is not None:
        children.append(ChildSpec(name=BACKUP, run=lambda: _schedule(parts).run(), shutdown=SHUTDOWN))
    if serving and parts.link is not None and config.ingest.events != "none" and is_local(config, Ingest):
        from godrive.bridge.bucket_subscription import CHILD, bucket_events  # noqa: PLC0415 - needs nats-py

        events = bucket_events(
            config, parts.link, handler=parts.bucket_events, blobs=parts.blobs, on_event=parts.on_event
        )
        children.append(ChildSpec(name=CHILD, run=events))
    if serving and parts.link is not None and keeps_outbox(config) and is_local(config, Metadata):
        from godrive.bridge.publisher import CHILD as OUTBOX  # noqa: PLC0415 - needs nats-py
        from godrive.bridge.publisher import Publisher  # noqa: PLC0415

        publisher = Publisher(parts.link, namespace=config.nats.namespace, on_event=parts.on_event)
        children.append(ChildSpec(name=OUTBOX, run=lambda: publisher.run(ref(Metadata))))
    if serving and is_local(config, Metadata):
        children.append(ChildSpec(name=WEBHOOKS, run=lambda: _webhooks(parts)))
    if serving and parts.link is not None:
        children += [_exposer(parts, parts.link, contract) for contract in CONTRACTS if is_local(config, contract)]
    return children


async def _watch(parts: Dependencies) -> None:
    def on_error(error: DriveError) -> None:
        parts.on_event(TickFailed(WATCH, error))

    await parts.watch.run(parts.ref(Metadata), parts.ref(Auth), on_error)


async def _webhooks(parts: Dependencies) -> None:
    from godrive.bridge.webhooks import Dispatcher  # noqa: PLC0415 - an HTTP client, which most processes do not need

    dispatcher = Dispatcher(
        parts.config, parts.clock, parts.watch, counts=parts.webhook_counts, on_event=parts.on_event
    )
    await dispatcher.run(parts.ref(Metadata))


def _scrubber(parts: Dependencies, blobs: BlobStore) -> Scrubber:
    return Scrubber(
        parts.config.scrub,
        parts.clock,
        parts.ref(Metadata),
        parts.ref(Storage),
        blobs,
        on_step=lambda scrubbed: parts.on_event(Ticked(SCRUB, scrubbed)),
        on_error=lambda error: parts.on_event(TickFailed(SCRUB, error)),
    )


def _schedule(parts: Dependencies) -> BackupSchedule:
    return BackupSchedule(
        parts.config,
        parts.clock,
        parts.ref(Metadata),
        on_look=lambda look: parts.on_event(Ticked(BACKUP, look)),
        on_error=lambda error: parts.on_event(TickFailed(BACKUP, error)),
    )


def _exposer(parts: Dependencies, link: NatsLink, contract: type[Contract]) -> ChildSpec:
    """Return the child that lets other processes ask the actor.  It stops before the actors do."""
    from godrive.bridge.exposer import Exposer  # noqa: PLC0415 - needs nats-py

    lanes = _lanes(parts.config, contract)
    exposer = Exposer(
        contract,
        link,
        namespace=parts.config.nats.namespace,
        limits={lane: slots.capacity + slots.concurrency for lane, slots in lanes.items()},
        on_event=parts.on_event,
        receive=parts.receive,
    )

    async def run() -> None:
        await exposer.run(parts.ref(contract))

    return ChildSpec(name=exposer.name, run=run, stop=exposer.stop, shutdown=parts.config.server.shutdown)


def _lanes(config: Config, contract: type[Contract]) -> dict[Lane, Slots]:
    """Return the slots of each lane of the actor."""
    table = _table(config, contract)
    return {lane: Slots(table.concurrency or most, table.capacity) for lane, most in CONCURRENCY[contract].items()}


def _table(config: Config, contract: type[Contract]) -> ActorTable:
    table: ActorTable = getattr(config.actors, contract.name)
    return table
