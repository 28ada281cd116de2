"""The loop: time that jumps, an order from the seed, and processes that can be killed."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
import uuid
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from godrive.simulation.loop import PROCESS, Process, SimulatedLoop, Stuck, within
from godrive.simulation.network import Network
from godrive.simulation.seams import installed
from godrive.simulation.threads import Threads


def simulate(work: Callable[[], Coroutine[Any, Any, Any]], seed: int = 1) -> Any:
    loop = SimulatedLoop(random.Random(seed))  # type: ignore[abstract]
    loop.network = Network(loop, random.Random(seed))
    loop.threads = Threads(loop, random.Random(seed))
    with installed(loop, random.Random(seed)):
        return loop.run_until_complete(work())


def test_a_day_of_sleep_takes_no_time() -> None:
    started = time.perf_counter()

    async def sleep() -> float:
        before = time.monotonic()
        await anyio.sleep(86_400)
        return time.monotonic() - before

    assert simulate(sleep) == pytest.approx(86_400)
    assert time.perf_counter() - started < 5


async def order_of_five() -> list[int]:
    order: list[int] = []

    async def note(number: int) -> None:
        for _ in range(3):
            await asyncio.sleep(0)
            order.append(number)

    async with anyio.create_task_group() as tasks:
        for number in range(5):
            tasks.start_soon(note, number)
    return order


def test_the_seed_chooses_among_tasks_that_are_ready() -> None:
    assert simulate(order_of_five, 1) == simulate(order_of_five, 1)
    assert len({tuple(simulate(order_of_five, seed)) for seed in range(5)}) > 1


def test_callbacks_that_are_no_tasks_keep_their_order() -> None:
    async def work() -> list[int]:
        order: list[int] = []
        loop = asyncio.get_running_loop()
        for number in range(50):
            loop.call_soon(order.append, number)
        await asyncio.sleep(1)
        return order

    assert simulate(work) == list(range(50))


def test_a_task_begins_before_what_was_scheduled_after_it() -> None:
    async def work() -> list[str]:
        order: list[str] = []

        async def begin(number: int) -> None:
            order.append(f"task {number}")

        loop = asyncio.get_running_loop()
        tasks = []
        for number in range(20):
            tasks.append(loop.create_task(begin(number)))
            loop.call_soon(order.append, f"callback {number}")
        await asyncio.sleep(1)
        return order

    for seed in range(5):
        assert simulate(work, seed) == [f"{kind} {number}" for number in range(20) for kind in ("task", "callback")]


def test_threads_are_steps_of_the_loop_and_a_pool_has_as_many_as_it_says() -> None:
    async def work() -> tuple[list[int], bool]:
        one, done = ThreadPoolExecutor(1), list[int]()
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(one, done.append, number) for number in range(10)]
        at_once = bool(done)
        await asyncio.gather(*calls, asyncio.to_thread(time.monotonic))
        one.submit(done.append, 10)
        await asyncio.sleep(1)
        return done, at_once

    assert simulate(work) == (list(range(11)), False)


def test_chance_comes_from_the_seed() -> None:
    async def draw() -> list[object]:
        return [os.urandom(4), secrets.token_hex(4), uuid.uuid4(), random.random(), random.SystemRandom().random()]

    assert simulate(draw) == simulate(draw)
    assert simulate(draw) != simulate(draw, 2)
    assert os.urandom(8) != os.urandom(8)


def test_code_that_blocks_or_opens_a_socket_fails() -> None:
    async def block() -> None:
        time.sleep(1)

    async def connect() -> None:
        await anyio.connect_tcp("127.0.0.1", 9)

    with pytest.raises(RuntimeError):
        simulate(block)
    with pytest.raises(OSError, match="attempts failed"):
        simulate(connect)


def test_a_killed_process_runs_no_clean_up() -> None:
    done: list[str] = []
    kept: list[object] = []

    async def victim() -> None:
        try:
            done.append(PROCESS.get().name)
            await asyncio.sleep(10)
            done.append("later")
        finally:
            done.append("clean-up")

    async def work() -> None:
        process = Process("victim")
        kept.append(within(process, asyncio.get_running_loop().create_task, victim()))
        await asyncio.sleep(1)
        process.alive = False
        await asyncio.sleep(100)
        assert done == ["victim"]

    simulate(work)


def test_a_suspended_process_goes_on_in_order() -> None:
    async def work() -> list[int]:
        order: list[int] = []
        process, loop = Process("server"), asyncio.get_running_loop()
        assert isinstance(loop, SimulatedLoop)
        loop.suspend(process, 30)
        for number in range(20):
            within(process, loop.call_later, number, order.append, number)
        await asyncio.sleep(15.5)
        assert order == []
        loop.resume(process)
        await asyncio.sleep(60)
        return order

    assert simulate(work) == list(range(20))


def test_a_world_in_which_nothing_can_happen_is_an_error() -> None:
    async def wait() -> None:
        await asyncio.get_running_loop().create_future()

    with pytest.raises(Stuck):
        simulate(wait)
