"""The drive: an async context manager that opens the stores, runs the actors and holds their refs."""

from __future__ import annotations

import hmac
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio
from msgspec.structs import asdict

from godrive.append_turns import AppendTurns
from godrive.backup_schedule import Look
from godrive.blobs import Appendable, BlobStore, FileBacked, Packing, Presigner
from godrive.bridge.bucket_events import BucketEventHandler
from godrive.catalog import Catalog, ReadsAtOnce
from godrive.clock import Clock, SystemClock
from godrive.config import Config
from godrive.configfile import check
from godrive.credentials import Keyring, TokenSigner, UrlSigner
from godrive.errors import DriveError, StoreUnavailable
from godrive.known_callers import KnownCallers
from godrive.known_room import KnownRoom
from godrive.known_uploads import KnownUploads
from godrive.log_in_limits import LogInLimits
from godrive.memory import MemoryBudget
from godrive.messages.auth import Auth
from godrive.messages.backups import MadeBackup
from godrive.messages.expected import ScrubState
from godrive.messages.ingest import Ingest
from godrive.messages.janitor import Janitor, Swept
from godrive.messages.metadata import Metadata
from godrive.messages.storage import Storage
from godrive.messages.system import Drift
from godrive.messages.users import EnsureUser
from godrive.model import User, UserId
from godrive.opening import (
    FolderLock,
    check_is_new,
    has_no_objects,
    load_keyring,
    make_blobs,
    make_catalog,
    open_data_folder,
)
from godrive.principal import System
from godrive.rules.page_tokens import PageTokens
from godrive.runtime import ChildDetails, ChildStatus, Contract, Event, OnEvent, Ref, Supervisor
from godrive.runtime.message import A
from godrive.runtime.supervision_events import ChildWaiting, DeadLetter, Ticked, guarded, ignore
from godrive.scrub import Scrubbed
from godrive.small_files import SmallFiles
from godrive.tree import CONTRACTS, Dependencies, is_local, needs_blobs, needs_catalog, tree
from godrive.undone import to_the_end
from godrive.watch import ChangeWatch

if TYPE_CHECKING:
    from godrive.bridge.connection import NatsLink
    from godrive.bridge.nats import NatsRef
    from godrive.files import Files
    from godrive.tracing import Tracing


class GoDrive:
    """A drive::

        async with GoDrive(Config.embedded("./data")) as drive:
            user = await drive.auth.ask(SignUp("ann@example.org", "correct horse"))

    *blobs* and *catalog* replace the configured stores; the drive opens and
    closes them.  *clock* replaces the clock of the machine.  *on_event* is
    called for crashes, restarts and dead letters, and must not block.  A drive
    that is not *serving* does not lock the data folder and starts no periodic
    work: it reconciles and sweeps only on request.  A drive that *moves_bytes*
    itself, as HTTP and :attr:`files` do, opens an S3 store also when the storage
    actor runs in another process.

    Entering locks the data folder, loads the signing keys, opens the stores and
    starts the actors (storage, metadata, auth, ingest, janitor).  Exiting does
    the reverse: each actor finishes its current messages, then the stores close.
    Entering raises ``ConfigError`` for a mistake that an operator can correct,
    and ``StoreUnavailable``.  An exception in the body propagates unchanged.  If
    the supervisor gives up, it cancels the body and raises
    ``godrive.runtime.GaveUp``.

    A drive installs no signal handler, sets up no logging, reads no environment
    and has no global state, so a process can contain several drives.
    """

    config: Config
    clock: Clock
    keyring: Keyring
    urls: UrlSigner
    """Signs and verifies the URLs that lead to this server's own content routes."""

    bucket_events: BucketEventHandler
    """Passes bucket events from any source to the ingest actor."""

    auth: Ref[Auth]
    metadata: Ref[Metadata]
    storage: Ref[Storage]
    ingest: Ref[Ingest]
    janitor: Ref[Janitor]

    def __init__(
        self,
        config: Config,
        *,
        blobs: BlobStore | None = None,
        catalog: Catalog | None = None,
        clock: Clock | None = None,
        on_event: OnEvent = ignore,
        serving: bool = True,
        moves_bytes: bool = True,
    ) -> None:
        self.config = config
        self.clock = clock or SystemClock()
        self.memory = MemoryBudget(config.server.memory_bytes)
        """The budget of bytes that this process buffers for clients: request bodies and answers."""
        self.appendable: Appendable | None = None
        """The blob store, if it can append.  Asked of each request, a protocol costs 40 microseconds."""
        self.packing: Packing | None = None
        """The blob store, if it stores small blobs in groups."""
        self.presigner: Presigner | None = None
        """The blob store, if clients reach it."""
        self.file_backed: FileBacked | None = None
        """The blob store, if its blobs are local files."""
        self.takes_bytes = False
        """Whether clients send the bytes of files to this process, which has the blob store."""
        self.small_files: SmallFiles | None = None
        """Makes small bodies files, in groups, if the blob store does so."""
        self.known_room = KnownRoom(self.clock)
        self.known_uploads = KnownUploads(self.clock)
        self.known_callers = KnownCallers(self.clock)
        """Who sent a token, if the auth actor runs in this process and has found out less than a second ago."""
        self.log_in_limits = LogInLimits(config.auth, self.clock)
        """The limits on log-ins, if the auth actor runs in this process; they may change while it runs."""
        self.append_turns = AppendTurns()
        """Which append has each upload in this process."""
        self.watch = ChangeWatch()
        """Wakes those who wait for changes."""
        self.webhook_counts: Counter[str] = Counter()
        """Deliveries to webhooks by outcome; ``waiting`` and ``failing`` are webhooks at the last look."""
        self._given_blobs = blobs
        self._given_catalog = catalog
        self.dead_letters: Counter[tuple[str, str]] = Counter()
        """The number of dead letters, by actor and message."""
        self.usage_drift: Drift | None = None
        """The result of the last comparison of stored usage with the rows; ``None`` before the first."""
        self.swept: Counter[str] = Counter()
        """Counts of items processed by this process's periodic sweeps, by kind; ``failed`` counts failures."""
        self.scrubbed: Counter[str] = Counter()
        """The ``blobs`` and ``bytes`` that this process's scrub has read."""
        self.backed_up: MadeBackup | None = None
        """The last backup in the configured target, if this process looks after it."""
        self.scrub: ScrubState | None = None
        """How far the scrub is; ``None`` before its first look."""
        self._on_event = self._counting(guarded(on_event))
        self._serving = serving
        self._moves_bytes = moves_bytes
        self.tracing: Tracing | None = None
        """Makes spans, if ``log.traces`` is on."""
        self._blobs: BlobStore | None = None
        self._catalog: Catalog | None = None
        self._link: NatsLink | None = None
        self._supervisor: Supervisor | None = None
        self._stack: AsyncExitStack | None = None

    @property
    def blobs(self) -> BlobStore:
        """The blob store.  Raises ``StoreUnavailable`` if only another process has it."""
        if self._blobs is None:
            raise StoreUnavailable("This process keeps no blobs.", hint="Run the storage actor in it.")
        return self._blobs

    @property
    def catalog(self) -> Catalog:
        """The catalog.  Raises ``StoreUnavailable`` if only another process has it."""
        if self._catalog is None:
            raise StoreUnavailable("This process has no catalog.", hint="Run the metadata or auth actor in it.")
        return self._catalog

    def _counting(self, on_event: OnEvent) -> OnEvent:
        def count(event: Event) -> None:
            if isinstance(event, DeadLetter):
                self.dead_letters[event.actor, event.message] += 1
            elif isinstance(event, Ticked) and isinstance(event.reply, Swept):
                done = asdict(event.reply)
                del done["problem"]
                self.swept.update(done)
            elif isinstance(event, Ticked) and isinstance(event.reply, Drift):
                self.usage_drift = event.reply
            elif isinstance(event, Ticked) and isinstance(event.reply, Scrubbed):
                self.scrubbed.update(blobs=event.reply.blobs, bytes=event.reply.bytes)
                self.scrub = event.reply.state
            elif isinstance(event, Ticked) and isinstance(event.reply, Look):
                self.backed_up = event.reply.last
            on_event(event)

        return count

    def files(self, user_id: UserId) -> Files:
        """Return the files and folders of a user, by path."""
        from godrive.files import Files  # noqa: PLC0415 - it stands on the drive

        return Files(self, user_id)

    async def user(self, external_id: str, email: str | None = None) -> User:
        """Return the user of the host application with that id there, and create them the first time.

        Raises ``EmailTaken`` if another user has the address, ``Invalid``.
        """
        return await self.auth.ask(EnsureUser(System(part="host"), external_id, email))

    def children(self) -> list[ChildStatus]:
        """Return the status of every child of this process, in start order."""
        return [] if self._supervisor is None else self._supervisor.children()

    def details(self) -> list[ChildDetails]:
        """More about each child: messages in hand, how long others wait, and the last crash."""
        return [] if self._supervisor is None else self._supervisor.details()

    def ref(self, contract: type[A]) -> Ref[A]:
        """Return the ref of that actor, local or remote."""
        if is_local(self.config, contract):
            if self._supervisor is None:
                raise RuntimeError("the drive is not open")
            ref: Ref[A] = self._supervisor.ref(contract)
        else:
            ref = self._far(contract)
        return ref if self.tracing is None else self.tracing.ref(ref, contract.name)

    async def reach(self, *, timeout: float) -> dict[str, str]:
        """Ping each remote actor.  Returns ``ok`` or the code of the error by name of the actor."""
        found: dict[str, str] = {}

        async def ping(contract: type[Contract]) -> None:
            try:
                await self._far(contract).ping(timeout=timeout)
                found[contract.name] = "ok"
            except DriveError as error:
                found[contract.name] = error.code

        async with anyio.create_task_group() as pings:
            for contract in CONTRACTS:
                if not is_local(self.config, contract):
                    pings.start_soon(ping, contract)
        return found

    def _far(self, contract: type[A]) -> NatsRef[A]:
        from godrive.bridge.nats import NatsRef  # noqa: PLC0415 - needs nats-py

        if self._link is None:
            raise RuntimeError("the drive is not open")
        carry = None if self.tracing is None else self.tracing.carry
        return NatsRef(contract, self._link, namespace=self.config.nats.namespace, carry=carry)

    async def start(self) -> None:
        """Open the drive without ``async with``.  Close it with :meth:`stop`, from any task."""
        await self._begin(hosted=False)

    async def stop(self) -> None:
        """Close the drive.  Idempotent.  Raises ``GaveUp`` if the tree has given up."""
        if self._stack is not None:
            await self._stack.aclose()

    async def wait(self) -> None:
        """Wait until the actors have stopped.  Raises ``GaveUp`` if the tree has given up."""
        if self._supervisor is None:
            raise RuntimeError("the drive is not open")
        await self._supervisor.wait()

    async def __aenter__(self) -> Self:
        await self._begin(hosted=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        assert self._stack is not None  # noqa: S101
        return await self._stack.__aexit__(kind, error, trace)

    async def _begin(self, *, hosted: bool) -> None:
        if self._stack is not None:
            raise RuntimeError("a drive is opened once; make another one")
        async with AsyncExitStack() as stack:
            await self._open(stack, hosted=hosted)
            self._stack = stack.pop_all()

    async def _open(self, stack: AsyncExitStack, *, hosted: bool) -> None:
        config = self.config
        check(config)
        catalog_here = needs_catalog(config)
        shared = self._given_blobs is not None or config.blobs.driver == "s3"
        blobs_here = needs_blobs(config) or (self._moves_bytes and shared)
        file_here = catalog_here and self._given_catalog is None and config.catalog.driver == "sqlite"
        folder_here = blobs_here and self._given_blobs is None and config.blobs.driver == "disk"
        is_new = folder_here and has_no_objects(config)
        if file_here or folder_here:
            open_data_folder(config)
            self._lock(stack, config.lock_path)
        if folder_here:
            self._lock(stack, config.blobs_lock_path)  # another drive would treat these blobs as orphans
        self.keyring = load_keyring(config)
        self.urls = UrlSigner(self.keyring, config.server.base_url)
        if config.log.traces:
            from godrive.tracing import Tracing  # noqa: PLC0415 - needs opentelemetry-api

            self.tracing = Tracing()
        if config.nats.url:
            self._link = await self._connect(stack)
        if catalog_here:
            self._catalog = self._given_catalog or make_catalog(config, guest=not self._serving)
            await _open_store(stack, self._catalog)
            if is_new:
                await check_is_new(self._catalog, config)
        if blobs_here:
            self._blobs = self._given_blobs or make_blobs(config, self.clock, self.memory, guest=not self._serving)
            await _open_store(stack, self._blobs)
            if isinstance(self._blobs, Appendable):
                self.appendable = self._blobs
            if isinstance(self._blobs, Packing) and self._blobs.pack_below:
                self.packing = self._blobs
            self.presigner = self._blobs if isinstance(self._blobs, Presigner) else None
            self.file_backed = self._blobs if isinstance(self._blobs, FileBacked) else None
            self.takes_bytes = self.presigner is None
        if self.tracing is not None:
            self.tracing.watch(catalog=self._catalog, blobs=self._blobs)
        parts = Dependencies(
            config=config,
            clock=self.clock,
            urls=self.urls,
            signer=TokenSigner(self.keyring, issuer=config.auth.issuer, audience=config.auth.audience),
            tokens=PageTokens(
                [hmac.digest(key, b"godrive page tokens", "sha256") for key in self.keyring.keys.values()]
            ),
            known_callers=self.known_callers,
            limits=self.log_in_limits,
            catalog=self._catalog,
            blobs=self._blobs if needs_blobs(config) else None,
            ref=self.ref,
            bucket_events=lambda: self.bucket_events,
            watch=self.watch,
            webhook_counts=self.webhook_counts,
            on_event=self._on_event,
            link=self._link,
            receive=None if self.tracing is None else self.tracing.receive,
        )
        self._supervisor = Supervisor(tree(parts, serving=self._serving), on_event=self._on_event)
        # Before the actors start, because a starting actor may already send messages.
        self.auth, self.metadata, self.storage = self.ref(Auth), self.ref(Metadata), self.ref(Storage)
        self.ingest, self.janitor = self.ref(Ingest), self.ref(Janitor)
        self.bucket_events = BucketEventHandler(self.ingest, config.blobs.s3, self.clock)
        if hosted:  # a tree that gives up cancels the body
            await stack.enter_async_context(self._supervisor)
        else:
            await self._supervisor.start()
            stack.push_async_callback(self._supervisor.stop)
        if self.packing is not None:
            together = self._catalog is None or isinstance(self._catalog, ReadsAtOnce)
            self.small_files = SmallFiles(self.packing, self.metadata, rows_together=together)
            stack.push_async_callback(self.small_files.close)

    def _lock(self, stack: AsyncExitStack, path: Path) -> None:
        """Lock the folder of *path* until the drive closes, so that no other process serves from it."""
        if self._serving:
            lock = FolderLock(path)
            lock.acquire()
            stack.callback(lock.release)

    async def _connect(self, stack: AsyncExitStack) -> NatsLink:
        """Connect to NATS.  If the server is down, start anyway and reconnect in the background."""
        from godrive.bridge.connection import NatsLink  # noqa: PLC0415 - needs nats-py

        link = NatsLink(self.config.nats)
        stack.push_async_callback(link.close)
        try:
            await link.client()
        except StoreUnavailable as error:
            self._on_event(ChildWaiting("nats", error))
        return link


async def _open_store(stack: AsyncExitStack, store: Catalog | BlobStore) -> None:
    """Open the store, and register its close, which also runs if opening fails or is cancelled, and to its end."""

    async def close() -> None:
        await to_the_end(store.close())

    stack.push_async_callback(close)
    await store.open()
