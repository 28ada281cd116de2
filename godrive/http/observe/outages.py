"""Log why a store fails, each reason at most once a minute."""

from __future__ import annotations

import time
from collections.abc import Callable

from godrive.errors import DriveError, StorageFull, StoreUnavailable
from godrive.http.observe.request_log import logger

INTERVAL = 60.0
"""Seconds between two log lines with the same reason."""

_MOST_REASONS = 100


class OutageLog:
    """Remembers which reasons were logged, and when."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._logged: dict[tuple[str, str], float] = {}
        self._silent: dict[tuple[str, str], int] = {}

    def note(self, error: DriveError) -> None:
        """Log *error* if it means that a store is down or full, and was not logged within the last minute."""
        if not isinstance(error, StoreUnavailable | StorageFull):
            return
        reason, now = (error.code, error.detail), self._now()
        if now - self._logged.get(reason, float("-inf")) < INTERVAL:
            self._silent[reason] = self._silent.get(reason, 0) + 1
            return
        if len(self._logged) >= _MOST_REASONS:
            self._logged.clear()
            self._silent.clear()
        self._logged[reason] = now
        cause = {} if error.__cause__ is None else {"cause": repr(error.__cause__)}
        logger().warning(
            error.code, reason=error.detail, hint=error.hint, requests_since_last=self._silent.pop(reason, 0), **cause
        )
