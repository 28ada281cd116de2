"""Lookups that wait together are made together, and none is answered by a read that began before it was asked for."""

from __future__ import annotations

import asyncio

import anyio
import pytest

from godrive.actors import batching
from godrive.actors.batching import Batcher
from godrive.errors import Invalid, StoreUnavailable

pytestmark = pytest.mark.anyio


class Table:
    """Rows that can be looked up while *open*; a read answers what is there when it begins."""

    def __init__(self) -> None:
        self.rows = {"a": 1, "b": 2, "c": 3}
        self.open = asyncio.Event()
        self.reads: list[list[str]] = []
        self.failures: list[Exception | None] = []

    async def read(self, keys: list[str]) -> dict[str, int]:
        self.reads.append(sorted(keys))
        found = {key: self.rows[key] for key in keys}
        failure = self.failures.pop(0) if self.failures else None
        await self.open.wait()
        if failure is not None:
            raise failure
        return found


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def lookup(table: Table) -> Batcher[str, int]:
    return Batcher(table.read)


async def asked(lookup: Batcher[str, int], *keys: str) -> list[asyncio.Task[int]]:
    """Ask for each, and let all get as far as they can."""
    tasks = [asyncio.ensure_future(lookup.get(key)) for key in keys]
    await anyio.wait_all_tasks_blocked()
    return tasks


async def test_a_caller_that_comes_while_a_read_is_under_way_shares_the_next(
    table: Table, lookup: Batcher[str, int]
) -> None:
    tasks = await asked(lookup, "a", "b", "c", "b", "a")
    assert table.reads == [["a"]]
    table.open.set()
    assert await asyncio.gather(*tasks) == [1, 2, 3, 2, 1]
    assert table.reads == [["a"], ["a", "b", "c"]]
    assert await lookup.get("c") == 3
    assert table.reads[2:] == [["c"]]


async def test_a_read_answers_none_who_asked_after_it_began(table: Table, lookup: Batcher[str, int]) -> None:
    early = await asked(lookup, "a")
    table.rows["a"] = 10
    late = await asked(lookup, "a")
    table.open.set()
    assert await asyncio.gather(*early, *late) == [1, 10]


async def test_a_read_that_waits_for_nothing_makes_nobody_wait() -> None:
    async def read(keys: list[int]) -> dict[int, int]:
        return {key: -key for key in keys}

    lookup = Batcher(read)
    for number in range(3):
        answer = lookup.get(number)
        with pytest.raises(StopIteration) as end:
            answer.send(None)
        assert end.value.value == -number


async def test_many_who_wait_are_answered_a_bounded_batch_at_a_time(table: Table, lookup: Batcher[str, int]) -> None:
    tasks = await asked(lookup, *"ab" * 100)
    table.open.set()
    assert await asyncio.gather(*tasks) == [1, 2] * 100
    assert len(table.reads) == 1 + 4


async def test_a_caller_that_stops_waiting_takes_nobody_along(table: Table, lookup: Batcher[str, int]) -> None:
    first, second, third = await asked(lookup, "a", "b", "c")
    first.cancel()
    second.cancel()
    await asyncio.wait([first, second])
    table.open.set()
    assert await third == 3


async def test_while_the_store_is_away_each_who_waits_is_told(table: Table, lookup: Batcher[str, int]) -> None:
    table.failures = [None, StoreUnavailable("away", hint="look")]
    tasks = await asked(lookup, "a", "b", "c")
    table.open.set()
    first, *others = await asyncio.gather(*tasks, return_exceptions=True)
    assert first == 1
    assert [(type(error), str(error), getattr(error, "hint", "")) for error in others] == [
        (StoreUnavailable, "away", "look")
    ] * 2
    assert others[0] is not others[1]
    assert await lookup.get("b") == 2


async def test_an_error_is_that_of_the_one_whose_fault_it_was(table: Table, lookup: Batcher[str, int]) -> None:
    table.failures = [Invalid("a"), Invalid("b or c"), Invalid("b")]
    tasks = await asked(lookup, "a", "b", "c")
    table.open.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["a", "b", "3"]


async def test_a_read_that_hangs_holds_up_nobody_who_comes_later(
    table: Table, lookup: Batcher[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batching, "_PATIENCE", 0.0)
    hanging = await asked(lookup, "a")
    table.open = asyncio.Event()
    later = await asked(lookup, "b")
    table.open.set()
    assert await asyncio.gather(*later) == [2]
    assert table.reads == [["a"], ["b"]]
    hanging[0].cancel()
    await asyncio.wait(hanging)
