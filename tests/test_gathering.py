"""Groups gather those that are likely to come, and wait for nobody else."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from godrive.catalog.group_commit import GroupCommit, Operation, Outcome
from godrive.gathering import PATIENCE
from godrive.simulation.loop import SimulatedLoop

COMMIT = 0.001
ROUNDS = 40


class Commits:
    """Commits that take a millisecond of virtual time."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.group = GroupCommit(self._together, most=100)

    async def _together(self, operations: list[Operation]) -> list[Outcome]:
        self.sizes.append(len(operations))
        await asyncio.sleep(COMMIT)
        return [(None, None)] * len(operations)

    async def client(self, pause: float = 0) -> None:
        """One that writes again and again, so many seconds after each answer."""
        for _ in range(ROUNDS):
            await asyncio.sleep(pause)
            await self.group.run(_nothing)


async def _nothing(_: Any) -> None:
    """An operation."""


def simulate(work: Callable[[], Coroutine[Any, Any, None]]) -> float:
    """Run it, and return how much virtual time it took, in seconds."""
    loop = SimulatedLoop(random.Random(1))  # type: ignore[abstract]
    before = loop.time()
    loop.run_until_complete(work())
    return loop.time() - before


def test_clients_that_come_one_after_another_share_each_commit() -> None:
    commits = Commits()

    async def work() -> None:
        await asyncio.gather(*(commits.client(number * COMMIT / 8) for number in range(8)))

    simulate(work)
    assert commits.sizes[2:-1] == [8] * (len(commits.sizes) - 3), "without a wait, they would form two groups in turn"


def test_a_client_that_is_alone_never_waits() -> None:
    commits = Commits()
    assert simulate(commits.client) < ROUNDS * (COMMIT + PATIENCE / 10)


def test_groups_wait_in_vain_only_now_and_then() -> None:
    commits = Commits()

    async def work() -> None:
        for _ in range(ROUNDS):
            await asyncio.gather(*(commits.group.run(_nothing) for _ in range(8)))
            await commits.group.run(_nothing)  # seven do not come again

    waits = (simulate(work) - len(commits.sizes) * COMMIT) / (2 * COMMIT)
    assert 1 <= round(waits) <= 6, "the rests double"


def test_clients_that_come_at_random_wait_for_nobody() -> None:
    commits, pauses, latencies = Commits(), random.Random(1), list[float]()

    async def client() -> None:
        now = asyncio.get_running_loop().time
        for _ in range(ROUNDS):
            await asyncio.sleep(pauses.expovariate(1 / (50 * COMMIT)))
            before = now()
            await commits.group.run(_nothing)
            latencies.append(now() - before)

    async def work() -> None:
        await asyncio.gather(*(client() for _ in range(64)))

    simulate(work)
    assert sum(latencies) / len(latencies) < 1.7 * COMMIT, "half of the commit before, and their own"
    assert max(latencies) < 4.1 * COMMIT, "the commit before, a wait for two, and their own"


def test_a_write_that_answers_many_requests_counts_as_many() -> None:
    commits = Commits()

    async def come_again(after: float) -> None:
        await asyncio.sleep(after)
        await commits.group.run(_nothing)

    async def work() -> None:
        await commits.group.run(_nothing, answers=8)
        await asyncio.gather(*(come_again(number * COMMIT / 4) for number in range(8)))
        before = asyncio.get_running_loop().time()
        await commits.group.run(_nothing, answers=8)
        assert asyncio.get_running_loop().time() - before < COMMIT + PATIENCE / 10, "it is all that was expected"

    simulate(work)
    assert commits.sizes == [1, 8, 1]


def test_what_gathers_begins_at_once_when_the_commits_are_drained() -> None:
    commits = Commits()

    async def work() -> None:
        await asyncio.gather(*(commits.group.run(_nothing) for _ in range(8)))
        last = asyncio.ensure_future(commits.group.run(_nothing))
        await asyncio.sleep(0)
        before = asyncio.get_running_loop().time()
        assert commits.sizes[-1] != 1, "it gathers"
        await commits.group.drain()
        assert last.done()
        assert asyncio.get_running_loop().time() - before < 1.5 * COMMIT

    simulate(work)
    assert commits.sizes[-1] == 1
