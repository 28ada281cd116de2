"""Memory that clients no longer need is no longer the process's."""

from __future__ import annotations

import os

import anyio
import pytest

from godrive import heap
from godrive.heap import Heap
from tests.drive_server import memory_bytes

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(not hasattr(heap._libc, "malloc_trim"), reason="the C library is not glibc"),
]

SIZE = 32_768
"""Of a block: too small for a mapping of its own, which is returned at once."""


async def test_what_was_freed_between_blocks_in_use_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_DELAY", 0.0)
    blocks = [bytes(SIZE) for _ in range(4_000)]
    blocks = blocks[::2]
    trimmed, before = Heap(), memory_bytes(os.getpid())
    for _ in range(3):
        trimmed.trim_soon()
    with anyio.fail_after(30):
        while memory_bytes(os.getpid()) > before - len(blocks) * SIZE // 2:
            await anyio.sleep(0.01)
    trimmed.close()


async def test_nothing_is_done_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_DELAY", 0.0)
    closed, calls = Heap(), 0

    def trim() -> None:
        nonlocal calls
        calls += 1

    monkeypatch.setattr(closed, "_trim", trim)
    closed.trim_soon()
    closed.close()
    other = Heap()
    monkeypatch.setattr(other, "_trim", trim)
    other.trim_soon()
    await anyio.sleep(0.01)
    assert calls == 1
