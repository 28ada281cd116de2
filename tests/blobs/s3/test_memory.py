"""Parts that wait for their bytes count against the memory of all clients."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import pytest

from godrive.blobs.s3.body import MIB, PartReader
from godrive.errors import MailboxFull
from godrive.memory import MemoryBudget

pytestmark = pytest.mark.anyio

KIB = 1024


async def test_a_body_that_stalls_gives_its_memory_to_one_that_goes_on() -> None:
    memory, received, ended = MemoryBudget(MIB), anyio.Event(), anyio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield bytes(700 * KIB)
        received.set()
        await anyio.sleep_forever()

    async def going_on() -> AsyncIterator[bytes]:
        yield bytes(400 * KIB)
        yield b"the rest"

    async def stall() -> None:
        reader = PartReader(stalling(), size=None, sha256=None, memory=memory)
        with pytest.raises(MailboxFull):
            async with reader.receiving():
                await anext(reader.parts(lambda _: MIB))
        ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stall)
        await received.wait()
        reader = PartReader(going_on(), size=None, sha256=None, memory=memory)
        async with reader.receiving():
            parts = [part async for part in reader.parts(lambda _: MIB)]
        assert [len(part) for part in parts] == [400 * KIB + 8]
        with anyio.fail_after(30):
            await ended.wait()
    assert (memory.held, memory.shed) == (0, 1)


async def test_a_part_counts_until_the_next_one_is_there() -> None:
    memory = MemoryBudget(10 * MIB)

    async def body() -> AsyncIterator[bytes]:
        for _ in range(6):
            yield bytes(512 * KIB)

    reader = PartReader(body(), size=None, sha256=None, memory=memory)
    held = []
    async with reader.receiving():
        async for part in reader.parts(lambda _: MIB):
            assert len(part) <= MIB
            held.append(memory.held)
    assert max(held) <= 3 * MIB
    assert held[-1] >= MIB
    assert memory.held == 0
