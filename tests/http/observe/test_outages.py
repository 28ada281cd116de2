"""The reason of an outage is in the log, once a minute."""

from __future__ import annotations

import logging

import pytest

from godrive.errors import NotFound, StorageFull, StoreUnavailable
from godrive.http.observe.outages import INTERVAL, OutageLog


def test_each_reason_is_logged_once_a_minute_with_what_was_left_out(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    log = OutageLog(lambda: now)
    with caplog.at_level(logging.WARNING, logger="godrive.http"):
        for _ in range(5):
            log.note(StoreUnavailable("The database does not answer.", hint="Start it."))
            log.note(StorageFull("The disk is full."))
            log.note(NotFound("No such file."))
        now = INTERVAL
        log.note(StoreUnavailable("The database does not answer.", hint="Start it."))
    first, full, again = [record.getMessage() for record in caplog.records]
    assert "reason='The database does not answer.'" in first
    assert "hint='Start it.'" in first
    assert "requests_since_last=0" in first
    assert "event='storage_full'" in full
    assert "requests_since_last=4" in again


def test_the_cause_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    error = StoreUnavailable("Down.")
    error.__cause__ = ConnectionRefusedError(111, "Connection refused")
    with caplog.at_level(logging.WARNING, logger="godrive.http"):
        OutageLog().note(error)
    assert "Connection refused" in caplog.text


def test_reasons_without_end_take_no_memory_without_end() -> None:
    log = OutageLog()
    for number in range(1000):
        log.note(StoreUnavailable(f"Reason {number}."))
    assert len(log._logged) <= 100
