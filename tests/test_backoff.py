from __future__ import annotations

import pytest

from godrive.backoff import Backoff


def test_delays_double_from_the_shortest_to_the_longest() -> None:
    backoff = Backoff(0.5, 10.0)
    assert [backoff.after(failures) for failures in range(1, 8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_another_factor_may_be_given() -> None:
    assert [Backoff(0.05, 1.0, factor=4.0).after(failures) for failures in (1, 2, 3, 4)] == [
        0.05, 0.2, 0.8, 1.0,
    ]  # fmt: skip


@pytest.mark.parametrize("failures", [100, 10_000, 10**9])
def test_no_number_of_failures_overflows(failures: int) -> None:
    assert Backoff(60.0, 86_400.0).after(failures) == 86_400.0


def test_jitter_takes_between_half_and_all_of_a_delay() -> None:
    backoff = Backoff(1.0, 64.0)
    delays = {backoff.jittered(4) for _ in range(200)}
    assert all(4.0 <= delay <= 8.0 for delay in delays)
    assert len(delays) > 1
