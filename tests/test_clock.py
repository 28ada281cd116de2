"""When the wall clock may decide about what cannot be undone."""

from __future__ import annotations

import pytest

from godrive.clock import SETTLE, TOLERANCE, ClockGuard, SystemClock
from godrive.testing import ManualClock

DAY = 86_400.0


def test_a_clock_that_runs_is_trusted_however_long_nobody_looks() -> None:
    clock = ManualClock()
    guard = ClockGuard(clock)
    for seconds in (0.0, 1.0, DAY, 400 * DAY):
        clock.advance(seconds)
        assert guard.doubt() is None


@pytest.mark.parametrize("jump", [40 * DAY, -40 * DAY, 3600.0, -3600.0, TOLERANCE + 1])
def test_a_jump_puts_the_clock_in_doubt_until_it_has_settled(jump: float) -> None:
    clock = ManualClock()
    guard = ClockGuard(clock)
    clock.jump(jump)
    doubt = guard.doubt()
    assert doubt is not None
    assert ("forwards" if jump > 0 else "backwards") in doubt
    clock.advance(SETTLE - 1)
    assert guard.doubt() is not None
    clock.advance(1)
    assert guard.doubt() is None


def test_the_way_back_is_a_jump_too() -> None:
    clock = ManualClock()
    guard = ClockGuard(clock)
    clock.jump(40 * DAY)
    assert guard.doubt() is not None
    clock.advance(SETTLE - 1)
    clock.jump(-40 * DAY)
    assert "backwards" in str(guard.doubt())
    clock.advance(SETTLE - 1)
    assert guard.doubt() is not None


def test_a_correction_by_ntp_is_no_jump() -> None:
    clock = ManualClock()
    guard = ClockGuard(clock)
    for correction in (TOLERANCE - 1, -TOLERANCE + 1):
        clock.advance(60)
        clock.jump(correction)
        assert guard.doubt() is None


def test_the_clocks_of_the_machine_agree() -> None:
    assert ClockGuard(SystemClock(), tolerance=1.0).doubt() is None
