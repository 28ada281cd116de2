"""Appends that stay open between two bodies."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from godrive.blobs import Staged, growing, kept_appends
from godrive.blobs.disk import DiskBlobStore
from godrive.blobs.growing import GrowingFile
from godrive.blobs.staged_append import FEW
from godrive.errors import Gone
from tests.contracts.test_blob_store import new_key, pieces
from tests.noise import noise

pytestmark = pytest.mark.anyio

MIB = 1 << 20


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[DiskBlobStore]:
    made = DiskBlobStore(tmp_path / "blobs")
    await made.open()
    try:
        yield made
    finally:
        await made.close()


async def append(store: DiskBlobStore, staged: Staged, data: bytes, *, whole: bool = False) -> Staged:
    async with aclosing(store.append(staged, pieces(data), whole=whole)) as steps:
        async for step in steps:
            staged = step
    return staged


def is_open(folder: Path) -> int:
    """How many files below *folder* this process has open."""
    found = 0
    for handle in Path("/proc/self/fd").iterdir():
        try:
            found += folder in handle.readlink().parents
        except FileNotFoundError:  # that of the folder which is being listed
            continue
    return found


async def until_open(folder: Path, number: int) -> None:
    with anyio.fail_after(30):
        while is_open(folder) != number:
            await anyio.sleep(0.01)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that were opened."""
    names: list[str] = []

    class Os:
        def open(self, name: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            names.append(name)
            return os.open(name, flags, mode, dir_fd=dir_fd)

        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

    monkeypatch.setattr(growing, "os", Os())
    return names


@pytest.mark.parametrize("size", [3, 4096, 5 * MIB, 5 * MIB + 1])
async def test_bodies_that_follow_one_another_open_the_file_once(
    store: DiskBlobStore, opened: list[str], size: int
) -> None:
    data, staged = noise(4 * size), Staged(key=new_key())
    for start in range(0, len(data), size):
        staged = await append(store, staged, data[start : start + size], whole=start == size)
    blob = await store.finish(staged)
    assert (blob.size_bytes, blob.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert len(opened) == 1


async def test_a_digest_begins_when_the_body_has_ended_or_much_of_it_waits(
    store: DiskBlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    digested = [0]
    digest = GrowingFile.digest

    def count(self: GrowingFile, chunks: Sequence[bytes | memoryview]) -> None:
        digest(self, chunks)
        digested[0] += sum(map(len, chunks))

    monkeypatch.setattr(GrowingFile, "digest", count)
    piece, chunk = noise(2 * MIB), 8 * MIB
    waiting: list[int] = []

    async def body(size: int) -> AsyncIterator[bytes]:
        for sent in range(0, size, len(piece)):
            waiting.append(sent - digested[0])
            yield piece

    staged = Staged(key=new_key())
    async with aclosing(store.append(staged, body(chunk), size=100 * MIB)) as steps:
        staged = [step async for step in steps][-1]
    assert waiting == list(range(0, chunk, len(piece)))  # nothing was digested while it came
    with anyio.fail_after(30):
        while digested[0] < chunk:
            await anyio.sleep(0.01)
    waiting, digested = [], [0]
    async with aclosing(store.append(staged, body(92 * MIB), size=100 * MIB)) as steps:
        staged = [step async for step in steps][-1]
    assert max(waiting) < 32 * MIB
    assert (await store.finish(staged)).sha256 == hashlib.sha256(50 * piece).hexdigest()


async def test_few_files_stay_open(store: DiskBlobStore, tmp_path: Path) -> None:
    for _ in range(FEW + 5):
        await append(store, Staged(key=new_key()), b"first")
    await until_open(tmp_path / "blobs" / "uploads", FEW)
    await store.close()
    assert is_open(tmp_path / "blobs") == 0
    await store.open()


async def test_a_file_is_closed_after_a_while_and_its_digest_stays(
    store: DiskBlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_appends, "_KEPT_FOR", 0.01)
    staged = await append(store, Staged(key=new_key()), b"received")
    uploads = tmp_path / "blobs" / "uploads"
    await until_open(uploads, 0)
    (file,) = uploads.iterdir()
    file.write_bytes(b"xxxxxxxx")  # a digest computed from the file would hide this
    blob = await store.finish(await append(store, staged, b" bytes"))
    assert blob.sha256 == hashlib.sha256(b"received bytes").hexdigest()


async def test_a_file_that_was_removed_meanwhile_takes_no_more_bytes(store: DiskBlobStore, tmp_path: Path) -> None:
    staged = await append(store, Staged(key=new_key()), b"first")
    (file,) = (tmp_path / "blobs" / "uploads").iterdir()
    file.unlink()
    for _ in range(2):
        with pytest.raises(Gone):
            await append(store, staged, b"second")


async def test_a_file_that_was_removed_meanwhile_is_no_blob(store: DiskBlobStore, tmp_path: Path) -> None:
    staged = await append(store, Staged(key=new_key()), b"first")
    (file,) = (tmp_path / "blobs" / "uploads").iterdir()
    file.unlink()
    for _ in range(2):
        with pytest.raises(Gone):
            await store.finish(staged)


async def test_what_is_discarded_is_closed(store: DiskBlobStore, tmp_path: Path) -> None:
    staged = await append(store, Staged(key=new_key()), b"first")
    assert is_open(tmp_path / "blobs" / "uploads") == 1
    await store.discard(staged)
    assert is_open(tmp_path / "blobs" / "uploads") == 0


async def test_an_older_offset_gets_the_file_and_the_digest_of_its_own_bytes(store: DiskBlobStore) -> None:
    """As when the row of the upload did not move, because another process has the upload."""
    older = await append(store, Staged(key=new_key()), b"one")
    await append(store, older, b" lost")
    newer = await append(store, older, b" two!")
    blob = await store.finish(newer)
    assert blob.sha256 == hashlib.sha256(b"one two!").hexdigest()
