"""Instants survive the way into a row and out of it."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from godrive.rules import rows


@given(st.datetimes(datetime(1970, 1, 1), datetime(2105, 12, 31), timezones=st.just(UTC)))  # noqa: DTZ001 - hypothesis wants the bounds so
def test_an_instant_comes_back_to_the_microsecond(instant: datetime) -> None:
    assert rows.instant(rows.micros(instant)) == instant
    assert rows.maybe_instant(rows.micros(instant)) == instant


def test_an_absent_instant_stays_absent() -> None:
    assert rows.maybe_instant(None) is None


@given(st.datetimes(datetime(1971, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)), st.floats(-1e6, 1e8))  # noqa: DTZ001 - hypothesis wants the bounds so
def test_later_is_so_many_seconds_later(instant: datetime, seconds: float) -> None:
    assert abs(rows.later(instant, seconds) - rows.micros(instant) - seconds * 1e6) <= 1
