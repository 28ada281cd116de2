"""The budget of bytes held for clients: what it sheds, in which order, and what a share is."""

from __future__ import annotations

import pytest

from godrive import memory
from godrive.memory import LEAST, MemoryBudget

LIMIT = 1_000_000


class Client:
    def __init__(self, budget: MemoryBudget, size: int = 0) -> None:
        self.budget = budget
        self.is_shed = False
        self.hold(size)

    def hold(self, size: int) -> None:
        self.size = size
        self.budget.report(self, size)

    def held_bytes(self) -> int:
        return self.size

    def shed(self) -> None:
        self.is_shed = True
        self.size = 0


def test_what_is_reported_is_summed_and_what_ends_is_forgotten() -> None:
    budget = MemoryBudget(LIMIT)
    one, other = Client(budget, 300), Client(budget, 500)
    one.hold(100)
    assert budget.held == 600
    one.hold(0)
    other.hold(0)
    one.hold(0)
    assert (budget.held, budget.shed) == (0, 0)


def test_over_the_limit_large_holders_shed_first_and_of_them_those_that_stalled_longest() -> None:
    budget = MemoryBudget(LIMIT)
    small = [Client(budget, 1_000) for _ in range(100)]
    large = [Client(budget, 100_000) for _ in range(9)]
    large[0].hold(100_001)  # it makes progress, so it is no longer the one that stalled longest
    newest = Client(budget, 10_000)
    assert not any(client.is_shed for client in (*small, newest))
    assert [client.is_shed for client in large] == [False, True, True, True, False, False, False, False, False]
    assert budget.held <= LIMIT * 3 // 4
    assert budget.shed == 3


def test_once_holders_shed_somebody_may_return_the_memory() -> None:
    calls: list[int] = []
    budget = MemoryBudget(LIMIT)
    budget.on_shed = lambda: calls.append(budget.shed)
    first = Client(budget, LIMIT)
    assert not calls
    other = Client(budget, 1)
    assert (first.is_shed, other.is_shed, len(calls)) == (True, False, 1)


def test_equal_holders_stay_below_the_limit_whatever_their_number() -> None:
    budget = MemoryBudget(LIMIT)
    clients = [Client(budget, 10_000) for _ in range(1_000)]
    assert budget.held == sum(client.size for client in clients) <= LIMIT
    assert not clients[-1].is_shed


def test_a_stale_report_sheds_nobody() -> None:
    budget = MemoryBudget(LIMIT)
    stale = Client(budget, 900_000)
    stale.size = 0  # it was read meanwhile, and nothing said so
    other = Client(budget, 200_000)
    assert not stale.is_shed
    assert not other.is_shed
    assert budget.held == 200_000


def test_a_share_shrinks_with_what_is_held_and_never_below_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_COUNTED_FOR", -1.0)
    budget = MemoryBudget(LIMIT)
    assert budget.share(50_000) == 50_000
    assert budget.share(LIMIT) == LIMIT // 8
    client = Client(budget, 600_000)
    assert budget.share(LIMIT) == 50_000
    client.hold(LIMIT)
    assert budget.share(LIMIT) == LEAST
    assert budget.share(100) == 100
    client.size = 0
    assert budget.share(LIMIT) == LIMIT // 8
