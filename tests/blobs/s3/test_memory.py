"""Parts that wait for their bytes count against the memory of all clients."""

from __future__ import annotations

from collections.abc import AsyncIterator

import anyio
import anyio.lowlevel
import pytest

from godrive.blobs import OWNER
from godrive.blobs.s3 import slots
from godrive.blobs.s3.body import MIB, PartReader
from godrive.blobs.s3.slots import BodySlots
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


async def test_a_body_that_waits_ends_one_that_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "_STEP", 0.01)
    turns, received, ended = BodySlots(1, part=0), anyio.Event(), anyio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(300 * KIB)
        received.set()
        await anyio.sleep_forever()

    async def quick() -> AsyncIterator[bytes]:
        yield bytes(300 * KIB)

    async def hold() -> None:
        reader = PartReader(slow(), size=None, sha256=None, slots=turns)
        with pytest.raises(MailboxFull):
            async with reader.receiving():
                await anext(reader.parts(lambda _: MIB))
        ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hold)
        await received.wait()
        reader = PartReader(quick(), size=None, sha256=None, slots=turns)
        with anyio.fail_after(5):
            async with reader.receiving():
                assert [len(part) async for part in reader.parts(lambda _: MIB)] == [300 * KIB]
            await ended.wait()


async def test_a_silent_body_gives_its_slot_to_one_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "_STEP", 0.01)
    turns, silent_for = BodySlots(1, part=1 << 40), anyio.Event()

    async def silent() -> AsyncIterator[bytes]:
        yield bytes(300 * KIB)
        silent_for.set()
        await anyio.sleep_forever()

    async def going_on() -> AsyncIterator[bytes]:
        yield bytes(300 * KIB)

    async def hold() -> None:
        reader = PartReader(silent(), size=None, sha256=None, slots=turns)
        with pytest.raises(MailboxFull):
            async with reader.receiving():
                await anext(reader.parts(lambda _: MIB))

    async def collect() -> None:
        reader = PartReader(going_on(), size=None, sha256=None, slots=turns)
        async with reader.receiving():
            assert [len(part) async for part in reader.parts(lambda _: MIB)] == [300 * KIB]

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hold)
            await silent_for.wait()
            tasks.start_soon(collect)
            await anyio.wait_all_tasks_blocked()
            monkeypatch.setattr(slots, "SILENT", 0.0)


async def test_bodies_that_share_a_slot_take_turns_and_small_ones_need_none() -> None:
    memory, turns, order = MemoryBudget(100 * MIB), BodySlots(1, part=MIB), list[str]()

    async def body(parts: int) -> AsyncIterator[bytes]:
        for _ in range(2 * parts):
            await anyio.lowlevel.checkpoint()
            yield bytes(512 * KIB)

    async def collect(name: str) -> None:
        reader = PartReader(body(3), size=None, sha256=None, memory=memory, slots=turns)
        async with reader.receiving():
            async for _ in reader.parts(lambda _: MIB):
                order.append(name)
                reader.note_sent()

    async def small() -> AsyncIterator[bytes]:
        yield bytes(100 * KIB)

    async with anyio.create_task_group() as tasks:
        for name in "abc":
            tasks.start_soon(collect, name)
        reader = PartReader(small(), size=None, sha256=None, slots=turns)
        async with reader.receiving():
            assert [len(part) async for part in reader.parts(lambda _: MIB)] == [100 * KIB]
    assert sorted(order) == sorted("abc" * 3)
    assert order[:3] == ["a", "b", "c"]
    assert memory.held == 0


async def test_a_body_that_waited_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "_STEP", 0.01)
    monkeypatch.setattr(slots, "PATIENCE", 0.0)
    turns = BodySlots(1, part=1 << 40)

    async def body() -> AsyncIterator[bytes]:
        yield bytes(300 * KIB)

    first, second = (PartReader(body(), size=None, sha256=None, slots=turns) for _ in range(2))
    async with first.receiving():
        assert len(await anext(first.parts(lambda _: MIB))) == 300 * KIB
        with pytest.raises(MailboxFull):
            async with second.receiving():
                await anext(second.parts(lambda _: MIB))
    third = PartReader(body(), size=None, sha256=None, slots=turns)
    async with third.receiving():
        assert len(await anext(third.parts(lambda _: MIB))) == 300 * KIB


async def test_one_with_many_bodies_delays_no_other() -> None:
    turns, order, go_on = BodySlots(1, part=MIB), list[str](), anyio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield bytes(300 * KIB)
        await go_on.wait()

    async def collect(owner: str) -> None:
        OWNER.set(owner)
        reader = PartReader(body(), size=None, sha256=None, slots=turns)
        async with reader.receiving():
            assert [len(part) async for part in reader.parts(lambda _: MIB)] == [300 * KIB]
            order.append(owner)

    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(collect, "heavy")
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(collect, "quiet")
        await anyio.wait_all_tasks_blocked()
        go_on.set()
    assert order.index("quiet") <= 2
    assert len(order) == 9


async def test_the_last_part_is_in_memory_once() -> None:
    memory = MemoryBudget(10 * MIB)

    async def body() -> AsyncIterator[bytes]:
        yield bytes(512 * KIB)
        yield b"the end"

    reader = PartReader(body(), size=None, sha256=None, memory=memory)
    async with reader.receiving():
        part = await anext(reader.parts(lambda _: MIB))
        assert (reader.ended, len(part), len(reader._held)) == (True, 512 * KIB + 7, 0)
        assert reader.held_bytes() == len(part)
