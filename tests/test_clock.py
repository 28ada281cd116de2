"""When the wall clock may decide about what cannot be undone."""

from __future__ import annotations

from datetime import timedelta

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


def test_while_in_doubt_only_what_every_reading_says_is_due() -> None:
    clock = ManualClock()
    guard, start = ClockGuard(clock), clock.now()
    assert guard.due_by() is None
    clock.jump(40 * DAY)
    clock.advance(10)
    assert guard.due_by() == start + timedelta(seconds=10)
    clock.jump(-80 * DAY)
    assert guard.due_by() == clock.now()
    clock.jump(40 * DAY)  # right again, but rows may have the time that was behind
    assert guard.due_by() == start + timedelta(seconds=10) - timedelta(days=40)
    clock.advance(SETTLE)
    assert guard.due_by() is None
    clock.jump(DAY)
    assert guard.due_by() == clock.now() - timedelta(days=1)


@pytest.mark.parametrize(
    ("passed", "in_doubt"), [(0.0, False), (DAY, False), (DAY + 1, True), (-TOLERANCE, False), (-TOLERANCE - 1, True)]
)
def test_the_time_of_the_last_process_is_compared_once(passed: float, in_doubt: bool) -> None:
    clock = ManualClock()
    guard = ClockGuard(clock)
    guard.learn(clock.now() - timedelta(seconds=passed), 0.0, None, None)
    assert (guard.doubt() is not None) is in_doubt
    guard.learn(clock.now() - timedelta(days=400), 0.0, None, None)
    assert (guard.doubt() is not None) is in_doubt


def test_an_acceptance_counts_once_and_only_if_the_clock_still_shows_that_time() -> None:
    clock = ManualClock()
    guard = ClockGuard(clock)
    guard.learn(None, 0.0, None, None)
    accepted = clock.now()
    clock.jump(40 * DAY)
    assert guard.doubt() is not None
    guard.learn(clock.now(), 0.0, None, accepted)
    assert guard.doubt() is not None, "another time was accepted"
    guard.learn(clock.now(), 0.0, None, clock.now())
    assert guard.doubt() is None
    clock.jump(1800)
    guard.learn(clock.now(), 0.0, None, clock.now() - timedelta(seconds=1800))
    assert guard.doubt() is not None
