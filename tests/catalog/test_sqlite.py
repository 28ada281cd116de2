"""What only the SQLite engine promises: crashes, full disks, other processes, and a loop that never stands still."""

from __future__ import annotations

import asyncio
import itertools
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import aiosqlite
import anyio
import pytest

from godrive.catalog import Tx, sqlite_file, sqlite_reads
from godrive.catalog.sqlite import SqliteCatalog
from godrive.catalog.sqlite_tx import SqliteTx
from godrive.errors import Conflict, StorageFull, StoreUnavailable
from godrive.page_cache import disk_reads
from godrive.reserve import LOG, SIZE, Reserve

pytestmark = pytest.mark.anyio

CHILD = Path(__file__).with_name("writer.py")
UNSHARE = ("unshare", "--map-root-user", "--mount", "sh", "-c")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "godrive.db"


@pytest.fixture
async def catalog(path: Path) -> AsyncIterator[SqliteCatalog]:
    made = SqliteCatalog(path)
    await made.open()
    yield made
    await made.close()


async def add(tx: Tx, name: str) -> None:
    await tx.run("INSERT INTO leases (name, holder, expires_at) VALUES ($1, 'x', 0)", name)


async def test_writes_go_on_after_a_connection_was_lost_and_for_a_while_there_was_no_other(
    path: Path, catalog: SqliteCatalog
) -> None:
    async def lose(tx: Tx) -> None:
        assert isinstance(tx, SqliteTx)
        tx.connection.close()

    folder, aside = path.parent, path.parent.with_name("aside")
    folder.rename(aside)
    with anyio.fail_after(30):
        with pytest.raises(sqlite3.Error):
            await catalog.write(lose)
        with pytest.raises(StoreUnavailable):
            await catalog.write(partial(add, name="a"))
        aside.rename(folder)
        await catalog.write(partial(add, name="b"))


async def names(tx: Tx) -> list[str]:
    return [row[0] for row in await tx.all("SELECT name FROM leases ORDER BY name")]


class Where:
    """A read that notes whether it was run on the loop's own connection."""

    def __init__(self, rows: int = 1) -> None:
        self.rows = rows
        self.near: list[bool] = []

    async def __call__(self, tx: Tx) -> int:
        self.near.append(isinstance(tx, SqliteTx))
        row = await tx.one(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < $1) SELECT COUNT(*) FROM n",
            self.rows,
        )
        assert row is not None
        return int(row[0])


async def test_a_small_read_runs_on_the_loop_and_a_large_one_elsewhere(catalog: SqliteCatalog) -> None:
    small, large = Where(), Where(20_000)
    assert await catalog.read(large) == 20_000
    assert await catalog.read(small) == 1
    assert (large.near, small.near) == ([True, False], [True])


async def test_reads_go_on_after_one_could_not_be_rolled_back(
    catalog: SqliteCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_tx: SqliteTx) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    with monkeypatch.context() as broken, pytest.raises(StoreUnavailable):
        broken.setattr(SqliteTx, "end", fail)
        await catalog.read(Where())
    assert await catalog.read(Where()) == 1


class Machine:
    """A clock and a disk, for reads on the loop to look at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.reads = 1000.0, disk_reads()
        monkeypatch.setattr(sqlite_reads, "time", SimpleNamespace(perf_counter=lambda: self.now))
        monkeypatch.setattr(sqlite_reads, "disk_reads", lambda: self.reads)

    async def wait_for_disk(self, tx: Tx) -> None:
        self.now += 0.01
        self.reads += 8

    async def wait_for_processor(self, tx: Tx) -> None:
        self.now += 0.01


async def test_while_the_disk_is_slow_reads_keep_off_the_loop(
    catalog: SqliteCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, where = Machine(monkeypatch), Where()
    await catalog.read(machine.wait_for_disk)
    await catalog.read(where)
    assert where.near == [False]
    machine.now += 1
    await catalog.read(where)
    assert where.near == [False, True]


async def test_while_the_processor_is_busy_reads_stay_on_the_loop(
    catalog: SqliteCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, where = Machine(monkeypatch), Where(rows=500)
    await catalog.read(machine.wait_for_processor)
    await catalog.read(where)
    assert where.near == [True]


class Held:
    """Large reads that do not end before they are released."""

    def __init__(self) -> None:
        self.begun = asyncio.Semaphore(0)
        self.released = asyncio.Event()

    async def __call__(self, tx: Tx) -> int:
        rows = await Where(20_000)(tx)  # too many for the loop: it goes on in a thread
        self.begun.release()
        await self.released.wait()
        return rows


async def test_a_large_read_does_not_hold_up_the_small_ones(catalog: SqliteCatalog) -> None:
    held, small = Held(), Where()
    large = asyncio.ensure_future(catalog.read(held))
    await held.begun.acquire()
    for _ in range(10):
        await catalog.read(small)
    assert not large.done()
    held.released.set()
    assert await large == 20_000


async def test_reads_go_on_while_the_writer_waits_for_the_disk(catalog: SqliteCatalog) -> None:
    begun, synced = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    async def sync(tx: Tx) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert synced.wait(60)

    writing = asyncio.ensure_future(catalog.write(sync))
    try:
        await begun.wait()
        waiting = [asyncio.ensure_future(catalog.write(partial(add, name=str(n)))) for n in range(300)]
        assert [await catalog.read(Where(rows)) for rows in (1, 20_000)] == [1, 20_000]
        assert [await catalog.read(Where(rows), chore=True) for rows in (1, 20_000)] == [1, 20_000]
        assert not any(write.done() for write in waiting)
    finally:
        synced.set()
    await asyncio.gather(writing, *waiting)


async def test_large_reads_of_chores_take_no_thread_of_the_others(catalog: SqliteCatalog) -> None:
    held = Held()
    chores = [asyncio.ensure_future(catalog.read(held, chore=True)) for _ in range(8)]
    await held.begun.acquire()
    assert await catalog.read(Where(20_000)) == 20_000
    assert not any(chore.done() for chore in chores)
    held.released.set()
    assert await asyncio.gather(*chores) == [20_000] * 8


async def test_an_operation_that_waits_for_something_else_is_a_bug(catalog: SqliteCatalog) -> None:
    async def waits(tx: Tx) -> None:
        await asyncio.sleep(0)

    for run in (catalog.read, catalog.write):
        with pytest.raises(RuntimeError, match="nothing but its transaction"):
            await run(waits)
    await catalog.write(partial(add, name="a"))


async def test_a_read_cannot_write(catalog: SqliteCatalog) -> None:
    with pytest.raises((sqlite3.OperationalError, StoreUnavailable)):
        await catalog.read(partial(add, name="a"))
    assert await catalog.read(names) == []


async def test_another_process_may_write_too(catalog: SqliteCatalog, path: Path) -> None:
    with closing(sqlite_file.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("INSERT INTO leases VALUES ('theirs', 'x', 0)")
        ours = asyncio.ensure_future(catalog.write(partial(add, name="ours")))
        await asyncio.sleep(0)
        assert await catalog.read(names) == []
        other.execute("COMMIT")
        await ours
        assert await catalog.read(names) == ["ours", "theirs"]


async def test_a_lock_that_is_never_released_is_unavailable_and_reads_go_on(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT", 0.05)
    catalog = SqliteCatalog(path)
    await catalog.open()
    with closing(sqlite_file.connect(path)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable):
            await catalog.write(partial(add, name="a"))
        assert await catalog.read(names) == []
        other.execute("ROLLBACK")
    await catalog.write(partial(add, name="b"))
    assert await catalog.read(names) == ["b"]
    await catalog.close()


async def test_two_catalogs_on_one_file_see_each_other(catalog: SqliteCatalog, path: Path) -> None:
    second = SqliteCatalog(path)
    await second.open()
    for number in range(10):
        await asyncio.gather(
            catalog.write(partial(add, name=f"a{number}")), second.write(partial(add, name=f"b{number}"))
        )
        assert await catalog.read(names) == await second.read(names)
    await second.close()


async def test_writes_under_way_are_finished_by_closing(path: Path) -> None:
    catalog = SqliteCatalog(path)
    await catalog.open()
    writes = [asyncio.ensure_future(catalog.write(partial(add, name=f"{n:04}"))) for n in range(600)]
    await asyncio.sleep(0)
    await catalog.close()
    await asyncio.gather(*writes)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM leases").fetchone() == (600,)


async def test_a_damaged_database_is_unavailable_and_not_a_crash(path: Path) -> None:
    catalog = SqliteCatalog(path)
    await catalog.open()
    await catalog.write(partial(add, name="a"))
    await catalog.close()
    pages = bytearray(path.read_bytes())
    pages[8192:] = b"\xff" * (len(pages) - 8192)
    path.write_bytes(pages)
    catalog = SqliteCatalog(path)
    with pytest.raises((StoreUnavailable, Exception)) as caught:
        await catalog.open()
        await catalog.read(names)
    assert caught.type.__name__ in ("StoreUnavailable", "ConfigError")
    await catalog.close()


@pytest.mark.parametrize("connection", [1, 2, 3])
async def test_a_start_at_which_the_disk_fails_can_be_repeated_and_leaves_nothing_open(
    path: Path, monkeypatch: pytest.MonkeyPatch, connection: int
) -> None:
    """The first connection brings the schema up to date, the second writes, and the third reads."""
    made = itertools.count(1)

    class Failing(sqlite3.Connection):
        def execute(self, *values: Any) -> sqlite3.Cursor:
            if "wal_autocheckpoint" in values[0] and next(made) == connection:
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR_READ
                raise error
            return super().execute(*values)

    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Failing))
        with pytest.raises(StoreUnavailable, match="disk I/O error"):
            await SqliteCatalog(path).open()
    open_files = [handle.resolve() for handle in Path("/proc/self/fd").iterdir()]
    assert not [file for file in open_files if file.is_relative_to(path.parent)]
    catalog = SqliteCatalog(path)
    await catalog.open()
    await catalog.close()


async def test_a_writer_that_lost_its_connection_makes_another(catalog: SqliteCatalog) -> None:
    await catalog.write(partial(add, name="a"))

    async def fatal(tx: Tx) -> None:
        assert isinstance(tx, SqliteTx)
        await add(tx, "lost")
        tx.connection.close()

    together = [catalog.write(partial(add, name="b")), catalog.write(fatal), catalog.write(partial(add, name="c"))]
    outcomes = await asyncio.gather(*together, return_exceptions=True)
    assert all(isinstance(outcome, sqlite3.ProgrammingError) for outcome in outcomes)
    await catalog.write(partial(add, name="d"))
    assert await catalog.read(names) == ["a", "d"]


@pytest.mark.parametrize("changes_first", [True, False])
async def test_an_operation_that_fails_is_undone_alone_and_the_batch_is_run_again_only_for_that(
    catalog: SqliteCatalog, changes_first: bool
) -> None:
    runs: list[str] = []

    async def run(tx: Tx, name: str) -> None:
        runs.append(name)
        if name != "refused" or changes_first:
            await add(tx, name)
        if name == "refused":
            raise Conflict("Mine.")

    batch = ["a", "b", "refused", "c"]
    outcomes = await asyncio.gather(*(catalog.write(partial(run, name=name)) for name in batch), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), type(None), Conflict, type(None)]
    assert await catalog.read(names) == ["a", "b", "c"]
    assert runs == ["a", "b", "refused", *(["a", "b", "refused"] if changes_first else []), "c"]


async def test_when_a_batch_fails_each_hears_it_and_who_had_failed_before_hears_why(catalog: SqliteCatalog) -> None:
    async def refused(tx: Tx) -> None:
        await add(tx, "refused")
        raise Conflict("Mine.")

    async def fatal(tx: Tx) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    batch: list[Callable[[Tx], Awaitable[None]]] = [
        partial(add, name="a"),
        refused,
        fatal,
        partial(add, name="b"),
    ]
    outcomes = await asyncio.gather(*map(catalog.write, batch), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [StorageFull, Conflict, StorageFull, StorageFull]
    assert len({id(outcome) for outcome in outcomes}) == 4, "each raises it elsewhere"
    assert await catalog.read(names) == []
    await catalog.write(partial(add, name="c"))
    assert await catalog.read(names) == ["c"]


@pytest.mark.slow
async def test_acknowledged_writes_survive_kill_9(path: Path) -> None:
    for _ in range(3):
        with subprocess.Popen([sys.executable, CHILD, "endless", path], stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            acknowledged = [child.stdout.readline().decode().strip() for _ in range(200)]
            child.kill()
            acknowledged += [line.decode().strip() for line in child.stdout.readlines() if line.endswith(b"\n")]
    catalog = SqliteCatalog(path)
    await catalog.open()
    assert set(acknowledged) <= set(await catalog.read(names))
    await catalog.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_full_disk_is_storage_full_and_reads_go_on_and_writes_come_back(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=4m tmpfs {disk}"
    if (
        shutil.which("unshare") is None
        or subprocess.run([*UNSHARE, mount], check=False, capture_output=True).returncode
    ):
        pytest.skip("unshare --mount is not permitted here, so there is no small file system")
    command = f"{mount} && exec {sys.executable} {CHILD} full {disk}/godrive.db"
    done = subprocess.run([*UNSHARE, command], check=True, capture_output=True, text=True)
    seen = json.loads(done.stdout)
    assert seen["errors"] == ["StorageFull"] * 3
    assert seen["read_while_full"] == seen["written"]
    assert seen["read_after"] == seen["written"] + 1


def refusing(code: int) -> Callable[[Tx], Awaitable[None]]:
    """An operation to which SQLite answers with that code."""

    async def operation(tx: Tx) -> None:
        error = sqlite3.OperationalError("refused")
        error.sqlite_errorcode = code
        raise error

    return operation


async def test_a_catalog_that_cannot_be_written_says_so_until_it_can(catalog: SqliteCatalog) -> None:
    assert catalog.problem is None
    for code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR):
        with pytest.raises(StoreUnavailable):
            await catalog.write(refusing(code))
        assert isinstance(catalog.problem, StoreUnavailable)
        await catalog.write(partial(add, name=str(code)))
        assert catalog.problem is None


async def test_on_a_full_disk_nothing_is_added_until_there_is_room(
    catalog: SqliteCatalog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = path.with_name("godrive.db-reserve")
    assert reserve.stat().st_size == SIZE

    async def grow(tx: Tx) -> None:
        await tx.grow()
        await add(tx, "new")

    full = SimpleNamespace(f_bavail=0, f_frsize=1)
    monkeypatch.setattr("godrive.reserve.os.statvfs", lambda _: full)
    with pytest.raises(StorageFull):
        await catalog.write(refusing(sqlite3.SQLITE_FULL))
    assert not reserve.exists()
    assert isinstance(catalog.problem, StorageFull)
    together = catalog.write(partial(add, name="session")), catalog.write(grow)
    outcomes = await asyncio.gather(*together, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), StorageFull]

    monkeypatch.setattr(full, "f_bavail", 100 * SIZE)
    assert catalog.problem is None
    await catalog.write(grow)
    assert reserve.stat().st_size == SIZE
    assert await catalog.read(names) == ["new", "session"]


async def test_a_log_that_got_the_reserve_is_read_after_a_crash(
    catalog: SqliteCatalog, path: Path, tmp_path: Path
) -> None:
    await catalog.write(partial(add, name="before"))
    Reserve(path).give_to_log()
    await catalog.write(partial(add, name="after"))
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for name in ("godrive.db", "godrive.db-wal"):  # as a crash leaves them: the index of the log is lost
        shutil.copy(tmp_path / name, crashed / name)
    assert (crashed / "godrive.db-wal").stat().st_size >= LOG
    again = SqliteCatalog(crashed / "godrive.db")
    await again.open()
    assert await again.read(names) == ["after", "before"]
    await again.close()


async def test_a_file_system_that_sets_no_space_aside_refuses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("godrive.reserve.os.posix_fallocate", refuse)
    catalog = SqliteCatalog(path)
    await catalog.open()
    await catalog.write(lambda tx: tx.grow())
    await catalog.close()
    assert not path.with_name("godrive.db-reserve").exists()


async def test_a_large_read_that_is_cancelled_leaves_its_connection_fit_for_the_next(catalog: SqliteCatalog) -> None:
    reads = [asyncio.ensure_future(catalog.read(Where(300_000))) for _ in range(8)]
    await asyncio.sleep(0)
    for read in reads:
        read.cancel()
    await asyncio.gather(*reads, return_exceptions=True)
    assert all(read.cancelled() for read in reads)
    assert await catalog.read(Where(20_000)) == 20_000


class Watched(aiosqlite.Connection):
    """A connection for reads elsewhere; which were made, and which closed."""

    made: ClassVar[list[Watched]]
    closed: ClassVar[list[Watched]]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.made.append(self)

    async def close(self) -> None:
        await super().close()
        self.closed.append(self)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    Watched.made, Watched.closed = [], []
    monkeypatch.setattr(aiosqlite, "Connection", Watched)
    return Watched


@pytest.mark.slow
async def test_a_large_read_that_is_cancelled_twice_leaves_no_connection_open(
    catalog: SqliteCatalog, watched: type[Watched]
) -> None:
    far, large = asyncio.Event(), Where(300_000)

    async def read(tx: Tx) -> int:
        if not isinstance(tx, SqliteTx):
            far.set()
        return await large(tx)

    reading = asyncio.ensure_future(catalog.read(read))
    await far.wait()
    for _ in range(2):
        reading.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await reading
    await catalog.close()
    assert len(watched.made) == 1
    assert watched.closed == watched.made


async def test_a_large_read_does_not_begin_on_the_loop(catalog: SqliteCatalog) -> None:
    async def where(tx: Tx) -> bool:
        await tx.one("SELECT 1")
        return isinstance(tx, SqliteTx)

    assert await catalog.read(where)
    assert not await catalog.read(where, large=True)


async def test_a_large_read_that_is_cancelled_as_it_connects_leaves_no_connection_open(
    catalog: SqliteCatalog, watched: type[Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    connecting, go_on, connect = asyncio.Event(), threading.Event(), sqlite_file.connect
    loop = asyncio.get_running_loop()

    def slowly(*arguments: Any, **options: Any) -> sqlite3.Connection:
        loop.call_soon_threadsafe(connecting.set)
        assert go_on.wait(10)
        return connect(*arguments, **options)

    monkeypatch.setattr(sqlite_file, "connect", slowly)
    reading = asyncio.ensure_future(catalog.read(Where(20_000)))
    await connecting.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    closing = asyncio.ensure_future(catalog.close())
    go_on.set()
    await closing
    assert len(watched.made) == 1
    assert watched.closed == watched.made


async def test_names_that_change_together_are_one_segment_of_their_index(catalog: SqliteCatalog) -> None:
    numbers = list(range(64, 0, -1))

    async def add_names(tx: Tx) -> None:
        await tx.names.add(tx, [(number, f"id-{number}", 0, f"name {number}") for number in numbers])

    async def change_names(tx: Tx) -> None:
        await tx.names.change(tx, [(number, f"other {number}") for number in numbers])

    async def segments(tx: Tx) -> int:
        return len(await tx.all("SELECT DISTINCT segid FROM names_fts_idx"))

    await catalog.write(add_names)
    assert await catalog.read(segments) == 1
    await catalog.write(change_names)
    assert await catalog.read(segments) == 2
