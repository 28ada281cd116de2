"""One drive in three processes: a gateway without an actor, the core with the stores, ingest and janitor in a third.

All three are here in one process, each a drive with a connection of its own;
``tests/e2e`` runs the same layout for real.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from godrive.blobs.memory import MemoryBlobStore
from godrive.bridge.connection import NatsLink
from godrive.catalog.sqlite import SqliteCatalog
from godrive.config import Nats
from godrive.drive import GoDrive
from godrive.errors import DeliveryError, NotFound, NotUnderstood, StorageFull, StoreUnavailable
from godrive.http.observe.metrics import Metrics
from godrive.http.routes import health
from godrive.messages.auth import Authenticate, LogIn, SignUp
from godrive.messages.files import GetFile, ListFiles, MakeFolder, TrashFile
from godrive.messages.ingest import CommitUpload, Reconcile
from godrive.messages.janitor import Sweep
from godrive.messages.metadata import Metadata
from godrive.messages.pending import UploadsWithoutFolder
from godrive.messages.storage import HeadBlob
from godrive.messages.uploads import BeginUpload
from godrive.model import Anywhere, FileId, In, ObjectKey, Root, UserId
from godrive.runtime import Event, OnEvent, codec
from godrive.runtime.supervision_events import ChildCrashed, ChildStopped, ignore
from godrive.testing import ManualClock, chunks, quick_config
from tests.principals import SYSTEM, acting
from tests.servers import NatsServer

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(60)]

CORE = ("auth", "metadata", "storage")
BACKGROUND = ("ingest", "janitor")


class Layout:
    """The three, and what they share."""

    def __init__(self, folder: Path, url: str, namespace: str) -> None:
        self.clock = ManualClock()
        self.blobs = MemoryBlobStore(clock=self.clock)
        self._folder = folder
        self._nats = {"url": url, "namespace": namespace}

    def drive(self, name: str, *local: str, **options: Any) -> GoDrive:
        far: Mapping[str, Any] = {
            actor: {"location": "local" if actor in local else "nats"} for actor in (*CORE, *BACKGROUND)
        }
        config = quick_config(
            self._folder / name,
            nats=self._nats,
            actors=far,
            # What the overrides stand in for: stores that several processes may share.
            catalog={"driver": "postgres", "dsn": "postgresql://nowhere"},
            blobs={"driver": "s3", "upload_ttl": 60.0},
            janitor={"trash_grace": 0.5, "sweep_every": 1e6},
            ingest={"reconcile_every": 1e6, "reconcile_after": 0.5},
        )
        return GoDrive(config, clock=self.clock, **options)

    def core(self, on_event: OnEvent = ignore) -> GoDrive:
        catalog = SqliteCatalog(self._folder / "godrive.db")
        return self.drive("core", *CORE, catalog=catalog, blobs=self.blobs, on_event=on_event)

    def background(self, on_event: OnEvent = ignore) -> GoDrive:
        return self.drive("background", *BACKGROUND, moves_bytes=False, on_event=on_event)

    def gateway(self) -> GoDrive:
        return self.drive("gateway", moves_bytes=False)


EVERYWHERE = {"nats", "notices", "watch"}
"""The children of a process without an actor: its connection, and who hears of changes."""


@pytest.fixture
def layout(tmp_path: Path, nats_server: NatsServer, namespace: str) -> Layout:
    return Layout(tmp_path, nats_server.url, namespace)


@pytest.fixture
async def gateway(layout: Layout) -> AsyncIterator[GoDrive]:
    async with layout.core(), layout.background(), layout.gateway() as gateway:
        await reachable(gateway)
        yield gateway


async def reachable(drive: GoDrive, *, within: float = 20.0) -> None:
    with anyio.fail_after(within):
        while set((await drive.reach(timeout=2.0)).values()) - {"ok"}:
            await anyio.sleep(0.01)


async def test_a_gateway_without_an_actor_or_a_store_serves_the_whole_flow(layout: Layout, gateway: GoDrive) -> None:
    assert {child.name for child in gateway.children()} == EVERYWHERE
    ann = await gateway.auth.ask(SignUp("ann@example.org", "correct horse"))
    tokens = await gateway.auth.ask(LogIn("ann@example.org", "correct horse"))
    assert (await gateway.auth.ask(Authenticate(tokens.token))).user_id == ann.id
    upload = await gateway.metadata.ask(BeginUpload(acting(ann.id), Root(), "Ünïcode.txt", "text/plain", 5))
    await layout.blobs.put(upload.object_key, chunks(b"hello"), size=5)
    file = await gateway.ingest.ask(CommitUpload(SYSTEM, upload.id))
    assert (await gateway.metadata.ask(ListFiles(acting(ann.id), Anywhere()))).items == [file]
    await gateway.metadata.ask(TrashFile(acting(ann.id), file.id))
    layout.clock.advance(1.0)
    swept = await gateway.janitor.ask(Sweep())
    assert (swept.purged, swept.failed) == (1, 0)
    with pytest.raises(NotFound):
        await gateway.storage.ask(HeadBlob(upload.object_key))
    with pytest.raises(NotFound):
        await gateway.metadata.ask(GetFile(acting(ann.id), file.id))


async def test_the_reconciler_works_on_what_other_processes_have(layout: Layout, gateway: GoDrive) -> None:
    ann = await gateway.auth.ask(SignUp("ann@example.org", "correct horse"))
    upload = await gateway.metadata.ask(BeginUpload(acting(ann.id), Root(), "a", "text/plain", 1))
    await layout.blobs.put(upload.object_key, chunks(b"a"), size=1)
    layout.clock.advance(1.0)
    assert (await gateway.ingest.ask(Reconcile())).published == 1


async def test_a_gateway_has_no_store_and_says_where_one_is(gateway: GoDrive) -> None:
    with pytest.raises(StoreUnavailable, match="keeps no blobs"):
        _ = gateway.blobs
    with pytest.raises(StoreUnavailable, match="has no catalog"):
        _ = gateway.catalog


async def test_an_actor_that_goes_is_unavailable_and_works_again_when_it_is_back(layout: Layout) -> None:
    async with layout.background(), layout.gateway() as gateway:
        for _ in range(2):
            async with layout.core():
                await reachable(gateway)
                with pytest.raises(NotFound):
                    await gateway.storage.ask(HeadBlob(ObjectKey("00000000/nothing")))
            found = await gateway.reach(timeout=2.0)
            assert found == dict.fromkeys(CORE, "unavailable") | dict.fromkeys(BACKGROUND, "ok")
            with anyio.fail_after(30), pytest.raises(DeliveryError) as caught:
                await gateway.metadata.ask(GetFile(acting(UserId("u")), FileId("f")), timeout=60)
            assert caught.value.code == "unavailable"


async def test_a_gateway_is_not_ready_while_another_process_cannot_write_to_the_catalog(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with layout.core() as core, layout.background(), layout.gateway() as gateway:
        await reachable(gateway)
        assert (await health.check(gateway))["catalog"] == "ok"
        with monkeypatch.context() as full:
            full.setattr(type(core.catalog), "problem", StorageFull())
            assert (await health.check(gateway))["catalog"] == "storage_full"
        assert (await health.check(gateway))["catalog"] == "ok"


async def test_what_a_stranger_sends_is_refused_counted_and_shown(
    layout: Layout, nats_server: NatsServer, namespace: str
) -> None:
    link = NatsLink(Nats(url=nats_server.url))
    stranger = await link.client()
    async with layout.core() as core, layout.gateway() as gateway:
        with anyio.fail_after(30):
            while (await gateway.reach(timeout=2.0))["metadata"] != "ok":
                await anyio.sleep(0.01)
        for message, body in (("TrashFile", b"\xff"), ("Burn", b"\x80"), ("TrashFile", b"\x80")):
            reply = await stranger.request(f"{namespace}.metadata.{message}", body, timeout=5)
            assert (reply.headers or {})["Godrive-Error"] == "not_understood"
        assert core.dead_letters == {("metadata", "TrashFile"): 2, ("metadata", "unknown"): 1}
        shown = Metrics(core).render({}).decode()
        assert 'godrive_dead_letters_total{actor="metadata",message="unknown"} 1.0' in shown
    await link.close()


async def test_what_an_older_process_does_not_know_is_refused_until_it_is_replaced(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    async with layout.core(events.append) as core, layout.background(events.append) as background:
        await reachable(background)
        ann = await core.auth.ask(SignUp("ann@example.org", "correct horse"))
        folder = await core.metadata.ask(MakeFolder(acting(ann.id), Root(), "folder"))
        upload = await core.metadata.ask(BeginUpload(acting(ann.id), In(folder_id=folder.id), "a", "text/plain", 1))
        await layout.blobs.put(upload.object_key, chunks(b"a"), size=1)
        layout.clock.advance(1.0)
        with monkeypatch.context() as older:
            older.delitem(Metadata.messages, UploadsWithoutFolder.__name__)
            with pytest.raises(NotUnderstood, match=UploadsWithoutFolder.__name__) as refused:
                await background.ingest.ask(Reconcile())
        assert refused.value.hint == codec.HINT
        assert set(core.dead_letters) == {("metadata", "unknown")}
        layout.clock.advance(1.0)
        assert (await background.ingest.ask(Reconcile())).published == 1
        assert not [event for event in events if isinstance(event, ChildCrashed | ChildStopped)]


async def test_processes_may_start_in_any_order_and_without_nats(
    tmp_path: Path, namespace: str, nats_server: NatsServer
) -> None:
    del nats_server  # only so that the test is skipped where there is no program
    with NatsServer(jetstream=False) as server:
        server.stop()
        layout = Layout(tmp_path, server.url, namespace)
        async with AsyncExitStack() as stack, anyio.create_task_group() as starting:
            drives: list[GoDrive] = []

            async def start(drive: GoDrive) -> None:
                async with drive:
                    drives.append(drive)
                    await stop.wait()

            stop = anyio.Event()
            for drive in (layout.gateway(), layout.background(), layout.core()):
                starting.start_soon(start, drive)
            stack.callback(stop.set)
            with anyio.fail_after(30):
                while len(drives) < 3:
                    await anyio.sleep(0.01)
                gateway = next(drive for drive in drives if {child.name for child in drive.children()} <= EVERYWHERE)
                with pytest.raises(DeliveryError):
                    await gateway.metadata.ask(GetFile(acting(UserId("u")), FileId("f")))
            server.start()
            await reachable(gateway)
            stop.set()


async def test_what_comes_in_stops_before_the_actors_do(layout: Layout) -> None:
    stopped: list[str] = []

    def on_event(event: Event) -> None:
        if isinstance(event, ChildStopped):
            stopped.append(event.child)

    async with layout.core(on_event=on_event):
        pass
    assert stopped[:3] == ["auth-exposer", "metadata-exposer", "storage-exposer"]
    assert [child for child in stopped if child in {"auth", "metadata", "storage", "nats"}] == [
        "auth", "metadata", "storage", "nats"
    ]  # fmt: skip
