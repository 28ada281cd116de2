"""Wait for changes: one notifier for everyone who waits in this process.

Theory of operation.  The metadata actor calls :meth:`ChangeWatch.notice` after
each commit, and the bridge calls it for commits of other processes.  Such calls
are only hints and may be lost.  Therefore every half second one message asks for
the change numbers of all owners that somebody waits for, and one asks which of
the waiting credentials have ended.  A waiting client itself asks nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TypeVar

from godrive.errors import DriveError
from godrive.messages.auth import Auth, FindEnded
from godrive.messages.metadata import Metadata
from godrive.messages.system import ChangeNumbers
from godrive.model import UserId
from godrive.principal import Follower, credential_id
from godrive.runtime import Ref

K = TypeVar("K")

EVERY = 0.5
"""Seconds between two looks at the change numbers and credentials of those who wait."""

AT_ONCE = 500
"""Owners or credentials in one message."""


class Woken(IntEnum):
    """Why a wait ended.  The later ones are final."""

    TIME = 0
    CHANGED = 1
    LEFT = 2
    """The client has left."""
    ENDED = 3
    """The credential is no longer valid."""
    CLOSING = 4
    """The server stops."""


class Watch:
    """One who waits for changes of the drive of *by*."""

    __slots__ = ("_turn", "_why", "by", "seen")

    def __init__(self, by: Follower) -> None:
        self.by = by
        self.seen = 0
        """The number of the last change that is known to the one who waits."""
        self._turn: asyncio.Future[None] | None = None
        self._why = Woken.TIME

    def wake(self, why: Woken) -> None:
        """End the wait, or the next one."""
        self._why = max(self._why, why)
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    async def wait(self, seconds: float) -> Woken:
        """Wait until there may be a change, at most *seconds*.  Returns at once if there was one meanwhile."""
        if self._why is Woken.TIME:
            loop = asyncio.get_running_loop()
            self._turn = loop.create_future()
            timer = loop.call_later(seconds, self.wake, Woken.TIME)
            try:
                await self._turn
            finally:
                timer.cancel()
                self._turn = None
        why = self._why
        if why is Woken.CHANGED:
            self._why = Woken.TIME
        return why


class ChangeWatch:
    """Those who wait, by owner."""

    def __init__(self) -> None:
        self._watches: dict[UserId, set[Watch]] = {}
        self._waiting = asyncio.Event()
        self.listeners: list[Callable[[Iterable[UserId]], None]] = []
        """Called with the owners of every change that this process learns of."""

    def __len__(self) -> int:
        """Return how many wait."""
        return sum(map(len, self._watches.values()))

    @contextmanager
    def watch(self, by: Follower) -> Iterator[Watch]:
        """Count as one who waits for changes of the drive of *by*."""
        watch, owner_id = Watch(by), by.user_id
        self._watches.setdefault(owner_id, set()).add(watch)
        self._waiting.set()
        try:
            yield watch
        finally:
            watches = self._watches[owner_id]
            watches.discard(watch)
            if not watches:
                del self._watches[owner_id]

    def notice(self, owner_ids: Iterable[UserId]) -> None:
        """Wake those who wait for changes of these owners."""
        for owner_id in owner_ids:
            for watch in self._watches.get(owner_id, ()):
                watch.wake(Woken.CHANGED)
        for listener in self.listeners:
            listener(owner_ids)

    async def run(self, metadata: Ref[Metadata], auth: Ref[Auth], on_error: Callable[[DriveError], None]) -> None:
        """Look at the change numbers and credentials while somebody waits.  Ends only when cancelled."""
        while True:
            if not self._watches:
                self._waiting.clear()
                await self._waiting.wait()
            await asyncio.sleep(EVERY)
            try:
                await self.look(metadata, auth)
            except DriveError as error:
                on_error(error)

    async def look(self, metadata: Ref[Metadata], auth: Ref[Auth]) -> None:
        """Wake everyone whose owner has a change that they do not know, or whose credential has ended."""
        for some in _batches(self._watches):
            for owner_id, number in (await metadata.ask(ChangeNumbers(some))).items():
                for watch in self._watches.get(owner_id, ()):
                    if watch.seen < number:
                        watch.seen = number
                        watch.wake(Woken.CHANGED)
        callers = {credential_id(watch.by): watch.by for watches in self._watches.values() for watch in watches}
        for keys in _batches(callers):
            ended = await auth.ask(FindEnded([callers[key] for key in keys]))
            if not ended:
                continue
            for watch in [watch for watches in self._watches.values() for watch in watches]:
                if credential_id(watch.by) in ended:
                    watch.wake(Woken.ENDED)


def _batches(keys: Iterable[K]) -> list[list[K]]:
    found = list(keys)
    return [found[start : start + AT_ONCE] for start in range(0, len(found), AT_ONCE)]
