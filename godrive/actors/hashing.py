"""Password hashing off the event loop, and without taking the machine from those who serve requests."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from godrive.credentials import check_password, dummy_hash, hash_password
from godrive.errors import TooManyRequests

R = TypeVar("R")

_MOST_THREADS = 64


class HashPool:
    """Threads that only hash: *threads* at once (0: as many as cores), at most *waiting* more in line.

    On Linux they run at lower priority, so a storm of log-ins slows down
    log-ins and nothing else.  bcrypt lets go of the interpreter's lock.
    """

    def __init__(self, *, cost: int, threads: int, waiting: int) -> None:
        self._cost = cost
        self._dummy = dummy_hash(cost)
        threads = threads or min(os.cpu_count() or 1, _MOST_THREADS)
        self._room = threads + waiting
        self._taken = 0
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="hash", initializer=_be_nice)

    async def hash(self, password: str) -> str:
        """A new hash of the password.  Raises ``TooManyRequests`` when too many are in line."""
        return await self._run(lambda: hash_password(password, self._cost))

    async def check(self, password: str, hashed: str | None) -> bool:
        """Whether it is the hash of that password; without one ``False``, after the same time.

        Raises ``TooManyRequests`` when too many are in line.
        """
        matches = await self._run(lambda: check_password(password, hashed or self._dummy))
        return matches and hashed is not None

    def close(self) -> None:
        """Begin nothing more; what runs ends by itself."""
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _run(self, job: Callable[[], R]) -> R:
        if self._taken >= self._room:
            raise TooManyRequests("Too many passwords are being checked.")
        self._taken += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, job)
        finally:
            self._taken -= 1


def _be_nice() -> None:
    if sys.platform == "linux":  # where a thread has a priority of its own
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(os.getpriority(os.PRIO_PROCESS, thread) + 10, 19))
