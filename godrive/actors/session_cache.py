"""Cache which sessions and tokens are valid."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from godrive.clock import Clock
from godrive.principal import Caller, credential_id

C = TypeVar("C", bound=Caller)


class SessionCache(Generic[C]):
    """Calls *read* to check a credential, at most once in *max_age* seconds for each.

    The key is the id of the session or token.  The age of a result counts from
    the start of the read, so no result is older than *max_age*.  Concurrent
    callers with the same credential share a read.
    """

    def __init__(
        self,
        read: Callable[[C], Awaitable[bool]],
        clock: Clock,
        *,
        max_age: float = 1.0,
        capacity: int = 16_384,
    ) -> None:
        self._read = read
        self._clock = clock
        self._max_age = max_age
        self._capacity = capacity
        self._alive_at: OrderedDict[str, float] = OrderedDict()
        self._reads: dict[str, asyncio.Task[bool]] = {}

    def __len__(self) -> int:
        """Return the number of cached credentials."""
        return len(self._alive_at)

    def is_fresh(self, by: C) -> bool:
        """Whether the cache knows that the credential is valid."""
        return self._clock.monotonic() < self.fresh_until(by)

    def fresh_until(self, by: C) -> float:
        """Return until when the cache knows that, by the monotonic clock; a moment in the past if it does not."""
        alive_at = self._alive_at.get(credential_id(by))
        return float("-inf") if alive_at is None else alive_at + self._max_age

    async def check(self, by: C) -> bool:
        """Return whether the credential is valid."""
        if self.is_fresh(by):
            return True
        key = credential_id(by)
        read = self._reads.get(key)
        if read is None:
            read = self._reads[key] = asyncio.create_task(self._ask(key, by))
            read.add_done_callback(lambda done: done.cancelled() or done.exception())  # all callers may have left
        # Not shield(): from Python 3.14 it reports an error as unhandled when the caller has left meanwhile.
        await asyncio.wait([read])
        return read.result()

    def forget(self, key: str | None = None) -> None:
        """Forget the result for this credential (or for all), including that of a running read."""
        if key is None:
            self._alive_at.clear()
            self._reads.clear()
        else:
            self._alive_at.pop(key, None)
            self._reads.pop(key, None)

    async def _ask(self, key: str, by: C) -> bool:
        asked_at, me = self._clock.monotonic(), asyncio.current_task()
        try:
            alive = await self._read(by)
            if alive and self._reads.get(key) is me:
                self._alive_at.pop(key, None)  # the latest result comes last
                self._alive_at[key] = asked_at
                if len(self._alive_at) > self._capacity:
                    self._alive_at.popitem(last=False)
            return alive
        finally:
            if self._reads.get(key) is me:
                del self._reads[key]
