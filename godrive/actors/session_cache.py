"""Which sessions are alive, as of less than a second ago."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from godrive.clock import Clock
from godrive.model import SessionId
from godrive.principal import UserSession


class SessionCache:
    """Asks *read* whether a session is alive, at most once in *max_age* seconds for each.

    An answer counts from when it was asked for, so none is ever older.  Those
    who want the same answer at the same time wait for one read.
    """

    def __init__(
        self,
        read: Callable[[UserSession], Awaitable[bool]],
        clock: Clock,
        *,
        max_age: float = 1.0,
        capacity: int = 16_384,
    ) -> None:
        self._read = read
        self._clock = clock
        self._max_age = max_age
        self._capacity = capacity
        self._alive_at: dict[SessionId, float] = {}
        self._reads: dict[SessionId, asyncio.Task[bool]] = {}

    def __len__(self) -> int:
        """How many sessions are remembered."""
        return len(self._alive_at)

    def is_fresh(self, session_id: SessionId) -> bool:
        """Whether the session was alive so lately that there is no need to ask."""
        alive_at = self._alive_at.get(session_id)
        return alive_at is not None and self._clock.monotonic() - alive_at < self._max_age

    async def check(self, principal: UserSession) -> bool:
        """Whether the principal's session is alive."""
        if self.is_fresh(principal.session_id):
            return True
        read = self._reads.get(principal.session_id)
        if read is None:
            read = self._reads[principal.session_id] = asyncio.create_task(self._ask(principal))
            read.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be left to hear it
        return await asyncio.shield(read)

    def forget(self, session_id: SessionId | None = None) -> None:
        """Ask again before saying that this session (or any) is alive; a read under way is not believed."""
        if session_id is None:
            self._alive_at.clear()
            self._reads.clear()
        else:
            self._alive_at.pop(session_id, None)
            self._reads.pop(session_id, None)

    async def _ask(self, principal: UserSession) -> bool:
        asked_at, session_id, me = self._clock.monotonic(), principal.session_id, asyncio.current_task()
        try:
            alive = await self._read(principal)
            if alive and self._reads.get(session_id) is me:
                self._alive_at.pop(session_id, None)  # put last: it was asked last
                self._alive_at[session_id] = asked_at
                if len(self._alive_at) > self._capacity:
                    del self._alive_at[next(iter(self._alive_at))]
            return alive
        finally:
            if self._reads.get(session_id) is me:
                del self._reads[session_id]
