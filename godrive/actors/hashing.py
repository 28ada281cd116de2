"""Password hashing in threads, so that log-ins take neither the event loop nor the machine from other requests."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from godrive.credentials import check_password, cost_of, dummy_hash, hash_password
from godrive.errors import TooManyRequests

R = TypeVar("R")

_MOST_THREADS = 64

_Turn = asyncio.Future[None]


class HashPool:
    """Threads that only hash: *threads* at once (0: one per core), at most *waiting* more in line.

    Clients take turns, and a client that has fewer passwords in line pushes out
    the newest of the client that has most: one client cannot keep others from
    logging in.  On Linux the threads run at lower priority.  bcrypt releases
    the interpreter lock.
    """

    def __init__(self, *, cost: int, threads: int, waiting: int) -> None:
        self._cost = cost
        self._threads = threads or min(os.cpu_count() or 1, _MOST_THREADS)
        self._waiting = waiting
        self._running = 0
        self._lines: dict[str, deque[_Turn]] = {}
        self._executor = ThreadPoolExecutor(self._threads, thread_name_prefix="hash", initializer=_be_nice)

    async def hash(self, password: str, *, client: str = "") -> str:
        """A new hash of the password.  Raises ``TooManyRequests`` when too many are in line."""
        return await self._run(client, lambda: hash_password(password, self._cost))

    async def check(self, password: str, hashed: str | None, *, cost: int = 0, client: str = "") -> bool:
        """Whether *hashed* is the hash of that password; ``False`` without a hash.

        A ``False`` takes as long as a check at *cost* (at least the pool's own),
        whether there is no hash or one of a lower cost: time does not tell an
        unknown account from a known one.  Raises ``TooManyRequests`` when too
        many are in line.
        """
        cost = max(cost, self._cost)

        def job() -> bool:
            if not hashed:
                check_password(password, dummy_hash(cost))
                return False
            matches = check_password(password, hashed)
            if not matches:
                for step in range(cost_of(hashed), cost):  # each costs twice the one before: the sum is 2 ** cost
                    check_password(password, dummy_hash(step))
            return matches

        return await self._run(client, job)

    def close(self) -> None:
        """Start no more hashes; those that run end by themselves."""
        for line in self._lines.values():
            for turn in line:
                turn.cancel()
        self._lines.clear()
        self._executor.shutdown(wait=False, cancel_futures=True)

    async def _run(self, client: str, job: Callable[[], R]) -> R:
        if self._running >= self._threads:
            await self._wait_in_line(client)
        else:
            self._running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, job)
        finally:
            self._pass_on()

    async def _wait_in_line(self, client: str) -> None:
        """Return when a thread is free for the caller."""
        if sum(map(len, self._lines.values())) >= self._waiting:
            self._make_room(client)
        turn: _Turn = asyncio.get_running_loop().create_future()
        self._lines.setdefault(client, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on()  # the thread was free for a caller that had left
            else:
                self._leave(client, turn)
            raise

    def _make_room(self, client: str) -> None:
        """Push out the newest of the client that has most in line, or raise ``TooManyRequests``."""
        error = TooManyRequests("Too many passwords are being checked.")
        longest = max(self._lines, key=lambda name: len(self._lines[name]), default=client)
        if longest == client or len(self._lines[longest]) <= len(self._lines.get(client, ())) + 1:
            raise error
        turn = self._lines[longest][-1]
        self._leave(longest, turn)
        turn.set_exception(error)

    def _leave(self, client: str, turn: _Turn) -> None:
        line = self._lines.get(client)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self._lines[client]

    def _pass_on(self) -> None:
        """Give the thread that is free now to the first in line of the client whose turn it is."""
        if not self._lines:
            self._running -= 1
            return
        client = next(iter(self._lines))
        line = self._lines.pop(client)
        turn = line.popleft()
        if line:
            self._lines[client] = line  # last, because it had its turn
        turn.set_result(None)


def _be_nice() -> None:
    if sys.platform == "linux":  # where a thread has a priority of its own
        thread = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, thread, min(os.getpriority(os.PRIO_PROCESS, thread) + 10, 19))
