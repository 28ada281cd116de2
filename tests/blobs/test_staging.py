"""Writes past the page cache: what is aligned is written as it is, whatever came before it."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from godrive.blobs import staging
from godrive.blobs.staging import DirectWriter
from tests.cases import each
from tests.noise import noise

BLOCK = 4096
MIB = 1 << 20


class DirectDisk:
    """``os`` for a file system that takes direct writes only of aligned memory, and notes which those were."""

    def __init__(self) -> None:
        self.is_direct = False
        self.written: list[int] = []
        self.refused = 0
        self.short = 0
        """The most bytes of one write, if it is not 0."""

    def set_direct(self, fd: int, direct: bool) -> bool:
        self.is_direct = direct
        return direct

    def write(self, fd: int, data: memoryview) -> int:
        return self.writev(fd, [data])

    def writev(self, fd: int, buffers: Sequence[memoryview]) -> int:
        at = os.lseek(fd, 0, os.SEEK_CUR)
        where = [ctypes.addressof(ctypes.c_char.from_buffer(data)) for data in buffers]
        if self.is_direct and any(each % BLOCK for each in (at, *where, *map(len, buffers))):
            self.refused += 1
            raise OSError(errno.EINVAL, "not aligned")
        data = b"".join(buffers)
        if self.short and len(data) > self.short:
            data = data[: self.short]
        self.written.append(len(data))
        return os.write(fd, data)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> DirectDisk:
    disk = DirectDisk()

    class Os:
        def __getattr__(self, name: str) -> Any:
            return getattr(disk, name) if name in ("write", "writev") else getattr(os, name)

    monkeypatch.setattr(staging, "os", Os())
    monkeypatch.setattr(staging, "_set_direct", disk.set_direct)
    return disk


def memory(size: int, *, shifted: int = 0) -> memoryview:
    """Random bytes, *shifted* from the beginning of a page."""
    whole = memoryview(mmap.mmap(-1, size + shifted))
    whole[:] = noise(len(whole))
    return whole[shifted:]


def written(folder: Path, *chunks: memoryview) -> bool:
    """Write *chunks*, and return whether they are what the file has."""
    fd = os.open(folder / "file", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    writer = DirectWriter(fd, after=0)
    writer.write_all(chunks[:3])
    writer.write_all(chunks[3:])
    writer.end()
    os.close(fd)
    return (folder / "file").read_bytes() == b"".join(chunks)


def test_a_large_chunk_is_written_as_it_is_after_one_that_is_not_aligned(disk: DirectDisk, tmp_path: Path) -> None:
    large = memory(6 * MIB)
    assert written(tmp_path, memory(70_000, shifted=100), large[70_000:], large)
    assert disk.refused == 1
    assert sorted(disk.written)[-2:] == [(6 * MIB - 70_000) & -BLOCK, 6 * MIB]


@each("short", [0, BLOCK, MIB + BLOCK, MIB + 1, 3 * MIB])
def test_chunks_that_come_at_once_are_one_write(disk: DirectDisk, tmp_path: Path, short: int) -> None:
    disk.short = short
    chunks = [memory(MIB), memory(2 * MIB), memory(BLOCK), memory(5), memory(MIB, shifted=5), memory(2 * MIB)]
    assert written(tmp_path, *chunks)
    if not short:
        assert disk.written[0] == 3 * MIB + BLOCK


def test_chunks_that_are_never_aligned_are_copied_and_soon_not_tried(disk: DirectDisk, tmp_path: Path) -> None:
    assert written(tmp_path, *(memory(MIB + 1, shifted=100) for _ in range(10)))
    assert disk.refused <= 4
    assert max(disk.written) <= 2 * MIB
