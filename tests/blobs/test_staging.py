"""Writes past the page cache: what is aligned is written as it is, whatever came before it."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path
from typing import Any

import pytest

from godrive.blobs import staging
from godrive.blobs.staging import DirectWriter

BLOCK = 4096
MIB = 1 << 20


class DirectDisk:
    """``os`` for a file system that takes direct writes only of aligned memory, and notes which those were."""

    def __init__(self) -> None:
        self.is_direct = False
        self.written: list[int] = []
        self.refused = 0

    def set_direct(self, fd: int, direct: bool) -> bool:
        self.is_direct = direct
        return direct

    def write(self, fd: int, data: memoryview) -> int:
        where = ctypes.addressof(ctypes.c_char.from_buffer(data))
        if self.is_direct and (where % BLOCK or len(data) % BLOCK or os.lseek(fd, 0, os.SEEK_CUR) % BLOCK):
            self.refused += 1
            raise OSError(errno.EINVAL, "not aligned")
        self.written.append(len(data))
        return os.write(fd, data)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> DirectDisk:
    disk = DirectDisk()

    class Os:
        def __getattr__(self, name: str) -> Any:
            return disk.write if name == "write" else getattr(os, name)

    monkeypatch.setattr(staging, "os", Os())
    monkeypatch.setattr(staging, "_set_direct", disk.set_direct)
    return disk


def memory(size: int, *, shifted: int = 0) -> memoryview:
    """Random bytes, *shifted* from the beginning of a page."""
    whole = memoryview(mmap.mmap(-1, size + shifted))
    whole[:] = os.urandom(len(whole))
    return whole[shifted:]


def written(folder: Path, *chunks: memoryview) -> bool:
    """Write *chunks*, and return whether they are what the file has."""
    fd = os.open(folder / "file", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    writer = DirectWriter(fd, after=0)
    for chunk in chunks:
        writer.write(chunk)
    writer.end()
    os.close(fd)
    return (folder / "file").read_bytes() == b"".join(chunks)


def test_a_large_chunk_is_written_as_it_is_after_one_that_is_not_aligned(disk: DirectDisk, tmp_path: Path) -> None:
    large = memory(6 * MIB)
    assert written(tmp_path, memory(70_000, shifted=100), large[70_000:], large)
    assert disk.refused == 1
    assert sorted(disk.written)[-2:] == [(6 * MIB - 70_000) & -BLOCK, 6 * MIB]


def test_chunks_that_are_never_aligned_are_copied_and_soon_not_tried(disk: DirectDisk, tmp_path: Path) -> None:
    assert written(tmp_path, *(memory(MIB + 1, shifted=100) for _ in range(10)))
    assert disk.refused <= 4
    assert max(disk.written) <= 2 * MIB
