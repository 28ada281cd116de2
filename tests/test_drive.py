"""The whole as a value: what opening and closing a drive does to the folder, to the process, and to who embeds it."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import anyio
import pytest

from godrive import Config, GoDrive
from godrive.blobs.memory import MemoryBlobStore
from godrive.catalog import Tx
from godrive.catalog.sqlite import SqliteCatalog
from godrive.config import Auth, Server
from godrive.credentials import Keyring
from godrive.errors import ActorCrashed, ConfigError, DeliveryError, NotFound, StoreUnavailable
from godrive.http.observe.metrics import Metrics
from godrive.messages.auth import GetUser, LogIn, SignUp
from godrive.messages.files import GetFile, ListFiles, PurgeFile, TrashFile
from godrive.messages.ingest import Reconcile
from godrive.messages.janitor import Swept
from godrive.messages.storage import CheckStore, HeadBlob
from godrive.messages.uploads import BeginUpload, GetUpload
from godrive.model import Anywhere, BlobInfo, ObjectKey, Root, UploadState
from godrive.opening import LAYOUT
from godrive.principal import HostUser
from godrive.runtime import GaveUp
from godrive.runtime.supervision_events import ChildCrashed, ChildStarted, ChildStopped, Event, Ticked, TickFailed
from godrive.testing import ManualClock, chunks, open_drive, quick_config, sign_up, upload
from tests.faults import Bug, Fault, Faults, FaultyBlobs, FaultyCatalog
from tests.principals import SYSTEM, acting

pytestmark = pytest.mark.anyio

T = TypeVar("T")

NOWHERE = ObjectKey("00000000/nowhere")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return quick_config(tmp_path / "data", blobs={"driver": "disk"})


# The data folder


@pytest.mark.parametrize("serving", [True, False])
@pytest.mark.parametrize("left", ["empty folder", "nothing"])
async def test_files_without_the_folder_of_their_bytes_are_not_opened_as_if_its_disk_were_not_mounted(
    config: Config, serving: bool, left: str
) -> None:
    """What would be stored in its place is hidden when the disk is mounted again."""
    async with GoDrive(config):
        pass
    config.blobs_path.rename(config.data_dir / "of no file")
    async with GoDrive(config, serving=serving) as drive:
        file = await upload(drive, (await sign_up(drive)).id, "a.txt", b"hello")
    mounted = config.blobs_path.rename(config.data_dir / "mounted")
    if left == "empty folder":
        config.blobs_path.mkdir()
    for _ in range(2):
        with pytest.raises(ConfigError, match="is empty, and the catalog has files") as caught:
            await GoDrive(config, serving=serving).start()
        assert caught.value.hint is not None
        assert "Mount its disk" in caught.value.hint
    assert [path.name for path in config.blobs_path.glob("*")] == ["blobs.lock"] * serving
    shutil.rmtree(config.blobs_path, ignore_errors=True)
    mounted.rename(config.blobs_path)
    (config.blobs_path / "objects").rmdir()  # as by a tool that copies no empty folders
    async with GoDrive(config, serving=serving) as drive:
        assert await drive.files(file.owner_id).read("a.txt") == b"hello"


async def test_an_empty_folder_becomes_a_drive(config: Config) -> None:
    async with GoDrive(config) as drive:
        owner = await sign_up(drive)
        await upload(drive, owner.id, "a.txt", b"hello")
    made = {path.name for path in config.data_dir.iterdir()}
    assert {"LAYOUT", "lock", "secret.key", "godrive.db", "blobs"} <= made
    assert config.layout_path.read_text() == f"{LAYOUT}\n"
    assert stat.S_IMODE(config.secret_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(config.data_dir.stat().st_mode) == 0o700


async def test_what_was_acknowledged_is_there_after_a_restart(config: Config) -> None:
    async with GoDrive(config) as drive:
        owner = await sign_up(drive)
        file = await upload(drive, owner.id, "a.txt", b"hello")
    async with GoDrive(config) as drive:
        assert (await drive.metadata.ask(ListFiles(acting(owner.id), Anywhere()))).items == [file]
        assert (await drive.auth.ask(LogIn("ann@example.org", "correct horse"))).token


@pytest.mark.parametrize("stamp", ["godrive 1\n", "godrive 999\n", "somebody else's\n", "", "\0\xff"])
async def test_a_layout_that_this_release_does_not_know_is_refused(config: Config, stamp: str) -> None:
    config.data_dir.mkdir()
    config.layout_path.write_text(stamp)
    with pytest.raises(ConfigError) as caught:
        async with GoDrive(config):
            pytest.fail("it opened")
    assert str(config.data_dir) in caught.value.detail
    assert "\n" not in caught.value.detail
    assert caught.value.hint
    assert {path.name for path in config.data_dir.iterdir()} == {"LAYOUT"}


async def test_a_catalog_without_a_stamp_is_not_touched(config: Config) -> None:
    config.data_dir.mkdir()
    config.catalog_path.write_bytes(b"precious")
    with pytest.raises(ConfigError):
        async with GoDrive(config):
            pytest.fail("it opened")
    assert config.catalog_path.read_bytes() == b"precious"


async def test_a_second_server_is_refused_in_one_line(config: Config) -> None:
    async with GoDrive(config) as drive:
        with pytest.raises(ConfigError, match="Another server") as caught:
            async with GoDrive(config):
                pytest.fail("it opened")
        assert "\n" not in caught.value.detail
        await drive.storage.ask(CheckStore())
    async with GoDrive(config):
        """The first let go of the folder."""


async def test_a_second_drive_on_the_same_blobs_is_refused_for_to_it_they_would_be_orphans(tmp_path: Path) -> None:
    shared = {"driver": "disk", "path": str(tmp_path / "disk" / "blobs")}
    first, second = (quick_config(tmp_path / name, blobs=shared) for name in ("first", "second"))
    async with GoDrive(first):
        with pytest.raises(ConfigError, match="Another server") as caught:
            async with GoDrive(second):
                pytest.fail("it opened")
        assert shared["path"] in caught.value.detail
        async with GoDrive(first, serving=False) as visitor:
            await visitor.storage.ask(CheckStore())


async def test_the_blobs_may_lie_in_the_data_folder_itself(tmp_path: Path) -> None:
    config = quick_config(tmp_path, blobs={"driver": "disk", "path": str(tmp_path)})
    async with GoDrive(config) as drive:
        await drive.storage.ask(CheckStore())


async def test_a_drive_that_does_not_serve_works_beside_one_that_does(config: Config) -> None:
    async with GoDrive(config) as server, GoDrive(config, serving=False) as visitor:
        user = await visitor.auth.ask(SignUp("ann@example.org", "correct horse"))
        assert await server.auth.ask(GetUser(HostUser(user_id=user.id))) == user
        assert {"reconciler", "sweeper"} <= {child.name for child in server.children()}
        assert not {"reconciler", "sweeper"} & {child.name for child in visitor.children()}


async def test_a_lock_is_let_go_when_opening_fails(config: Config) -> None:
    class Broken(MemoryBlobStore):
        async def open(self) -> None:
            raise StoreUnavailable("The store is down.")

    with pytest.raises(StoreUnavailable):
        async with GoDrive(config, blobs=Broken()):
            pytest.fail("it opened")
    async with GoDrive(config):
        """The folder is free."""


async def test_a_folder_that_cannot_be_made_is_the_operators_to_put_right(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be used"):
        async with GoDrive(Config.embedded(tmp_path / "file" / "data")):
            pytest.fail("it opened")


async def test_a_configuration_that_makes_no_sense_opens_nothing(tmp_path: Path) -> None:
    config = Config(server=Server(data_dir=str(tmp_path / "data")), auth=Auth(bcrypt_cost=99))
    with pytest.raises(ConfigError, match="bcrypt_cost"):
        async with GoDrive(config):
            pytest.fail("it opened")
    assert not (tmp_path / "data").exists()


async def test_a_secret_that_was_named_is_made_at_the_first_start(tmp_path: Path) -> None:
    config = quick_config(tmp_path / "data", auth={"secret_file": str(tmp_path / "absent.key")})
    async with GoDrive(config) as drive:
        made = drive.keyring
    assert Keyring.load(tmp_path / "absent.key") == made
    assert not config.layout_path.with_name("secret.key").exists()
    async with GoDrive(config) as drive:
        assert drive.keyring == made


async def test_a_secret_that_cannot_be_made_is_a_mistake(tmp_path: Path) -> None:
    config = quick_config(tmp_path / "data", auth={"secret_file": str(tmp_path / "no" / "folder")})
    with pytest.raises(ConfigError, match="no/folder cannot be written: No such file or directory"):
        async with GoDrive(config):
            pytest.fail("it opened")


# Manners


async def test_an_exception_of_the_body_comes_out_as_itself(config: Config) -> None:
    error = LookupError("mine")
    with pytest.raises(LookupError) as caught:
        async with GoDrive(config):
            raise error
    assert caught.value is error


async def test_a_host_that_cancels_gets_the_drive_closed(config: Config) -> None:
    events: list[Event] = []
    with anyio.CancelScope() as scope:
        async with GoDrive(config, on_event=events.append) as drive:
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert {e.child for e in events if isinstance(e, ChildStopped)} >= {
        "storage",
        "metadata",
        "auth",
        "ingest",
        "janitor",
    }
    with pytest.raises(DeliveryError):
        await drive.storage.ask(CheckStore())
    async with GoDrive(config):
        """The folder is free."""


async def test_a_drive_in_a_task_group_ends_with_its_siblings_failure(config: Config) -> None:
    opened = asyncio.Event()

    async def serve() -> None:
        async with GoDrive(config):
            opened.set()
            await asyncio.Event().wait()

    async def fail() -> None:
        await opened.wait()
        raise LookupError

    async def host() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(serve())
            tasks.create_task(fail())

    with pytest.raises(ExceptionGroup) as caught:
        await host()
    assert [type(error) for error in caught.value.exceptions] == [LookupError]


async def test_two_drives_in_one_process_know_nothing_of_one_another(tmp_path: Path) -> None:
    async with GoDrive(quick_config(tmp_path / "1")) as one, GoDrive(quick_config(tmp_path / "2")) as two:
        user = await sign_up(one)
        file = await upload(one, user.id, "a.txt", b"hello")
        with pytest.raises(NotFound):
            await two.metadata.ask(GetFile(acting(user.id), file.id))
        await sign_up(two)
        assert one.urls is not two.urls


async def test_the_process_is_left_as_it_was(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GODRIVE_SERVER_PUBLIC_URL", "http://from.environment")
    handlers = {number: signal.getsignal(number) for number in signal.valid_signals()}
    environment, logs = dict(os.environ), (logging.root.handlers[:], logging.root.level)
    async with GoDrive(config) as drive:
        assert {number: signal.getsignal(number) for number in signal.valid_signals()} == handlers
        assert drive.config.server.base_url == "http://drive.test"
        assert (logging.root.handlers, logging.root.level) == logs
    assert dict(os.environ) == environment
    assert len(asyncio.all_tasks()) <= 2  # this test, and the one that runs it


async def test_a_drive_is_opened_once(config: Config) -> None:
    drive = GoDrive(config)
    async with drive:
        with pytest.raises(RuntimeError):
            await drive.__aenter__()
    with pytest.raises(RuntimeError):
        await drive.__aenter__()


async def test_an_unopened_drive_has_no_children_and_no_stores(config: Config) -> None:
    drive = GoDrive(config)
    assert drive.children() == []
    with pytest.raises(StoreUnavailable):
        _ = drive.blobs
    with pytest.raises(StoreUnavailable):
        _ = drive.catalog
    assert not config.data_dir.exists()


@pytest.mark.parametrize("module", ["nats", "aiobotocore", "asyncpg", "aiohttp"])
@pytest.mark.slow
def test_nothing_is_imported_that_is_not_configured(module: str, tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\nfrom godrive import Config, GoDrive\n"
        "async def main():\n  async with GoDrive(Config.embedded(sys.argv[1])): pass\n"
        f"asyncio.run(main())\nsys.exit({module!r} in sys.modules)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "data")], check=True, env=environment)


# The tree


async def test_children_start_and_stop_in_order(config: Config) -> None:
    events: list[Event] = []
    async with GoDrive(config, on_event=events.append):
        """Nothing to do."""
    order = ["storage", "metadata", "auth", "ingest", "janitor"]
    started = [event.child for event in events if isinstance(event, ChildStarted)]
    stopped = [event.child for event in events if isinstance(event, ChildStopped)]
    assert [child for child in started if child in order] == order
    assert [child for child in stopped if child in order] == order[::-1]
    others = ["settler", "indexer", "auditor", "reconciler", "watch", "sweeper", "scrub", "webhooks"]
    assert started[len(order) :] == others
    assert stopped[: len(others)] == others[::-1]


async def test_concurrency_and_capacity_are_lines_of_configuration(tmp_path: Path) -> None:
    config = quick_config(tmp_path, actors={"storage": {"concurrency": 1, "capacity": 2}})
    store = FaultyBlobs(MemoryBlobStore())
    async with GoDrive(config, blobs=store) as drive, anyio.create_task_group() as tasks:
        store.faults = faults = Faults(0, Fault.HANGS)
        for _ in range(3):
            tasks.start_soon(drive.storage.ask, CheckStore())
        await faults.hanging.wait()
        await anyio.wait_all_tasks_blocked()
        status = next(child for child in drive.children() if child.name == "storage")
        assert (status.in_flight, status.queued) == (1, 2)
        faults.heal()


async def test_a_bug_is_answered_and_the_next_message_is_served() -> None:
    events: list[Event] = []
    store = FaultyBlobs(MemoryBlobStore())
    async with open_drive(blob_store=store, on_event=events.append) as drive:
        store.faults = Faults(0, Fault.BUG)
        with pytest.raises(ActorCrashed):
            await drive.storage.ask(CheckStore())
        with pytest.raises(NotFound):
            await drive.storage.ask(HeadBlob(NOWHERE))
        assert [child.restarts for child in drive.children() if child.name == "storage"] == [1]
    (crash,) = [event for event in events if isinstance(event, ChildCrashed)]
    assert (crash.child, crash.doing) == ("storage", "CheckStore")
    assert isinstance(crash.error, Bug)


async def test_a_tree_that_keeps_crashing_gives_up_and_says_why(config: Config) -> None:
    class Buggy(MemoryBlobStore):
        async def head(self, key: ObjectKey) -> BlobInfo:
            raise Bug

    async def keep_asking(drive: GoDrive) -> None:
        while True:
            with pytest.raises(DeliveryError):
                await drive.storage.ask(CheckStore())

    with pytest.raises(GaveUp) as caught:
        async with GoDrive(config, blobs=Buggy()) as drive:
            await keep_asking(drive)
    assert isinstance(caught.value.__cause__, Bug)
    async with GoDrive(config):
        """The folder is free."""


async def test_a_message_in_hand_is_finished_and_the_stores_close_after_the_actors(tmp_path: Path) -> None:
    log: list[str] = []

    class Watched(SqliteCatalog):
        async def close(self) -> None:
            log.append("catalog closed")
            await super().close()

    catalog = FaultyCatalog(Watched(tmp_path / "godrive.db"))

    async def ask(drive: GoDrive) -> None:
        await drive.auth.ask(SignUp("ann@example.org", "correct horse"))
        log.append("answered")

    async def heal(faults: Faults) -> None:
        await anyio.wait_all_tasks_blocked()
        faults.heal()

    async with anyio.create_task_group() as tasks, open_drive(data_dir=tmp_path, catalog_store=catalog) as drive:
        catalog.faults = faults = Faults(0, Fault.HANGS)
        tasks.start_soon(ask, drive)
        await faults.hanging.wait()
        tasks.start_soon(heal, faults)
    assert log == ["answered", "catalog closed"]


# Time


async def test_a_drive_that_serves_reconciles_by_itself(tmp_path: Path) -> None:
    asked = anyio.Event()

    class Watched(MemoryBlobStore):
        async def delete(self, key: ObjectKey) -> None:
            await super().delete(key)
            asked.set()

    config = quick_config(
        tmp_path,
        ingest={"reconcile_every": 0.01, "reconcile_after": 0.01},
        janitor={"sweep_every": 0.01, "trash_grace": 0.0},
    )
    async with GoDrive(config, blobs=Watched()) as drive:
        owner = await sign_up(drive)
        pending = await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), "a.txt", "", 5))
        await drive.blobs.put(pending.object_key, chunks(b"hello, and more than was declared"))
        with anyio.fail_after(30):
            await asked.wait()
            while (await drive.metadata.ask(GetUpload(SYSTEM, pending.id))).state is UploadState.PENDING:
                await anyio.lowlevel.checkpoint()


async def test_what_the_janitor_does_by_itself_is_told_and_counted(tmp_path: Path) -> None:
    told = anyio.Event()

    def on_event(event: Event) -> None:
        if isinstance(event, Ticked) and isinstance(event.reply, Swept) and event.reply.purged:
            told.set()

    config = quick_config(tmp_path, janitor={"sweep_every": 0.01})
    async with GoDrive(config, on_event=on_event) as drive:
        owner = await sign_up(drive)
        file = await upload(drive, owner.id, "a.txt", b"hello")
        await drive.metadata.ask(TrashFile(acting(owner.id), file.id))
        await drive.metadata.ask(PurgeFile(acting(owner.id), file.id))
        with anyio.fail_after(30):
            await told.wait()
        assert (drive.swept["purged"], drive.swept["failed"]) == (1, 0)
        assert b'godrive_swept_total{what="purged"} 1.0' in Metrics(drive).render({})


async def test_a_tick_that_fails_is_reported_and_the_next_one_comes(tmp_path: Path) -> None:
    failed = anyio.Event()

    def on_event(event: Event) -> None:
        if isinstance(event, TickFailed):
            assert event.child == "reconciler"
            assert isinstance(event.error, StoreUnavailable)
            failed.set()

    class Down(FaultyCatalog):
        async def write(self, operation: Callable[[Tx], Awaitable[T]], *, chore: bool = False, answers: int = 1) -> T:
            raise StoreUnavailable

    config = quick_config(tmp_path, ingest={"reconcile_every": 0.01})
    catalog = Down(SqliteCatalog(tmp_path / "godrive.db"))
    async with GoDrive(config, catalog=catalog, on_event=on_event) as drive:
        with anyio.fail_after(30):
            await failed.wait()
        assert [child.restarts for child in drive.children() if child.name == "reconciler"] == [0]


async def test_without_serving_nothing_happens_by_itself() -> None:
    clock = ManualClock()
    async with open_drive(clock=clock) as drive:
        owner = await sign_up(drive)
        pending = await drive.metadata.ask(BeginUpload(acting(owner.id), Root(), "a.txt", "", 5))
        clock.advance(1_000_000)
        await anyio.wait_all_tasks_blocked()
        assert (await drive.metadata.ask(GetUpload(SYSTEM, pending.id))).state is UploadState.PENDING
        await drive.ingest.ask(Reconcile())
        assert (await drive.metadata.ask(GetUpload(SYSTEM, pending.id))).state is UploadState.EXPIRED
