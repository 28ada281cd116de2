"""Hash passwords in threads, so that log-ins block neither the event loop nor other requests."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from godrive.credentials import check_password, cost_of, dummy_hash, hash_password
from godrive.errors import TooManyRequests
from godrive.priority import give_way

R = TypeVar("R")

_MOST_THREADS = 64
_NICER = 10
"""How much nicer than the loop a thread that hashes is."""

_Turn = asyncio.Future[None]


class HashPool:
    """A pool of *threads* hashing threads (0: one per core) with a queue of *waiting* passwords.

    Clients take turns.  If the queue is full, a password of a client with fewer
    queued passwords replaces the newest one of the client with the most, so one
    client cannot prevent others from logging in.  On Linux the threads run at
    lower priority.  bcrypt releases the interpreter lock.
    """

    def __init__(self, *, cost: int, threads: int, waiting: int) -> None:
        self._cost = cost
        self._threads = threads or min(os.cpu_count() or 1, _MOST_THREADS)
        self._waiting = waiting
        self._running = 0
        self._lines: dict[str, deque[_Turn]] = {}
        self._executor = ThreadPoolExecutor(self._threads, "hash", initializer=give_way, initargs=(_NICER,))

    async def hash(self, password: str, *, client: str = "") -> str:
        """Return a new hash of the password.  Raises ``TooManyRequests`` if the queue is full."""
        return await self._run(client, lambda: hash_password(password, self._cost))

    async def check(self, password: str, hashed: str | None, *, cost: int = 0, client: str = "") -> bool:
        """Return whether *hashed* is a hash of the password; ``False`` without a hash.

        A failed check takes as long as a check at *cost* (at least the cost of
        the pool), also without a hash or with a cheaper one.  So the time does
        not reveal whether an account exists.  Raises ``TooManyRequests`` if the
        queue is full.
        """
        cost = max(cost, self._cost)

        def job() -> bool:
            if not hashed:
                check_password(password, dummy_hash(cost))
                return False
            matches = check_password(password, hashed)
            if not matches:
                for step in range(cost_of(hashed), cost):  # each step doubles the cost: the sum is 2 ** cost
                    check_password(password, dummy_hash(step))
            return matches

        return await self._run(client, job)

    def close(self) -> None:
        """Cancel queued hashes.  Running ones finish in the background."""
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
        """Wait until a thread is free for the caller."""
        if sum(map(len, self._lines.values())) >= self._waiting:
            self._make_room(client)
        turn: _Turn = asyncio.get_running_loop().create_future()
        self._lines.setdefault(client, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on()  # the cancelled caller had just got the thread
            else:
                self._leave(client, turn)
            raise

    def _make_room(self, client: str) -> None:
        """Drop the newest password of the client with the most, or raise ``TooManyRequests``."""
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
        """Give the free thread to the next client."""
        if not self._lines:
            self._running -= 1
            return
        client = next(iter(self._lines))
        line = self._lines.pop(client)
        turn = line.popleft()
        if line:
            self._lines[client] = line  # last, because it had its turn
        turn.set_result(None)
