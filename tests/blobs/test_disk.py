"""What is particular to blobs on disk: what a kill, a cancellation, a full disk and a planted link leave behind."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import shutil
import stat
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import anyio
import pytest
from msgspec.structs import replace

from godrive.blobs import BlobExists
from godrive.blobs.attributes import SHA256
from godrive.blobs.disk import DiskBlobStore
from godrive.blobs.failures import failures
from godrive.blobs.folders import Shard, Shards, make_folder
from godrive.blobs.objects import Objects
from godrive.errors import ConfigError, DriveError, LengthMismatch, NotFound, StorageFull, StoreUnavailable
from godrive.model import ObjectKey, new_id
from godrive.paths import make_path
from godrive.testing import chunks
from tests.blobs import putter
from tests.cases import each

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
SOON = timedelta(minutes=1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture(params=["unnamed", "named"])
def named(request: pytest.FixtureRequest) -> bool:
    """Whether staging files have names: both ways must do."""
    return bool(request.param == "named")


@pytest.fixture
async def store(root: Path, named: bool) -> AsyncIterator[DiskBlobStore]:
    made = DiskBlobStore(root, named=named, pack_below=0)
    await made.open()
    yield made
    await made.close()


def new_key(shard: str = "shard") -> ObjectKey:
    return ObjectKey(f"{shard}/{new_id()}")


async def pieces(data: bytes, size: int = 100_000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


async def read(store: DiskBlobStore, key: ObjectKey) -> bytes:
    return b"".join([piece async for piece in store.get(key)])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start_putter(folder: Path, length: int, *prefix: str, named: bool = False) -> subprocess.Popen[str]:
    command = [*prefix, sys.executable, "-m", "tests.blobs.putter", str(folder), str(length), "named" * named]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])


@pytest.mark.parametrize("length", [4096, 9 * MIB])
@pytest.mark.parametrize("acknowledged", [1, 5, 14])
@pytest.mark.slow
async def test_after_a_kill_what_was_acknowledged_is_there_and_nothing_is_partial(
    root: Path, named: bool, length: int, acknowledged: int
) -> None:
    with start_putter(root, length, named=named) as process:
        assert process.stdout is not None
        told = [process.stdout.readline().strip() for _ in range(acknowledged)]
        process.kill()
        told += process.stdout.read().split()
    store = DiskBlobStore(root)
    await store.open()
    found = {}
    async for blob in store.list():
        found[blob.key] = blob.sha256
        data = await read(store, blob.key)
        assert data == putter.content(blob.key, length)
        assert blob.sha256 == hashlib.sha256(data).hexdigest()
    assert found.keys() >= set(told)
    leftovers = names(root / "staging")
    assert named or not leftovers
    assert await store.sweep_staging(LONG_AGO) == 0
    assert await store.sweep_staging(datetime.now(UTC) + SOON) == len(leftovers)
    assert names(root / "staging") == []
    await store.close()


@pytest.mark.parametrize("length", [4096, 9 * MIB])
async def test_whenever_a_put_is_cancelled_the_blob_is_whole_or_absent(
    store: DiskBlobStore, root: Path, length: int
) -> None:
    data = os.urandom(length)
    outcomes = set()
    for ticks in (*range(8), *range(8, 200, 16)):
        key = new_key()
        put = asyncio.create_task(store.put(key, pieces(data), size=length))
        for _ in range(ticks):
            await asyncio.sleep(0)
        put.cancel()
        await asyncio.wait([put])
        try:
            assert await read(store, key) == data
            outcomes.add("whole")
        except NotFound:
            outcomes.add("absent")
            assert put.cancelled()
    assert "absent" in outcomes
    await store.close()
    assert names(root / "staging") == []


async def test_cancelling_again_while_it_is_cleared_away_leaves_nothing_either(
    store: DiskBlobStore, root: Path, named: bool
) -> None:
    waiting = anyio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield bytes(5 * MIB)
        waiting.set()
        await anyio.sleep_forever()

    put = asyncio.create_task(store.put(new_key(), stalling()))
    await waiting.wait()
    assert len(names(root / "staging")) == named
    put.cancel()
    await asyncio.sleep(0)
    put.cancel()
    with pytest.raises(asyncio.CancelledError):
        await put
    await store.close()
    assert names(root / "staging") == []


async def test_a_full_disk_refuses_and_keeps_nothing_of_what_it_refused(tmp_path: Path, named: bool) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("unshare") is None:
        pytest.skip("no unshare: apt-get install -y --no-install-recommends util-linux")
    mount = f'mount -t tmpfs -o size=8m tmpfs {disk} && "$@"; ls {disk}/blobs/staging'
    process = start_putter(
        disk / "blobs", 3 * MIB, "unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", named=named
    )
    told, _ = process.communicate()
    if "full" not in told:
        pytest.skip("not permitted to mount a file system of our own")
    *_, last = told.split()
    assert last == "full"  # and no staging file after it


def test_a_full_disk_is_said_and_everything_else_is_an_outage() -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):
        with pytest.raises(StorageFull), failures():
            raise OSError(number, os.strerror(number))
    for number in (errno.EIO, errno.EROFS, errno.EMFILE, errno.ESTALE):
        with pytest.raises(StoreUnavailable), failures():
            raise OSError(number, os.strerror(number))


async def test_a_link_among_the_blobs_leads_nowhere(store: DiskBlobStore, root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    (root / "objects" / "shard").mkdir()
    (root / "objects" / "shard" / "link").symlink_to(outside / "secret")
    (root / "objects" / "elsewhere").symlink_to(outside)
    for key in (ObjectKey("shard/link"), ObjectKey("elsewhere/secret")):
        with pytest.raises(NotFound):
            await read(store, key)
        with pytest.raises(NotFound):
            await store.open_file(key)
        with pytest.raises(NotFound):
            await store.head(key)
    assert [blob.key async for blob in store.list()] == []
    with pytest.raises(StoreUnavailable):
        await store.put(ObjectKey("elsewhere/planted"), pieces(b"planted"))
    with pytest.raises(StoreUnavailable):
        await store.delete(ObjectKey("elsewhere/secret"))
    assert names(outside) == ["secret"]
    assert names(root / "staging") == []


async def test_what_is_no_plain_file_is_no_blob(store: DiskBlobStore, root: Path) -> None:
    shard = root / "objects" / "shard"
    (shard / "folder").mkdir(parents=True)
    os.mkfifo(shard / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(NotFound):
            await store.open_file(ObjectKey(f"shard/{name}"))
    assert [blob.key async for blob in store.list()] == []


async def test_a_file_that_has_no_name_of_ours_is_not_listed(store: DiskBlobStore, root: Path) -> None:
    key = new_key()
    await store.put(key, pieces(b"abc"))
    for name in (".hidden", "0000.tmp", "UPPER", "a b"):
        (root / "objects" / "shard" / name).write_bytes(b"stray")
        (root / "objects" / name).mkdir()
    assert [blob.key async for blob in store.list()] == [key]


def open_blobs(root: Path) -> list[str]:
    """The blobs of which this process holds a handle."""
    handles = [str(handle.resolve()) for handle in Path("/proc/self/fd").iterdir()]
    return [handle for handle in handles if handle.startswith(str(root / "objects" / "shard"))]


async def test_a_blob_is_closed_when_it_was_read_or_nobody_reads_on(
    store: DiskBlobStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = new_key()
    await store.put(key, pieces(bytes(MIB)))
    await read(store, key)
    async with aclosing(store.get(key)) as body:  # type: ignore[type-var]
        assert await anext(body)
        assert len(open_blobs(root)) == 1
    assert open_blobs(root) == []

    begun, let, opened = threading.Event(), threading.Event(), threading.Event()
    open_file = Objects.open_file

    def slowly(objects: Objects, key: ObjectKey) -> int:
        begun.set()
        assert let.wait(10)
        fd = open_file(objects, key)
        opened.set()
        return fd

    monkeypatch.setattr(Objects, "open_file", slowly)
    opening = asyncio.ensure_future(store.open_file(key))
    assert await asyncio.to_thread(begun.wait, 10)
    opening.cancel()
    await asyncio.wait([opening])
    let.set()
    assert await asyncio.to_thread(opened.wait, 10)
    await anyio.wait_all_tasks_blocked()
    await asyncio.to_thread(lambda: None)  # what the thread had to say has been heard by now
    assert open_blobs(root) == []


async def test_the_room_left_is_looked_at_anew_every_second(
    store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds, free = 100.0, 7
    monkeypatch.setattr("godrive.blobs.disk.time", SimpleNamespace(monotonic=lambda: seconds))
    monkeypatch.setattr(Objects, "free_bytes", lambda objects: free)
    assert await store.free_bytes() == 7
    free, seconds = 5, 100.5
    assert await store.free_bytes() == 7
    seconds = 101.5
    assert await store.free_bytes() == 5


async def test_nobody_else_may_read_what_is_stored(store: DiskBlobStore, root: Path) -> None:
    key = new_key()
    await store.put(key, pieces(b"private"))
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (root / "objects").rglob("*")}
    assert set(modes.values()) == {0o700, 0o600}
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


async def test_a_blob_whose_digest_was_lost_is_otherwise_the_same(store: DiskBlobStore, root: Path) -> None:
    key = new_key()
    put = await store.put(key, pieces(b"abc"))
    os.removexattr(root / "objects" / key, SHA256)
    assert await store.head(key) == replace(put, sha256=None)


async def test_the_last_blob_takes_its_shard_with_it(store: DiskBlobStore, root: Path) -> None:
    keys = [new_key(), new_key()]
    for key in keys:
        await store.put(key, pieces(b"abc"))
    await store.delete(keys[0])
    assert names(root / "objects") == ["shard"]
    await store.delete(keys[1])
    assert names(root / "objects") == []
    await store.put(keys[0], pieces(b"again"))
    assert await read(store, keys[0]) == b"again"


async def test_a_shard_that_somebody_removed_is_made_again(store: DiskBlobStore, root: Path) -> None:
    key = new_key()
    await store.put(key, pieces(b"abc"))
    shutil.rmtree(root / "objects" / "shard")
    await store.put(key, pieces(b"abc"))
    assert await read(store, key) == b"abc"


async def test_puts_and_deletes_in_one_shard_do_not_get_in_one_anothers_way(store: DiskBlobStore, root: Path) -> None:
    async def come_and_go() -> None:
        for _ in range(25):
            key = new_key()
            await store.put(key, pieces(b"abc"))
            await store.delete(key)

    await asyncio.gather(*(come_and_go() for _ in range(8)))
    assert names(root / "objects") == []


async def test_what_is_set_aside_keeps_its_bytes_for_an_operator(store: DiskBlobStore, root: Path) -> None:
    key = new_key()
    for data in (b"first", b"second"):
        await store.put(key, pieces(data))
        await store.quarantine(key)
    aside = names(root / "quarantine")
    assert {(root / "quarantine" / name).read_bytes() for name in aside} == {b"first", b"second"}
    assert all(name.startswith(key.replace("/", ".")) for name in aside)


async def test_a_large_body_passes_through_in_little_memory(store: DiskBlobStore) -> None:
    async def body() -> AsyncIterator[bytes]:
        for _ in range(64 * 16):
            yield bytes(64 * 1024)

    tracemalloc.start()
    info = await store.put(new_key(), body(), size=64 * MIB)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert info.size_bytes == 64 * MIB
    assert peak < 32 * MIB


async def test_a_place_that_cannot_hold_blobs_is_named_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ConfigError, match="file"):
        await DiskBlobStore(tmp_path / "file").open()
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "objects").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="linked"):
        await DiskBlobStore(tmp_path / "linked").open()


@each(("number", "answer"), [(errno.ENOSPC, StorageFull), (errno.EDQUOT, StorageFull), (errno.EIO, StoreUnavailable)])
async def test_a_disk_that_is_full_or_fails_at_the_start_is_no_mistake_of_the_operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, answer: type[DriveError]
) -> None:
    """``serve`` must end with 1, after which an init system tries again, and not with 2."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "mkdir", fail)
    with pytest.raises(answer):
        await DiskBlobStore(tmp_path / str(number)).open()


async def test_a_disk_without_room_to_try_a_link_is_opened_and_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = DiskBlobStore(root, named=True)
    await store.open()
    key = new_key()
    await store.put(key, chunks(b"hello"))
    await store.close()
    monkeypatch.setattr(os, "link", fail)
    await store.open()
    assert await read(store, key) == b"hello"
    await store.close()


async def test_a_folder_among_the_leftovers_keeps_none_of_them_from_being_swept(
    store: DiskBlobStore, root: Path
) -> None:
    for number in range(8):
        (root / "staging" / f"folder{number}").mkdir()
        (root / "staging" / f"left{number}").touch()
    (root / "staging" / "link").symlink_to(root)
    assert await store.sweep_staging(datetime.now(UTC) + SOON) == 9
    assert names(root / "staging") == [f"folder{number}" for number in range(8)]


async def test_puts_in_progress_have_their_room_and_others_are_refused_before_they_begin(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Objects, "free_bytes", lambda objects: 1000)
    store = DiskBlobStore(root, min_free_bytes=300)
    await store.open()
    begun, go_on = anyio.Event(), anyio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * 100
        begun.set()
        await go_on.wait()
        yield b"x" * 300

    async def unwanted() -> AsyncIterator[bytes]:
        pytest.fail("it was refused too late")
        yield b""

    with pytest.raises(StorageFull):
        await store.put(new_key(), unwanted(), size=701)
    async with anyio.create_task_group() as puts:
        puts.start_soon(lambda: store.put(new_key(), slow(), size=400))
        await begun.wait()
        assert await store.free_bytes() == 600
        with pytest.raises(StorageFull):
            await store.put(new_key(), unwanted(), size=301)
        await store.put(new_key(), pieces(b"x" * 300), size=300)
        with pytest.raises(LengthMismatch):
            await store.put(new_key(), pieces(b""), size=300)
        await store.put(new_key(), pieces(b"x" * 300), size=300)
        go_on.set()
    await store.put(new_key(), pieces(b"x" * 700), size=700)
    await store.close()


async def test_a_store_that_is_closed_is_unavailable(store: DiskBlobStore) -> None:
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.put(new_key(), pieces(b"abc"))
    with pytest.raises(StoreUnavailable):
        await store.head(new_key())


class WatchedLock:
    """A lock that tells when somebody is about to wait for it."""

    def __init__(self, about_to_wait: threading.Semaphore) -> None:
        self._lock = threading.Lock()
        self._about_to_wait = about_to_wait

    def __enter__(self) -> None:
        self._about_to_wait.release()
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def test_of_many_that_wait_for_a_sync_one_syncs_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on, arrived = (threading.Semaphore(0) for _ in range(3))
    synced = []

    def fsync(fd: int) -> None:
        begun.release()
        assert go_on.acquire(timeout=10)
        synced.append(fd)

    monkeypatch.setattr("godrive.blobs.folders.os.fsync", fsync)
    shard = Shard(7)
    monkeypatch.setattr(shard, "_turn", WatchedLock(arrived))
    threads = [threading.Thread(target=shard.sync) for _ in range(9)]
    threads[0].start()
    assert begun.acquire(timeout=10)
    for thread in threads[1:]:
        thread.start()
    for _ in threads:
        assert arrived.acquire(timeout=10)
    go_on.release(9)
    for thread in threads:
        thread.join(timeout=10)
    # One for the first, and one for all who changed something after it had begun.
    assert synced == [7, 7]


def test_a_sync_that_fails_has_failed_for_all_who_waited_and_for_nobody_who_comes_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel tells of an error once: the next fsync succeeds without what was lost."""
    root = os.open(tmp_path, os.O_RDONLY)
    shards = Shards(root)
    outcomes = [OSError(errno.EIO, "Input/output error")]

    def fsync(fd: int) -> None:
        if outcomes:
            raise outcomes.pop()

    make_folder("shard", root)
    monkeypatch.setattr("godrive.blobs.folders.os.fsync", fsync)
    with shards.enter("shard") as first, shards.enter("shard") as second:
        for folder in (first, second):
            with pytest.raises(OSError, match="Input/output error"):
                folder.sync()
        with shards.enter("shard") as third:
            third.sync()
    with shards.enter("shard") as fourth:
        fourth.sync()
    os.close(root)


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The inodes of what has been synced."""
    fsync, inodes = os.fsync, set()

    def noted(fd: int) -> None:
        fsync(fd)
        inodes.add(os.fstat(fd).st_ino)

    monkeypatch.setattr("os.fsync", noted)
    return inodes


def test_a_shard_that_was_opened_to_delete_is_made_durable_before_a_blob_comes_in(
    tmp_path: Path, synced: set[int]
) -> None:
    root = os.open(tmp_path, os.O_RDONLY)
    shards = Shards(root)
    (tmp_path / "shard").mkdir()  # by a process that was killed before it came to the fsync
    with shards.enter("shard"):
        assert not synced
        with shards.enter("shard", create=True):
            assert synced == {tmp_path.stat().st_ino}
    os.close(root)


@each("act", ["head", "put", "delete"])
async def test_what_a_killed_process_left_is_durable_before_anybody_acts_on_it(
    tmp_path: Path, act: str, synced: set[int]
) -> None:
    root, key = tmp_path / act, ObjectKey("shard/left")
    store = DiskBlobStore(root, pack_below=0)
    await store.open()
    shard = root / "objects" / "shard"
    shard.mkdir()
    if act != "delete":  # it was killed after the link, or after the unlink, and before the sync of the folder
        (shard / "left").write_bytes(b"left")
    if act == "head":
        await store.head(key)
    elif act == "put":
        with pytest.raises(BlobExists):
            await store.put(key, chunks(b"left"))
    else:
        await store.delete(key)
    assert shard.stat().st_ino in synced
    synced.clear()
    if act == "head":
        await store.head(key)
        assert not synced
    await store.close()


def test_every_folder_that_is_made_on_the_way_is_durable(tmp_path: Path, synced: set[int]) -> None:
    path = tmp_path / "a" / "b" / "blobs"
    make_path(path)
    assert {folder.stat().st_ino for folder in (tmp_path, *list(path.parents)[:2])} == synced
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    synced.clear()
    make_path(path)
    assert not synced


class Journal:
    """What is done to a disk, in order; *failing* is what the disk does not sync, *held* what it syncs when let."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[str] = []
        self.failing = ""
        self.held = ""
        self.reached, self.let = threading.Event(), threading.Event()
        self._root = str(root.resolve())
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._sync)
        for name in ("link", "unlink", "rename", "setxattr"):
            monkeypatch.setattr(os, name, partial(self._do, name, getattr(os, name)))

    def _do(self, name: str, call: Callable[..., object], *values: object, **options: object) -> None:
        if self.lines[-1:] != [name]:
            self.lines.append(name)
        call(*values, **options)

    def _sync(self, fd: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(fd).st_mode)
        what = str(Path(f"/proc/self/fd/{fd}").readlink().relative_to(self._root)) if is_folder else "bytes"
        self.lines.append(f"sync {what}")
        if what == self.failing:
            raise OSError(errno.EIO, "the disk is broken")
        if what == self.held:
            self.reached.set()
            assert self.let.wait(10)
        self._fsync(fd)


@pytest.fixture
def journal(store: DiskBlobStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    return Journal(root, monkeypatch)


@pytest.mark.parametrize("length", [4096, 9 * MIB])
async def test_a_blob_is_durable_before_it_has_its_name_and_its_name_before_it_is_acknowledged(
    store: DiskBlobStore, journal: Journal, named: bool, length: int
) -> None:
    await store.put(new_key(), pieces(bytes(length)), mime="text/plain")
    expected = ["setxattr", "sync bytes", "sync objects", "link", "sync objects/shard"]
    assert journal.lines == expected + ["unlink"] * named
    journal.lines.clear()
    await store.put(new_key(), pieces(bytes(length)))
    expected.remove("sync objects")  # the shard is known to be durable
    assert journal.lines == expected + ["unlink"] * named


async def test_what_is_deleted_or_set_aside_stays_so(store: DiskBlobStore, journal: Journal) -> None:
    for act, expected in (
        (store.delete, ["unlink", "sync objects/shard"]),
        (store.quarantine, ["rename", "sync quarantine", "sync objects/shard"]),
    ):
        key = new_key()
        await store.put(key, pieces(b"abc"))
        journal.lines.clear()
        await act(key)
        assert journal.lines == expected


async def test_a_blob_whose_name_cannot_be_made_durable_is_not_there(store: DiskBlobStore, journal: Journal) -> None:
    key = new_key()
    journal.failing = "objects/shard"
    with pytest.raises(StoreUnavailable):
        await store.put(key, pieces(b"abc"))
    with pytest.raises(NotFound):
        await store.head(key)
    journal.failing = ""
    await store.put(key, pieces(b"abc"))


async def test_a_put_that_is_cancelled_before_its_blob_has_a_name_leaves_none(
    store: DiskBlobStore, journal: Journal, root: Path
) -> None:
    key = new_key()
    journal.held = "bytes"
    putting = asyncio.ensure_future(store.put(key, pieces(b"abc")))
    assert await asyncio.to_thread(journal.reached.wait, 10)
    putting.cancel()
    await anyio.wait_all_tasks_blocked()
    journal.let.set()
    with pytest.raises(asyncio.CancelledError):
        await putting
    with pytest.raises(NotFound):
        await store.head(key)
    assert names(root / "staging") == []


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere niceness is of the process")
async def test_a_thread_that_digests_is_nicer_than_the_loop(store: DiskBlobStore) -> None:
    own = os.nice(0)
    assert await asyncio.wrap_future(store._digests.submit(os.nice, 0)) == min(own + 5, 19)
    assert await asyncio.wrap_future(store._disk.submit(os.nice, 0)) == own == os.nice(0)
